"""Can order or speed be told without looking at what happens?

From each frame's mean and spread, from the noise on black bars, from the fields of interlaced
video: real encoded videos go through the presets' own samplers and augmentation; a linear
classifier on what would give the order away must then stay near chance, and controls show that it
finds the cue where nothing hides it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from marey.configs.load import read_preset, run_config
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.temporal.arrow_of_time import ArrowOfTime
from marey.models.temporal.clip_order import ClipOrder
from marey.models.temporal.odd_one_out import OddOneOut
from marey.models.temporal.playback_speed import PlaybackSpeed
from marey.models.temporal.shuffle_and_learn import ShuffleAndLearn
from marey.models.temporal.sort_frames import SortFrames
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Event
from marey.pipeline.sampling import build_sampler, event_rng
from marey.pipeline.video import FrameRequest, read_plan
from tests.corpora import load
from tests.videos import encode_video

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (SortFrames, OddOneOut, ArrowOfTime, ClipOrder, PlaybackSpeed, ShuffleAndLearn)
}
SIZE, FPS, FRAMES, VIDEOS, SAMPLES = 48, 15, 105, 6, 40
BAR = 8
"""Rows of a black bar."""
LARGE = 128
"""Side of interlaced pictures, whose lines must show."""
LAGS = (1, 2, 3, 4)
PLAIN = {"crop_scale": (1.0, 1.0)}


def scene(number: int, fade: float = 0.0):
    """A disc on a closed path over texture, as often one way as the other: draws frame by frame."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(40, 216, (12, 12, 3))
    wall = np.kron(coarse, np.ones((SIZE // 12, SIZE // 12, 1)))
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    pace = 0.15 * (1 if number % 2 else -1)
    phase = rng.uniform(0, 6)

    def draw(index: int) -> np.ndarray:
        angle = phase + pace * index
        away = (x - SIZE / 2 - 13 * np.cos(angle)) ** 2 + (y - SIZE / 2 - 13 * np.sin(angle)) ** 2
        picture = np.where((away < 40)[..., None], [230, 60, 40], wall)
        return (picture * (1 - fade * index / FRAMES)).clip(0, 255).astype(np.uint8)

    return draw


def letterboxed(number: int, black: int = 0):
    """The scene between black bars, with noise on them that grows with time."""
    inside, rng = scene(number), np.random.default_rng(number)

    def draw(index: int) -> np.ndarray:
        picture = inside(index)
        noise = black + rng.uniform(0, 14 * index / FRAMES, (SIZE, SIZE, 1)).astype(np.uint8)
        picture[:BAR], picture[-BAR:] = noise[:BAR], noise[-BAR:]
        return picture

    return draw


def interlaced(number: int):
    """Texture that moves sideways, as often one way as the other; odd lines show it half a frame
    later than even ones. Another texture every few frames, so that none can be learned."""
    pace = 2 if number % 2 else -2

    def draw(index: int) -> np.ndarray:
        rng = np.random.default_rng([number, index // 5])
        grains = cv2.resize(rng.uniform(0, 255, (LARGE // 4, LARGE // 4)), (LARGE, LARGE))
        grey = np.repeat(grains[..., None], 3, axis=2).astype(np.uint8)
        picture = np.roll(grey, 2 * pace * index, axis=1)
        picture[1::2] = np.roll(picture[1::2], pace, axis=1)
        return picture

    return draw


def encoded(
    folder: Path,
    draw: Callable[[int], Callable[[int], np.ndarray]] = scene,
    size: int = SIZE,
    videos: int = VIDEOS,
    **options: str,
) -> list[Event]:
    folder.mkdir()
    for number in range(videos):
        encode_video(
            folder / f"v{number:02}.mp4", FRAMES, fps=FPS, gop=10, size=(size, size),
            options={"crf": "38"} | options, draw=draw(number),
        )  # fmt: skip
    write_index(make_index([str(folder)]), str(folder / "index.parquet"))
    return list(load(folder / "index.parquet").events())


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return encoded(tmp_path_factory.mktemp("cues") / "videos")


def built(name: str, image_size: int = 32, sampling: dict | None = None, **changes) -> Method:
    tree = read_preset(name)
    tree["encoder"]["image_size"] = image_size
    tree["method"]["sampling"] |= {"per_video": SAMPLES} | (sampling or {})
    if tree["method"]["sampling"]["kind"] == "tuples":
        tree["method"]["sampling"]["negative_share"] = 0.5
    tree["method"] |= changes
    config = run_config(tree, METHODS[name].Config)
    return METHODS[name](Encoder(config.encoder), config.method)


def sampled(method: Method, events: list[Event], size: int) -> Batch:
    """What the method's sampler takes of every video, decoded."""
    frames, labels = [], []
    for event in events:
        plan = build_sampler(method.samples(method.config)).plan(event, event_rng(0, 0, "e"))
        requests = [FrameRequest(n, request.times_s) for n, request in enumerate(plan)]
        clips = {c.request_id: c.frames for c in read_plan(event.videos[0].uri, requests, size)}
        frames += [clips[n] for n in range(len(plan))]
        labels += [request.targets["label"] for request in plan if "label" in request.targets]
    batch = {"frames": torch.from_numpy(np.stack(frames))}
    return batch | ({"label": torch.from_numpy(np.stack(labels))} if labels else {})


def linear_accuracy(
    method: Method,
    events: list[Event],
    seen: Callable[[Tensor], Tensor] | None = None,
    size: int = SIZE,
) -> float:
    """Accuracy, on the second half of the videos, of a linear classifier on what is `seen` of the
    samples of the first.

    seen: by default mean and spread of every frame.
    """
    torch.manual_seed(0)
    batch = method.augment(sampled(method, events, size))
    if isinstance(method, PlaybackSpeed):
        pixels = batch["clips"].flatten(0, 1)
        label = torch.tensor([0, 1]).repeat(len(batch["clips"]))
    else:
        pixels, label = batch.get("images", batch.get("clips")), batch["label"]
        assert pixels is not None
    given = (seen or _statistics)(pixels)
    if isinstance(method, ShuffleAndLearn):
        # a middle frame out of order is no more and no less: how much frames differ tells
        each = given.unflatten(1, (-1, 3, 3))
        given = torch.cat([given, (each - each.roll(1, dims=2)).abs().flatten(1)], dim=1)
    features = StandardScaler().fit_transform(given.numpy())
    half = len(features) // 2
    model = LogisticRegression(C=0.1, max_iter=500).fit(features[:half], label[:half])
    return float(model.score(features[half:], label[half:]))


def _statistics(pixels: Tensor) -> Tensor:
    """Mean and spread of each frame's channels, [B, D], from [B, ..., S, S]."""
    return torch.cat([pixels.mean((-2, -1)).flatten(1), pixels.std((-2, -1)).flatten(1)], 1)


def _of_the_bars(pixels: Tensor) -> Tensor:
    """The same of the outermost rows alone."""
    rows = pixels.shape[-2] // 12
    return torch.cat([_statistics(pixels[..., :rows, :]), _statistics(pixels[..., -rows:, :])], 1)


@pytest.mark.parametrize("name", list(METHODS))
def test_statistics_of_frames_do_not_solve_the_task(name: str, events: list[Event]) -> None:
    method = built(name)
    assert linear_accuracy(method, events) < method.chance["accuracy"] + 0.12


def test_statistics_would_find_a_cue_that_is_left_in(tmp_path: Path) -> None:
    """The control: a fade that no augmentation hides is found by the same classifier."""
    fading = encoded(tmp_path / "fading", partial(scene, fade=0.6))
    for name in ("arrow_of_time", "shuffle_and_learn"):
        assert linear_accuracy(built(name, augment=PLAIN), fading) > 0.8


@pytest.fixture(scope="module")
def barred(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return encoded(tmp_path_factory.mktemp("cues") / "barred", letterboxed, crf="8")


@pytest.mark.parametrize("name", list(METHODS))
def test_noise_on_black_bars_does_not_solve_the_task(name: str, barred: list[Event]) -> None:
    method = built(name, sampling={"per_video": 2 * SAMPLES}, augment=PLAIN)
    found = linear_accuracy(method, barred, _of_the_bars)
    assert found < method.chance["accuracy"] + 0.12


def test_noise_on_bars_that_are_not_black_would_be_found(tmp_path: Path) -> None:
    """The control: what is too bright to be taken for a border is left as it is."""
    grey = encoded(tmp_path / "grey", partial(letterboxed, black=40), crf="8")
    for name in ("arrow_of_time", "shuffle_and_learn"):
        assert linear_accuracy(built(name, augment=PLAIN), grey, _of_the_bars) > 0.8


def _fields_against_motion(clips: Tensor) -> Tensor:
    """Clips [B, 3, T, S, S] -> [B, 8]: is what the lower line of two shows ahead of the upper one
    in the direction of motion? In bands, since slight shrinking turns the lines' roles about."""
    grey = clips.mean(dim=1)
    grey = grey - grey.mean(dim=-1, keepdim=True)

    def ahead(one: Tensor, other: Tensor) -> Tensor:
        asymmetry = [one[..., :-k] * other[..., k:] - one[..., k:] * other[..., :-k] for k in LAGS]
        return torch.stack([a.mean(dim=-1) for a in asymmetry]).sum(dim=0)

    motion = ahead(grey[:, :-1], grey[:, 1:]).mean(dim=(1, 2))
    parity = 1 - 2 * (torch.arange(grey.shape[-2] - 1) % 2)
    lines = (ahead(grey[:, :, :-1], grey[:, :, 1:]) * parity).mean(dim=1)
    return torch.stack([band.mean(dim=1) for band in lines.chunk(8, dim=1)], 1) * motion[:, None]


def test_fields_do_not_tell_the_direction_of_time(tmp_path: Path) -> None:
    """Interlaced pictures that shrink, if ever so little, lose the line that shows later."""
    flags = {"crf": "12", "x264-params": "tff=1"}
    woven = encoded(tmp_path / "woven", interlaced, LARGE, videos=16, **flags)
    pairs = {"num_frames": 2, "spacing_s": 1 / FPS}

    def found(size: int) -> float:
        method = built("arrow_of_time", size, sampling=pairs, augment=PLAIN, changes={})
        return linear_accuracy(method, woven, _fields_against_motion, size)

    assert found(LARGE // 2) < 0.5 + 0.12
    assert found(LARGE - 8) < 0.5 + 0.12
    assert found(LARGE) > 0.9  # the control: at its own size both fields are there
