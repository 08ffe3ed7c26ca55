"""Which network makes the feature maps: `build_trunk`, by name."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from marey.configs import plugins
from marey.configs.errors import SettingError
from marey.models.encoders.any_network import (
    build_network,
    find_backbone,
    is_timm,
    registered,
)
from marey.models.encoders.nature_network import nature
from marey.models.encoders.pretrained import check_weights, unfetched
from marey.models.encoders.sines import patch_places, patch_sines
from marey.models.encoders.tiny_resnet import tiny
from marey.models.encoders.transformer import tiny_vit
from marey.models.encoders.trunk import Level, PatchTrunk, Trunk, kept_stages

_OWN = ("tiny", "tiny_vit", "nature")
"""Trunks that are not timm's."""


def build_trunk(
    name: str,
    *,
    stages: int | None = None,
    pretrained: bool = False,
    in_channels: int = 3,
    image_size: int = 64,
    sines: bool = False,
    drop_path: float = 0.0,
) -> tuple[Trunk, int]:
    """The trunk of that name and the channels of its last map.

    `name` is `tiny`, `tiny_vit`, `nature`, a network that a plugin registered,
    `package.module:function` of any other (see `any_network`), or a timm model. `stages` keeps the
    first ones only: of a hierarchical network the levels of resolution that timm lists (a ResNet
    has 5, its stem being the first: `resnet18` without its last stage is `stages=4`), of a plain
    transformer its blocks.
    `in_channels`: those of the input (6 for two stacked frames); pretrained first layers are
    repeated over them. `image_size`: the side of the images; a timm network is tried on a blank one
    of it, and the patches of `tiny_vit` have an eighth of it as their side. `sines`: a timm
    transformer's position embeddings are fixed sines (see `fix_positions`). `drop_path`: chance of
    skipping a block of a timm network (stochastic depth).

    Raises SettingError for an unknown name, too many stages, weights that do not exist, or images
    of a size that the network does not take, naming sizes that it does; InputError for weights that
    cannot be fetched.
    """
    if name in _OWN or find_backbone(name) is not None:
        _refuse_for_own(name, sines, drop_path)
    if name in _OWN:
        if pretrained:
            check_weights(name)
        if name == "tiny":
            trunk: Trunk = tiny(stages=stages, in_channels=in_channels)
        elif name == "nature":
            trunk = nature(image_size, stages=stages)
        else:
            trunk = tiny_vit(image_size, stages=stages, in_channels=in_channels)
        return trunk, trunk.levels[-1].channels
    backbone = find_backbone(name)
    if backbone is not None:
        if backbone.clips:
            raise SettingError(
                f"encoder.backbone={name} takes clips: set encoder.clip_frames to 2 or more, or "
                "take an image backbone"
            )
        return build_network(
            backbone, stages=stages, pretrained=pretrained, in_channels=in_channels,
            image_size=image_size,
        )  # fmt: skip
    import timm

    if not is_timm(name):
        raise SettingError(_unknown(name, timm.list_models()))
    shape = (name, stages, in_channels, image_size)
    options = _options(*shape)
    if pretrained:
        check_weights(name)
        options |= {"pretrained": True}
    if drop_path:
        options |= {"drop_path_rate": drop_path}
    try:
        trunk = _build(name, stages, in_channels, options)
    except TypeError as error:
        raise SettingError(
            f"backbone {name!r} has no stochastic depth: set encoder.drop_path=0"
        ) from error
    if sines:
        if not isinstance(trunk, _VisibleTokenTrunk):
            raise SettingError(
                f"encoder.positions=sine is for timm's plain transformers (vit_...), not {name!r}"
            )
        trunk.fix_positions()
    trunk.levels = _measured(*shape)
    return trunk, trunk.levels[-1].channels


def _refuse_for_own(name: str, sines: bool, drop_path: float) -> None:
    """Raises SettingError for what only timm's networks have."""
    if sines:
        raise SettingError(f"encoder.positions=sine is for timm's vit_..., not {name!r}")
    if drop_path:
        raise SettingError(f"backbone {name!r} has no stochastic depth: set encoder.drop_path=0")


