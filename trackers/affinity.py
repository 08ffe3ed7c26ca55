"""How does a learned encoder track? Box masks carried along by the affinity of its features.

Jabri, Owens and Efros, "Space-Time Correspondence as a Contrastive Random Walk" (NeurIPS 2020),
section 4.1's label propagation: every cell of a new frame takes the mask of the cells it resembles
in the first and the last few frames. All boxes are channels of one propagation, so the cost does
not depend on how many there are.
"""

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marey.configs.errors import SettingError
from marey.configs.tracking import AffinitySettings
from marey.trackers.tracker import Gate, Job, Tracker, inside_share

DEFAULT = AffinitySettings()
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PatchEncoder(nn.Module):
    """No learning at all, the baseline: a cell is described by the pixels around it."""

    def __init__(self, stride: int = 8, detail: int = 8) -> None:
        """stride: pixels a cell. detail: each cell sees a square of this many half-cells."""
        super().__init__()
        self.stride, self.detail = stride, detail

    def forward(self, images: Tensor) -> Tensor:
        """images: float [N, 3, h, w] -> float [N, 3 * detail^2, h/stride, w/stride]."""
        half = self.stride // 2
        small = nn.functional.avg_pool2d(images, half)
        small = small - nn.functional.avg_pool2d(
            small, 2 * self.detail + 1, 1, self.detail, count_include_pad=False
        )
        pad = (self.detail - 2) // 2
        small = nn.functional.pad(small, (pad, pad, pad, pad), mode="replicate")
        patches = nn.functional.unfold(small, self.detail, stride=2)
        rows = (small.shape[2] - self.detail) // 2 + 1
        return patches.unflatten(2, (rows, -1))


class AffinityTracker(Tracker):
    """Label propagation on the features of any encoder.

    `score` is the mask's mass relative to the start frame's. Imprecise for boxes under 4 cells.
    """

    def __init__(
        self,
        encoder: nn.Module | None = None,
        *,
        height: int = DEFAULT.height,
        stride: int = DEFAULT.stride,
        temperature: float = DEFAULT.temperature,
        top_k: int = DEFAULT.top_k,
        radius: float = DEFAULT.radius,
        memory: int = DEFAULT.memory,
        min_mass: float = DEFAULT.min_mass,
        device: str = DEFAULT.device,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        persistent: bool = DEFAULT.persistent,
        gate: Gate | None = None,
    ) -> None:
        """encoder: maps float [N, 3, h, w] (normalised by `mean`, `std`) to [N, C, h', w'].

        height: frames are resized to it, aspect kept, sides multiples of `stride`. radius: cells
        farther apart do not exchange masks. memory: frames kept besides the first. min_mass: share
        of the first mask below which the track is lost.
        """
        if temperature <= 0 or top_k < 1 or memory < 0:
            raise SettingError(
                f"temperature {temperature}, top_k {top_k}, memory {memory} given; "
                "temperature > 0, top_k >= 1, memory >= 0"
            )
        self.device = torch.device(device)
        self.encoder = (encoder or PatchEncoder(stride)).to(self.device).eval()
        self.height, self.stride, self.temperature = height, stride, temperature
        self.top_k, self.radius, self.memory, self.min_mass = top_k, radius, memory, min_mass
        self.persistent, self.gate = persistent, gate or Gate()
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(mean, device=self.device).view(shape)
        self._std = torch.tensor(std, device=self.device).view(shape)

    @torch.inference_mode()
    def _follow(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.pending:
                first = min(int(job.start[b]) for b in job.pending)
                features = self._encode(job.frames[first:])
                for start in sorted({int(job.start[b]) for b in job.pending}):
                    rows = [b for b in job.pending if job.start[b] == start]
                    self._propagate(job, rows, start, features[start - first :])

    def _encode(self, frames: NDArray[np.uint8], chunk: int = 16) -> Tensor:
        """float [T, C, h', w'], unit length along C."""
        height = max(round(self.height / self.stride), 1) * self.stride
        width = frames.shape[2] * height / frames.shape[1]
        width = max(round(width / self.stride), 1) * self.stride
        parts = []
        for begin in range(0, len(frames), chunk):
            images = torch.from_numpy(np.ascontiguousarray(frames[begin : begin + chunk]))
            images = images.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 255.0
            images = nn.functional.interpolate(
                images, (height, width), mode="bilinear", antialias=True
            )
            parts.append(self.encoder((images - self._mean) / self._std).to(torch.float32))
        return nn.functional.normalize(torch.cat(parts), dim=1)

    def _propagate(self, job: Job, rows: list[int], start: int, features: Tensor) -> None:
        """Carries the masks of the boxes `rows` from frame `start` (features[0]) to the end."""
        cells = (features.shape[2], features.shape[3])
        near = self._near(cells)
        given = job.boxes[start, rows].astype(np.float64)
        first = torch.from_numpy(box_masks(given, job.size, cells)).to(self.device)
        origin, mass = mask_boxes(first.cpu().numpy(), job.size, cells), first.sum(1)
        anchor = (features[0].flatten(1), first)
        recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(self.memory, 1))
        alive = np.ones(len(rows), dtype=bool)
        for step in range(1, len(features)):
            query = features[step].flatten(1)
            masks = self._carry(query, [anchor, *recent], near)
            if self.memory:
                recent.append((query, masks))
            now = mask_boxes(masks.cpu().numpy(), job.size, cells)
            share = (masks.sum(1) / mass).cpu().numpy()
            for n in np.flatnonzero(alive):
                box = _relative(given[n], origin[n], now[n])
                alive[n] = self._record(job, start + step, rows[n], box, float(share[n]))
            if not alive.any():
                return

    def _record(self, job: Job, t: int, b: int, box: NDArray[np.float64], share: float) -> bool:
        """Writes one box; False if its track ended."""
        if not np.isfinite(box).all() or (share < self.min_mass and not self.persistent):
            if not self.persistent:
                job.end(t, b, "low_score", share if np.isfinite(share) else 0.0)
                return False
            box = job.boxes[t - 1, b].astype(np.float64)
        if inside_share(box, job.size) < self.gate.min_inside_later and not self.persistent:
            job.end(t, b, "out_of_frame")
            return False
        job.follow(t, b, box, share)
        return True

    def _carry(self, query: Tensor, context: list[tuple[Tensor, Tensor]], near: Tensor) -> Tensor:
        """Masks [B, cells] of the frame with features `query` [C, cells]."""
        best, taken = [], []
        for key, mask in context:
            affinity = (query.T @ key).masked_fill_(~near, -torch.inf)  # [cells, cells]
            value, place = affinity.topk(min(self.top_k, affinity.shape[1]), dim=1)
            best.append(value)
            taken.append(mask[:, place])  # [B, cells, k]
        values, chosen = torch.cat(best, 1).topk(min(self.top_k, best[0].shape[1]), dim=1)
        weight = torch.softmax(values / self.temperature, dim=1)
        labels = torch.cat(taken, 2)
        labels = labels.gather(2, chosen.expand(labels.shape[0], -1, -1))
        return (labels * weight).sum(2)

    def _near(self, cells: tuple[int, int]) -> Tensor:
        """bool [cells, cells]: within `radius` of each other."""
        row, column = torch.meshgrid(
            torch.arange(cells[0], device=self.device),
            torch.arange(cells[1], device=self.device),
            indexing="ij",
        )
        place = torch.stack([row.flatten(), column.flatten()], dim=1).to(torch.float32)
        return torch.cdist(place, place) <= self.radius


