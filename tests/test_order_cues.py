"""Can order or speed be told without looking at what happens? From each frame's mean and spread.

Real encoded videos, hard compressed with near keyframes, go through the presets' own samplers and
augmentation; a linear classifier on the statistics of the frames must then stay near chance.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from configs.load import read_preset, run_config
from models.encoder import Encoder
from models.method import Batch, Method
from models.temporal.arrow_of_time import ArrowOfTime
from models.temporal.clip_order import ClipOrder
from models.temporal.odd_one_out import OddOneOut
from models.temporal.playback_speed import PlaybackSpeed
from models.temporal.sort_frames import SortFrames
from pipeline.index import Event
from pipeline.indexing import make_index, write_index
from pipeline.sampling import build_sampler, event_rng
from pipeline.video import FrameRequest, read_plan
from tests.corpora import load
from tests.videos import encode_video

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (SortFrames, OddOneOut, ArrowOfTime, ClipOrder, PlaybackSpeed)
}
SIZE, FPS, FRAMES, VIDEOS, SAMPLES = 48, 15, 105, 6, 40


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


def encoded(folder: Path, fade: float = 0.0) -> list[Event]:
    folder.mkdir()
    for number in range(VIDEOS):
        encode_video(
            folder / f"v{number}.mp4", FRAMES, fps=FPS, gop=10, size=(SIZE, SIZE),
            options={"crf": "38"}, draw=scene(number, fade),
        )  # fmt: skip
    write_index(make_index([str(folder)]), str(folder / "index.parquet"))
    return list(load(folder / "index.parquet").events())


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return encoded(tmp_path_factory.mktemp("cues") / "videos")


def built(name: str, **changes) -> Method:
    tree = read_preset(name)
    tree["encoder"]["image_size"] = 32
    tree["method"]["sampling"] |= {"per_video": SAMPLES}
    tree["method"] |= changes
    config = run_config(tree, METHODS[name].Config)
    return METHODS[name](Encoder(config.encoder), config.method)


def sampled(method: Method, events: list[Event]) -> Batch:
    """What the method's sampler takes of every video, decoded."""
    frames = []
    for event in events:
        plan = build_sampler(method.samples(method.config)).plan(event, event_rng(0, 0, "e"))
        requests = [FrameRequest(n, request.times_s) for n, request in enumerate(plan)]
        clips = {c.request_id: c.frames for c in read_plan(event.videos[0].uri, requests, SIZE)}
        frames += [clips[n] for n in range(len(plan))]
    return {"frames": torch.from_numpy(np.stack(frames))}


def linear_accuracy(method: Method, events: list[Event]) -> float:
    """Accuracy, on samples held out, of a linear classifier on mean and spread of every frame."""
    torch.manual_seed(0)
    batch = method.augment(sampled(method, events))
    if isinstance(method, PlaybackSpeed):
        pixels = batch["clips"].flatten(0, 1)
        label = torch.tensor([0, 1]).repeat(len(batch["clips"]))
        order = torch.randperm(len(label))
        pixels, label = pixels[order], label[order]
    else:
        order = torch.randperm(len(batch["label"]))
        pixels = batch.get("images", batch.get("clips"))
        assert pixels is not None
        pixels, label = pixels[order], batch["label"][order]
    features = StandardScaler().fit_transform(_statistics(pixels))
    half = len(features) // 2
    model = LogisticRegression(C=0.1, max_iter=500).fit(features[:half], label[:half])
    return float(model.score(features[half:], label[half:]))


def _statistics(pixels: Tensor) -> np.ndarray:
    return torch.cat([pixels.mean((-2, -1)).flatten(1), pixels.std((-2, -1)).flatten(1)], 1).numpy()


@pytest.mark.parametrize("name", list(METHODS))
def test_statistics_of_frames_do_not_solve_the_task(name: str, events: list[Event]) -> None:
    method = built(name)
    assert linear_accuracy(method, events) < method.chance["accuracy"] + 0.12


def test_statistics_would_find_a_cue_that_is_left_in(tmp_path: Path) -> None:
    """The control: a fade that no augmentation hides is found by the same classifier."""
    fading = encoded(tmp_path / "fading", fade=0.6)
    plain = {"crop_scale": (1.0, 1.0)}
    assert linear_accuracy(built("arrow_of_time", augment=plain), fading) > 0.8
