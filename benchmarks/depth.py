"""How well do the depth methods learn depth? Trained on made-up rooms, measured on others.

    python -m benchmarks.depth [--out FOLDER] [--scenes 48] [--frames 12] [key=value ...]

Rooms are ray-cast (tests/depth_scenes.py), encoded as stereo videos of a moving rig, indexed and
trained on through the pipeline; `stereo_depth` gets the pairs, `mono_depth` each camera's video.
Depth is measured on the left frames of 40 rooms that nothing was trained on, stereo in metres,
mono after median scaling, beside what needs no network: one depth everywhere, and the mean depth of
the training rooms at every pixel. key=value words change settings of both trainings.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from marey.configs.load import override, read_preset, run_config
from marey.models.method import Method, methods
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.evaluate.depth import DepthSummary, depth_errors, order_agreement, summarize
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import load_state, method_weights
from marey.pipeline.training.job import build_method
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.record import read_metrics
from tests.depth_scenes import (
    BASELINE_M,
    FIELD_OF_VIEW_DEG,
    VIEWS,
    encode_scenes,
    eye_at,
    make_scene,
    render,
)

SIZE, FPS = 64, 12
HELD_OUT = range(10_000, 10_040)
"""Seeds of the rooms that are measured on."""
METHODS = ("stereo_depth", "mono_depth")
Depths = list[NDArray[np.float32]]


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="where videos and runs stay (default: a temporary folder)")
    parser.add_argument("--scenes", type=int, default=48, help="rooms to train on")
    parser.add_argument("--frames", type=int, default=12, help="frames of each room's videos")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(options.out or scratch)
        index = make_videos(out, range(options.scenes), options.frames)
        frames, truth = look(HELD_OUT)
        prior = np.mean(look(range(options.scenes))[1], axis=0)
        rows: list[tuple[str, DepthSummary, float, str]] = []
        for name, guess, scaled in (
            ("one depth, scaled", np.ones_like(prior), True),
            ("mean room, scaled", prior, True),
            ("mean room", prior, False),
        ):
            rows.append((name, *score([guess] * len(truth), truth, scaled), ""))
        for name in options.methods:
            run = out / name
            method = train(name, index, run, options.frames, options.settings)
            spent = f"{read_metrics(Folder(str(run)))[-1]['time_s']:.0f} s"
            scaled = name == "mono_depth"
            untrained = build_method(method_config(name, options.frames, options.settings))
            rows.append(
                (f"{name}, untrained", *score(guesses(untrained, frames), truth, scaled), "")
            )
            rows.append((name, *score(guesses(method, frames), truth, scaled), spent))
            print(curve(run))
        report(rows)


def make_videos(out: Path, seeds: range, num_frames: int) -> Path:
    """The index of the encoded rooms."""
    index = out / "index.parquet"
    if not index.exists():
        encode_scenes(out / "videos", seeds, size=SIZE, num_frames=num_frames, fps=FPS)
        write_index(make_index([str(out / "videos")], views=VIEWS), str(index))
    return index


def look(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The left frame in the middle of each room's way, and its depth."""
    seen = [render(scene, eye_at(scene, 0.5), SIZE) for scene in map(make_scene, seeds)]
    return np.stack([rgb for rgb, _ in seen]), np.stack([depth for _, depth in seen])


def method_config(name: str, num_frames: int, words: list[str]):
    """The preset with the rig's geometry."""
    fixed = [f"method.field_of_view_deg={FIELD_OF_VIEW_DEG}", f"data.decode_size={SIZE}"]
    if name == "stereo_depth":
        fixed.append(f"method.baseline_m={BASELINE_M}")
    else:
        # a sixth of the way from frame to frame: the picture moves by a pixel or two
        fixed.append(f"method.sampling.spacing_s={max(1, round(num_frames / 6)) / FPS}")
    tree = override(read_preset(name), fixed + words)
    return run_config(tree, methods()[name].Config)


def train(name: str, index: Path, run: Path, num_frames: int, words: list[str]) -> Method:
    """A method trained through the pipeline, from its last checkpoint, in evaluation mode."""
    config = method_config(name, num_frames, words)
    run_training(prepare(config, str(index), str(run), resume=True), engine="local")
    method = build_method(config)
    state = load_state(Folder(str(run)))
    assert state is not None
    method.load_state_dict(method_weights(Folder(str(run)), state))
    return method


@torch.no_grad()
def guesses(method: Method, frames: NDArray[np.uint8]) -> Depths:
    """Depth of every frame."""
    depth: Callable[[torch.Tensor], torch.Tensor] = method.eval().depth  # pyright: ignore
    return list(depth(method.encoder.preprocess(torch.from_numpy(frames)))[:, 0].numpy())


def score(guess: Depths, truth: NDArray[np.float32], scaled: bool) -> tuple[DepthSummary, float]:
    """Errors, and how often two pixels are in the right order."""
    pairs = list(zip(guess, truth, strict=True))
    order = np.mean([order_agreement(p, t) for p, t in pairs])
    return summarize([depth_errors(p, t, median_scaling=scaled) for p, t in pairs]), float(order)


def curve(run: Path) -> str:
    """Photometric error over the run."""
    lines = [line for line in read_metrics(Folder(str(run))) if "photometric" in line]
    shown = [lines[0], *lines[len(lines) // 4 - 1 :: max(1, len(lines) // 4)]]
    parts = ", ".join(f"{line['photometric']:.4f} at {line['step']}" for line in shown)
    return f"{run.name}: photometric error {parts}"


def report(rows: list[tuple[str, DepthSummary, float, str]]) -> None:
    """One line a way of guessing."""
    print(f"{'':24}{'abs rel':>9}{'RMSE':>8}{'d<1.25':>8}{'order':>8}{'scale+-':>9}{'time':>9}")
    for name, summary, order, spent in rows:
        mean = summary.mean
        print(
            f"{name:24}{mean.abs_rel:>9.3f}{mean.rmse:>8.2f}{mean.delta_1:>8.3f}{order:>8.3f}"
            f"{summary.scale_spread:>9.3f}{spent:>9}"
        )


if __name__ == "__main__":
    main()
