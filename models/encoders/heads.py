"""What stands between a feature map and an embedding: spatial softmax and small MLPs."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Where each channel is active: the mean position under a softmax over the map.

    Input: [N, C, h, w] of any float type. Output: float32 [N, 2C], the C horizontal positions,
    then the C vertical ones, on a grid from -1 (left, top) to 1 (right, bottom). Of clips,
    [N, C, t, h, w], the positions are averaged over time.

    The temperature is learned, starting at `temperature`; it is held as a logarithm, so that it
    stays positive. (Levine et al. 2016; TCN, arXiv 1704.06888.)
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim == 5:
            moments = features.transpose(1, 2)
            return self(moments.flatten(0, 1)).unflatten(0, moments.shape[:2]).mean(dim=1)
        height, width = features.shape[-2:]
        with torch.autocast(features.device.type, enabled=False):
            logits = features.float().flatten(2) / self.log_temperature.float().exp()
            weights = logits.softmax(dim=2).unflatten(2, (height, width))
            x = torch.linspace(-1, 1, width, device=features.device)
            y = torch.linspace(-1, 1, height, device=features.device)
            return torch.cat([weights.sum(2) @ x, weights.sum(3) @ y], dim=1)


def mlp(*widths: int, norm: bool, norm_out: bool = False, affine_out: bool = True) -> nn.Sequential:
    """Linear layers of these widths (input first), with ReLU between them.

    `norm` puts batch norm before each ReLU, `norm_out` behind the last layer, there with learned
    scale and shift only if `affine_out`. A layer followed by batch norm has no bias.
    """
    layers: list[nn.Module] = []
    for position, (before, width) in enumerate(itertools.pairwise(widths)):
        last = position == len(widths) - 2
        normed = norm_out if last else norm
        layers.append(nn.Linear(before, width, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(width, affine=affine_out or not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def expander(dim: int, width: int) -> nn.Sequential:
    """The projector of Barlow Twins and VICReg: three layers, all of one width.

    The last has no bias, which the centring in their losses would take away again.
    """
    return nn.Sequential(
        mlp(dim, width, width, norm=True, norm_out=True),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
    )
