"""Which network makes the feature map of a clip: `build_clip_trunk`, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from marey.configs.errors import SettingError
from marey.models.encoders.any_network import build_network, find_backbone
from marey.models.encoders.backbones import build_trunk
from marey.models.encoders.pretrained import TORCHVISION, check_weights, unfetched
from marey.models.encoders.sines import Positions
from marey.models.encoders.slow_resnet import slow_stages
from marey.models.encoders.transformer import VIDEO_VITS, tiny_video_vit, video_vit
from marey.models.encoders.trunk import channels_last

Fusion = Literal["mean", "convolution", "stack"]
VIDEO_BACKBONES = (
    "tiny_r3d", "tiny_r2plus1d", "tiny_video_vit", *TORCHVISION, "slow_r50", *VIDEO_VITS,
)  # fmt: skip
"""Names that `build_clip_trunk` knows beside those of image backbones."""


def build_clip_trunk(
    name: str,
    *,
    frames: int,
    stages: int | None = None,
    pretrained: bool = False,
    fusion: Fusion = "mean",
    image_size: int = 64,
    positions: Positions = "axes",
    drop_path: float = 0.0,
) -> tuple[nn.Module, int]:
    """The trunk of that name and the channels of its last map.

    The trunk maps float [N, 3, T, S, S] with T = `frames` to float [N, C, t, h, w]. `name` is one
    of `VIDEO_BACKBONES`, a network of clips that a plugin registered, or an image backbone (see
    `backbones.build_trunk`) that is applied to every frame or to their stack, in the way of
    `fusion`. `stages` keeps the first ones only, the stem being the first, or, of
    a transformer, its blocks; patches of `tiny_video_vit` are two frames long and an eighth of
    `image_size` wide. `positions`: how a `video_vit_...` tells its patches apart. `drop_path`:
    chance of skipping a block.

    Raises SettingError for an unknown name, too many stages, or weights that do not exist.
    """
    if name in VIDEO_VITS:
        if pretrained:
            raise SettingError(
                f"backbone {name!r} has no weights that can be fetched by name: set "
                "encoder.weights=FILE"
            )
        trunk = video_vit(
            name, image_size, frames, stages=stages,
            positions=positions, drop_path=drop_path,
        )  # fmt: skip
        return trunk, trunk.levels[-1].channels
    turned = positions == "rotary" and name == "tiny_video_vit"
    if positions != "axes" and not turned:
        raise SettingError(
            f"encoder.positions={positions} is for {', '.join(VIDEO_VITS)}, not {name!r}"
        )
    if drop_path and name in VIDEO_BACKBONES:
        raise SettingError(f"backbone {name!r} has no stochastic depth: set encoder.drop_path=0")
    own = find_backbone(name) if name not in VIDEO_BACKBONES else None
    if own is not None and own.clips:
        return build_network(
            own, stages=stages, pretrained=pretrained, in_channels=3, image_size=image_size,
            frames=frames,
        )  # fmt: skip
    if name not in VIDEO_BACKBONES:
        stacked = fusion == "stack"
        trunk, channels = build_trunk(
            name,
            stages=stages,
            pretrained=pretrained,
            in_channels=3 * frames if stacked else 3,
            image_size=image_size,
            drop_path=drop_path,
        )
        return FrameTrunk(trunk, channels, frames, fusion), channels
    if pretrained:
        check_weights(name)
    if name in TORCHVISION:
        layers, widths = _torchvision(name, pretrained)
    elif name == "tiny_video_vit":
        transformer = tiny_video_vit(
            image_size, frames, stages=stages, positions="rotary" if turned else "standard"
        )
        return transformer, transformer.levels[-1].channels
    elif name == "slow_r50":
        layers, widths = slow_stages()
    else:
        layers, widths = _tiny(_whole if name == "tiny_r3d" else _factorised)
    kept = len(layers) if stages is None else stages
    if kept > len(layers):
        raise SettingError(
            f"backbone {name!r} has {len(layers)} stages, asked for the first {kept}"
        )
    trunk = nn.Sequential(*layers[:kept])
    # a quarter faster on the CPU, and what cuDNN's tensor cores want
    return trunk.to(memory_format=torch.channels_last_3d), widths[kept - 1]  # pyright: ignore


class FrameTrunk(nn.Module):
    """An image trunk over a clip: over every frame, and what joins the maps, or over their stack.

    `mean` keeps one map a frame, [N, C, T, h, w], for the pooling to average: the order of frames
    is lost. `convolution` makes one map of them, [N, C, 1, h, w], by two 3-D convolutions with
    batch norm and ReLU, 3x3x3 and then over all of the time (multi-frame TCN, Dwibedi et al. 2018).
    `stack` gives the trunk an image of 3 T channels, one frame's after the other's, for one map.
    """

    def __init__(self, trunk: nn.Module, channels: int, frames: int, fusion: Fusion) -> None:
        super().__init__()
        self.trunk = channels_last(trunk)
        self.stacked = fusion == "stack"
        self.fusion: nn.Module = nn.Identity()
        if fusion == "convolution":
            self.fusion = nn.Sequential(
                nn.Conv3d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm3d(channels),
                nn.ReLU(inplace=True),
                nn.Conv3d(channels, channels, (frames, 1, 1), bias=False),
                nn.BatchNorm3d(channels),
                nn.ReLU(inplace=True),
            ).to(memory_format=torch.channels_last_3d)  # pyright: ignore

    def forward(self, clips: Tensor) -> Tensor:
        """float [N, 3, T, S, S] -> float [N, C, T or 1, h, w]."""
        frames = clips.transpose(1, 2)
        if self.stacked:
            image = frames.flatten(1, 2).contiguous(memory_format=torch.channels_last)
            return self.trunk(image)[:, :, None]
        images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.trunk(images).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return self.fusion(maps)


_TINY_STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 1))
"""Width, stride in time and stride in space of each block after the stem."""


def _tiny(
    convolution: Callable[[int, int, int, int], nn.Module],
) -> tuple[list[nn.Module], list[int]]:
    """A small R3D or R(2+1)D: 8 frames of 64 px in, 2x8x8 out."""
    before = 32
    stem = nn.Sequential(
        nn.Conv3d(3, before, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(before),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
    )
    layers: list[nn.Module] = [stem]
    for width, time, space in _TINY_STAGES:
        layers.append(_ResidualBlock(convolution, before, width, (time, space)))
        before = width
    for module in nn.Sequential(*layers).modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _ResidualBlock):
            # Blocks begin as their shortcuts.
            nn.init.zeros_(module.norm.weight)
    return layers, [32, *(width for width, _, _ in _TINY_STAGES)]


def _whole(before: int, width: int, time: int, space: int) -> nn.Module:
    """One 3x3x3 convolution (R3D)."""
    return nn.Conv3d(before, width, 3, (time, space, space), padding=1, bias=False)


def _factorised(before: int, width: int, time: int, space: int) -> nn.Module:
    """A 1x3x3 and a 3x1x1 convolution with a nonlinearity between them (R(2+1)D)."""
    return nn.Sequential(
        nn.Conv3d(before, width, (1, 3, 3), (1, space, space), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
        nn.Conv3d(width, width, (3, 1, 1), (time, 1, 1), padding=(1, 0, 0), bias=False),
    )


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, as in R3D-18."""

    def __init__(
        self,
        convolution: Callable[[int, int, int, int], nn.Module],
        before: int,
        width: int,
        stride: tuple[int, int],
    ) -> None:
        super().__init__()
        time, space = stride
        self.first = nn.Sequential(
            convolution(before, width, time, space), nn.BatchNorm3d(width), nn.ReLU(inplace=True)
        )
        self.second = convolution(width, width, 1, 1)
        self.norm = nn.BatchNorm3d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != (1, 1) or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv3d(before, width, 1, (time, space, space), bias=False),
                nn.BatchNorm3d(width),
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(self.second(self.first(features))) + self.shortcut(features))


def _torchvision(name: str, pretrained: bool) -> tuple[list[nn.Module], list[int]]:
    """Stem and four layers of a torchvision video network (Tran et al. 2018), without its head."""
    from torchvision.models import get_model

    try:
        model: Any = get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:
        raise unfetched(name, error) from error
    layers = [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
    return layers, [64, 64, 128, 256, 512]
