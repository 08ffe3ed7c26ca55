"""Activation checkpointing: blocks keep their inputs only, and are computed again going backwards.

Chen, Xu, Zhang, Guestrin, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from marey.configs.errors import SettingError
from marey.models.encoders.transformer import Blocks


def recompute_blocks(encoder: nn.Module) -> None:
    """Turn it on for every row of blocks in an encoder, ours and timm's.

    Raises SettingError where there is none.
    """
    found = False
    for part in encoder.modules():
        if isinstance(part, Blocks):
            part.recompute = found = True
            continue
        turn_on: Any = getattr(part, "set_grad_checkpointing", None)
        if callable(turn_on):
            turn_on(True)
            found = True
    if not found:
        raise SettingError(
            "trainer.recompute is for transformers and timm's networks: this backbone has no "
            "blocks that can be computed again; set trainer.recompute=false"
        )
