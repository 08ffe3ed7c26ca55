"""Where do a tracker's pixels come from? Windows cut out of frames, many at once.

One convention: pixel i covers [i, i+1), so its centre is at i + 0.5. A window with its centre at
(cx, cy) and size (w, h) is resampled to P x P pixels (bilinear, border replicated). A window more
than twice as large as the crop is read from the frame reduced by 2, 4, ... (means), so that
resampling does not alias.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_LEVEL = 4
FEW = 3
"""With fewer windows than this a grey frame is not converted whole."""


class Crops(Protocol):
    """Cuts windows out of the frames of several clips."""

    def __call__(
        self,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
        pixels: int,
        turn: NDArray[np.float64] | None = None,
    ) -> Tensor:
        """Window n lies in frame `frame[n]` of clip `clip[n]`.

        centre, size: float64 [N, 2], (x, y) in pixels. turn: float64 [N, 2, 2], a linear map of
        the window about its centre (rotation, shear), or None.
        Returns uint8 [N, P, P] (grey) or [N, P, P, 3] (RGB) on the tracker's device.
        """
        ...


def levels(size: NDArray[np.float64], pixels: int) -> NDArray[np.int64]:
    """int64 [N]: how often the frame is halved before a window of `size` [N, 2] is read."""
    ratio = np.maximum(size.max(axis=1) / pixels, 1.0)
    return np.minimum(np.floor(np.log2(ratio)).astype(np.int64), MAX_LEVEL)


class HostCrops:
    """Crops on the CPU: OpenCV resamples one window at a time, halved frames are kept a while."""

    def __init__(self, clips: Sequence[NDArray[np.uint8]], *, colour: bool, keep: int = 96) -> None:
        """clips: uint8 [T, H, W, 3] each. keep: how many converted frames stay in memory."""
        self._clips, self._colour, self._keep = clips, colour, keep
        self._frames: OrderedDict[tuple[int, int, int], NDArray[np.uint8]] = OrderedDict()

    def _grey_around(
        self, clip: int, frame: int, matrix: NDArray[np.float64], pixels: int
    ) -> NDArray[np.uint8]:
        """A grey frame of which only what this window reads is filled.

        For one box, converting whole frames would be most of the work. The window keeps its place
        in a picture of the frame's size: coordinates are rounded as in the whole one.
        """
        height, width = self._clips[clip].shape[1:3]
        corners = matrix[:, :2] @ np.array([[0, 0, pixels, pixels], [0, pixels, 0, pixels]])
        low = np.floor(corners.min(axis=1) + matrix[:, 2]).astype(int) - 2
        high = np.ceil(corners.max(axis=1) + matrix[:, 2]).astype(int) + 3
        left, top = low.clip(0, [width - 1, height - 1])
        right, bottom = high.clip([left + 1, top + 1], [width, height])
        grey = np.empty((height, width), np.uint8)
        part = np.ascontiguousarray(self._clips[clip][frame, top:bottom, left:right])
        grey[top:bottom, left:right] = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
        return grey

    def _level(self, clip: int, frame: int, level: int) -> NDArray[np.uint8]:
        key = (clip, frame, level)
        found = self._frames.get(key)
        if found is not None:
            self._frames.move_to_end(key)
            return found
        if level == 0:
            image = np.ascontiguousarray(self._clips[clip][frame])
            if not self._colour:
                image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        else:
            above = self._level(clip, frame, level - 1)
            height, width = above.shape[0] // 2, above.shape[1] // 2
            image = cv2.resize(
                above[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
            )
        image = np.asarray(image, dtype=np.uint8)
        self._frames[key] = image
        while len(self._frames) > self._keep:
            self._frames.popitem(last=False)
        return image

    def __call__(
        self,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
        pixels: int,
        turn: NDArray[np.float64] | None = None,
    ) -> Tensor:
        """See `Crops`."""
        num = len(clip)
        out = np.empty(
            (num, pixels, pixels, 3) if self._colour else (num, pixels, pixels), np.uint8
        )
        level = levels(size, pixels)
        matrix = window_matrix(centre, size, pixels, turn, level)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        few = num < FEW and not self._colour and bool(np.isfinite(matrix).all())
        for n in range(num):
            where = int(clip[n]), int(frame[n]), int(level[n])
            if few and not level[n] and where not in self._frames:
                image = self._grey_around(*where[:2], matrix[n], pixels)
            else:
                image = self._level(*where)
            cv2.warpAffine(
                image,
                matrix[n],
                (pixels, pixels),
                dst=out[n],
                flags=flags,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return torch.from_numpy(out)


class DeviceCrops:
    """Crops on a device: all clips lie there as one flat row of pixels, gathered in one go."""

    def __init__(
        self, clips: Sequence[NDArray[np.uint8]], *, colour: bool, device: torch.device
    ) -> None:
        """clips: uint8 [T, H, W, 3] each; all are copied to `device`, with their halved levels."""
        self._device, self._colour = device, colour
        flat: list[Tensor] = []
        offset, shapes, begin = 0, [], []
        for frames in clips:
            image = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
            if not colour:
                weights = torch.tensor([0.299, 0.587, 0.114], device=device)
                image = (image.to(torch.float32) @ weights).round().to(torch.uint8).unsqueeze(3)
            sizes, starts = [], []
            for _ in range(MAX_LEVEL + 1):
                sizes.append((image.shape[1], image.shape[2]))
                starts.append(offset)
                flat.append(image.reshape(-1, image.shape[3]))
                offset += flat[-1].shape[0]
                if min(image.shape[1:3]) >= 2:
                    planes = image.permute(0, 3, 1, 2).to(torch.float32)
                    halved = torch.nn.functional.avg_pool2d(planes, 2).round_()
                    image = halved.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
            shapes.append(sizes)
            begin.append(starts)
        self._pixels = torch.cat(flat)
        self._shape = torch.tensor(shapes, device=device)  # [clips, levels, 2]
        self._begin = torch.tensor(begin, device=device)  # [clips, levels]

    def __call__(
        self,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
        pixels: int,
        turn: NDArray[np.float64] | None = None,
    ) -> Tensor:
        """See `Crops`."""
        level = levels(size, pixels)
        affine = window_matrix(centre, size, pixels, turn, level)
        matrix = torch.from_numpy(affine).to(self._device, torch.float32)
        which = torch.from_numpy(np.stack([clip, level])).to(self._device)
        shape = self._shape[which[0], which[1]]
        height, width = shape[:, :1, None], shape[:, 1:, None]
        first = self._begin[which[0], which[1]][:, None, None]
        first = first + torch.from_numpy(frame).to(self._device)[:, None, None] * height * width
        step = torch.arange(pixels, device=self._device, dtype=torch.float32)
        u, v = step[None, None, :], step[None, :, None]
        m = matrix[:, :, :, None, None]
        x = m[:, 0, 0] * u + m[:, 0, 1] * v + m[:, 0, 2]
        y = m[:, 1, 0] * u + m[:, 1, 1] * v + m[:, 1, 2]
        x0, y0 = x.floor(), y.floor()
        fx, fy = (x - x0).unsqueeze(3), (y - y0).unsqueeze(3)
        left, top = x0.long(), y0.long()
        zero = torch.zeros_like(width)

        def read(column: Tensor, row: Tensor) -> Tensor:
            column = torch.minimum(torch.maximum(column, zero), width - 1)
            row = torch.minimum(torch.maximum(row, zero), height - 1)
            return self._pixels[first + row * width + column].to(torch.float32)

        upper = read(left, top) * (1 - fx) + read(left + 1, top) * fx
        lower = read(left, top + 1) * (1 - fx) + read(left + 1, top + 1) * fx
        out = (upper * (1 - fy) + lower * fy).round_().to(torch.uint8)
        return out if self._colour else out.squeeze(3)


def window_matrix(
    centre: NDArray[np.float64],
    size: NDArray[np.float64],
    pixels: int,
    turn: NDArray[np.float64] | None,
    level: NDArray[np.int64],
) -> NDArray[np.float64]:
    """float64 [N, 2, 3]: crop pixel (column, row, 1) -> pixel index in the halved frame."""
    num = len(centre)
    linear = np.zeros((num, 2, 2))
    linear[:, 0, 0] = size[:, 0] / pixels
    linear[:, 1, 1] = size[:, 1] / pixels
    if turn is not None:
        linear = turn @ linear
    middle = (pixels - 1) / 2.0  # the crop's centre, as a pixel index
    reduce = 0.5**level
    matrix = np.empty((num, 2, 3))
    matrix[:, :, :2] = linear * reduce[:, None, None]
    matrix[:, :, 2] = centre * reduce[:, None] - 0.5 - matrix[:, :, :2].sum(axis=2) * middle
    return matrix


def open_crops(clips: Sequence[NDArray[np.uint8]], *, colour: bool, device: torch.device) -> Crops:
    """The crops of `clips` on `device`."""
    if device.type == "cpu":
        return HostCrops(clips, colour=colour)
    return DeviceCrops(clips, colour=colour, device=device)