def _unknown(name: str, timm_models: list[str]) -> str:
    known = [*_OWN, *registered()]
    near = difflib.get_close_matches(name, [*known, *timm_models], n=3, cutoff=0.5)
    end = f"; did you mean {', '.join(near)}?" if near else "; a network of your own is named as "
    end += "" if near else "package.module:function, or registered by a plugin (--import MODULE)"
    lost = "".join(f"; {fault}" for fault in plugins.faults().values())
    return f"backbone {name!r} is neither one of {', '.join(known)} nor a timm model{end}{lost}"


def _build(name: str, stages: int | None, in_channels: int, options: dict[str, Any]) -> Trunk:
    """A timm network as a trunk, with what its family needs to be told of the image size."""
    import timm

    options = {"in_chans": in_channels, **options}
    model = _create(name, num_classes=0, **options)
    if _is_plain(model):
        plain = isinstance(model, timm.models.VisionTransformer)
        kind = _VisibleTokenTrunk if plain else _TokenTrunk
        return kind(model, kept_stages(name, stages, len(model.blocks)))
    free = {key: value for key, value in options.items() if key != "pretrained"}
    channels = _create(name, features_only=True, **free).feature_info.channels()
    kept = kept_stages(name, stages, len(channels))
    return _LevelTrunk(_create(name, features_only=True, out_indices=tuple(range(kept)), **options))


def _is_plain(model: Any) -> bool:
    """Whether this is a transformer whose blocks all see the patches of one resolution."""
    patches = getattr(model, "patch_embed", None)
    return (
        hasattr(model, "blocks")
        and hasattr(patches, "patch_size")
        and hasattr(model, "prune_intermediate_layers")
        and not hasattr(model, "stages")
    )


def _create(name: str, **options: Any) -> Any:
    """A timm model. Raises SettingError, or InputError where its weights cannot be had."""
    import timm

    if not options.get("pretrained"):
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, **options)
    except Exception as error:  # of the network, of files, of shapes: many unrelated kinds
        if "size mismatch" in str(error):
            known = timm.get_pretrained_cfg(name, allow_unregistered=True)
            raise SettingError(
                f"the pretrained weights of backbone {name!r} fit no other size of image: set "
                f"encoder.image_size={known.input_size[-1] if known else 224}"
            ) from error
        raise unfetched(name, error) from error


@cache
def _trial(
    name: str, stages: int | None, in_channels: int, image_size: int
) -> tuple[dict[str, Any], tuple[Level, ...]] | str:
    """The options with which a timm network takes images of this size, and its maps of a blank one;
    or why none does.

    Tried without numbers (on `meta`), which takes no memory and no random draws; in earnest where a
    network needs them.
    """
    found = _tried(name, stages, in_channels, image_size, "meta")
    return _tried(name, stages, in_channels, image_size, "cpu") if isinstance(found, str) else found


def _tried(
    name: str, stages: int | None, in_channels: int, image_size: int, device: str
) -> tuple[dict[str, Any], tuple[Level, ...]] | str:
    # families have different options for other sizes, and refuse those of the others
    ways: tuple[dict[str, Any], ...] = (
        # first that in which a plain transformer also takes small crops
        {"dynamic_img_size": True},
        {"strict_img_size": False},
        {"img_size": image_size},
        {},
    )
    reason = "no way to build it"
    for options in ways:
        try:
            with torch.device(device):
                trunk = _build(name, stages, in_channels, dict(options)).eval()
        except TypeError as error:  # an option of another family
            reason = reason if options else str(error)
            continue
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error) or type(error).__name__
            if "features_only" in reason or "eature" in reason:
                return f"timm gives no feature maps of it ({reason})"
            continue
        patch = trunk.levels[-1].reduction
        if isinstance(trunk, _TokenTrunk) and image_size % patch:
            # some would cut off what does not fill a patch, without a word
            reason = f"it is no multiple of its patches of {patch} px"
            continue
        try:
            with torch.no_grad(), torch.device(device):
                maps = trunk.pyramid(torch.zeros(1, in_channels, image_size, image_size))
        except Exception as error:  # whatever its layers think of the size
            reason = str(error) or type(error).__name__
            continue
        return options, _levels(trunk.levels, maps, image_size)
    return " ".join(reason.split())


