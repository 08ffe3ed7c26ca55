"""The part of a sample's frames in which most changes, cut out of all of them alike.

Tasks of order ask what moved from frame to frame. In a whole frame that is often a few pixels;
order prediction networks therefore see a patch where the motion is (OPN, arXiv 1708.01246, section
3.2, there by optical flow).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def moving_window(frames: Tensor, share: float) -> Tensor:
    """A square window of each sample where most changes: uint8 [B, F, s, s, 3].

    frames: uint8 [B, F, H, W, 3]; share: side of the window over the shorter side of the frame.
    Windows are compared by how far the frames differ in them, and once more in the half of them
    around their middle, so that what moves lies well inside. The order of the frames has no part in
    it.
    """
    height, width = frames.shape[2:4]
    side = max(2, round(share * min(height, width)))
    change = _change(frames)
    margin = side // 4
    inner = _window_sums(change, side - 2 * margin)
    inner = inner[:, margin : inner.shape[1] - margin, margin : inner.shape[2] - margin]
    score = _window_sums(change, side) + inner
    best = score.flatten(1).argmax(dim=1)
    top = torch.div(best, score.shape[2], rounding_mode="floor")
    left = best % score.shape[2]
    place = torch.arange(side, device=frames.device)
    sample = torch.arange(len(frames), device=frames.device)[:, None, None]
    pixels = frames.permute(0, 2, 3, 1, 4)
    cut = pixels[sample, (top[:, None] + place)[:, :, None], (left[:, None] + place)[:, None, :]]
    return cut.permute(0, 3, 1, 2, 4)


def _change(frames: Tensor) -> Tensor:
    """How far the frames differ at each place: float64 [B, H, W], with exact sums.

    From darkest to brightest, whichever frames these are: differences from frame to frame would
    count those in the middle twice, and the window would tell which they are.
    """
    spans = frames.amax(dim=1).int() - frames.amin(dim=1).int()
    return spans.sum(dim=-1).double()


def _window_sums(values: Tensor, side: int) -> Tensor:
    """Sums of [B, H, W] over all windows of that side: [B, H - side + 1, W - side + 1]."""
    total = functional.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
    below, above = total[:, side:], total[:, :-side]
    return below[..., side:] - below[..., :-side] - above[..., side:] + above[..., :-side]
