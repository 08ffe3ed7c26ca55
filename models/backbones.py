"""Which network makes the feature maps: `build_trunk`, by name."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.errors import SettingError


class Level(NamedTuple):
    """One resolution of a trunk's feature maps."""

    channels: int
    reduction: int
    """Pixels of the image, along each side, that one place of the map stands for."""


class Trunk(nn.Module):
    """Images to feature maps. Input: float [N, 3, S, S]; output: the last map, [N, C, h, w]."""

    levels: tuple[Level, ...]
    """The maps of `pyramid`, finest first; the last is what the trunk returns."""

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The last map of every resolution, finest first: float [N, C_k, S / r_k, S / r_k]."""
        raise TypeError(f"{type(self).__name__} must implement pyramid(images)")

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[-1]


class PatchTrunk(Trunk):
    """A plain transformer, which can look at some patches of its input and leave out the rest."""

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens of the kept patches, which see nothing else: [N, K, C].

        keep: int64 [N, K], numbers of patches, row by row.
        """
        raise TypeError(f"{type(self).__name__} must implement visible(images, keep)")


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
            return _tiny(stages, in_channels)
        from models.transformer import tiny_vit  # built on this file's Trunk

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
        return kind(model, _checked(name, stages, len(model.blocks))), model.num_features
    kept = _checked(name, stages, len(_create(name, features_only=True).feature_info.channels()))
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


def _checked(name: str, stages: int | None, count: int) -> int:
    if stages is not None and stages > count:
        raise SettingError(f"backbone {name!r} has {count} stages, asked for the first {stages}")
    return count if stages is None else stages


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


_OWN = ("tiny", "tiny_vit")
"""Trunks that are not timm's."""
_TINY_STAGES = ((32, 1), (64, 1), (128, 2), (128, 1))
"""Width and stride of each; the first is the stem, which already reduces by 4."""


class _TinyTrunk(Trunk):
    """A ResNet-18 at a fifth of its cost: 64 px in, 8x8 out."""

    def __init__(self, stages: tuple[tuple[int, int], ...], in_channels: int) -> None:
        super().__init__()
        before, reduction = stages[0][0], 4
        # The wide stem and the maximum make features that follow an object before any training;
        # with 3x3 convolutions alone, temporal contrast took many times the steps to start.
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, before, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        # Place of the last layer at each reduction, and the channels there.
        last = {2: (2, before), 4: (3, before)}
        for width, stride in stages[1:]:
            layers.append(_ResidualBlock(before, width, stride))
            before, reduction = width, reduction * stride
            last[reduction] = (len(layers) - 1, width)
        for place, layer in enumerate(layers):
            self.add_module(str(place), layer)
        self.levels = tuple(Level(channels, size) for size, (_, channels) in last.items())
        self._places = {place for place, _ in last.values()}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        maps = []
        for place, layer in enumerate(self.children()):
            images = layer(images)
            if place in self._places:
                maps.append(images)
        return maps


def _tiny(stages: int | None, in_channels: int) -> tuple[Trunk, int]:
    kept = _TINY_STAGES[: _checked("tiny", stages, len(_TINY_STAGES))]
    trunk = _TinyTrunk(kept, in_channels)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _ResidualBlock):
            # Blocks begin as their shortcuts.
            nn.init.zeros_(module.norm.weight)
    return trunk, kept[-1][0]


def _convolution(before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, as in ResNet-18; 64 px in, 8x8 out after four."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, width, stride)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(self.second(self.first(features))) + self.shortcut(features))
