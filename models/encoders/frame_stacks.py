"""How stacks of frames reach an encoder of clips (multi-frame TCN and its kin)."""

from __future__ import annotations

from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.encoders.clip_inputs import require_spacing


def check_stacks(encoder: EncoderConfig, **settings: float) -> None:
    """Raises SettingError unless the encoder's clips are those that a method gives it.

    settings: two settings of the method by name, the frames of a clip and then the seconds from
    one to the next, as in `check_stacks(encoder, stack=3, stack_s=0.1)`.
    """
    (count_name, count), (step_name, step_s) = settings.items()
    if encoder.clip_frames != count:
        raise SettingError(
            f"{count_name} ({count}) must equal encoder.clip_frames ({encoder.clip_frames}): "
            "an embedding sees one such clip"
        )
    if count > 1:
        require_spacing(encoder, step_s, step_name)


def as_stacks(images: Tensor, stack: int) -> Tensor:
    """Frames as the encoder wants them: [B, R stack, 3, S, S] -> [B R, 3, stack, S, S].

    Without stacks (1): [B, R, 3, S, S] -> [B R, 3, S, S].
    """
    if stack == 1:
        return images.flatten(0, 1)
    return images.unflatten(1, (-1, stack)).flatten(0, 1).transpose(1, 2)


def last_of_stacks(values: Tensor, stack: int) -> Tensor:
    """[B, R stack] -> [B, R]: the value of each stack's last frame, whose time it stands for."""
    return values[:, stack - 1 :: stack]
