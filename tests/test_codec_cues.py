"""Can a method of layout be solved from what cameras and codecs leave in a picture?

Pictures without content (noise that is the same in every direction and place) go through a real
encoder with coarse quantisation, through colour at half resolution, or through interlacing, then
through the decoder at less than half their size, as the pipeline reads them, and through the
presets' own augmentation. What is then learned can come from nothing but the cue. A control shows
that the same corpus at its own size, uncropped, gives the cue away.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from marey.configs.load import read_preset, run_config
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, methods
from marey.pipeline.video import FrameRequest, read_plan
from tests.learning import train
from tests.pictures import batch_of
from tests.videos import encode_video

SIZE, SMALL, VIDEOS, FRAMES, BATCH = 128, 56, 4, 64, 32
FPS = 25


def mottled(rng: np.random.Generator, channels: int = 3) -> np.ndarray:
    """Noise of grains of some four pixels, alike in all directions: uint8 [SIZE, SIZE, channels].

    Made in the frequency domain, so that no grid and no direction is in it.
    """
    away = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    passed = np.exp(-((away / 0.12) ** 2))[..., None]
    white = np.fft.fft2(rng.normal(size=(SIZE, SIZE, channels)), axes=(0, 1))
    smooth = np.fft.ifft2(white * passed, axes=(0, 1)).real
    smooth = (smooth - smooth.mean()) / smooth.std()
    return (128 + 48 * smooth).clip(0, 255).astype(np.uint8)


def blocks(rng: np.random.Generator) -> np.ndarray:
    """Content for a hard compressed picture: transform blocks show."""
    return mottled(rng)


def tints(rng: np.random.Generator) -> np.ndarray:
    """One lightness, noise in the colours alone: all detail is in the planes of half resolution."""
    blue, red = np.moveaxis(mottled(rng, 2).astype(float) - 128, 2, 0)
    ycc = np.stack([np.full_like(blue, 128), blue, red], axis=2)
    matrix = np.array([[1, 0, 1.402], [1, -0.344, -0.714], [1, 1.772, 0]])
    rgb = np.stack([ycc[..., 0]] * 3, axis=2) + ycc[..., 1:] @ matrix[:, 1:].T
    return rgb.clip(0, 255).astype(np.uint8)


def combed(rng: np.random.Generator) -> np.ndarray:
    """Two fields of a thing that moved six pixels between them: every second line is shifted.

    Grey, since the encoder's input is turned to half its colours without regard to fields.
    """
    picture = np.repeat(mottled(rng, 1), 3, axis=2)
    picture[1::2] = np.roll(picture[1::2], 6, axis=1)
    return picture


CUES: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], dict[str, str]]] = {
    "blocks": (blocks, {"crf": "40"}),
    "tints": (tints, {"crf": "12"}),
    "combed": (combed, {"crf": "12", "x264-params": "tff=1"}),
}


@pytest.fixture(scope="module", params=list(CUES))
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos whose frames have nothing in common, each a keyframe."""
    draw, options = CUES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    made = []
    for number in range(VIDEOS):
        rng = np.random.default_rng(number)
        made.append(
            encode_video(
                folder / f"v{number}.mp4",
                FRAMES,
                size=(SIZE, SIZE),
                fps=FPS,
                gop=1,
                b_frames=0,
                options=options,
                draw=lambda _, rng=rng: draw(rng),
            )
        )
    return made


def pictures(paths: list[Path], size: int) -> Tensor:
    """All frames, decoded at a size: uint8 [N, size, size, 3]."""
    times = [number / FPS for number in range(FRAMES)]
    clips = [
        clip.frames
        for path in paths
        for clip in read_plan(str(path), [FrameRequest(0, times)], size)
    ]
    return torch.from_numpy(np.concatenate(clips))


def built(preset: str, **augment: object) -> Method:
    tree = read_preset(preset)
    if augment:
        tree["method"]["augment"] |= augment
    config = run_config(tree, methods()[tree["name"]].Config)
    torch.manual_seed(0)
    return methods()[config.name](Encoder(config.encoder), config.method)


def accuracy(method: Method, images: Tensor, steps: int = 60) -> float:
    """Of pictures that were not trained on: those of the last video."""
    known = images[:-FRAMES]

    def draw(generator: torch.Generator) -> Batch:
        return batch_of(known[torch.randint(len(known), (BATCH,), generator=generator)])

    train(method, draw, steps)
    method.eval()
    with torch.no_grad():
        found = [method(method.augment(batch_of(images[-FRAMES:])))["accuracy"] for _ in range(8)]
    return torch.stack(found).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["rotation", "jigsaw", "relative_position"])
def test_pictures_without_content_teach_nothing(preset: str, videos: list[Path]) -> None:
    method = built(preset)
    found = accuracy(method, pictures(videos, SMALL))
    print(preset, videos[0].parent.name, round(found, 3), method.chance["accuracy"])
    assert found < method.chance["accuracy"] + 0.06


@pytest.mark.slow
def test_at_their_own_size_the_cue_is_there(videos: list[Path]) -> None:
    """The control: what the decoder's reduction hides is learned from uncropped pictures."""
    method = built("rotation", crop_scale=[1.0, 1.0], flip=0.0)
    found = accuracy(method, pictures(videos, SIZE)[:, :32, :32])
    print("control", videos[0].parent.name, round(found, 3))
    assert found > method.chance["accuracy"] + 0.2
