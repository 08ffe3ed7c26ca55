"""How does an RGB picture that lies on a device become small there? By exact area averages.

Averaging over areas is linear along each side, so it is two products with matrices that depend on
the geometry alone: no kernel of our own, and the same numbers as the definition.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from marey.pipeline.video.fit import Geometry


class AreaConverter:
    """Turns pictures on a device into small ones in memory. They are upright already."""

    def __init__(self) -> None:
        self._weights: dict[tuple[int, int, torch.device], Tensor] = {}

    def into(self, picture: Tensor, geometry: Geometry, out: np.ndarray) -> None:
        """Write `picture`, uint8 [H, W, 3] RGB, into `out`, uint8 [out_height, out_width, 3].

        Shrinking averages over areas; growing is bicubic.
        """
        part = picture[
            geometry.top : geometry.top + geometry.height,
            geometry.left : geometry.left + geometry.width,
        ]
        height, width = out.shape[:2]
        if part.shape[:2] != (height, width):
            planes = part.permute(2, 0, 1).float()
            if height <= part.shape[0] and width <= part.shape[1]:
                down = self._matrix(part.shape[0], height, part.device)
                across = self._matrix(part.shape[1], width, part.device)
                planes = down @ planes @ across.T
            else:
                planes = F.interpolate(
                    planes[None], (height, width), mode="bicubic", antialias=True
                )[0]
            part = planes.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        out[...] = part.cpu().numpy()

    def _matrix(self, source: int, target: int, device: torch.device) -> Tensor:
        """Rows that average the source pixels under each target pixel: float32 [target, source]."""
        key = (source, target, device)
        if key not in self._weights:
            edges = torch.arange(target + 1, dtype=torch.float64) * source / target
            pixels = torch.arange(source, dtype=torch.float64)
            low = torch.maximum(edges[:-1, None], pixels)
            high = torch.minimum(edges[1:, None], pixels + 1)
            covered = (high - low).clamp(min=0) * target / source
            self._weights[key] = covered.float().to(device)
        return self._weights[key]
