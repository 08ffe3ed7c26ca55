"""What a batch is: tensors of one step, by name."""

from __future__ import annotations

from torch import Tensor

Batch = dict[str, Tensor]
"""Tensors of one step, on the training device; the first dimension counts samples.

Every batch holds

- `frames`: uint8 [B, F, H, W, 3], the F frames of each sample in the sampler's order;
- `instance`: int64 [B], one number for each source video (synchronised event) or image;
- `place`: int64 [B], the sample's number among those of an epoch: the same video and the same bin
  of its time in every epoch, so that a memory bank has one row for each;
- the sampler's targets, e.g. `time_s`: float32 [B, F], in seconds;
- where the data have labels, `class_id`: int64 [B], -1 for a sample without one.

`augment` puts what the network sees in place of `frames`; its tensors count samples first too."""


def replace_frames(batch: Batch, **tensors: Tensor) -> Batch:
    """The batch with these tensors in place of `frames`."""
    return {key: value for key, value in batch.items() if key != "frames"} | tensors
