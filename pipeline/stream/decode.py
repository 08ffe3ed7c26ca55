"""From planned samples to pixels: the one stage that reads files, a plain callable.

It runs in this process, in a thread, or as a Ray Data actor, and gives the same rows in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from marey.configs.schema import DataConfig
from marey.pipeline.data.reading import Frames, Reader, Wanted
from marey.pipeline.data.source import Source
from marey.pipeline.sampling.shown import unlike_plan, without_contrast
from marey.pipeline.stream.drawing import Drawing, PlannedSample, Visit, Work, drawing_of
from marey.pipeline.stream.plan import Plan

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

    Every planned sample comes out exactly once: with its frames, or with the reason why not. It
    knows how samples are drawn and read, and of the corpus nothing but what a unit carries.
    """

    drawing: Drawing
    reader: Reader
    data: DataConfig
    together: bool = False
    """Decode the events of a unit together: spans of one file."""
    stills: bool = False
    """Gather events of one frame each into batches worth transporting."""
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    @classmethod
    def of(cls, plan: Plan, source: Source, data: DataConfig) -> DecodeStage:
        """The stage of a plan's units."""
        return cls(*settings_of(plan, source, data))

    def __call__(self, work: Work) -> Iterator[Rows]:
        """The samples of a unit that are not done, in order."""
        pending: list[tuple[Visit, PlannedSample]] = []
        for visit, samples in self.drawing.samples(work):
            pending += [(visit, sample) for sample in samples if sample.number not in work.done]
            if not (self.together or self.stills) or (self.stills and len(pending) >= IMAGE_ROWS):
                yield from self._chunks(pending)
                pending = []
        yield from self._chunks(pending)

    def _chunks(self, samples: list[tuple[Visit, PlannedSample]]) -> Iterator[Rows]:
        if samples:
            height, width = self.data.frame_shape
            frames = len(samples[0][1].request.times_s)
            size = max(1, CHUNK_BYTES // (frames * height * width * 3))
            for start in range(0, len(samples), size):
                yield self._rows(samples[start : start + size])

    def _rows(self, chunk: list[tuple[Visit, PlannedSample]]) -> Rows:
        visits, samples = zip(*chunk, strict=True)
        wanted = [Wanted(visit.event, s.request.views, s.request.times_s) for visit, s in chunk]
        read = self.reader.read(
            wanted, self.data.frame_shape, suspected=self.suspicious, backend=self.data.backend
        )
        rows: Rows = {
            "sample": np.array([s.number for s in samples], dtype=np.int64),
            "instance": np.array([s.event for s in samples], dtype=np.int64),
            "place": np.array([s.place for s in samples], dtype=np.int64),
            "frames": read.frames,
            "refused": np.array([self._refusal(w, read, n) for n, w in enumerate(wanted)]),
        }
        if visits[0].class_id is not None:
            rows["class_id"] = np.array([visit.class_id for visit in visits], dtype=np.int64)
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
            if not self.drawing.stored and len(slot):
                sampling = self.drawing.sampling
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


def settings_of(
    plan: Plan, source: Source, data: DataConfig
) -> tuple[Drawing, Reader, DataConfig, bool, bool]:
    """What a `DecodeStage` is made of: small when pickled, whatever the corpus."""
    drawing = drawing_of(source, plan.sampling, plan.seed)
    return drawing, source.reader, data, plan.files is not None, plan.stills
