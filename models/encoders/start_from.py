"""Starting from weights that exist: what of a file fits a method, and what is refused.

Layouts are recognised by `layouts`. Every weight of the encoder's trunk must come from the file;
what stands behind it (pooling, embedding head, predictors, decoders) is taken where it fits, and
else starts as it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from marey.configs.errors import InputError
from marey.models.encoders.layouts import as_ours, network_of
from marey.models.encoders.momentum import MomentumCopy

TRUNK = "encoder.trunk."


@dataclass(slots=True)
class Started:
    """What became of a file's tensors."""

    matched: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    """Parameters that the file has nothing for."""
    unused: list[str] = field(default_factory=list)
    """Tensors of the file that have no place here."""

    def lines(self) -> list[str]:
        """What a person should know, a line each."""
        lines = [f"{len(self.matched)} tensors match"]
        for name, kind in (("resized", self.resized), ("new", self.new), ("unused", self.unused)):
            if kind:
                more = f" and {len(kind) - 4} more" if len(kind) > 4 else ""
                lines.append(f"{len(kind)} {name}: {', '.join(kind[:4])}{more}")
        return lines


@torch.no_grad()
def start_from(method: nn.Module, content: Mapping[str, object], where: str) -> Started:
    """Load what fits into a method's encoder and heads, in place.

    content: of a file, tensors or nested dictionaries of them; where: its name, for errors.
    Momentum encoders are left as they are where the file has none. Raises InputError where the
    trunk is not wholly in the file.
    """
    own = method.state_dict()
    copies = _copies(method)
    found = as_ours(network_of(content), own)
    started = Started(unused=[name for name in found if name not in own])
    wrong: list[str] = []
    for name, mine in own.items():
        theirs = found.get(name)
        if theirs is None:
            if mine.is_floating_point() and not name.startswith(copies):
                started.new.append(name)
            continue
        if theirs.shape != mine.shape:
            fitted = _resized(name, theirs, mine)
            if fitted is None:
                wrong.append(f"{name} is {list(theirs.shape)} there and {list(mine.shape)} here")
                started.new.append(name)
                continue
            theirs = fitted
            started.resized.append(name)
        else:
            started.matched.append(name)
        mine.copy_(theirs.to(mine.dtype))
    absent = [name for name in started.new if name.startswith(TRUNK)]
    parameters = {name for name, _ in method.named_parameters()}
    absent = [name for name in absent if name in parameters or "running" in name]
    if absent:
        whole = sum(name.startswith(TRUNK) for name in own)
        reasons = [text for text in wrong if text.startswith(TRUNK)] or [
            f"it has nothing for {absent[0]}"
        ]
        raise InputError(
            f"{where} does not fit encoder.backbone: {len(absent)} of {whole} tensors of the trunk "
            f"are missing or of another shape ({'; '.join(reasons[:2])}); take the backbone that "
            "the file is of, or leave encoder.weights unset"
        )
    return started


def _copies(method: nn.Module) -> tuple[str, ...]:
    """Prefixes of momentum encoders, which are copies of what is loaded."""
    return tuple(
        f"{name}." for name, part in method.named_modules() if isinstance(part, MomentumCopy)
    )


def _resized(name: str, theirs: Tensor, mine: Tensor) -> Tensor | None:
    """A tensor of another shape made to fit; None where that cannot be done."""
    if name.endswith("pos_embed") and theirs.ndim == 3 and theirs.shape[2] == mine.shape[2]:
        from timm.layers.pos_embed import resample_abs_pos_embed

        side = round((mine.shape[1]) ** 0.5)
        prefix = mine.shape[1] - side**2
        return resample_abs_pos_embed(theirs, [side, side], num_prefix_tokens=prefix)
    if name == "predictor.unseen" and theirs.ndim == mine.ndim == 2:
        # one for each mask and kind of data (V-JEPA 2): those of the first kind
        same = theirs.shape[1] == mine.shape[1] and len(theirs) > len(mine)
        return theirs[: len(mine)] if same else None
    if name == f"{TRUNK}embed.weight" and theirs.ndim == 4:
        # a kernel of images sees each frame of a patch alike (Carreira, Zisserman, 1705.07750)
        still = theirs.permute(0, 2, 3, 1).flatten(1)
        frames, rest = divmod(mine.shape[1], still.shape[1])
        return None if rest else still.repeat(1, frames) / frames
    return None
