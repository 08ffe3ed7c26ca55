"""Does SimCLR tell images apart, spare near frames of one video, and learn?"""

import math

import pytest
import torch

from marey.models.augmentation.augment import AugmentConfig
from marey.models.contrastive.simclr import SimCLR, SimCLRConfig
from marey.models.objectives.info_nce import (
    FrameIds,
    NearDuplicates,
    frame_ids,
    info_nce,
    negative_mask,
    nt_xent,
    partners,
    similarity,
)
from tests.joint_embedding import COLORS, dots, small_encoder
from tests.learning import train
from tests.moments import unseen


def _method(**settings: object) -> SimCLR:
    config = SimCLRConfig.model_validate(
        {"projection_dim": 16, "temperature": 0.2, "augment": COLORS, **settings}
    )
    return SimCLR(small_encoder(), config)


def _negative(frames: FrameIds, near_duplicates: NearDuplicates) -> torch.Tensor:
    """bool [2R, 2R], as SimCLR makes it."""
    crops = frames.repeat(2)
    return negative_mask(crops, crops, near_duplicates)


@pytest.mark.parametrize("head", ["v1", "v2"])
def test_it_learns_to_tell_images_apart(head: str) -> None:
    method = _method(head=head)
    metrics = train(method, dots, steps=50)
    assert method.chance["information"] == 0
    assert metrics["information"] > 1.0  # nats, of log(63) = 4.1
    assert metrics["top1"] > 0.15  # ten times 1 in 63


def test_without_near_frames_it_is_nt_xent() -> None:
    crops = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=2)
    negative = _negative(unseen(range(6)), NearDuplicates())
    masked = nt_xent(crops[0], crops[1], 0.5, negative)
    for found, wanted in zip(masked, nt_xent(crops[0], crops[1], 0.5), strict=True):
        assert torch.equal(found, wanted)


def test_it_equals_the_loss_of_lightly() -> None:
    reference = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2)
    method = _method(temperature=0.2, alike=NearDuplicates(bits=None)).eval()
    batch = method.augment(dots(torch.Generator().manual_seed(0)))
    first, second = (
        method.projector(method.encoder(crops.flatten(0, 1))) for crops in batch["images"].unbind(1)
    )
    torch.testing.assert_close(
        method(batch)["loss"], reference(first, second), rtol=1e-5, atol=1e-5
    )


def test_near_frames_of_one_video_do_not_repel() -> None:
    frames = unseen([4, 4, 4, 7], [0.0, 5.0, 20.0, 0.0])
    negative = _negative(frames, NearDuplicates())
    assert partners(torch.zeros(8, 1)).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert negative[0].tolist() == [False, False, True, True] * 2
    assert negative[2].tolist() == [True, True, False, True] * 2


def test_a_near_frame_added_to_the_batch_changes_no_other_term() -> None:
    """Adding a duplicate of image 0's video leaves image 0's own loss as it was."""
    method = _method(augment=AugmentConfig()).eval()
    batch = method.augment(dots(torch.Generator().manual_seed(0)))
    negative = _negative(unseen([0, 0, 1, 2]), NearDuplicates())[:1]
    crops = batch["images"][:4].transpose(0, 1).flatten(0, 2)
    eight = torch.nn.functional.normalize(method.projector(method.encoder(crops)), dim=1)
    scores = similarity(eight[:1], eight, 0.2)
    with_near = info_nce(scores, torch.tensor([4]), negative).loss
    kept = [0, 2, 3, 4, 6, 7]
    without = info_nce(scores[:, kept], torch.tensor([3]), negative[:, kept]).loss
    torch.testing.assert_close(with_near, without)


def test_a_near_copy_in_another_video_changes_no_other_term() -> None:
    """The loss of a picture is the same with and without an upload of it in the batch."""
    method = _method(augment=AugmentConfig()).eval()
    batch = dots(torch.Generator().manual_seed(0))
    batch = {name: value[:9] for name, value in batch.items()}
    copied = batch | {"frames": batch["frames"].clone()}
    copied["frames"][8] = batch["frames"][0].roll(1, dims=-1)  # other colours, the same layout
    with_copy, without = method.augment(copied), method.augment(batch)
    assert with_copy["dhash"][8] == with_copy["dhash"][0]
    negative = _negative(frame_ids(with_copy), NearDuplicates())
    apart = _negative(frame_ids(without), NearDuplicates())
    assert not negative[0, [8, 17]].any()
    assert apart[0, [8, 17]].all()
    assert torch.equal(negative[:8, 1:8], apart[:8, 1:8])
    by_time = _negative(frame_ids(with_copy), NearDuplicates(bits=None))
    assert by_time[0, [8, 17]].all()


def test_crops_with_too_few_negatives_are_skipped_and_counted() -> None:
    method = _method(min_negatives=60, alike=NearDuplicates(bits=None))
    batch = dots(torch.Generator().manual_seed(0))
    batch["instance"] = torch.tensor([0] * 8 + list(range(8, 32)))  # 8 near frames of one video
    metrics = method(method.augment(batch))
    assert metrics["valid"].item() == pytest.approx(24 / 32)
    nothing = _method(min_negatives=64, alike=NearDuplicates(bits=None))(method.augment(batch))
    assert nothing["loss"].item() == 0
    assert nothing["loss"].requires_grad


def test_the_loss_before_training_is_near_its_chance_value() -> None:
    method = _method(temperature=10.0)
    metrics = method(method.augment(dots(torch.Generator().manual_seed(0))))
    assert metrics["loss"].item() == pytest.approx(math.log(63), abs=0.1)
    assert metrics["information"].item() == pytest.approx(0, abs=0.1)
