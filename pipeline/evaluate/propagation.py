"""Do features find the same thing again? A first frame's mask, carried on by similarity alone.

Label propagation as in the contrastive random walk (Jabri, Owens, Efros, NeurIPS 2020, arXiv
2006.14613, section 4.1): every position of a frame takes the labels of the most similar positions
of the first and of the last few frames. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import PropagationSettings
from marey.models.encoders.encoder import Encoder
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.evaluate.tracking_layouts import (
    Recording,
    known_boxes,
    read_sequence,
    truth_files,
)
from marey.pipeline.runtime.progress import each

DEFAULT = PropagationSettings()


@torch.no_grad()
def propagate(
    features: Tensor,
    mask: Tensor,
    *,
    top_k: int = DEFAULT.top_k,
    context: int = DEFAULT.context,
    radius: float = DEFAULT.radius,
    temperature: float = DEFAULT.temperature,
) -> Tensor:
    """Masks of all frames, float32 [T, K, h, w], from that of the first.

    features: float [T, C, h, w]; they are compared by cosine. mask: float [K, h, w], one channel a
    label, each position summing to 1. A position takes the mean of the `top_k` most similar
    positions' labels, weighted by softmax(similarity / temperature). Memory grows with
    (h w)^2 * context. Raises InputError for other shapes, SettingError for wrong settings.
    """
    if features.ndim != 4 or mask.ndim != 3 or features.shape[2:] != mask.shape[1:]:
        raise InputError(
            f"propagation needs features [T, C, h, w] and a mask [K, h, w], got "
            f"{list(features.shape)} and {list(mask.shape)}"
        )
    if top_k < 1 or context < 0 or radius <= 0 or temperature <= 0:
        raise SettingError(
            f"propagation needs top_k >= 1, context >= 0, radius > 0 and temperature > 0, got "
            f"{top_k}, {context}, {radius}, {temperature}"
        )
    frames, _, height, width = features.shape
    unit = functional.normalize(features.float(), dim=1).flatten(2)
    rows = torch.arange(height, device=unit.device).repeat_interleave(width)
    columns = torch.arange(width, device=unit.device).repeat(height)
    apart = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    far = apart > radius**2
    labels = [mask.float().to(unit.device).flatten(1)]
    for t in range(1, frames):
        recent = range(max(1, t - context), t)
        keys = torch.cat([unit[0], *(unit[s] for s in recent)], dim=1)
        known = torch.cat([labels[0], *(labels[s] for s in recent)], dim=1)
        similarity = unit[t].T @ keys / temperature
        if len(recent):
            cells = height * width
            similarity[:, cells:].masked_fill_(far.repeat(1, len(recent)), -torch.inf)
        best, place = similarity.topk(min(top_k, similarity.shape[1]), dim=1)
        labels.append((known[:, place] * best.softmax(dim=1)).sum(dim=2))
    return torch.stack(labels).unflatten(2, (height, width))


def region_similarity(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """J of DAVIS, float64 [T]: intersection over union of masks bool [T, H, W]; 1 if both empty."""
    both = (found & truth).sum(axis=(1, 2))
    either = (found | truth).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def box_masks(boxes: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks bool [T, H, W] of boxes [T, 4] xywh: pixels whose centre is inside; NaN gives none."""
    row = (np.arange(shape[0]) + 0.5)[None, :, None]
    column = (np.arange(shape[1]) + 0.5)[None, None, :]
    x, y, wide, high = (boxes.astype(np.float64)[:, n, None, None] for n in range(4))
    return (column >= x) & (column < x + wide) & (row >= y) & (row < y + high)


