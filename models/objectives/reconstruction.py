"""How well hidden patches were reconstructed: loss and metrics of SimMIM, MAE and VideoMAE."""

from __future__ import annotations

import torch
from torch import Tensor

from marey.models.encoders.patchify import normalize_patches, visible_mean
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import mean_over_ranks


def reconstruction(
    predicted: Tensor,
    patches: Tensor,
    hidden: Tensor,
    *,
    norm_pix: bool,
    squared: bool,
    filled: Tensor | None = None,
    norm_channels: bool = False,
) -> dict[str, Tensor]:
    """Loss over the hidden patches of all ranks, and `relative_error`, its share of the loss of a
    blind answer: the mean visible colour of the picture, or 0 with `norm_pix`.

    predicted, patches: [N, L, values], three values a pixel; hidden: bool [N, L]. `norm_pix`: each
    patch's own mean and deviation are taken out of the target (with `norm_channels`, those of each
    of its colour channels). `squared`: squared differences (MAE, section 3), else absolute ones
    (SimMIM, section 3.4). filled: the patches as interpolation of the visible ones has them
    (`filled_from_around`): then also `fill_error`, the relative error of that answer, and
    `error_over_fill`, how much of it the prediction has left.
    """
    target = full_precision(patches)
    if norm_pix:
        target = normalize_patches(target, channels=3 if norm_channels else 1)
        blind = torch.zeros_like(target)
    else:
        colour = visible_mean(target, hidden).unflatten(2, (-1, 3)).mean(dim=2)
        blind = colour.repeat(1, 1, target.shape[2] // 3).expand_as(target)
    loss = mean_over_ranks(patch_errors(full_precision(predicted), target, squared), hidden)
    floor = mean_over_ranks(patch_errors(blind, target, squared), hidden)
    metrics = {
        "loss": loss,
        "relative_error": loss.detach() / (floor + 1e-6),
        "hidden": hidden.float().mean(),
    }
    if filled is not None:
        answer = full_precision(filled)
        if norm_pix:
            channels = 3 if norm_channels else 1
            answer = _best_scaled(normalize_patches(answer, channels), target, hidden)
        fill = mean_over_ranks(patch_errors(answer, target, squared), hidden).detach()
        metrics["fill_error"] = fill / (floor + 1e-6)
        metrics["error_over_fill"] = loss.detach() / (fill + 1e-6)
    return metrics


def _best_scaled(answer: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """The answer times the number with which its squared error is least: a guess of the variance
    of a patch costs more than none where it is wrong."""
    counted = hidden[..., None]
    product = (answer * target * counted).sum()
    return answer * product / (answer.square() * counted).sum().clamp_min(1e-6)


def patch_errors(predicted: Tensor, target: Tensor, squared: bool) -> Tensor:
    """Mean squared or absolute difference over the values of each patch: [N, L]."""
    difference = predicted - target
    return (difference.square() if squared else difference.abs()).mean(dim=2)