def _levels(announced: tuple[Level, ...], maps: list[Tensor], image_size: int) -> tuple[Level, ...]:
    """The levels that the maps show: some networks announce another reduction than they have."""
    found = []
    for level, features in zip(announced, maps, strict=True):
        channels, side = int(features.shape[1]), int(features.shape[-1])
        rounded = (image_size // level.reduction, -(-image_size // level.reduction))
        reduction = level.reduction if side in rounded else round(image_size / side)
        found.append(Level(channels, reduction))
    return tuple(found)


def _measured(
    name: str, stages: int | None, in_channels: int, image_size: int
) -> tuple[Level, ...]:
    found = _trial(name, stages, in_channels, image_size)
    assert not isinstance(found, str)  # `_options` has refused it
    return found[1]


def _options(name: str, stages: int | None, in_channels: int, image_size: int) -> dict[str, Any]:
    """How to build a network for this size. Raises SettingError saying which sizes would fit."""
    found = _trial(name, stages, in_channels, image_size)
    if not isinstance(found, str):
        return dict(found[0])
    fitting = [
        size
        for size in sizes_to_try(name, image_size)
        if not isinstance(_trial(name, stages, in_channels, size), str)
    ]
    advice = (
        f"; encoder.image_size={' or '.join(map(str, sorted(fitting)))} fits"
        if fitting
        else "; take another backbone (`marey methods` names those of marey)"
    )
    raise SettingError(
        f"backbone {name!r} does not take images of {image_size} px ({found[:200]}){advice}"
    )


def sizes_to_try(name: str, image_size: int) -> list[int]:
    """Sizes that a network may take in place of one that it does not: the nearest multiples of
    usual patches below and above, and the size that it was made for."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    native = [int(known.input_size[-1])] if known else [224]
    near = []
    for patch in (14, 32):
        below = image_size // patch * patch
        near += [size for size in (below, below + patch) if 16 <= size != image_size]
    return list(dict.fromkeys([*sorted(near), *native]))


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
        patch = model.patch_embed.patch_size
        side = int(patch if isinstance(patch, int) else patch[0])
        self.levels = (Level(model.num_features, side),)
        model.prune_intermediate_layers([self.last], prune_norm=False, prune_head=True)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(
            images, indices=[self.last], norm=True, output_fmt="NCHW", intermediates_only=True
        )


class _VisibleTokenTrunk(_TokenTrunk, PatchTrunk):
    """The same of timm's plain vision transformers, which also take some of the patches, and whose
    class token can stand for the image."""

    def fix_positions(self) -> None:
        """Put fixed sines of row and column in place of the learned position embeddings (MAE,
        MoCo version 3); the class token's are 0."""
        embedding = self.model.pos_embed
        if embedding is None:
            raise SettingError("encoder.positions=sine: this network has no position embeddings")
        with torch.no_grad():
            places = patch_places("axes", self.model.patch_embed.grid_size, embedding.device)
            waves = patch_sines("axes", places, embedding.shape[2])
            prefix = embedding.shape[1] - len(waves)
            embedding.copy_(functional.pad(waves, (0, 0, prefix, 0))[None])
        embedding.requires_grad_(False)

    def class_token(self, images: Tensor) -> Tensor:
        """The first token of the last block, normalised: [N, C]."""
        if not self.model.num_prefix_tokens:
            raise SettingError("encoder.pool=class_token: this network has no class token")
        return self.model.forward_features(images)[:, 0]

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        model = self.model
        tokens = model._pos_embed(model.patch_embed(images))
        classes, patches = tokens.tensor_split([model.num_prefix_tokens], dim=1)
        kept = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
        tokens = model.norm_pre(torch.cat([classes, kept], dim=1))
        for block in model.blocks:
            if model.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return model.norm(tokens)[:, model.num_prefix_tokens :]
