"""Which optimiser, and its learning rate and weight decay at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from marey.configs.schema import OptimizerConfig
from marey.models.encoders.decay import decay_groups, embeddings, layer_shares
from marey.models.encoders.momentum import own_share
from marey.pipeline.training.optimizers import LARS, SGD, AdamW

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4 / 25
"""Shares of the peak learning rate at the ends of a one-cycle schedule (torch's defaults)."""


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, steady: Sequence[str] = ()
) -> torch.optim.Optimizer:
    """The optimiser of a run's settings, over the parameter groups of `decay_groups`.

    Parameters of the submodules named `steady` are in groups of their own, whose learning rate does
    not follow the schedule (see `set_schedule`). A group's `scale` is its share of the rate. Raises
    SettingError where layers cannot have rates of their own as set.
    """
    groups: list[dict[str, Any]] = []
    spared = embeddings(model) if config.decay_on == "weights" else set()
    shares: dict[int, float] = {}
    if config.layer_decay < 1:
        shares = layer_shares(model.get_submodule("encoder.trunk"), config.layer_decay)
    for kept in (False, True):
        by_share: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if (name.split(".")[0] in steady) == kept:
                by_share.setdefault(shares.get(id(parameter), 1.0), []).append(parameter)
        for share, parameters in by_share.items():
            groups += decay_groups(
                parameters,
                config.weight_decay,
                spared=spared,
                everything=config.decay_on == "all",
                steady=kept,
                scale=share,
            )
    for group in groups:
        if group["vectors"] and config.bias_lr is not None:
            group["scale"] *= config.bias_lr / config.lr
    if config.name == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum)
    how = _update_how([parameter for group in groups for parameter in group["params"]])
    if config.name == "adamw":
        betas = (config.momentum, config.beta2)
        return AdamW(groups, lr=config.lr, betas=betas, **how)
    nesterov = config.nesterov and config.momentum > 0
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, **how)


def _update_how(parameters: Sequence[Tensor]) -> dict[str, bool]:
    """How an optimiser updates many parameters: fused on GPUs; one by one where some lie in shards
    and others are whole, which no kernel takes together; else as torch does."""
    if len({_in_shards(parameter) for parameter in parameters}) > 1:
        return {"foreach": False}
    on_gpu = all(type(p) is nn.Parameter and p.device.type == "cuda" for p in parameters)
    return {"fused": True} if on_gpu else {}


def _in_shards(tensor: Tensor) -> bool:
    """Whether processes hold parts of it (`sharding`)."""
    return hasattr(tensor, "to_local")


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients so that their norm over all of them is at most `limit`; returns the norm.

    Those in shards count with the shards of all processes, each of which calls it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    shares = [own_share(g) for g in gradients if _in_shards(g)]
    whole = [g for g in gradients if not _in_shards(g)]
    norm = nn.utils.get_total_norm(whole)
    if shares:
        squares = nn.utils.get_total_norm(shares).square()
        dist.all_reduce(squares)
        norm = (squares + norm.to(squares.device).square()).sqrt()
    if limit is not None and gradients:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        torch._foreach_mul_(shares + whole, scale)  # pyright: ignore[reportPrivateImportUsage]
    return norm


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's state; decay, momentum and the like stay those of the settings now."""
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    # where an optimiser keeps its state depends on how it updates now
    now = [
        {**group, **{k: own[k] for k in ("fused", "foreach", "capturable") if k in own}}
        for group, own in zip(state["param_groups"], options, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": now})
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)


def set_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total: int
) -> float:
    """Set learning rate and weight decay for step `step` of `total` (from 0).

    Returns the learning rate of the groups that follow the schedule.
    """
    rate, decay = learning_rate(config, step, total), weight_decay(config, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * (config.lr if group["steady"] else rate)
        if group["decays"]:
            group["weight_decay"] = decay
    return rate


def learning_rate(config: OptimizerConfig, step: int, total: int) -> float:
    """The learning rate of step `step` of `total` (from 0)."""
    length = total * config.stretch
    warmup = config.warmup / config.stretch
    done = min(1.0, step / max(1.0, length))
    if config.schedule == "one_cycle":
        peak = max(warmup, 1e-9)
        if done < peak:
            return config.lr * _between(ONE_CYCLE_START, 1.0, done / peak)
        return config.lr * _between(1.0, ONE_CYCLE_END, (done - peak) / max(1e-9, 1 - peak))
    if done < warmup:
        if config.lr_start is not None:
            return config.lr_start + (config.lr - config.lr_start) * done / warmup
        return config.lr * (step + 1) / (math.ceil(warmup * length) + 1)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        passed = sum(done >= share / config.stretch for share in config.milestones)
        return config.lr * config.step_factor**passed
    after = (done - warmup) / (1 - warmup)
    if config.schedule == "linear":
        return config.lr + (config.lr_end - config.lr) * min(1.0, after)
    return _between(config.lr, config.lr_end, after)


def weight_decay(config: OptimizerConfig, step: int, total: int) -> float:
    """The weight decay of step `step` of `total` (from 0)."""
    if config.weight_decay_end is None:
        return config.weight_decay
    done = step / max(1, total * config.stretch)
    return _between(config.weight_decay, config.weight_decay_end, done)


def _between(start: float, end: float, done: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
