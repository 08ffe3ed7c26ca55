"""From planned samples to pixels: the one stage that reads files, a plain callable.

It runs in this process, in a thread, or as a Ray Data actor, and gives the same rows in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from marey.configs.schema import DataConfig
from marey.pipeline.data.reading import Frames, Wanted
from marey.pipeline.data.source import Source
from marey.pipeline.sampling.shown import unlike_plan, without_contrast
from marey.pipeline.stream.plan import Plan, PlannedSample, Position, Unit, known_labels

CHUNK_BYTES = 256 * 2**20
"""Frames of at most this size are decoded together, so that a long video needs no more memory."""
OPEN = "open: "
"""Begins what is said of a sample that could not be read for now. It is neither used nor refused: a
run asks for it again."""
IMAGE_ROWS = 256
"""Images that travel together."""
Rows = dict[str, np.ndarray]
"""Samples as columns: `sample`, `instance` and `place` int64 [n], `frames` uint8 [n, F, H, W, 3],
the sampler's targets [n, ...], `class_id` int64 [n] where the source has labels, and `refused`
str [n]: empty, or why the sample has no frames; from `OPEN` on for what may pass."""


@dataclass
class DecodeStage:
    """Units of work in, decoded samples out, one batch of rows an event, or all that a unit has of
    spans.

    Every planned sample comes out exactly once: with its frames, or with the reason why not.
    """

    plan: Plan
    source: Source
    data: DataConfig
    done: Position
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    def __post_init__(self) -> None:
        self._reader = self.source.reader
        self._labels = known_labels(self.source, self.plan.sampling)

    def __call__(self, unit: Unit) -> Iterator[Rows]:
        """The samples of a unit that are not done, in order."""
        pending: list[PlannedSample] = []
        for samples in self.plan.samples(unit, self.source):
            pending += [sample for sample in samples if sample.number not in self.done]
            # stills are one sample an event: gather them into batches worth transporting; spans of
            # one file are decoded together
            together = self.plan.files is not None or self.plan.stills
            if not together or (self.plan.stills and len(pending) >= IMAGE_ROWS):
                yield from self._chunks(pending)
                pending = []
        yield from self._chunks(pending)

    def _chunks(self, samples: list[PlannedSample]) -> Iterator[Rows]:
        if samples:
            height, width = self.data.frame_shape
            size = max(1, CHUNK_BYTES // (len(samples[0].request.times_s) * height * width * 3))
            for start in range(0, len(samples), size):
                yield self._rows(samples[start : start + size])

    def _rows(self, samples: list[PlannedSample]) -> Rows:
        wanted = [
            Wanted(self.source.event(s.event), s.request.views, s.request.times_s) for s in samples
        ]
        read = self._reader.read(
            wanted, self.data.frame_shape, suspected=self.suspicious, backend=self.data.backend
        )
        rows: Rows = {
            "sample": np.array([s.number for s in samples], dtype=np.int64),
            "instance": np.array([s.event for s in samples], dtype=np.int64),
            "place": np.array([s.place for s in samples], dtype=np.int64),
            "frames": read.frames,
            "refused": np.array([self._refusal(w, read, n) for n, w in enumerate(wanted)]),
        }
        if self._labels is not None:
            rows["class_id"] = self._labels[[s.event for s in samples]]
        for name in samples[0].request.targets:
            rows[name] = np.stack([s.request.targets[name] for s in samples])
        return rows | read.columns

    def _refusal(self, wanted: Wanted, read: Frames, number: int) -> str:
        """Why a sample is refused: the fault of its first view that has one; or empty."""
        lack = read.lacks[number]
        for view, video in enumerate(wanted.event.videos):
            if lack is not None and lack.view == view:
                detail = f" ({lack.error})" if lack.error else ""
                return f"{OPEN if lack.passes else ''}{video.video_id}: {lack.reason}{detail}"
            slot = np.flatnonzero(wanted.views == view)
            if self.source.sample_kind is None and len(slot):
                sampling = self.plan.sampling
                shown_s, times_s = read.shown_s[number, slot], wanted.times_s[slot]
                reason = unlike_plan(
                    times_s, shown_s, video.fps, sampling.frames_in_a_row,
                    varies=video.frame_times is not None,
                )  # fmt: skip
                reason = reason or without_contrast(
                    read.frames[number, slot], sampling.least_contrast
                )
                if reason:
                    return f"{video.video_id}: {reason}"
        return ""