def box_masks(
    boxes: NDArray[np.float64], size: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.float32]:
    """float32 [B, rows*columns]: which share of each cell the box covers. size: width, height."""
    across = _coverage(boxes[:, 0], boxes[:, 2], size[0], cells[1])
    down = _coverage(boxes[:, 1], boxes[:, 3], size[1], cells[0])
    return (down[:, :, None] * across[:, None, :]).reshape(len(boxes), -1).astype(np.float32)


def mask_boxes(
    masks: NDArray[np.float32], size: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.float64]:
    """float64 [B, 4] xywh: from the 5th to the 95th percentile of the mask on each axis.

    NaN where a mask is empty.
    """
    grid = masks.reshape(len(masks), *cells).astype(np.float64)
    x0, x1 = _percentiles(grid.sum(1), size[0])
    y0, y1 = _percentiles(grid.sum(2), size[1])
    return np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)


def _coverage(
    low: NDArray[np.float64], extent: NDArray[np.float64], length: int, cells: int
) -> NDArray[np.float64]:
    edge = np.arange(cells + 1) * (length / cells)
    left = np.maximum(edge[None, :-1], low[:, None])
    right = np.minimum(edge[None, 1:], (low + extent)[:, None])
    return np.maximum(right - left, 0.0) * cells / length


def _percentiles(
    marginal: NDArray[np.float64], length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edge = np.arange(marginal.shape[1] + 1) * (length / marginal.shape[1])
    low, high = np.full(len(marginal), np.nan), np.full(len(marginal), np.nan)
    for n, line in enumerate(marginal):
        total = line.sum()
        if total > 1e-6:
            share = np.concatenate([[0.0], np.cumsum(line)]) / total
            low[n], high[n] = np.interp([0.05, 0.95], share, edge)
    return low, high


def _relative(
    given: NDArray[np.float64], origin: NDArray[np.float64], now: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The given box, moved and scaled as its mask's extent did."""
    size = given[2:] * now[2:] / np.maximum(origin[2:], 1e-6)
    shift = now[:2] + now[2:] / 2.0 - origin[:2] - origin[2:] / 2.0
    return np.concatenate([given[:2] + given[2:] / 2.0 + shift - size / 2.0, size])
