"""The architecture of an encoder: enough to rebuild it from an exported checkpoint."""

from typing import Literal

from pydantic import Field, model_validator

from marey.configs.base import Settings

LAB_MEAN = (50.0, 6.025, -6.690)
LAB_STD = (50.0, 92.208, 101.168)
"""Map L, a and b of sRGB to about [-1, 1] each (CMC's released code)."""


class EncoderConfig(Settings):
    """Trunk, pooling and embedding head of the network that a run exports."""

    backbone: str = "tiny"
    """`tiny` (small, learns on a CPU), `tiny_vit` (a small transformer over 8x8 patches),
    `nature` (that of game-playing agents, whose first channel alone counts) or the name of a timm
    model (`resnet18`, `vit_small...`); for clips also `tiny_r3d`, `tiny_r2plus1d`,
    `tiny_video_vit`, `r3d_18`, `mc3_18`, `r2plus1d_18`, `slow_r50`, or `video_vit_small`, `_base`,
    `_large`, `_huge` or `_giant` (patches of 2 frames and 16x16 pixels). A network of your own by
    the name that it is registered with, or as `package.module:function` (docs/extending.md)."""
    clip_frames: int = Field(default=1, ge=1, le=128)
    """Frames per embedding; 1 embeds single images."""
    clip_step_s: float = Field(default=0.1, gt=0, le=60)
    """Time between the frames of a clip in seconds, rounded to whole frames. The embedding of time
    t is that of the clip that ends at t, or of the first one of the shot where that would begin
    before it."""
    differences: bool = False
    """Clips: the backbone takes frame differences, each frame minus the one before it."""
    fusion: Literal["mean", "convolution", "stack"] = "mean"
    """How an image backbone takes a clip. mean: frame by frame, the feature maps averaged;
    convolution: the same, the maps combined by two temporal convolutions, which know the order
    (multi-frame TCN); stack: all frames as channels of one image."""
    input: Literal["rgb", "lab_split"] = "rgb"
    """rgb: one trunk takes the image; lab_split: two trunks take its lightness and its colour (CIE
    Lab), and their feature maps are concatenated (CMC)."""
    norm: Literal["batch", "layer"] = "batch"
    """Norm of the head and of trunks made with batch norm: batch norm, or layer norm in its place,
    which does not depend on the rest of the batch."""
    padding: Literal["zeros", "replicate"] = "zeros"
    """What convolutions see beyond the border of a map: zeros, or the border repeated, which is no
    mark of where it is (for training on patches of frames)."""
    stem: Literal["own", "small"] = "own"
    """A ResNet's first layers. own: as the backbone was made (7x7, stride 2, pooling); small: a 3x3
    convolution of stride 1 and no pooling, as papers have it for pictures of 32 px."""
    pretrained: bool = False
    """Start from the pretrained weights of timm or torchvision for the backbone (downloaded)."""
    weights: str | None = None
    """Start from the weights of this file, or of another run's folder: safetensors, or a state dict
    of torch.save (loaded without running code); in the layout of timm, torchvision, Hugging Face's
    VideoMAE and V-JEPA 2, or the authors' VideoMAE, V-JEPA, V-JEPA 2, MoCo, DINO. A path, or a URI
    of an object store."""
    stages: int | None = Field(default=None, ge=1, le=48)
    """Keep only the first so many stages of the trunk (of a transformer, blocks); unset: all."""
    positions: Literal["own", "sine", "sequence", "rotary"] = "own"
    """How a transformer tells its patches apart. own: as the backbone was made (`video_vit_...`:
    fixed sines of time, row and column, as in V-JEPA); sine: of images, fixed sines of row and
    column (MAE, MoCo version 3); sequence: of clips, fixed sines of the patch's number
    (VideoMAE); rotary: of clips, queries and keys turned by time, row and column (V-JEPA 2)."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: chance that a sample skips the last block in training; it falls linearly to
    0 at the first. Momentum encoders skip none."""
    image_size: int = Field(default=64, ge=16, le=1024)
    """Side of the square input in pixels."""
    pool: Literal["average", "spatial_softmax", "class_token"] = "average"
    """How the last feature map is pooled to a vector; spatial softmax keeps positions (of a clip,
    averaged over time); class_token takes a transformer's first token instead of the map (timm's
    vit_... of images)."""
    softmax_temperature: float = Field(default=0.1, gt=0, le=10)
    """Initial temperature of the spatial softmax (learnable); small is sharp."""
    pool_norm: bool = False
    """Batch norm on the pooled vector."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers between pooling and embedding, each with norm and ReLU."""
    hidden_norm: bool = True
    """Batch norm in the hidden layers."""
    embedding_dim: int | None = Field(default=None, ge=2, le=8192)
    """Width of the embedding; unset: the pooled vector itself is the embedding."""
    unit_norm: bool = False
    """L2-normalise the embeddings."""
    mean: tuple[float, float, float] | None = None
    """Mean subtracted from RGB in [0, 1] (from L, a and b with input=lab_split). Unset: that of the
    pretrained weights; ImageNet's without; (50, 6.025, -6.690) of Lab."""
    std: tuple[float, float, float] | None = None
    """Standard deviation that is divided by. Unset: as for the mean; of Lab (50, 92.208,
    101.168)."""

    @model_validator(mode="after")
    def _agrees(self) -> "EncoderConfig":
        if self.input == "lab_split" and self.clip_frames > 1:
            raise ValueError("input=lab_split is for single images: clip_frames must be 1")
        if self.stem == "small" and (self.pretrained or self.clip_frames > 1):
            raise ValueError(
                "stem=small has a first convolution of its own, for images: pretrained must be "
                "false and clip_frames 1"
            )
        if self.norm == "layer" and self.pretrained:
            raise ValueError("norm=layer throws away what pretrained=true loads: set norm=batch")
        return self

    @model_validator(mode="after")
    def _start(self) -> "EncoderConfig":
        if self.weights is not None and self.pretrained:
            raise ValueError("pretrained and weights both say where weights come from: set one")
        return self

    @model_validator(mode="after")
    def _tokens(self) -> "EncoderConfig":
        if self.pool == "class_token" and (self.clip_frames > 1 or self.input == "lab_split"):
            raise ValueError("pool=class_token is for single RGB images: take pool=average")
        if self.positions == "sine" and self.clip_frames > 1:
            raise ValueError("positions=sine is for images; clips have own, sequence or rotary")
        if self.positions in ("sequence", "rotary") and self.clip_frames == 1:
            raise ValueError(f"positions={self.positions} is for clips; images have own or sine")
        return self

    @model_validator(mode="after")
    def _clips(self) -> "EncoderConfig":
        if self.differences and self.clip_frames == 1:
            raise ValueError("differences needs clips: set clip_frames to 2 or more")
        return self
