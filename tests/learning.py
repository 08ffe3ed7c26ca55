"""What the learning tests share: drawn scenes and the shortest training loop."""

from collections.abc import Callable

import torch
from torch import Tensor

from marey.models.batch import Batch
from marey.models.method import Method, Progress

SIDE = 32


def draw_dots(x: Tensor, y: Tensor, background: Tensor) -> Tensor:
    """A bright dot at (x, y), both [N] in [0, 1], on a background [N, 3]: uint8 [N, 32, 32, 3]."""
    grid = torch.linspace(0, 1, SIDE)
    across = (grid[None, None, :] - x[:, None, None]) ** 2
    down = (grid[None, :, None] - y[:, None, None]) ** 2
    dot = torch.exp(-(across + down) / (2 * 0.08**2))[..., None]
    images = background[:, None, None, :] * (1 - dot) + dot
    return (images * 255).round().byte()


def train(
    method: Method, draw: Callable[[torch.Generator], Batch], steps: int, lr: float = 3e-3
) -> dict[str, float]:
    """Train on fresh batches; the metrics' means over the last quarter of the steps."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr)
    method.train()
    history: list[dict[str, float]] = []
    for step in range(steps):
        metrics = method(method.augment(draw(generator)))
        optimizer.zero_grad()
        metrics["loss"].backward()
        optimizer.step()
        method.after_step(Progress(step, steps, 0))
        history.append({name: value.item() for name, value in metrics.items()})
    return _means(history[-steps // 4 :])


def train_on(method: Method, corpus: Batch, *, epochs: int, size: int) -> dict[str, float]:
    """Train on batches of `size` samples of a corpus; the metrics' means over the last ten steps.

    For methods with a memory, whose rows are those of the corpus.
    """
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    method.train()
    history: list[dict[str, float]] = []
    for _ in range(epochs):
        for part in torch.randperm(len(corpus["instance"])).split(size):
            metrics = method(method.augment({key: value[part] for key, value in corpus.items()}))
            optimizer.zero_grad()
            metrics["loss"].backward()
            optimizer.step()
            method.after_step(Progress(1, 10, 0))
            history.append({name: value.item() for name, value in metrics.items()})
    return _means(history[-10:])


def _means(history: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(entry[name] for entry in history) / len(history) for name in history[0]}
