"""How are thousands of boxes followed at once? Batched correlation filters in torch.

Every box has a slot. One step moves every slot one frame on: cut the windows, describe them, one
FFT over all slots, find the peaks, judge them, learn. Slots of boxes that ended are refilled from
the queue of waiting boxes, whatever clip they belong to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marey.configs.errors import SettingError
from marey.configs.load import check
from marey.configs.tracking import CorrelationSettings, declared_tracker
from marey.trackers.colour_response import ColourResponse
from marey.trackers.crops import Crops, open_crops
from marey.trackers.evidence import EVIDENCE, WITHOUT_COLOUR, likeness, remember
from marey.trackers.filters import Filter, Kernelised, Mosse, SpatioTemporal, hann
from marey.trackers.peaks import find_peaks, shift_spectra
from marey.trackers.scale import ScaleFilter
from marey.trackers.slots import Slots, open_slots
from marey.trackers.threads import one_thread
from marey.trackers.tracker import Gate, Job, Tracker
from marey.trackers.variants import VARIANTS, Variant

GRID_PX = 2.0**-11
"""Centres lie on a grid this fine. The sums of a batch and of a box alone differ in their last
bits, and so would all that is cut from then on; on the grid the centres are the same bits."""

Memory = dict[str, dict[str, Tensor]]
"""What is remembered of every slot: the models of the filter, of colours and of scales, and the
first window; tensors whose first dimension is the slot."""


@dataclass
class _Seen:
    """The windows of one step, one row per slot: their spectra, the bins of their pixels, and the
    best displacement in cells with the scale factor it was found at."""

    z: Tensor
    index: Tensor | None
    moved: NDArray[np.float64]
    factor: NDArray[np.float64]
    evidence: NDArray[np.float64]  # [N, len(EVIDENCE)]


class CorrelationTracker(Tracker):
    """A correlation filter on every box of every clip, `batch` boxes at a time."""

    def __init__(
        self,
        settings: CorrelationSettings | None = None,
        variant: Variant | None = None,
        *,
        gate: Gate | None = None,
    ) -> None:
        self.settings = s = settings or CorrelationSettings()
        self.variant = variant or Variant()
        self.device = torch.device(s.device)
        # 32 boxes fit into a CPU's cache
        self.batch = s.batch or (32 if self.device.type == "cpu" else 4096)
        self.persistent, self.gate = s.persistent, gate or Gate()
        self.cells = s.pixels // self.variant.features.cell
        """On a side of the window."""
        self._filter = _build_filter(s, self.variant, self.cells, self.device)
        self._hann = hann(self.cells, self.device)
        self._scale = None
        if s.scale_filter:
            self._scale = ScaleFilter(device=self.device, num=s.scales, step=s.scales_step)
        self._colour = None
        if s.colour_weight:
            if not s.own_shape or not self.variant.features.colour:
                raise SettingError("colour_weight needs own_shape=True and features in colour")
            self._colour = ColourResponse(s.pixels, s.window, self.cells, self.device)
        self.observe: Callable[[Slots, NDArray[np.float64]], None] | None = None
        """Called as observe(slots, evidence) after every step, for calibration; None: not."""

    def _follow(self, jobs: list[Job]) -> None:
        with torch.inference_mode(), one_thread(torch_too=True):
            self._follow_all(jobs)

    def _follow_all(self, jobs: list[Job]) -> None:
        queue = [(j, b) for j, job in enumerate(jobs) for b in job.pending]
        queue.sort(key=lambda item: (item[0], jobs[item[0]].start[item[1]]))
        queue = [(j, b) for j, b in queue if jobs[j].start[b] < len(jobs[j].frames) - 1]
        if not queue:
            return
        crops = open_crops(
            [job.frames for job in jobs], colour=self.variant.features.colour, device=self.device
        )
        still = [_repeated(job.frames) for job in jobs]
        queue.reverse()
        slots, memory = self._admit(jobs, crops, queue, self.batch)
        while len(slots):
            self._step(jobs, crops, still, slots, memory)
            ended = len(slots) - int(slots.alive.sum())
            if ended == len(slots) or ended > len(slots) // 8:
                slots, memory = self._refill(jobs, crops, queue, slots, memory)

    def _refill(
        self,
        jobs: list[Job],
        crops: Crops,
        queue: list[tuple[int, int]],
        slots: Slots,
        memory: Memory,
    ) -> tuple[Slots, Memory]:
        rows = np.flatnonzero(slots.alive)
        slots = slots.take(rows)
        memory = _rows_of(memory, torch.from_numpy(rows).to(self.device))
        room = self.batch - len(rows)
        if not queue or not room:
            return slots, memory
        more, fresh = self._admit(jobs, crops, queue, room)
        memory = {
            part: {key: torch.cat([value, fresh[part][key]]) for key, value in model.items()}
            for part, model in memory.items()
        }
        return slots.join(more), memory

    def _admit(
        self, jobs: list[Job], crops: Crops, queue: list[tuple[int, int]], room: int
    ) -> tuple[Slots, Memory]:
        """Takes up to `room` boxes from the queue and learns them in their start frames."""
        slots = open_slots(jobs, [queue.pop() for _ in range(min(room, len(queue)))])
        window = self._window(slots)
        x, index = self._look(crops, slots, slots.centre, window)
        target = torch.from_numpy(slots.size / window * self.cells)
        target = target.to(self.device, torch.float32)
        memory: Memory = {"filter": self._filter.start(x, target)}
        if self.settings.warps:
            self._add_warps(memory["filter"], crops, slots, window, target)
        if self._scale is not None:
            memory["scale"] = self._scale.start(
                crops, slots.job, slots.frame, slots.centre, slots.size
            )
        if self._colour is not None and index is not None:
            memory["colour"] = self._colour.start(index)
        if self._judges:
            memory["first"] = remember(x)
        return slots, memory

    def _add_warps(
        self,
        model: dict[str, Tensor],
        crops: Crops,
        slots: Slots,
        window: NDArray[np.float64],
        target: Tensor,
    ) -> None:
        """Averages the model over random affine copies of the first window (MOSSE, 3.2)."""
        rng = np.random.default_rng(0)  # the same warps for every box, whatever the batch
        for _ in range(self.settings.warps):
            turn = np.eye(2) + rng.uniform(-0.1, 0.1, (2, 2))
            turn = np.broadcast_to(turn, (len(slots), 2, 2))
            x, _ = self._look(crops, slots, slots.centre, window, turn=turn)
            for key, value in self._filter.start(x, target).items():
                model[key] += value
        for key in model:
            model[key] /= self.settings.warps + 1

    @property
    def _judges(self) -> bool:
        """Is more known of a step than the height of its peak?"""
        return bool(self.variant.calibration) or self.observe is not None

    def _window(self, slots: Slots) -> NDArray[np.float64]:
        """Width and height of each slot's window in pixels, [N, 2]."""
        size = slots.size
        if not self.settings.own_shape:
            size = np.repeat(np.sqrt(size.prod(axis=1, keepdims=True)), 2, axis=1)
        return self.settings.window * size * slots.scale[:, None]

    def _look(
        self,
        crops: Crops,
        slots: Slots,
        centre: NDArray[np.float64],
        window: NDArray[np.float64],
        rows: NDArray[np.int64] | None = None,
        turn: NDArray[np.float64] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """complex64 [N, C, S, S//2+1], spectra of the windows around `centre` (of the slots
        `rows`), and int64 [N, Q, Q], the bins of their colours where those are used."""
        rows = np.arange(len(slots)) if rows is None else rows
        cut = crops(
            slots.job[rows], slots.frame[rows], centre[rows], window[rows], self.settings.pixels,
            turn,
        )  # fmt: skip
        z = torch.fft.rfft2(self.variant.features(cut).mul_(self._hann))
        return z, None if self._colour is None else self._colour.index(cut)

    def _step(
        self,
        jobs: list[Job],
        crops: Crops,
        still: list[NDArray[np.bool_]],
        slots: Slots,
        memory: Memory,
    ) -> None:
        """Moves every living slot one frame on."""
        s = self.settings
        slots.frame = slots.frame + slots.alive  # an ended slot computes on its last frame again
        window = self._window(slots)
        search = slots.centre + slots.velocity * (slots.low > 0)[:, None]
        seen = self._detect(crops, slots, memory, search, window)
        repeated = np.array(
            [still[j][t] for j, t in zip(slots.job, slots.frame, strict=True)], dtype=bool
        )
        seen.moved[repeated], seen.factor[repeated] = 0.0, 1.0
        before, scale_before = slots.centre, slots.scale
        moved = seen.moved * window * seen.factor[:, None] / self.cells
        slots.centre = np.round((search + moved) / GRID_PX) * GRID_PX
        slots.scale = slots.scale * seen.factor
        x, index = self._align(crops, slots, seen)
        shares = None if self._colour is None or index is None else self._colour.shares(index)
        score = self._judge(slots, memory, seen, x, shares)
        found = np.isfinite(score) & ((score >= s.min_score) | self.persistent)
        learn = found & slots.alive & ~repeated & (score >= s.learn_score)
        slots.centre = np.where(found[:, None], slots.centre, before + slots.velocity)
        slots.velocity = np.where(found[:, None], slots.centre - before, slots.velocity)
        slots.scale = np.where(found, slots.scale, scale_before)
        if self._scale is not None:
            slots.scale = self._scale.update(
                memory["scale"], crops, slots.job, slots.frame, slots.centre, slots.size,
                slots.scale, learn,
            )  # fmt: skip
        rate = torch.from_numpy(np.where(learn, 1.0, 0.0)).to(self.device, torch.float32)
        self._filter.learn(memory["filter"], x, rate * s.rate)
        if self._colour is not None and shares is not None:
            self._colour.learn(memory["colour"], shares, rate)
        self._record(jobs, slots, score, found)

    def _detect(
        self,
        crops: Crops,
        slots: Slots,
        memory: Memory,
        search: NDArray[np.float64],
        window: NDArray[np.float64],
    ) -> _Seen:
        """The windows in this frame and the best displacement, at the best of the scales.

        With several scales the filter's own peak chooses: colours prefer the smaller box.
        """
        s = self.settings
        z, index = self._look(crops, slots, search, window)
        best = self._answer(memory, z, index)
        best = torch.cat([best, torch.ones_like(best[:, :1])], dim=1)
        due = slots.alive & ((slots.frame - slots.start) % s.scale_every == 0)
        rows = np.flatnonzero(due) if s.scale_step > 1.0 else np.zeros(0, dtype=np.int64)
        place = torch.from_numpy(rows).to(self.device)
        own = memory if len(rows) == len(slots) or not len(rows) else _rows_of(memory, place)
        for factor in (1.0 / s.scale_step, s.scale_step) if len(rows) else ():
            other_z, other_index = self._look(crops, slots, search, window * factor, rows)
            row = self._answer(own, other_z, other_index)
            row = torch.cat([row, torch.full_like(row[:, :1], factor)], dim=1)
            better = row[:, 0] * s.scale_penalty > best[place, 0]
            taken = place[better]
            best[taken], z[taken] = row[better], other_z[better]
            if index is not None and other_index is not None:
                index[taken] = other_index[better]
        table = best.cpu().numpy().astype(np.float64)
        evidence = np.zeros((len(slots), len(EVIDENCE)))
        evidence[:, 0], evidence[:, 1] = table[:, 0], table[:, 3]
        evidence[:, 4:6] = table[:, 4:6]
        return _Seen(z, index, table[:, 1:3].copy(), table[:, 6].copy(), evidence)

    def _answer(self, memory: Memory, z: Tensor, index: Tensor | None) -> Tensor:
        """float32 [N, 6]: the filter's peak, displacement in cells (x, y), PSR, and the colours'
        mean likelihood in the box and its excess over the window."""
        s = self.settings
        response = self._filter.respond(memory["filter"], z)
        with_psr = s.score == "psr" or self._judges
        if self._colour is None or index is None:
            peak = find_peaks(response, with_psr=with_psr)
            return torch.cat([peak, torch.zeros_like(peak[:, :2])], dim=1)
        likelihood = self._colour.likelihood(memory["colour"], index)
        colours = self._colour.respond(likelihood)
        merged = torch.lerp(response, colours, s.colour_weight)
        peak = find_peaks(response, with_psr=with_psr, merged=merged)
        place = merged.flatten(1).argmax(dim=1, keepdim=True)
        inside = colours.flatten(1).gather(1, place)
        contrast = inside - likelihood.mean(dim=(1, 2))[:, None]
        return torch.cat([peak, inside, contrast], dim=1)

    def _align(self, crops: Crops, slots: Slots, seen: _Seen) -> tuple[Tensor, Tensor | None]:
        """Spectra and colours of the windows around the new centres: shifted after a small motion,
        cut again after a large one."""
        s = self.settings
        far = np.abs(seen.moved).max(axis=1) > s.recrop_cells
        rows = np.flatnonzero(far & slots.alive)
        window = self._window(slots)
        if len(rows) == len(slots):
            return self._look(crops, slots, slots.centre, window)
        shift = torch.from_numpy(np.where(np.isfinite(seen.moved), seen.moved, 0.0))
        shift = shift.to(self.device, torch.float32)
        x = shift_spectra(seen.z, shift, self.cells)
        index = seen.index
        if self._colour is not None and index is not None:
            index = self._colour.shift(index, shift)
        if len(rows):
            again, again_index = self._look(crops, slots, slots.centre, window, rows)
            place = torch.from_numpy(rows).to(self.device)
            x[place] = again
            if index is not None and again_index is not None:
                index[place] = again_index
        return x, index

    def _judge(
        self,
        slots: Slots,
        memory: Memory,
        seen: _Seen,
        x: Tensor,
        shares: tuple[Tensor, Tensor] | None,
    ) -> NDArray[np.float64]:
        """The score of every slot: calibrated where the variant is, else the peak or the PSR."""
        s = self.settings
        if not self._judges:
            return seen.evidence[:, 1] if s.score == "psr" else seen.evidence[:, 0]
        peak = np.maximum(seen.evidence[:, 0], 1e-6)
        usual = np.where(np.isfinite(slots.usual), slots.usual, peak)
        slots.usual = 0.9 * usual + 0.1 * peak
        table = seen.evidence
        table[:, 1] = np.log1p(np.maximum(table[:, 1], 0.0))
        table[:, 2] = np.log(peak / usual)
        table[:, 3] = likeness(memory["first"], x).cpu().numpy()
        if shares is not None:
            first = memory["colour"]["first"]
            table[:, 6] = (first * shares[0]).sqrt_().sum(dim=1).cpu().numpy()
        if self.observe is not None:
            self.observe(slots, table)
        calibration = self.variant.calibration
        if not calibration:
            return table[:, 0].copy()
        count = len(calibration) - 1
        assert count in (WITHOUT_COLOUR, len(EVIDENCE))
        weighted = table[:, :count] @ np.array(calibration[1:]) + calibration[0]
        return 1.0 / (1.0 + np.exp(-weighted))

    def _record(
        self, jobs: list[Job], slots: Slots, score: NDArray[np.float64], found: NDArray[np.bool_]
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
                if slots.low[n] and (last or slots.low[n] > self.settings.patience):
                    job.end(t - int(slots.low[n]) + 1, b, "low_score", float(score[n]))
                elif not last:
                    continue
            slots.alive[n] = False


def _rows_of(memory: Memory, rows: Tensor) -> Memory:
    """What is remembered of these slots, int64 [n]."""
    return {
        part: {key: value[rows] for key, value in model.items()} for part, model in memory.items()
    }


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


def _build_filter(
    s: CorrelationSettings, variant: Variant, cells: int, device: torch.device
) -> Filter:
    sigma = s.target_sigma * cells / s.window
    if variant.filter == "kernel":
        channels = variant.features.channels
        return Kernelised(cells, channels, sigma, s.kernel_sigma, s.ridge, device)
    if variant.filter == "mosse":
        return Mosse(cells, sigma, 1e-5 * cells**2, device)
    return SpatioTemporal(cells, sigma, device, s.temporal, steps=s.steps)


def build_correlation(
    variant: str, *, gate: Gate | None = None, **settings: Any
) -> CorrelationTracker:
    """The correlation tracker `variant`, with its own settings but for those that are given.

    Raises SettingError for an unknown or wrong one.
    """
    own = declared_tracker(variant)
    numbers = check(CorrelationSettings, {**(own.model_dump() if own else {}), **settings})
    return CorrelationTracker(numbers, VARIANTS.get(variant), gate=gate)
