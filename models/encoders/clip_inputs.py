"""How a method feeds an encoder of clips, and what such an encoder must be to leave patches out."""

from __future__ import annotations

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.encoders.dense_heads import require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.transformer import PatchTransformer


def require_clips(encoder: Encoder, sampling: ClipsSampling, method: str) -> None:
    """Raises SettingError unless the encoder takes clips like those that are sampled."""
    config = encoder.config
    if config.clip_frames != sampling.num_frames:
        raise SettingError(
            f"{method} trains on whole clips: encoder.clip_frames ({config.clip_frames}) must "
            f"equal method.sampling.num_frames ({sampling.num_frames})"
        )
    require_spacing(config, sampling.spacing_s)


def require_spacing(encoder: EncoderConfig, spacing_s: float, name: str = "spacing_s") -> None:
    """Raises SettingError unless the encoder's clips have the spacing of those it is trained on.

    spacing_s: from frame to frame, in seconds; name: the sampler's setting that it comes from.
    """
    if abs(encoder.clip_step_s - spacing_s) > 1e-9:
        raise SettingError(
            f"method.sampling.{name} ({spacing_s}) must equal encoder.clip_step_s "
            f"({encoder.clip_step_s}), or export sees other clips than training"
        )


def clip_grid(encoder: Encoder, sampling: ClipsSampling, method: str) -> tuple[int, ...]:
    """Patches of a clip along time, height and width, for a method that leaves some of them out.

    Raises SettingError unless the encoder can do that, takes clips like those that are sampled and
    has no weights behind its map.
    """
    require_map(encoder, method)
    require_clips(encoder, sampling, method)
    trunk, size = clip_transformer(encoder, method), encoder.config.image_size
    return trunk.grid((encoder.config.clip_frames, size, size))


def clip_transformer(encoder: Encoder, method: str) -> PatchTransformer:
    """The encoder's trunk. Raises SettingError if it cannot leave patches of a clip out."""
    trunk = encoder.trunk
    if not isinstance(trunk, PatchTransformer):
        raise SettingError(
            f"{method} needs a transformer over patches of clips, not "
            f"{encoder.config.backbone}: set encoder.backbone=video_vit_base, or tiny_video_vit"
        )
    return trunk
