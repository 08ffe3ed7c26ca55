"""From planned samples to pixels: the one stage that reads files, a plain callable.

It runs in this process, in a thread, or as a Ray Data actor, and gives the same rows in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from marey.configs.sampling import ClipsSampling, FramesSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.images import Images, decode_image
from marey.pipeline.data.index import Index, Video
from marey.pipeline.data.source import Source
from marey.pipeline.data.stored_samples import StoredSamples
from marey.pipeline.sampling.shown import unlike_plan, without_contrast
from marey.pipeline.stream.plan import Plan, PlannedSample, Position, Unit, known_labels
from marey.pipeline.video import Clip, FrameRequest
from marey.pipeline.video.isolate import read_into

CHUNK_BYTES = 256 * 2**20
"""Frames of at most this size are decoded together, so that a long video needs no more memory."""
IMAGE_ROWS = 256
"""Images that travel together."""
Rows = dict[str, np.ndarray]
"""Samples as columns: `sample`, `instance` and `place` int64 [n], `frames` uint8 [n, F, H, W, 3],
the sampler's targets [n, ...], `class_id` int64 [n] where the source has labels, and `refused`
str [n]: empty, or why the sample has no frames."""


@dataclass
class DecodeStage:
    """Units of work in, decoded samples out, one batch of rows an event.

    Every planned sample comes out exactly once: with its frames, or with the reason why not.
    """

    plan: Plan
    source: Source
    data: DataConfig
    done: Position
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    def __post_init__(self) -> None:
        sampling = self.plan.sampling
        self._labels = known_labels(self.source, sampling)
        self._contrast = sampling.min_contrast if isinstance(sampling, FramesSampling) else 0.0

    def __call__(self, unit: Unit) -> Iterator[Rows]:
        """The samples of a unit that are not done, in order."""
        pending: list[PlannedSample] = []
        for samples in self.plan.samples(unit, self.source):
            pending += [sample for sample in samples if sample.number not in self.done]
            # stills are one sample an event: gather them into batches worth transporting
            if not self.plan.stills or len(pending) >= IMAGE_ROWS:
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
        shape = self.data.frame_shape
        if isinstance(self.source, StoredSamples):
            frames, columns = self.source.read([s.event for s in samples], shape)
            numbers = np.array([s.number for s in samples], dtype=np.int64)
            refused = np.array([""] * len(samples))
            place = np.array([s.place for s in samples], dtype=np.int64)
            known = {"sample": numbers, "place": place, "refused": refused}
            return {**known, "frames": frames, **columns}
        count, length = len(samples), len(samples[0].request.times_s)
        frames = np.zeros((count, length, *shape, 3), dtype=np.uint8)
        refused = [""] * count
        if isinstance(self.source, Index):
            self._read_videos(self.source, samples, frames, refused)
        else:
            self._read_images(self.source, samples, frames, refused)
        rows: Rows = {
            "sample": np.array([s.number for s in samples], dtype=np.int64),
            "instance": np.array([s.event for s in samples], dtype=np.int64),
            "place": np.array([s.place for s in samples], dtype=np.int64),
            "frames": frames,
            "refused": np.array(refused),
        }
        if self._labels is not None:
            rows["class_id"] = self._labels[[s.event for s in samples]]
        for name in samples[0].request.targets:
            rows[name] = np.stack([s.request.targets[name] for s in samples])
        return rows

    def _read_videos(
        self, index: Index, samples: list[PlannedSample], frames: np.ndarray, refused: list[str]
    ) -> None:
        """Fill `frames`, each video read once for all samples of its event."""
        sampling = self.plan.sampling
        clip_frames = sampling.num_frames if isinstance(sampling, ClipsSampling) else 1
        event = index.event(samples[0].event)
        for view, video in enumerate(event.videos):
            slots = [np.flatnonzero(s.request.views == view) for s in samples]
            requests = [
                FrameRequest(n, samples[n].request.times_s[slot])
                for n, slot in enumerate(slots)
                if len(slot)
            ]
            if not requests:
                continue

            def place(clip: Clip, video: Video = video, slots: list[np.ndarray] = slots) -> None:
                number = cast(int, clip.request_id)
                frames[number, slots[number]] = clip.frames
                times_s = samples[number].request.times_s[slots[number]]
                reason = unlike_plan(times_s, clip.shown_s, video.fps, clip_frames)
                if reason := reason or without_contrast(clip.frames, self._contrast):
                    refused[number] = refused[number] or f"{video.video_id}: {reason}"

            failures, error = read_into(
                place,
                video.uri,
                requests,
                self.data.frame_shape,
                suspected=self.suspicious,
                backend=self.data.backend,
                stream=video.stream,
                fit="cover",
                sound=video.status == "ok",
            )
            for request_id, reason in failures.items():
                number = cast(int, request_id)
                detail = f" ({error})" if error else ""
                refused[number] = refused[number] or f"{video.video_id}: {reason}{detail}"

    def _read_images(
        self, images: Images, samples: list[PlannedSample], frames: np.ndarray, refused: list[str]
    ) -> None:
        # in the order of the source: a table is read row group by row group
        for n in sorted(range(len(samples)), key=lambda n: samples[n].event):
            sample = samples[n]
            try:
                frames[n, 0] = decode_image(images.encoded(sample.event), frames.shape[2:4])
            except (OSError, ValueError) as error:
                refused[n] = f"{images.names[sample.event]}: {error}"
                continue
            if reason := without_contrast(frames[n], self._contrast):
                refused[n] = f"{images.names[sample.event]}: {reason}"
