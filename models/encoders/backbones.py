"""Which network makes the feature maps: `build_trunk`, by name."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor

from marey.configs.errors import SettingError
from marey.models.encoders.tiny_resnet import tiny
from marey.models.encoders.transformer import tiny_vit
from marey.models.encoders.trunk import Level, PatchTrunk, Trunk, kept_stages

_OWN = ("tiny", "tiny_vit")
"""Trunks that are not timm's."""


def build_trunk(
    name: str,
    *,
    stages: int | None = None,
    pretrained: bool = False,
    in_channels: int = 3,
    image_size: int = 64,
) -> tuple[Trunk, int]:
    """The trunk of that name and the channels of its last map.

    `name` is `tiny`, `tiny_vit` or a timm model. `stages` keeps the first ones only: of a
    hierarchical network the levels of resolution that timm lists (a ResNet has 5, its stem being
    the first: `resnet18` without its last stage is `stages=4`), of a plain transformer its blocks.
    `in_channels`: those of the input (6 for two stacked frames); pretrained first layers are
    repeated over them. `image_size`: the patches of `tiny_vit` have an eighth of it as their side.

    Raises SettingError for an unknown name, too many stages, or weights that do not exist.
    """
    if name in _OWN:
        if pretrained:
            raise SettingError(f"backbone {name!r} has no pretrained weights: set pretrained=false")
        if name == "tiny":
            trunk = tiny(stages=stages, in_channels=in_channels)
        else:
            trunk = tiny_vit(image_size, stages=stages, in_channels=in_channels)
        return trunk, trunk.levels[-1].channels
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, [*_OWN, *timm.list_models()], n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SettingError(
            f"backbone {name!r} is neither {' nor '.join(map(repr, _OWN))} nor a timm model{hint}"
        )
    start = {"pretrained": pretrained, "in_chans": in_channels}
    model = _create(name, **start, num_classes=0)
    if hasattr(model, "blocks") and hasattr(model, "patch_embed"):
        plain = isinstance(model, timm.models.VisionTransformer)
        kind = _VisibleTokenTrunk if plain else _TokenTrunk
        return kind(model, kept_stages(name, stages, len(model.blocks))), model.num_features
    kept = kept_stages(name, stages, len(_create(name, features_only=True).feature_info.channels()))
    trunk = _LevelTrunk(_create(name, **start, features_only=True, out_indices=tuple(range(kept))))
    return trunk, trunk.levels[-1].channels


def _create(name: str, **options: Any) -> Any:
    """A timm model that accepts images of other sizes than it was made for, if it can."""
    import timm

    # Families know different options for that, and refuse those of the others.
    widenings: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})
    for widening in (*widenings, {}):
        try:
            return timm.create_model(name, **options, **widening)
        except TypeError:
            continue
        except RuntimeError as error:
            raise SettingError(f"backbone {name!r} cannot be built: {error}") from error
    raise SettingError(f"backbone {name!r} cannot be built by this version of timm")


class _LevelTrunk(Trunk):
    """The kept levels of a timm feature network, channels first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        info = model.feature_info
        self.levels = tuple(map(Level, info.channels(), info.reduction()))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        maps = self.model(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)


class _TokenTrunk(Trunk):
    """The patch tokens of a plain transformer, laid out as a map; class tokens are dropped."""

    def __init__(self, model: Any, blocks: int) -> None:
        super().__init__()
        self.model: Any = model
        self.last = blocks - 1
        self.levels = (Level(model.num_features, int(model.patch_embed.patch_size[0])),)
        model.prune_intermediate_layers([self.last], prune_norm=False, prune_head=True)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(
            images, indices=[self.last], norm=True, output_fmt="NCHW", intermediates_only=True
        )


class _VisibleTokenTrunk(_TokenTrunk, PatchTrunk):
    """The same of timm's plain vision transformers, which also take some of the patches."""

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        model = self.model
        tokens = model._pos_embed(model.patch_embed(images))
        classes, patches = tokens.tensor_split([model.num_prefix_tokens], dim=1)
        kept = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
        tokens = model.norm_pre(torch.cat([classes, kept], dim=1))
        for block in model.blocks:
            tokens = block(tokens)
        return model.norm(tokens)[:, model.num_prefix_tokens :]
