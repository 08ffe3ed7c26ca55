"""Does the Atari benchmark keep every pixel of its games, and print what its results say?"""

import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.atari import NETWORK, table
from benchmarks.atari_episodes import FPS, SIDE, write_lossless
from marey.configs.encoder import EncoderConfig
from marey.models.encoders.encoder import Encoder
from marey.pipeline.video import FrameRequest, read_plan


def test_a_ball_of_two_pixels_is_where_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [np.zeros((SIDE, SIDE), np.uint8) for _ in range(6)]
    for frame in frames:
        frame[rng.integers(SIDE), rng.integers(SIDE)] = 236
        frame[50:52, 60:62] = rng.integers(0, 256, (2, 2))
    write_lossless(tmp_path / "game.mkv", frames)
    times = np.arange(6) / FPS
    (clip,) = read_plan(str(tmp_path / "game.mkv"), [FrameRequest(0, times)], SIDE)
    for seen, frame in zip(clip.frames, frames, strict=True):
        for channel in range(3):
            # grey becomes RGB, which rounds some values to their neighbour
            np.testing.assert_allclose(seen[..., channel].astype(int), frame, atol=1)


def test_the_network_maps_a_whole_frame_to_256_numbers() -> None:
    encoder = Encoder(EncoderConfig.model_validate(NETWORK)).eval()
    frame = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    frame[1, 100, 100] = 255
    with torch.no_grad():
        vectors = encoder(encoder.preprocess(frame))
    assert vectors.shape == (2, 256)
    assert not torch.equal(vectors[0], vectors[1])


def test_the_table_sets_results_beside_the_published_ones(tmp_path: Path) -> None:
    game = tmp_path / "Pong"
    game.mkdir()
    for name, f1 in (("random", 0.18), ("cpc", 0.5)):
        found = {"f1": f1, "f1_chance": 0.098, "test_frames": 900}
        (game / f"{name}.json").write_text(json.dumps(found))
    assert table(tmp_path).splitlines()[2] == (
        "| Pong | 0.10 | 0.10 | 0.180 | 0.17 | 0.500 | 0.71 | 0.81 | 900 |"
    )
