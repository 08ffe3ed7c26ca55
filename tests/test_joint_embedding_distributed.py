"""Do methods whose loss needs the whole batch's statistics keep them over two processes?

With what presets leave out: trained prototypes, a queue, small crops, several frames of a sample,
and the state that a step leaves behind.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from marey.models.batch import Batch
from marey.models.method import Method, Progress, methods
from tests.joint_embedding import COLORS, small_encoder
from tests.learning import draw_dots
from tests.two_processes import backward, in_two_processes, parallel

TWO: dict[str, Any] = {"first": COLORS}
MANY: dict[str, Any] = {"first": COLORS, "small": COLORS, "small_crops": 2, "small_size": 16}
SETTINGS: dict[str, dict[str, Any]] = {
    "byol": {"head_dim": 32, "projection_dim": 8, "crops": TWO},
    "simsiam": {"projection_dim": 16, "predictor_dim": 4, "crops": TWO},
    "barlow_twins": {"projection_dim": 16, "crops": TWO},
    "vicreg": {"projection_dim": 16, "crops": TWO},
    "swav": {
        "head_dim": 32, "projection_dim": 8, "prototypes": 6, "frozen_epochs": 0, "queue": 20,
        "queue_from": 0, "crops": MANY,
    },
    "dino": {
        "head_dim": 32, "bottleneck_dim": 8, "outputs": 12, "frozen_epochs": 0, "crops": MANY,
    },
    "lejepa": {"head_dim": 32, "projection_dim": 8, "directions": 16, "crops": MANY},
}  # fmt: skip


def _method(name: str) -> Method:
    kind = methods()[name]
    method = kind(small_encoder(), kind.Config.model_validate(SETTINGS[name]))
    # Batch norm with its running statistics, which are the trainer's affair; all else as in
    # training. They must be those of a network at work, or all embeddings would be alike.
    method.train()
    with torch.no_grad():
        for seed in range(8):
            method(_augmented(method, seed))
        for module in method.children():
            module.eval()
    method.after_step(Progress(0, 4, 0))
    return method


def _augmented(method: Method, seed: int = 0) -> Batch:
    """Two frames of each of 8 videos."""
    torch.manual_seed(seed)
    x, y = 0.1 + 0.8 * torch.rand(2, 16)
    frames = draw_dots(x, y, torch.rand(16, 3) * 0.6).unflatten(0, (8, 2))
    return method.augment(
        {"frames": frames, "time_s": torch.rand(8, 2), "instance": torch.arange(8)}
    )


def _step(method: Method) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one step on this process's share of the batch."""
    total = backward(parallel(method), _augmented(method, 50))
    method.after_step(Progress(1, 4, 0))
    gradients = {n: p.grad for n, p in method.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    state = {f"buffer {n}": b for n, b in method.named_buffers() if b.is_floating_point()}
    return {"loss": total, **gradients, **state}  # pyright: ignore[reportReturnType]


def _warm() -> dict[str, Method]:
    return {name: _method(name) for name in SETTINGS}


def _work(warm: dict[str, Method]) -> dict[str, dict[str, Tensor]]:
    return {name: _step(method) for name, method in warm.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes computed on its half of the batch."""
    folder = tmp_path_factory.mktemp("gloo")
    return in_two_processes(_work, folder, before=_warm)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_step_of_two_processes_equals_one_of_one(ranks: list, name: str) -> None:
    alone = _step(_method(name))
    for result in ranks:
        assert result[name].keys() == alone.keys()
        for key, value in alone.items():
            rounding = 1e-5 * max(1.0, value.abs().max().item()) if value.numel() else 0
            torch.testing.assert_close(
                result[name][key], value, rtol=1e-3, atol=rounding, msg=f"{name} {key}"
            )
