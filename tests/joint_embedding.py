"""What the tests of methods that tell images apart share: images of dots, a small network."""

import torch

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from tests.learning import draw_dots

COLORS = AugmentConfig(jitter=1.0, brightness=0.8, contrast=0.5, saturation=1.0, hue=0.5)
"""Colours vary so widely that only the dot's place can tell two images apart."""
COUNT = 32


def small_encoder() -> Encoder:
    """A trunk of two stages that sees where a dot is, with the weights of seed 0."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig(stages=2, image_size=32, pool="spatial_softmax", pool_norm=True))


def dots(generator: torch.Generator, count: int = COUNT) -> Batch:
    """Images of one dot each, on backgrounds of random colour."""
    x, y = 0.1 + 0.8 * torch.rand(2, count, generator=generator)
    background = torch.rand(count, 3, generator=generator) * 0.6
    return {
        "frames": draw_dots(x, y, background)[:, None],
        "time_s": torch.zeros(count, 1),
        "instance": torch.arange(count),
    }


def crops_of_dots(method: Method, seed: int = 0) -> Batch:
    """One augmented batch of dots."""
    torch.manual_seed(seed)
    return method.augment(dots(torch.Generator().manual_seed(seed)))


def trained_parts(method: Method) -> set[str]:
    """Names of the submodules (first level) of which every trained parameter has a gradient.

    Backward must have run; raises AssertionError if a part has gradients only here and there, or
    a frozen parameter has one.
    """
    seen: dict[str, set[bool]] = {}
    for name, parameter in method.named_parameters():
        part = name.split(".")[0]
        seen.setdefault(part, set()).add(parameter.grad is not None)
        assert parameter.requires_grad or parameter.grad is None, name
    assert all(len(has) == 1 for has in seen.values()), seen
    return {part for part, has in seen.items() if True in has}
