"""How a method feeds an encoder of clips, and what such an encoder must be to leave patches out."""

from __future__ import annotations

from configs.errors import SettingError
from configs.sampling import ClipsSampling
from models.encoder import Encoder
from models.transformer import PatchTransformer


def require_clips(encoder: Encoder, sampling: ClipsSampling, method: str) -> None:
    """Raises SettingError unless the encoder takes clips like those that are sampled."""
    config = encoder.config
    if config.clip_frames != sampling.num_frames:
        raise SettingError(
            f"{method} trains on whole clips: encoder.clip_frames ({config.clip_frames}) must "
            f"equal method.sampling.num_frames ({sampling.num_frames})"
        )
    if abs(config.clip_step_s - sampling.spacing_s) > 1e-9:
        raise SettingError(
            f"method.sampling.spacing_s ({sampling.spacing_s}) must equal encoder.clip_step_s "
            f"({config.clip_step_s}), or export sees other clips than training"
        )


def clip_transformer(encoder: Encoder, method: str) -> PatchTransformer:
    """The encoder's trunk. Raises SettingError if it cannot leave patches of a clip out."""
    trunk = encoder.trunk
    if not isinstance(trunk, PatchTransformer):
        raise SettingError(
            f"{method} needs a transformer over patches of clips, not "
            f"{encoder.config.backbone}: set encoder.backbone=tiny_video_vit"
        )
    return trunk
