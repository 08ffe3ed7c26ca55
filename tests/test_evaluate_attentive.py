"""Does an attentive probe find what an average of the map hides, and leave the encoder as it is?"""

import numpy as np
import torch

from marey.configs.encoder import EncoderConfig
from marey.models.encoders.encoder import Encoder
from marey.pipeline.evaluate.attentive_probe import AttentiveProbe
from marey.pipeline.evaluate.finetune_network import LabelledFrames, fine_tune
from marey.pipeline.evaluate.protocols import find_protocol
from tests.test_evaluate_finetune import make_encoder, stripes


def spots(count, seed=0):
    """Grey pictures with one bright spot, red or blue by class, and as much of the other colour
    spread thinly over the rest, so that the average colour says nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    frames = np.full((count, 32, 32, 3), 100.0)
    for number, label in enumerate(labels):
        row, column = rng.integers(0, 4, 2) * 8
        spot, rest = (0, 2) if label else (2, 0)
        frames[number, ..., rest] += 96 * 64 / (1024 - 64)
        frames[number, row : row + 8, column : column + 8, rest] = 100
        frames[number, row : row + 8, column : column + 8, spot] += 96
    frames += rng.normal(0, 1, frames.shape)
    return LabelledFrames(frames.clip(0, 255).astype(np.uint8), labels)


def test_the_probe_learns_and_the_encoder_stays_frozen():
    encoder = make_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    parts = stripes(64), stripes(32, 1), stripes(60, 2)
    figures, chance = fine_tune(
        encoder, *parts, 2, epochs=8, batch_size=16, rates=(0.003,), build=AttentiveProbe
    )
    assert figures["accuracy"] > 0.9
    assert chance.shape == (60, 2)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    probe = AttentiveProbe(encoder, 2).train()
    probe(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is None for p in probe.encoder.parameters())
    mine = probe.encoder.state_dict()
    assert all(torch.equal(before[name], value) for name, value in mine.items())


def test_the_probe_looks_where_something_is():
    config = EncoderConfig(backbone="tiny", image_size=32, stages=2)
    encoder = make_encoder(config=config)
    parts = spots(96), spots(48, 1), spots(60, 2)
    options = {"epochs": 25, "batch_size": 16, "flip": False}
    looking, _ = fine_tune(encoder, *parts, 2, rates=(0.003,), build=AttentiveProbe, **options)
    assert looking["accuracy"] > 0.85


def test_clips_and_transformers_have_places_too():
    settings = {"clip_frames": 4, "clip_step_s": 0.1, "image_size": 32}
    config = EncoderConfig(backbone="tiny_video_vit", stages=1, **settings)
    probe = AttentiveProbe(Encoder(config).eval(), 3)
    assert probe(torch.randn(2, 3, 4, 32, 32)).shape == (2, 3)


def test_marey_eval_knows_it():
    protocol = find_protocol("attentive")
    assert protocol.target == "encoder"
    assert "attention" in protocol.about
