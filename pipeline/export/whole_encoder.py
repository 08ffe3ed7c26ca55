"""The encoder with its preprocessing inside, of operations that `torch.export` and ONNX keep.

`Encoder.preprocess` resizes to a size that it works out in Python, which an exported program would
remember as that of its example. Here it is a product with two matrices that are made from the size
of whatever comes in: the same filter (bilinear, antialiased), so that any frames fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marey.models.encoders.encoder import Encoder


class WholeEncoder(nn.Module):
    """Frames as they are decoded in, vectors out.

    Input: uint8 [N, H, W, 3] RGB of any size, of clips [N, T, H, W, 3]. Output: float32 [N, D].
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        clip = self.encoder.config.clip_frames
        if clip == 1:
            return self.encoder(self._prepared(frames))
        images = self._prepared(frames.flatten(0, 1)).unflatten(0, (-1, clip))
        return self.encoder(images.transpose(1, 2))

    def _prepared(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, 3, S, S]: as `Encoder.preprocess`."""
        size = self.encoder.config.image_size
        images = frames.permute(0, 3, 1, 2).float() / 255
        rows, columns = (_places(images.shape[axis], frames.device) for axis in (2, 3))
        down = _resized(rows, columns, size) @ images
        across = down @ _resized(columns, rows, size).T
        return self.encoder.normalize(across.clamp(0, 1))


def _places(count: int, device: torch.device) -> Tensor:
    """Centres of the pixels of one axis: float64 [count]."""
    return torch.arange(count, dtype=torch.float64, device=device) + 0.5


def _resized(places: Tensor, others: Tensor, size: int) -> Tensor:
    """What each pixel of the result takes of each along one axis: float32 [size, length].

    The short side becomes `size`, and the middle of the long one is cut out. places, others:
    float64, the centres of the pixels of this axis and of the other.
    """
    length, other = places.max() + 0.5, others.max() + 0.5
    target = (length * size / torch.minimum(length, other)).round().clamp(min=size)
    ratio = length / target
    first = ((target - size) / 2).floor()
    wanted = torch.arange(size, dtype=torch.float64, device=places.device)
    centres = (first + wanted + 0.5) * ratio
    reach = ratio.clamp(min=1)
    weights = (1 - (places[None] - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
