"""The network that a run exports: trunk, pooling, embedding head, from an `EncoderConfig`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.augmentation.color import rgb_to_lab
from marey.models.encoders.backbones import build_trunk
from marey.models.encoders.heads import SpatialSoftmax, mlp
from marey.models.encoders.lab_trunk import LabTrunk
from marey.models.encoders.norms import layer_norms
from marey.models.encoders.padding import replicate_borders
from marey.models.encoders.pretrained import with_input_scale
from marey.models.encoders.sines import Positions
from marey.models.encoders.small_stem import with_small_stem
from marey.models.encoders.trunk import Trunk, channels_last
from marey.models.encoders.video_backbones import VIDEO_BACKBONES, build_clip_trunk


class Encoder(nn.Module):
    """Images in, one vector an image out; or clips in, one vector a clip out.

    Input: float [N, 3, S, S], normalised (see `normalize`), or with `clip_frames` = T above 1
    float [N, 3, T, S, S]. Output: float [N, `out_dim`].
    Raises SettingError when the configuration contradicts itself.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, *, fetch: bool = True) -> None:
        """fetch: begin with pretrained weights where the configuration says so; False for a network
        that is given others, or none."""
        super().__init__()
        config = with_input_scale(config)
        self.config = config
        begun = config if fetch else config.model_copy(update={"pretrained": False})
        self.trunk, self.feature_dim = _trunk(begun)
        pooled_dim = self.feature_dim
        if config.pool == "spatial_softmax":
            self.pool: nn.Module = SpatialSoftmax(config.softmax_temperature)
            pooled_dim = 2 * self.feature_dim
        elif config.pool == "class_token":
            self.pool = nn.Identity()
            if not hasattr(self.trunk, "class_token"):
                raise SettingError(
                    f"encoder.pool=class_token is for timm's vit_..., not {config.backbone!r}: set "
                    "encoder.pool=average"
                )
        else:
            average = nn.AdaptiveAvgPool2d if config.clip_frames == 1 else nn.AdaptiveAvgPool3d
            self.pool = nn.Sequential(average(1), nn.Flatten())
        self.pool_norm = nn.BatchNorm1d(pooled_dim) if config.pool_norm else nn.Identity()
        if config.embedding_dim is None:
            self.head: nn.Module = nn.Identity()
            self.out_dim = pooled_dim
        else:
            self.head = mlp(
                pooled_dim, *config.hidden, config.embedding_dim, norm=config.hidden_norm
            )
            self.out_dim = config.embedding_dim
        if config.norm == "layer":
            layer_norms(self)
        if config.padding == "replicate":
            replicate_borders(self.trunk)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], float [N, 3, S, S] -> the encoder's input range and colour space."""
        if self.config.input == "lab_split":
            images = rgb_to_lab(images)
        return (images - self.mean) / self.std

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float [N, 3, S, S]: short side to S, centre crop, normalised.

        Of clips, uint8 [N, T, H, W, 3] -> float [N, 3, T, S, S]. The deterministic preprocessing
        of evaluation and export.
        """
        if self.config.clip_frames == 1:
            return self._prepared(frames)
        images = self._prepared(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return images.transpose(1, 2)

    def _prepared(self, frames: Tensor) -> Tensor:
        size = self.config.image_size
        images = frames.permute(0, 3, 1, 2).float() / 255
        height, width = images.shape[-2:]
        scale = size / min(height, width)
        if scale != 1:
            shape = (max(size, round(height * scale)), max(size, round(width * scale)))
            images = functional.interpolate(
                images, shape, mode="bilinear", antialias=True, align_corners=False
            ).clamp(0, 1)
        top = (images.shape[-2] - size) // 2
        left = (images.shape[-1] - size) // 2
        return self.normalize(images[..., top : top + size, left : left + size])

    def augmented(
        self,
        frames: Tensor,
        recipe: AugmentConfig,
        *,
        size: int | None = None,
        shared: int = 1,
        clip: int | None = None,
    ) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, S, S], augmented and normalised.

        S is `size`, or the encoder's image size; `shared` consecutive frames get one crop and flip;
        `clip` of them are one clip (see `augment_frames`).
        """
        size = size or self.config.image_size
        images = augment_frames(frames.flatten(0, -4), size, recipe, shared=shared, clip=clip)
        return self.normalize(images).unflatten(0, frames.shape[:-3])

    def augmented_clips(
        self, frames: Tensor, recipe: AugmentConfig, *, size: int | None = None
    ) -> Tensor:
        """uint8 [..., T, H, W, 3] -> float32 [..., 3, T, S, S], one crop and flip for each clip.

        Whether its frames share their colours too is `recipe.colors`.
        """
        images = self.augmented(frames, recipe, size=size, shared=frames.shape[-4])
        return images.transpose(-4, -3)

    def features(self, images: Tensor) -> Tensor:
        """The trunk's last map: float [N, `feature_dim`, h, w], of clips [N, .., t, h, w]."""
        if self.config.clip_frames == 1:
            return self.trunk(images.contiguous(memory_format=torch.channels_last))
        if images.ndim != 5 or images.shape[2] != self.config.clip_frames:
            raise SettingError(
                f"encoder.clip_frames={self.config.clip_frames}: the encoder takes float "
                f"[N, 3, {self.config.clip_frames}, S, S], got {list(images.shape)}"
            )
        if self.config.differences:
            images = images[:, :, 1:] - images[:, :, :-1]
        return self.trunk(images.contiguous(memory_format=torch.channels_last_3d))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings, float32 [N, `out_dim`] also under autocast, so that lengths are exact."""
        return self._embedding(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """What the embedding head gets: float [N, D]."""
        if self.config.pool == "class_token":
            image = images.contiguous(memory_format=torch.channels_last)
            return self.pool_norm(cast(Any, self.trunk).class_token(image))
        return self.pool_norm(self.pool(self.features(images)))

    def embed(self, features: Tensor) -> Tensor:
        """What `forward` makes of the trunk's last map. Raises SettingError where it makes nothing
        of it (`pool=class_token`)."""
        if self.config.pool == "class_token":
            raise SettingError(
                "the method embeds the encoder's map, which encoder.pool=class_token does not "
                "use: set encoder.pool=average"
            )
        return self._embedding(self.pool_norm(self.pool(features)))

    def _embedding(self, pooled: Tensor) -> Tensor:
        embedding = self.head(pooled).float()
        return functional.normalize(embedding, dim=1) if self.config.unit_norm else embedding


def _trunk(config: EncoderConfig) -> tuple[nn.Module, int]:
    if config.clip_frames > 1:
        return build_clip_trunk(
            config.backbone,
            frames=config.clip_frames - config.differences,
            stages=config.stages,
            pretrained=config.pretrained,
            fusion=config.fusion,
            image_size=config.image_size,
            positions=_clip_positions(config),
            drop_path=config.drop_path,
        )
    if config.backbone in VIDEO_BACKBONES:
        raise SettingError(
            f"encoder.backbone={config.backbone} takes clips: set encoder.clip_frames to 2 or "
            "more, or take an image backbone"
        )
    if config.input == "lab_split":
        lightness, color = (_image_trunk(config, in_channels) for in_channels in (1, 2))
        trunk = LabTrunk(lightness, color)
    else:
        trunk = _image_trunk(config, 3)
    return channels_last(trunk), trunk.levels[-1].channels


def _clip_positions(config: EncoderConfig) -> Positions:
    if config.positions in ("sequence", "rotary"):
        return config.positions
    return "axes"


def _image_trunk(config: EncoderConfig, in_channels: int) -> Trunk:
    trunk, _ = build_trunk(
        config.backbone,
        stages=config.stages,
        pretrained=config.pretrained,
        in_channels=in_channels,
        image_size=config.image_size,
        sines=config.positions == "sine",
        drop_path=config.drop_path,
    )
    if config.stem == "small":
        return with_small_stem(trunk, config.backbone, config.image_size)
    return trunk
