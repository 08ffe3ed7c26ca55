"""What an encoder is made of: enough to rebuild it from an exported checkpoint."""

from typing import Literal

from pydantic import Field

from configs.base import Settings


class EncoderConfig(Settings):
    """Trunk, pooling and embedding head of the network that a run exports."""

    backbone: str = "tiny"
    """`tiny` (small, learns on a CPU), `tiny_vit` (a small transformer over 8x8 patches) or the
    name of a timm model (`resnet18`, `vit_small...`); for clips also `tiny_r3d`, `tiny_r2plus1d`,
    `tiny_video_vit`, `r3d_18`, `mc3_18` or `r2plus1d_18`."""
    clip_frames: int = Field(default=1, ge=1, le=128)
    """Frames that one embedding sees; 1 embeds single images."""
    clip_step_s: float = Field(default=0.1, gt=0, le=60)
    """Time between the frames of a clip in seconds. The embedding of time t sees the clip that
    ends at t, or the first one of the shot where that would begin before it."""
    fusion: Literal["mean", "convolution"] = "mean"
    """How an image backbone's maps of a clip's frames are joined: averaged, or by two temporal
    convolutions that know the frames' order (multi-frame TCN)."""
    pretrained: bool = False
    """Start from the weights that timm or torchvision has for the backbone (downloads them)."""
    stages: int | None = Field(default=None, ge=1, le=6)
    """Keep only this many stages of the trunk; all of them when unset."""
    image_size: int = Field(default=64, ge=16, le=1024)
    """Side of the square input in pixels."""
    pool: Literal["average", "spatial_softmax"] = "average"
    """How the last feature map becomes a vector; spatial softmax keeps positions (of a clip, their
    average over time)."""
    softmax_temperature: float = Field(default=0.1, gt=0, le=10)
    """Initial temperature of the spatial softmax (learnable); small is sharp."""
    pool_norm: bool = False
    """Batch norm on the pooled vector."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers between pooling and embedding, each with norm and ReLU."""
    hidden_norm: bool = True
    """Batch norm in the hidden layers."""
    embedding_dim: int | None = Field(default=None, ge=2, le=8192)
    """Width of the embedding; unset exports the pooled vector itself."""
    unit_norm: bool = False
    """Divide embeddings by their length."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that RGB is divided by."""
