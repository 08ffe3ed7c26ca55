"""What the learning tests share: drawn scenes and the shortest training loop."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.method import Batch, Method, Progress

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
    last = history[-steps // 4 :]
    return {name: sum(entry[name] for entry in last) / len(last) for name in last[0]}
