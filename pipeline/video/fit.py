"""What part of a picture is read, and how large does it come out?"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from av.video.frame import VideoFrame

from marey.configs.errors import SettingError
from marey.pipeline.video.display import Orientation
from marey.pipeline.video.packet_plan import Box

Size = int | tuple[int, int] | None
"""Output size: an int is the short side, the long side follows the displayed picture; (H, W) is
exact; None keeps the coded pixels."""

Fit = Literal["stretch", "cover"]
"""How (H, W) is met when the shapes differ: "stretch" takes the whole picture, "cover" the largest
centred part of that shape."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """One way of reading a picture: the part that is taken, and its size when it comes out.

    left, top, width, height: the part, in coded pixels, before the picture is turned.
    out_height, out_width: of the displayed output.
    orientation: applied last.
    """

    left: int
    top: int
    width: int
    height: int
    out_height: int
    out_width: int
    orientation: Orientation

    @property
    def coded_out(self) -> tuple[int, int]:
        """(height, width) of the output before it is turned."""
        return self.orientation.displayed(self.out_height, self.out_width)


def check_size(size: Size, fit: Fit) -> None:
    """Raise SettingError unless `size` and `fit` mean something."""
    numbers = (size,) if isinstance(size, int) else (size or ())
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not whole or (isinstance(size, tuple) and len(size) != 2):
        raise SettingError(
            f"size={size!r}: a positive short side, a pair (height, width) or None is allowed"
        )
    if fit not in ("stretch", "cover"):
        raise SettingError(f"fit={fit!r}: 'stretch' and 'cover' are allowed")


def check_box(box: Box | None) -> None:
    """Raise SettingError unless `box` lies within the unit square and has an area."""
    if box is None:
        return
    x, y, w, h = box
    if not (x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 1 + 1e-6 and y + h <= 1 + 1e-6):
        raise SettingError(
            f"crop={box}: (x, y, width, height) as fractions of the picture, inside it"
        )


def plan_geometry(
    width: int,
    height: int,
    sar: Fraction,
    orientation: Orientation,
    size: Size,
    *,
    fit: Fit = "stretch",
    box: Box | None = None,
    grain: tuple[int, int] = (1, 1),
) -> Geometry:
    """Geometry for a coded picture of `width` x `height` pixels.

    sar: width over height of one coded pixel. An int size keeps the displayed shape, so pixels
        come out square; (H, W) is what it says; None keeps the coded grid and ignores it.
    box: part of the displayed picture, in fractions.
    grain: horizontal and vertical chroma subsampling; the part starts on a chroma sample, which
        moves it by at most half a chroma sample.
    """
    shown_h, shown_w = orientation.displayed(height, width)
    x, y, w, h = box or (0.0, 0.0, 1.0, 1.0)
    x, w, y, h = x * shown_w, w * shown_w, y * shown_h, h * shown_h
    # Width over height of one displayed pixel.
    aspect = float(1 / sar if orientation.transpose else sar)
    if fit == "cover" and isinstance(size, tuple):
        target = size[1] / size[0] / aspect  # in displayed pixels of the source
        if w / h > target:
            x, w = x + (w - h * target) / 2, h * target
        else:
            y, h = y + (h - w / target) / 2, w / target
    left, top, part_w, part_h = _coded_part(x, y, w, h, shown_w, shown_h, orientation)
    left, part_w = _snap(left, part_w, width, grain[0])
    top, part_h = _snap(top, part_h, height, grain[1])
    if isinstance(size, tuple):
        out_h, out_w = size
    else:
        out_h, out_w = orientation.displayed(part_h, part_w)
        if size is not None:
            across = out_w * aspect
            scale = size / min(across, out_h)
            out_h, out_w = max(1, round(out_h * scale)), max(1, round(across * scale))
    return Geometry(left, top, part_w, part_h, out_h, out_w, orientation)


def _coded_part(
    x: float, y: float, w: float, h: float, shown_w: int, shown_h: int, turn: Orientation
) -> tuple[float, float, float, float]:
    """A displayed rectangle in coded pixels: the orientation undone, last step first."""
    if turn.flip_y:
        y = shown_h - y - h
    if turn.flip_x:
        x = shown_w - x - w
    return (y, x, h, w) if turn.transpose else (x, y, w, h)


def _snap(start: float, length: float, limit: int, grain: int) -> tuple[int, int]:
    """Nearest whole pixels, starting on a chroma sample and holding at least one."""
    first = min(round(start / grain) * grain, (limit - 1) // grain * grain)
    stop = max(first + 1, min(limit, round(start + length)))
    return first, stop - first


def chroma_grain(frame: VideoFrame) -> tuple[int, int]:
    """Luma pixels to one chroma sample, across and down."""
    components = frame.format.components
    if len(components) < 3 or frame.format.is_rgb:
        return 1, 1
    luma, chroma = components[0], components[1]
    return -(-luma.width // chroma.width), -(-luma.height // chroma.height)
