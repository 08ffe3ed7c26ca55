"""Which network makes the feature map: `build_trunk`, by name."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import SettingError


def build_trunk(
    name: str, *, stages: int | None = None, pretrained: bool = False
) -> tuple[nn.Module, int]:
    """The trunk of that name and the channels of its last map.

    The trunk maps float [N, 3, S, S] to float [N, C, h, w]. `name` is `tiny` or a timm model.
    `stages` keeps the first ones only: of a hierarchical network the levels of resolution that
    timm lists (a ResNet has 5, its stem being the first: `resnet18` without its last stage is
    `stages=4`), of a plain transformer its blocks.

    Raises SettingError for an unknown name, too many stages, or weights that do not exist.
    """
    if name == "tiny":
        if pretrained:
            raise SettingError("backbone 'tiny' has no pretrained weights: set pretrained=false")
        return _tiny(stages)
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, ["tiny", *timm.list_models()], n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SettingError(f"backbone {name!r} is neither 'tiny' nor a timm model{hint}")
    model = _create(name, pretrained=pretrained, num_classes=0)
    if hasattr(model, "blocks") and hasattr(model, "patch_embed"):
        return _TokenTrunk(model, _checked(name, stages, len(model.blocks))), model.num_features
    known: list[int] = _create(name, features_only=True).feature_info.channels()
    kept = _checked(name, stages, len(known))
    levels = _create(name, pretrained=pretrained, features_only=True, out_indices=(kept - 1,))
    return _LevelTrunk(levels), known[kept - 1]


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


class _LevelTrunk(nn.Module):
    """The last kept level of a timm feature network, channels first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        features = self.model(images)[-1]
        return features.permute(0, 3, 1, 2) if self.channels_last else features


class _TokenTrunk(nn.Module):
    """The patch tokens of a plain transformer, laid out as a map; class tokens are dropped."""

    def __init__(self, model: Any, blocks: int) -> None:
        super().__init__()
        self.model: Any = model
        self.last = blocks - 1
        model.prune_intermediate_layers([self.last], prune_norm=False, prune_head=True)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model.forward_intermediates(
            images, indices=[self.last], norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps[-1]


_TINY_STAGES = ((32, 1), (64, 1), (128, 2), (128, 1))
"""Width and stride of each; the first is the stem, which already reduces by 4."""


def _tiny(stages: int | None) -> tuple[nn.Module, int]:
    """A ResNet-18 at a fifth of its cost: 64 px in, 8x8 out."""
    kept = _TINY_STAGES[: _checked("tiny", stages, len(_TINY_STAGES))]
    before = kept[0][0]
    # The wide stem and the maximum make features that follow an object before any training;
    # with 3x3 convolutions alone, temporal contrast took many times the steps to start.
    layers: list[nn.Module] = [
        nn.Conv2d(3, before, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    for width, stride in kept[1:]:
        layers.append(_ResidualBlock(before, width, stride))
        before = width
    trunk = nn.Sequential(*layers)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _ResidualBlock):
            # Blocks begin as their shortcuts.
            nn.init.zeros_(module.norm.weight)
    return trunk, before


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
