"""What the tests of all methods share: a preset made small, and a batch as it arrives."""

from typing import Any

import numpy as np
import torch

from marey.configs.load import presets, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Method, methods
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video

METHOD_PRESETS = [name for name in presets() if name != "demo"]
SAMPLES = 4
SIDE = 40
CLASSES = 3
TRACK_PATCHES = 3


def small_config(preset: str) -> RunConfig:
    """The preset with frames small enough for a test."""
    tree = read_preset(preset)
    encoder = tree.setdefault("encoder", {})
    encoder["image_size"] = min(32, encoder.get("image_size", 64))
    tree["data"] = {"decode_size": SIDE}
    return run_config(tree, methods()[tree["name"]].Config)


def build(config: RunConfig) -> Method:
    """The method as the trainer builds it, with the weights of seed 0."""
    torch.manual_seed(0)
    method = methods()[config.name](Encoder(config.encoder), config.method)
    method.prepare(Corpus(places=64, classes=CLASSES))
    return method


def full_batch(config: RunConfig, *, samples: int, seed: int = 0) -> Batch:
    """The same as `raw_batch`, with frames of the size that the settings decode."""
    batch = raw_batch(config, samples=samples, seed=seed)
    frames = batch["frames"]
    pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(pixels, size=config.data.frame_shape)
    return batch | {"frames": large.byte().permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])}


def raw_batch(config: RunConfig, *, samples: int = SAMPLES, seed: int = 0) -> Batch:
    """A batch as it arrives: the sampler's own plan on made-up rows, moving texture as frames."""
    rng = np.random.default_rng(seed)
    sampling = methods()[config.name].samples(config.method)
    rows: list[dict[str, Any]] = []
    for number in range(samples):
        if sampling.kind == "tracks":
            targets = {"time_s": np.arange(TRACK_PATCHES, dtype=np.float32)}
            rows.append({"instance": number, "place": number, **targets})
            continue
        # long, and with two views, so that every sampler finds what it needs
        videos = [make_video(f"v{number}.{v}", frames=900, event=f"e{number}", view=str(v))
                  for v in (0, 1)]  # fmt: skip
        plan = build_sampler(sampling).plan(make_event(*videos), event_rng(seed, 0, str(number)))
        rows.append({"instance": number, "place": number, **plan[0].targets})
    batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
    length = len(rows[0]["time_s"])
    return batch | {
        "frames": moving_texture(samples, length, rng),
        "class_id": torch.from_numpy(rng.integers(-1, CLASSES, samples)),
    }


def moving_texture(samples: int, length: int, rng: np.random.Generator) -> torch.Tensor:
    """uint8 [samples, length, SIDE, SIDE, 3]: smooth noise that drifts, other noise each sample."""
    coarse = rng.uniform(0, 255, (samples, 1, 3, 10, 10)).astype(np.float32)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(coarse[:, 0]), size=(2 * SIDE, 2 * SIDE), mode="bicubic"
    ).clamp(0, 255)
    frames = [
        wide[:, :, step % SIDE : step % SIDE + SIDE, step % SIDE : step % SIDE + SIDE]
        for step in range(length)
    ]
    return torch.stack(frames, dim=1).permute(0, 1, 3, 4, 2).round().byte()