def run_propagation(inputs: Inputs, settings: PropagationSettings) -> dict[str, Any]:
    """Mean J of a first frame's box, carried through tracked sequences by an encoder's features.

    inputs: target is a run folder or timm trunk; data, a folder of OTB sequences (see
    `evaluate.tracking`); baseline, another encoder. `mean_iou_still` leaves the first mask where it
    was; boxes hold background, so a perfect carrier does not reach 1. Returns "figures",
    "baseline"? and "embeddings", as `run_eval` does.
    """
    assert inputs.data is not None  # `required` of the protocol
    files = truth_files(inputs.data)
    result: dict[str, Any] = {}
    networks: dict[str, tuple[Encoder, dict[str, Any]]] = {}
    for side, name in (("figures", inputs.target), ("baseline", inputs.baseline)):
        if name is None:
            continue
        network, about = open_encoder(encoder_location(name))
        if not isinstance(network, Encoder) or network.config.clip_frames > 1:
            raise InputError(f"{name} has no feature maps of single frames")
        networks[side] = network.to("cuda" if torch.cuda.is_available() else "cpu"), about
    frames = 0
    scores: dict[str, dict[str, tuple[float, float]]] = {side: {} for side in networks}
    for file in each(files, "propagate", "sequences"):
        sequence = read_sequence(file)
        frames += len(sequence.frames)
        for side, (network, _) in networks.items():
            scores[side][sequence.name] = _score(network, sequence, settings)
    for side, own in scores.items():
        figures: dict[str, Any] = {
            "mean_iou": float(np.mean([carried for carried, _ in own.values()])),
            "mean_iou_still": float(np.mean([still for _, still in own.values()])),
        }
        figures |= {f"iou_{name}": carried for name, (carried, _) in own.items()}
        result[side] = figures | {"sequences": len(files)}
    network, about = networks["figures"]
    result["embeddings"] = {
        "location": inputs.target,
        "frames": frames,
        "videos": len(files),
        "dim": network.feature_dim,
        "encoder_sha256": about["sha256"],
    }
    return result


def _score(
    encoder: Encoder, sequence: Recording, settings: PropagationSettings
) -> tuple[float, float]:
    """Mean J after the first frame: carried by the features, and of the mask left in place."""
    first = int(np.flatnonzero(known_boxes(sequence.truth))[0])
    frames, truth = sequence.frames[first:], sequence.truth[first:]
    images, scale = _resized(frames, settings.size)
    maps = _feature_maps(encoder, images)
    masks = box_masks(truth * np.tile(scale, 2), images.shape[1:3])
    start = torch.from_numpy(masks[:1]).float()[None]
    start = functional.interpolate(start, maps.shape[2:], mode="area")[0]
    labels = propagate(
        maps,
        torch.cat([1 - start, start]),
        top_k=settings.top_k,
        context=settings.context,
        radius=settings.radius,
        temperature=settings.temperature,
    )[:, 1:]
    found = [_upsampled(label, images.shape[1:3]) for label in labels]
    known = known_boxes(truth) & (np.arange(len(truth)) > 0)
    if not known.any():
        raise InputError(f"{sequence.name}: has no second frame with a box")
    own = region_similarity(np.stack(found)[known], masks[known])
    still = region_similarity(np.repeat(masks[:1], known.sum(), axis=0), masks[known])
    return float(own.mean()), float(still.mean())


def _resized(frames: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Frames with their short side near `size`, both sides multiples of 32; (x, y) scale."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    shape = [max(32, 32 * round(side * scale / 32)) for side in (width, height)]
    images = [cv2.resize(frame, shape, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(images).astype(np.uint8), np.array(shape) / [width, height]


@torch.no_grad()
def _feature_maps(encoder: Encoder, images: NDArray[np.uint8], batch: int = 16) -> Tensor:
    """float [T, C, h, w] of whole frames, without the centre crop of `preprocess`."""
    device = next(encoder.parameters()).device
    maps: Sequence[Tensor] = [
        encoder.features(encoder.normalize(part.to(device).permute(0, 3, 1, 2).float() / 255)).cpu()
        for part in torch.from_numpy(images).split(batch)
    ]
    return torch.cat(list(maps))


def _upsampled(label: Tensor, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """One label's mask bool [H, W] from its shares float [1, h, w]."""
    large = functional.interpolate(label[None].cpu(), shape, mode="bilinear", align_corners=False)
    return (large[0, 0] > 0.5).numpy()
