"""How does a decoded picture become a small RGB one, at the least cost and without colour shift?

The planes are resized first (libswscale, area averaging, so that shrinking does not alias), to
4:4:4 at the output size, and only the small picture is turned into RGB, with one affine map. The
large RGB picture that a plain reader makes and throws away never exists. libswscale also reads
10 bits, 4:2:2, 4:4:4 and the position of chroma samples, so those cases take the same path.

Of an interlaced picture that shrinks, one field is taken: two moments woven into each other show
combs, and blended they smear what moves along one direction, which tells a method which way is up.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from marey.pipeline.video import yuv as color
from marey.pipeline.video.fit import Geometry
from marey.pipeline.video.reasons import UNREADABLE, VideoError

_SHRINK = Interpolation.AREA
_GROW = Interpolation.BICUBIC
_ANY_MATRIX = Colorspace.ITU601
"""The planes stay YUV, so their matrix does not matter; libswscale refuses many by their names."""


class Converter:
    """Turns decoded pictures into uint8 RGB of a planned geometry. Not for use by two threads."""

    def __init__(self, uri: str = "a picture") -> None:
        """uri: where the pictures are from, for messages."""
        self._uri = uri
        # One libswscale context a geometry: a context that sees sizes alternate is rebuilt.
        self._reformatters: dict[object, VideoReformatter] = {}
        self._matrices: dict[tuple[int, bool], np.ndarray] = {}
        # Memory for the part of a picture that is taken, one of each size and format: new memory
        # costs more than the copy.
        self._parts: dict[tuple[int, int, str], VideoFrame] = {}
        self._packed = (np.empty((0, 0, 3), np.uint8), np.empty((0, 0, 3), np.uint8))

    def into(self, frame: VideoFrame, geometry: Geometry, out: np.ndarray) -> None:
        """Write `frame` into `out`, uint8 [out_height, out_width, 3] RGB, displayed upright.

        Raises VideoError for a matrix or format that neither we nor libswscale can turn into RGB.
        """
        try:
            self._into(frame, geometry, out)
        except FFmpegError as error:
            raise VideoError(
                f"{self._uri}: its colours cannot be turned into RGB (format "
                f"{frame.format.name}, matrix {frame.colorspace}: {error.strerror})",
                UNREADABLE,
            ) from error

    def _into(self, frame: VideoFrame, geometry: Geometry, out: np.ndarray) -> None:
        height, width = geometry.coded_out
        field = frame.interlaced_frame and height < geometry.height
        if field or (geometry.height, geometry.width) != (frame.height, frame.width):
            frame = self._part(frame, geometry, 2 if field else 1)
        shrink = height <= frame.height and width <= frame.width
        reformatter = self._reformatters.get(geometry)
        if reformatter is None:
            reformatter = self._reformatters[geometry] = VideoReformatter()
        if not color.has_matrix(frame):
            small = reformatter.reformat(
                frame, width, height, "rgb24", interpolation=_SHRINK if shrink else _GROW, threads=1
            )
            out[...] = geometry.orientation.apply(small.to_ndarray())
            return
        full_range = color.is_full_range(frame)
        level = color.FULL_RANGE if full_range else color.LIMITED_RANGE
        small = reformatter.reformat(
            frame,
            width,
            height,
            "yuv444p",
            interpolation=_SHRINK if shrink else _GROW,
            src_colorspace=_ANY_MATRIX,
            dst_colorspace=_ANY_MATRIX,
            src_color_range=level,
            dst_color_range=level,
            threads=1,
        )
        key = (frame.colorspace, full_range)
        matrix = self._matrices.get(key)
        if matrix is None:
            matrix = self._matrices[key] = color.rgb_matrix(*key)
        # Whole rows, padding included: OpenCV is many times slower on rows with gaps between.
        planes = [_rows(plane) for plane in small.planes]
        if self._packed[0].shape[:2] != planes[0].shape:
            self._packed = tuple(np.empty((*planes[0].shape, 3), np.uint8) for _ in range(2))
        packed, rgb = self._packed
        cv2.transform(cv2.merge(planes, packed), matrix, rgb)
        out[...] = geometry.orientation.apply(rgb[:, :width])

    def _part(self, frame: VideoFrame, geometry: Geometry, every: int) -> VideoFrame:
        """A copy of the part of `frame` that the geometry takes, in a planar format.

        every: 2 takes the upper field alone, each second row of all planes. The copy is good until
        the next one is made.
        """
        components = frame.format.components
        packed = (
            len({part.plane for part in components}) < len(components) or components[0].bits < 8
        )
        if packed or frame.format.has_palette:
            frame = frame.reformat(
                format="gbrp" if frame.format.is_rgb else "yuv444p",
                src_colorspace=_ANY_MATRIX,
                dst_colorspace=_ANY_MATRIX,
                threads=1,
            )
            components = frame.format.components
        kind = geometry.width, -(-geometry.height // every), frame.format.name
        part = self._parts.get(kind)
        if part is None:
            part = self._parts[kind] = VideoFrame(*kind)
        depth = -(-components[0].bits // 8)
        for source, target in zip(frame.planes, part.planes, strict=True):
            across = -(-frame.width // source.width)
            top = geometry.top // -(-frame.height // source.height)
            top -= top % every  # the same field of all planes
            left = geometry.left // across * depth
            rows, into = _rows(source), _rows(target)
            wide = target.width * depth
            taken = rows[top::every, left : left + wide]
            into[: target.height, :wide] = taken[: target.height]
        part.color_range, part.colorspace = frame.color_range, frame.colorspace
        return part


def _rows(plane: VideoPlane) -> np.ndarray:
    """View of one plane's bytes with their padding: uint8 [height, line_size]."""
    # A plane offers Python's buffer protocol, which its type stub does not say.
    data = np.frombuffer(cast(memoryview, plane), dtype=np.uint8)
    return data.reshape(-1, plane.line_size)
