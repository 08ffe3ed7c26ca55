"""Where does a point of one picture lie in another? Cameras, motions and warps, for square images.

Coordinates are shares of the picture's side: (0, 0) is its upper left corner, (1, 1) its lower
right one, and the centre of pixel (row i, column j) of S is ((j + 0.5) / S, (i + 0.5) / S). This is
what `grid_sample` calls `align_corners=False`, and what area-like resizing keeps, so that one focal
length and one principal point (the centre) hold at every scale of an image.

The camera looks along z, x points right and y down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

NEAREST = 1e-3
"""Points nearer than this to the camera plane are projected as if they were this far."""


def focal_share(field_of_view_deg: float) -> float:
    """Focal length as a share of the picture's side, from the angle that the side spans."""
    return 0.5 / math.tan(math.radians(field_of_view_deg) / 2)


def pixel_centres(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) of all pixel centres, each [S, S], in the dtype and on the device of `like`."""
    place = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return place[None, :].expand(size, size), place[:, None].expand(size, size)


def depth_of(sigmoid: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Depth from a disparity in [0, 1]: 0 is `max_depth`, 1 is `min_depth` (Monodepth2, 3.1)."""
    far, near = 1 / max_depth, 1 / min_depth
    return 1 / (far + (near - far) * sigmoid)


def rigid_transform(vector: Tensor, *, inverse: bool = False) -> Tensor:
    """Axis-angle and translation, [N, 6], as matrices [R | t], [N, 3, 4]; or their inverses."""
    x, y, z = vector[:, :3].unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).unflatten(1, (3, 3))
    # The exponential is smooth at the identity, where axis and angle are not.
    rotation = torch.matrix_exp(skew)
    translation = vector[:, 3:, None]
    if inverse:
        rotation = rotation.transpose(1, 2)
        translation = -rotation @ translation
    return torch.cat([rotation, translation], dim=2)


def reprojection(depth: Tensor, transform: Tensor, focal: float) -> Tensor:
    """Where each pixel of a target picture lies in a source picture.

    depth: [N, 1, S, S] of the target. transform: [N, 3, 4], target to source coordinates, in the
    unit of the depth. focal: share of the side.
    Returns places [N, S, S, 2] (x, y) in the source, in shares of its side, possibly outside.
    """
    x, y = pixel_centres(depth.shape[-1], depth)
    rays = torch.stack([(x - 0.5) / focal, (y - 0.5) / focal, torch.ones_like(x)])
    points = (depth * rays).flatten(2)
    moved = transform[:, :, :3] @ points + transform[:, :, 3:]
    projected = moved[:, :2] / moved[:, 2:].clamp_min(NEAREST) * focal + 0.5
    return projected.unflatten(2, depth.shape[-2:]).permute(0, 2, 3, 1)


def sideways(disparity: Tensor) -> Tensor:
    """The places [N, S, S, 2] that lie `disparity` [N, 1, S, S] to the right of each pixel.

    Shares of the width; negative ones lie to the left.
    """
    x, y = pixel_centres(disparity.shape[-1], disparity)
    across = x + disparity[:, 0]
    return torch.stack([across, y.expand_as(across)], dim=3)


def sample_at(images: Tensor, places: Tensor) -> Tensor:
    """Read images [N, C, S, S] at places [N, S', S', 2], bilinearly; outside, the nearest edge."""
    return functional.grid_sample(
        images, 2 * places - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
