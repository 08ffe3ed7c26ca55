"""How are thousands of boxes followed at once? Batched correlation filters in torch.

Every box has a slot. One step moves every slot one frame on: cut the windows, describe them, one
FFT over all slots, find the peaks, learn. Slots of boxes that ended are refilled from the queue of
waiting boxes, whatever clip they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marey.configs.errors import SettingError
from marey.trackers.crops import Crops, open_crops
from marey.trackers.features import FHOG, Colour, Features, Grey, Stack
from marey.trackers.filters import Filter, Kernelised, Model, Mosse, SpatioTemporal, hann
from marey.trackers.peaks import find_peaks, shift_spectra
from marey.trackers.scale import ScaleFilter, ScaleModel
from marey.trackers.tracker import Gate, Job, Tracker


@dataclass(frozen=True)
class Settings:
    """One correlation filter. The defaults are KCF on FHOG (arXiv 1404.7584, table 2)."""

    features: Features = field(default_factory=FHOG)
    filter: Literal["kernel", "mosse", "strcf"] = "kernel"
    pixels: int = 80  # side of the resampled window
    window: float = 2.5  # window side over sqrt(w * h) of the box
    kernel_sigma: float = 0.5  # 0: linear kernel (DCF)
    ridge: float = 1e-4  # lambda
    rate: float = 0.02  # eta
    target_sigma: float = 0.1  # of sqrt(w * h)
    min_score: float = 0.35  # below: the target is not there; not learnt, the track ends
    score: Literal["peak", "psr"] = "peak"
    scale_step: float = 1.0  # above 1: also look at 1/step and step
    scale_penalty: float = 0.98
    scale_filter: bool = False  # one-dimensional scale filter (DSST)
    recrop_cells: float = 1.0  # a smaller motion is learnt by shifting the detection spectra
    temporal: float = 0.0  # weight of the previous filter ("strcf"), and
    steps: int = 2  # ADMM steps a frame
    warps: int = 0  # random affine copies of the first window (MOSSE)

    @property
    def cells(self) -> int:
        """S, cells on a side of the window."""
        return self.pixels // self.features.cell


VARIANTS: dict[str, Settings] = {
    "mosse": Settings(
        features=Grey(log=True),
        filter="mosse",
        pixels=64,
        rate=0.125,
        target_sigma=2.0 / 64 * 2.5,  # 2 px of the 64
        score="psr",
        min_score=7.0,
        warps=8,
    ),
    "dcf-grey": Settings(
        features=Grey(),
        pixels=80,
        kernel_sigma=0.0,
        target_sigma=1 / 16,
        rate=0.075,
        min_score=0.25,
    ),
    "kcf-grey": Settings(
        features=Grey(), pixels=80, kernel_sigma=0.2, target_sigma=0.08, rate=0.075, min_score=0.5
    ),
    "dcf-hog": Settings(kernel_sigma=0.0),
    "kcf-hog": Settings(),
    "kcf-hog-scale": Settings(scale_step=1.05),
    "dsst-hog": Settings(kernel_sigma=0.0, scale_filter=True),
    "strcf": Settings(
        features=Stack((FHOG(colour=True), Colour())),
        filter="strcf",
        pixels=160,
        window=4.0,
        rate=0.01,
        target_sigma=1.0 / 16.0,
        temporal=1e4,
        scale_filter=True,
        min_score=0.1,
        recrop_cells=0.0,
    ),
}


@dataclass
class _Slots:
    """The boxes that are being followed, one entry each."""

    job: NDArray[np.int64]
    box: NDArray[np.int64]
    frame: NDArray[np.int64]
    centre: NDArray[np.float64]  # [N, 2]
    size: NDArray[np.float64]  # [N, 2], of the first box
    scale: NDArray[np.float64]
    velocity: NDArray[np.float64]  # [N, 2], pixels a frame
    low: NDArray[np.int64]  # frames in a row below the threshold
    limit: NDArray[np.int64]  # [N, 2], frame width and height
    alive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.job)

    def take(self, rows: NDArray[np.int64]) -> "_Slots":
        return _Slots(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def join(self, other: "_Slots") -> "_Slots":
        return _Slots(
            **{
                f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            }
        )


class CorrelationTracker(Tracker):
    """A correlation filter on every box of every clip, `batch` boxes at a time."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        device: str = "cpu",
        batch: int = 0,
        patience: int = 0,
        persistent: bool = False,
        gate: Gate | None = None,
    ) -> None:
        """batch: most boxes in one step; 0: 32 on a CPU (its cache), 4096 on a GPU.

        patience: frames below `min_score` that are bridged at constant velocity before the track
        ends at the first of them. persistent: never end a track and always learn (one-pass
        evaluation needs a box in every frame).
        """
        self.settings = settings or Settings()
        self.device = torch.device(device)
        self.batch = batch or (32 if self.device.type == "cpu" else 4096)
        self.patience, self.persistent = patience, persistent
        self.gate = gate or Gate()
        s = self.settings
        self._filter = _build_filter(s, self.device)
        self._hann = hann(s.cells, self.device)
        self._scale = ScaleFilter(device=self.device) if s.scale_filter else None

    @torch.inference_mode()
    def _follow(self, jobs: list[Job]) -> None:
        queue = [(j, b) for j, job in enumerate(jobs) for b in job.pending]
        queue.sort(key=lambda item: (item[0], jobs[item[0]].start[item[1]]))
        queue = [(j, b) for j, b in queue if jobs[j].start[b] < len(jobs[j].frames) - 1]
        if not queue:
            return
        crops = open_crops(
            [job.frames for job in jobs], colour=self.settings.features.colour, device=self.device
        )
        still = [_repeated(job.frames) for job in jobs]
        queue.reverse()
        slots, model, scale = self._admit(jobs, crops, queue, self.batch)
        while len(slots):
            self._step(jobs, crops, still, slots, model, scale)
            ended = len(slots) - int(slots.alive.sum())
            if ended == len(slots) or ended > len(slots) // 8:
                slots, model, scale = self._refill(jobs, crops, queue, slots, model, scale)

    def _refill(
        self,
        jobs: list[Job],
        crops: Crops,
        queue: list[tuple[int, int]],
        slots: _Slots,
        model: Model,
        scale: ScaleModel | None,
    ) -> tuple[_Slots, Model, ScaleModel | None]:
        rows = np.flatnonzero(slots.alive)
        index = torch.from_numpy(rows).to(self.device)
        slots = slots.take(rows)
        model = {key: value[index] for key, value in model.items()}
        scale = scale and {key: value[index] for key, value in scale.items()}
        room = self.batch - len(rows)
        if not queue or not room:
            return slots, model, scale
        more, more_model, more_scale = self._admit(jobs, crops, queue, room)
        model = {key: torch.cat([value, more_model[key]]) for key, value in model.items()}
        if scale is not None and more_scale is not None:
            scale = {key: torch.cat([value, more_scale[key]]) for key, value in scale.items()}
        return slots.join(more), model, scale

    def _admit(
        self, jobs: list[Job], crops: Crops, queue: list[tuple[int, int]], room: int
    ) -> tuple[_Slots, Model, ScaleModel | None]:
        """Takes up to `room` boxes from the queue and learns them in their start frames."""
        taken = [queue.pop() for _ in range(min(room, len(queue)))]
        job = np.array([j for j, _ in taken], dtype=np.int64)
        box = np.array([b for _, b in taken], dtype=np.int64)
        frame = np.array([jobs[j].start[b] for j, b in taken], dtype=np.int64)
        given = np.array([jobs[j].boxes[jobs[j].start[b], b] for j, b in taken], dtype=np.float64)
        num = len(taken)
        slots = _Slots(
            job=job,
            box=box,
            frame=frame,
            centre=given[:, :2] + given[:, 2:] / 2.0,
            size=given[:, 2:].copy(),
            scale=np.ones(num),
            velocity=np.zeros((num, 2)),
            low=np.zeros(num, dtype=np.int64),
            limit=np.array([jobs[j].size for j in job], dtype=np.int64),
            alive=np.ones(num, dtype=bool),
        )
        side = self._side(slots)
        x = self._spectra(crops, slots, slots.centre, side)
        target = slots.size / side[:, None] * self.settings.cells
        target = torch.from_numpy(target).to(self.device, torch.float32)
        model = self._filter.start(x, target)
        if self.settings.warps:
            self._add_warps(model, crops, slots, side, target)
        scale = None
        if self._scale is not None:
            scale = self._scale.start(crops, job, frame, slots.centre, slots.size)
        return slots, model, scale

    def _add_warps(
        self, model: Model, crops: Crops, slots: _Slots, side: NDArray[np.float64], target: Tensor
    ) -> None:
        """Averages the model over random affine copies of the first window (MOSSE, 3.2)."""
        rng = np.random.default_rng(0)  # the same warps for every box, whatever the batch
        for _ in range(self.settings.warps):
            turn = np.eye(2) + rng.uniform(-0.1, 0.1, (2, 2))
            turn = np.broadcast_to(turn, (len(slots), 2, 2))
            other = self._filter.start(
                self._spectra(crops, slots, slots.centre, side, turn=turn), target
            )
            for key, value in other.items():
                model[key] += value
        for key in model:
            model[key] /= self.settings.warps + 1

    def _side(self, slots: _Slots) -> NDArray[np.float64]:
        """Side of each slot's window in pixels."""
        return self.settings.window * np.sqrt(slots.size.prod(axis=1)) * slots.scale

    def _spectra(
        self,
        crops: Crops,
        slots: _Slots,
        centre: NDArray[np.float64],
        side: NDArray[np.float64],
        rows: NDArray[np.int64] | None = None,
        turn: NDArray[np.float64] | None = None,
    ) -> Tensor:
        """complex64 [N, C, S, S//2+1] of the windows around `centre` (of the slots `rows`)."""
        rows = np.arange(len(slots)) if rows is None else rows
        size = np.repeat(side[rows, None], 2, axis=1)
        cut = crops(
            slots.job[rows], slots.frame[rows], centre[rows], size, self.settings.pixels, turn
        )
        return torch.fft.rfft2(self.settings.features(cut).mul_(self._hann))

    def _step(
        self,
        jobs: list[Job],
        crops: Crops,
        still: list[NDArray[np.bool_]],
        slots: _Slots,
        model: Model,
        scale_model: ScaleModel | None,
    ) -> None:
        """Moves every living slot one frame on."""
        s = self.settings
        slots.frame = slots.frame + slots.alive  # an ended slot computes on its last frame again
        side = self._side(slots)
        search = slots.centre + slots.velocity * (slots.low > 0)[:, None]
        z, score, moved, factor = self._detect(crops, slots, model, search, side)
        repeated = np.array(
            [still[j][t] for j, t in zip(slots.job, slots.frame, strict=True)], dtype=bool
        )
        moved[repeated], factor[repeated] = 0.0, 1.0
        found = np.isfinite(score) & ((score >= s.min_score) | self.persistent)
        step = moved * (side * factor / s.cells)[:, None]
        centre = np.where(found[:, None], search + step, slots.centre + slots.velocity)
        slots.velocity = np.where(found[:, None], centre - slots.centre, slots.velocity)
        slots.centre = centre
        slots.scale = slots.scale * np.where(found, factor, 1.0)
        learn = found & slots.alive & ~repeated
        if self._scale is not None and scale_model is not None:
            slots.scale = self._scale.update(
                scale_model, crops, slots.job, slots.frame, centre, slots.size, slots.scale, learn
            )
        self._learn(crops, slots, model, z, moved, factor, learn)
        self._record(jobs, slots, score, found)

    def _detect(
        self,
        crops: Crops,
        slots: _Slots,
        model: Model,
        search: NDArray[np.float64],
        side: NDArray[np.float64],
    ) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Spectra, score [N], displacement [N, 2] in cells and scale factor [N], the best."""
        s = self.settings
        best = best_z = None
        factors = (1.0,) if s.scale_step <= 1.0 else (1.0, 1.0 / s.scale_step, s.scale_step)
        for factor in factors:
            z = self._spectra(crops, slots, search, side * factor)
            peak = find_peaks(self._filter.respond(model, z), with_psr=s.score == "psr")
            penalty = 1.0 if factor == 1.0 else s.scale_penalty
            row = torch.cat([peak, torch.full_like(peak[:, :1], factor)], dim=1)
            if best is None or best_z is None:
                best, best_z = row, z
            else:
                better = row[:, 0] * penalty > best[:, 0]
                best = torch.where(better[:, None], row, best)
                best_z = torch.where(better[:, None, None, None], z, best_z)
        assert best is not None
        assert best_z is not None
        table = best.cpu().numpy().astype(np.float64)
        score = table[:, 3] if s.score == "psr" else table[:, 0]
        return best_z, score, table[:, 1:3].copy(), table[:, 4].copy()

    def _learn(
        self,
        crops: Crops,
        slots: _Slots,
        model: Model,
        z: Tensor,
        moved: NDArray[np.float64],
        factor: NDArray[np.float64],
        learn: NDArray[np.bool_],
    ) -> None:
        """Updates the models of the slots in `learn`; the others keep theirs."""
        s = self.settings
        far = np.abs(moved).max(axis=1) > s.recrop_cells
        if not s.recrop_cells:  # the scale filter may have changed the window without a motion
            far[:] = True
        rows = np.flatnonzero(learn & far)
        if len(rows) == len(slots):
            x = self._spectra(crops, slots, slots.centre, self._side(slots))
        else:
            shift = torch.from_numpy(np.where(np.isfinite(moved), moved, 0.0))
            x = shift_spectra(z, shift.to(self.device, torch.float32), s.cells)
            if len(rows):
                again = self._spectra(crops, slots, slots.centre, self._side(slots), rows)
                x[torch.from_numpy(rows).to(self.device)] = again
        rate = torch.from_numpy(np.where(learn, s.rate, 0.0)).to(self.device, torch.float32)
        self._filter.learn(model, x, rate)

    def _record(
        self, jobs: list[Job], slots: _Slots, score: NDArray[np.float64], found: NDArray[np.bool_]
    ) -> None:
        """Writes boxes and endings; a slot is no longer alive once its track or clip ended."""
        size = slots.size * slots.scale[:, None]
        corner = slots.centre - size / 2.0
        low, high = np.maximum(corner, 0.0), np.minimum(corner + size, slots.limit)
        inside = np.maximum(high - low, 0.0).prod(axis=1) / size.prod(axis=1)
        boxes = np.concatenate([corner, size], axis=1)
        slots.low = np.where(found, 0, slots.low + 1)
        score = np.where(np.isfinite(score), score, 0.0)
        for n in np.flatnonzero(slots.alive):
            job, b, t = jobs[slots.job[n]], int(slots.box[n]), int(slots.frame[n])
            if not np.isfinite(boxes[n]).all():
                job.end(t, b, "non_finite")
            elif inside[n] < self.gate.min_inside_later and not self.persistent:
                job.end(t - int(max(slots.low[n] - 1, 0)), b, "out_of_frame")
            elif size[n].min() < 2.0:
                job.end(t, b, "box_too_small")
            else:
                job.follow(t, b, boxes[n], score[n])
                last = t == len(job.frames) - 1
                if slots.low[n] and (last or slots.low[n] > self.patience):
                    job.end(t - int(slots.low[n]) + 1, b, "low_score", float(score[n]))
                elif not last:
                    continue
            slots.alive[n] = False


def _repeated(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [T]: the frame is a copy of the one before it."""
    same = np.zeros(len(frames), dtype=bool)
    for t in range(1, len(frames)):
        here, before = frames[t], frames[t - 1]
        # a sparse look decides nearly always
        same[t] = np.array_equal(here[::16, ::16], before[::16, ::16]) and np.array_equal(
            here, before
        )
    return same


def _build_filter(s: Settings, device: torch.device) -> Filter:
    sigma = s.target_sigma * s.cells / s.window
    if s.filter == "kernel":
        return Kernelised(s.cells, s.features.channels, sigma, s.kernel_sigma, s.ridge, device)
    if s.filter == "mosse":
        return Mosse(s.cells, sigma, 1e-5 * s.cells**2, device)
    return SpatioTemporal(s.cells, sigma, device, s.temporal, steps=s.steps)


def build_correlation(variant: str, **settings: Any) -> CorrelationTracker:
    """The correlation tracker `variant`; `settings` are fields of `Settings` or of the tracker.

    Raises SettingError for an unknown name.
    """
    known = {f.name for f in fields(Settings)}
    own = {"device", "batch", "patience", "persistent", "gate"}
    unknown: Sequence[str] = sorted(set(settings) - known - own)
    if unknown:
        raise SettingError(
            f"tracker {variant!r}: no setting {unknown[0]!r}; one of "
            + ", ".join(sorted(known | own))
        )
    changed = {key: value for key, value in settings.items() if key in known}
    rest = {key: value for key, value in settings.items() if key in own}
    return CorrelationTracker(replace(VARIANTS[variant], **changed), **rest)
