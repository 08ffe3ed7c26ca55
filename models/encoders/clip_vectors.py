"""Which vector stands for a clip, under an encoder of clips or one of single frames?"""

from __future__ import annotations

from torch import Tensor

from marey.configs.sampling import ClipsSampling
from marey.models.encoders.clip_inputs import require_clips
from marey.models.encoders.encoder import Encoder


def clip_width(encoder: Encoder, sampling: ClipsSampling, method: str) -> int:
    """Width of `clip_vectors` for clips like those that are sampled.

    Raises SettingError if an encoder of clips takes other ones.
    """
    if encoder.config.clip_frames == 1:
        return sampling.num_frames * encoder.out_dim
    require_clips(encoder, sampling, method)
    return encoder.out_dim


def clip_vectors(encoder: Encoder, clips: Tensor) -> Tensor:
    """float [N, 3, T, S, S] -> float32 [N, W]: of an encoder of clips, its embedding of each; of
    one of frames, the embeddings of the T frames one after the other."""
    if encoder.config.clip_frames > 1:
        return encoder(clips)
    images = clips.transpose(1, 2)
    return encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1)
