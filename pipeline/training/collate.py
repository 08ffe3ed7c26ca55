"""How do samples become a batch of tensors?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from marey.pipeline.stream.samples import Sample


class Room:
    """Memory for the frames of one batch on the CPU, for one batch after the other.

    Pages that are new to a process cost several times the copy into them.
    """

    def __init__(self) -> None:
        self._held = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """uint8 tensor of this shape; what was taken before is overwritten."""
        size = math.prod(shape)
        if self._held.numel() < size:
            self._held = torch.empty(size, dtype=torch.uint8)
        return self._held[:size].view(shape)


def collate(
    samples: list[Sample], device: torch.device, room: Room | None = None
) -> dict[str, Tensor]:
    """Stack samples into a batch of tensors on the device; frames stay uint8 [B, F, H, W, 3].

    For a GPU through pinned memory, so that the copy is asynchronous (torch keeps and recycles it).
    room: where the frames of a batch on the CPU lie: the batch holds until the next one is stacked.
    Without it every batch has memory of its own.
    """
    batch = {}
    for name in samples[0]:
        if name in ("sample", "refused"):
            continue
        columns = [np.asarray(sample[name]) for sample in samples]
        shape = (len(columns), *columns[0].shape)
        if room is not None and name == "frames" and device.type == "cpu":
            stacked = room.take(shape)
        else:
            kind = torch.from_numpy(np.empty(0, columns[0].dtype)).dtype
            stacked = torch.empty(shape, dtype=kind, pin_memory=device.type == "cuda")
        np.stack(columns, out=stacked.numpy())
        batch[name] = stacked.to(device, non_blocking=True)
    return batch
