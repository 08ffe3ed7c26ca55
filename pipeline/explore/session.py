"""What a page over embeddings can ask: points, columns, moments, the views of an event, a query."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marey.configs.errors import InputError, MareyError
from marey.pipeline.data.images import decode_image
from marey.pipeline.embedding.baselines import open_encoder
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.nearest_moments import Moments
from marey.pipeline.explore.columns import Column
from marey.pipeline.explore.pixels import Pixels
from marey.pipeline.report.choose import paired_events, rows_of

NEAREST = 12
"""Moments that a search answers with."""
_MATRIX = 360
"""Most moments of a view along one side of the similarity between two views."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One encoder's embeddings of the frames."""

    name: str
    embeddings: Embeddings
    points: NDArray[np.float32]
    """[n, 2], in [-1, 1]."""
    method: str
    """How they came to lie so."""
    moments: Moments


def side_of(name: str, embeddings: Embeddings, points: NDArray[np.floating], method: str) -> Side:
    """A side with its points scaled to the square that the page draws."""
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    half = float(np.ptp(points, axis=0).max()) / 2 or 1.0
    return Side(
        name, embeddings, ((points - centre) / half).astype(np.float32), method, Moments(embeddings)
    )


class Session:
    """Answers of one page. Rows are numbers of frames, the same on all sides."""

    def __init__(self, sides: list[Side], columns: list[Column], pixels: Pixels | None) -> None:
        """pixels: None where the videos are gone: everything but pictures is still answered."""
        self.sides = sides
        self.columns = columns
        self.pixels = pixels
        self._rows = sides[0].embeddings
        self._encoders: dict[str, Any] = {}
        self._encoding = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the page is of, and what it can show."""
        rows = self._rows
        first = np.concatenate([[0], np.flatnonzero(np.diff(self.sides[0].moments.video)) + 1])
        stills = len(first) == len(rows)
        encoder = str(rows.meta.get("encoder", ""))
        return {
            "frames": len(rows),
            "encoder": PurePosixPath(encoder).name,
            "sides": [{"name": s.name, "method": s.method} for s in self.sides],
            "columns": [one.about() for one in self.columns],
            "videos": [] if stills else [str(rows.video_id[row]) for row in first],
            "starts": [] if stills else first.tolist(),
            "paired": self._paired(),
            "pixels": self.pixels is not None,
            "stills": stills,
        }

    def _paired(self) -> list[dict[str, Any]]:
        """The events that several views saw, and the views."""
        rows = self._rows
        return [
            {"event": event, "views": np.unique(rows.view[rows.event == event]).tolist()}
            for event, _, _ in paired_events(rows)
        ]

    def row(self, row: int) -> dict[str, Any]:
        """What is known of one frame. Raises InputError where there is no such row."""
        rows = self._rows
        if not 0 <= row < len(rows):
            raise InputError(f"there is no frame {row}; there are {len(rows)}")
        label = None if rows.label is None else rows.label[row]
        return {
            "row": row,
            "video": str(rows.video_id[row]),
            "event": str(rows.event[row]),
            "view": str(rows.view[row]),
            "frame": int(rows.frame[row]),
            "time_s": round(float(rows.time_s[row]), 3),
            "label": None if label is None else str(label),
        }

    def frame(self, row: int) -> bytes:
        """A JPEG of one frame. Raises InputError where it cannot be read."""
        about = self.row(row)
        return self._pixels().frame(about["video"], about["frame"])

    def clip(self, row: int) -> tuple[bytes, float]:
        """An MP4 around one frame, and when in it the frame is shown (seconds)."""
        about = self.row(row)
        return self._pixels().clip(about["video"], about["frame"])

    def _pixels(self) -> Pixels:
        if self.pixels is None:
            raise InputError("the videos are not at their places: give --data INDEX")
        return self.pixels

    def near(self, row: int) -> list[list[dict[str, Any]]]:
        """For each side the moments of other videos that are most like a frame."""
        self.row(row)
        return [
            self._found(s, s.embeddings.features[[row]], s.moments.video[[row]]) for s in self.sides
        ]

    def like_image(self, content: bytes) -> list[list[dict[str, Any]]]:
        """For each side the moments most like an image file.

        Raises InputError for what is no image, and where an encoder is gone or sees clips.
        """
        return [self._found(side, self._vector(side, content), None) for side in self.sides]

    def _found(
        self, side: Side, query: NDArray[np.floating], own: NDArray[np.int64] | None
    ) -> list[dict[str, Any]]:
        rows, cosines = side.moments.nearest(query, own, NEAREST)
        return [
            {**self.row(row), "similarity": round(cosine, 4)}
            for row, cosine in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _vector(self, side: Side, content: bytes) -> NDArray[np.float32]:
        """An image file as the side's encoder sees it, [1, D]."""
        with self._encoding:
            encoder, shape = self._encoder(side)
            try:
                image = decode_image(content, shape)
            except ValueError as error:
                raise InputError(f"this cannot be searched for: {error}") from error
            frames = encoder.preprocess(torch.from_numpy(image[None]))
            return encoder(frames).float().numpy()

    def _encoder(self, side: Side) -> tuple[Any, tuple[int, int]]:
        if side.name not in self._encoders:
            meta = side.embeddings.meta
            try:
                encoder, about = open_encoder(str(meta["encoder"]))
            except (KeyError, MareyError) as error:
                raise InputError(
                    f"the encoder of the {side.name} embeddings is not there any more: a new image "
                    "cannot be embedded; pick a frame of a video"
                ) from error
            if about["sha256"] != meta.get("encoder_sha256"):
                raise InputError(
                    f"the encoder at {meta['encoder']} is not the one of these embeddings any more"
                )
            if about["architecture"].get("clip_frames", 1) > 1:
                raise InputError("this encoder sees clips: pick a frame of a video, not an image")
            self._encoders[side.name] = encoder, (about["architecture"]["image_size"],) * 2
        return self._encoders[side.name]

    def between(self, event: str, first: str, second: str) -> dict[str, Any]:
        """Two views of an event: their rows and times, and for each side the cosine of every
        moment of the first with every moment of the second, [moments, moments] as lists of rows.

        Of long events moments are left out evenly. Raises InputError for views that are not there.
        """
        rows = [rows_of(self._rows, event, view) for view in (first, second)]
        if not all(map(len, rows)):
            raise InputError(f"event {event} has no views {first} and {second}")
        one, other = (part[:: max(1, -(-len(part) // _MATRIX))] for part in rows)
        return {
            "rows": [one.tolist(), other.tolist()],
            "times": [np.round(self._rows.time_s[part], 3).tolist() for part in (one, other)],
            "cosines": [
                np.round(s.moments.unit[one] @ s.moments.unit[other].T, 4).tolist()
                for s in self.sides
            ],
        }
