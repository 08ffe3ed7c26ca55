"""Do clips of one video attract each other, by each objective, against slow formulations?"""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.objectives.instances import AlikeConfig
from marey.models.temporal.clip_contrast import ClipContrast, ClipContrastConfig, clip_masks
from tests.dot_clips import as_batch, dot_videos
from tests.learning import train
from tests.moments import unseen

CLIPS = EncoderConfig(backbone="tiny_r3d", stages=2, image_size=32, clip_frames=2)


def method(objective: str, encoder: EncoderConfig = CLIPS, **settings) -> ClipContrast:
    torch.manual_seed(0)
    clips = settings.pop("clips", 2)
    sampling = {"kind": "clips", "num_frames": encoder.clip_frames, "clips": clips}
    given = {"sampling": sampling, "head_dim": 32, "projection_dim": 16, "queue": 64}
    given |= {"objective": objective, "augment": AugmentConfig(), **settings}
    config = ClipContrastConfig.model_validate(given)
    return ClipContrast(Encoder(encoder), config)


def batch(count: int = 6, clips: int = 2, length: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return as_batch(dot_videos(generator, count, clips * length, speed=0.08))


def noise(clips: int) -> Batch:
    """Six videos of noise: as unlike each other, and from clip to clip, as can be."""
    torch.manual_seed(1)
    return as_batch(torch.randint(0, 256, (6, 2 * clips, 32, 32, 3), dtype=torch.uint8))


def _apart(contrast: ClipContrast) -> ClipContrast:
    """In evaluation mode, with a copy that is no longer equal to the encoder."""
    with torch.no_grad():
        for weight in contrast.target.parameters():
            weight.add_(0.3 * weight.std(correction=0) * torch.randn_like(weight))
    return contrast.eval()


def _embedded(of: ClipContrast, given: Batch) -> Tensor:
    """Projections, float64 [rho, B, D]."""
    clips = given["clips"].transpose(0, 1)
    return torch.stack([of.projector(of.encoder(one)) for one in clips]).double()


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol"])
def test_it_learns_which_clips_are_of_one_video(objective: str) -> None:
    varied = AugmentConfig(crop_scale=(0.7, 1.0), colors="shared")
    contrast = method(objective, augment=varied, momentum=0.9)
    metrics = train(contrast, lambda g: as_batch(dot_videos(g, 16, 4, speed=0.08)), steps=30)
    assert contrast.chance["pair_auc"] == 0.5
    assert metrics["pair_auc"] > 0.85
    assert metrics["spread"] > 0.2


@pytest.mark.parametrize("clips", [2, 3])
def test_simclr_is_the_mean_over_ordered_pairs_of_clips(clips: int) -> None:
    contrast = method("simclr", clips=clips).eval()
    given = contrast.augment(noise(clips))
    rows = functional.normalize(_embedded(contrast, given), dim=2).detach()
    terms = []
    for i in range(clips):
        for j in range(clips):
            for n in range(6):
                if i == j:
                    continue
                right = math.exp(float(rows[i, n] @ rows[j, n]) / 0.1)
                wrong = sum(
                    math.exp(float(rows[i, n] @ rows[k, m]) / 0.1)
                    for k in range(clips)
                    for m in range(6)
                    if m != n
                )
                terms.append(-math.log(right / (right + wrong)))
    expected = sum(terms) / len(terms)
    assert contrast(given)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_two_clips_of_distinct_videos_have_the_ntxent_of_lightly() -> None:
    loss = pytest.importorskip("lightly.loss")
    contrast = method("simclr").eval()
    given = contrast.augment(batch())
    first, second = _embedded(contrast, given).float()
    expected = loss.NTXentLoss(temperature=0.1)(first, second)
    torch.testing.assert_close(contrast(given)["loss"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clips", [2, 3])
def test_moco_holds_each_clip_against_the_keys_of_the_others_and_the_queue(clips: int) -> None:
    contrast = _apart(method("moco", clips=clips))
    given = contrast.augment(noise(clips))
    queries = functional.normalize(_embedded(contrast, given), dim=2)
    keys = torch.stack([contrast.target(one) for one in given["clips"].transpose(0, 1)])
    keys, queue = functional.normalize(keys.double(), dim=2), contrast.queue.rows.double()
    terms = []
    for i in range(clips):
        for j in range(clips):
            if i == j:
                continue
            right = (queries[i] * keys[j]).sum(1, keepdim=True) / 0.1
            logits = torch.cat([right, queries[i] @ queue.T / 0.1], 1)
            terms.append(functional.cross_entropy(logits, torch.zeros(6, dtype=torch.int64)))
    expected = torch.stack(terms).mean()
    assert contrast(given)["loss"].item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("clips", [2, 3])
def test_byol_predicts_the_copys_embedding_of_the_other_clips(clips: int) -> None:
    contrast = _apart(method("byol", clips=clips))
    given = contrast.augment(noise(clips))
    predicted = [contrast.predictor(row.float()) for row in _embedded(contrast, given)]
    wanted = [contrast.target(one) for one in given["clips"].transpose(0, 1)]
    terms = [
        2 - 2 * functional.cosine_similarity(predicted[i].double(), wanted[j].double())
        for i in range(clips)
        for j in range(clips)
        if i != j
    ]
    expected = torch.stack(terms).mean()
    assert contrast(given)["loss"].item() == pytest.approx(float(expected), rel=1e-5)


def test_clips_of_one_video_in_other_samples_neither_attract_nor_repel() -> None:
    sample = torch.tensor([0, 1, 2, 0, 1, 2])
    where = unseen([7, 7, 8, 7, 7, 8], [0.0, 2, 0, 5, 30, 1])
    positive, negative = clip_masks(sample, where, alike=AlikeConfig())
    assert positive[0].tolist() == [False, False, False, True, False, False]
    assert positive.sum(1).tolist() == [1] * 6
    # 1 is of the same video and near; 4 is far enough to be something else
    assert negative[0].tolist() == [False, False, True, False, True, True]
    _, negative = clip_masks(sample, where, alike=AlikeConfig(within_s=3600.0))
    assert negative[0].tolist() == [False, False, True, False, False, True]


def test_a_batch_of_one_video_has_no_loss_and_no_nan() -> None:
    contrast = method("simclr")
    given = contrast.augment({**batch(), "instance": torch.zeros(6, dtype=torch.int64)})
    metrics = contrast(given)
    assert metrics["loss"] == 0
    assert metrics["valid"] == 0
    metrics["loss"].backward()
    assert all((p.grad == 0).all() for p in contrast.encoder.parameters())


def test_moco_keeps_the_keys_of_all_clips_and_the_copy_follows() -> None:
    contrast = method("moco", momentum=0.5).train()
    before = next(contrast.target.parameters()).clone()
    given = contrast.augment(batch())
    contrast(given)
    with torch.no_grad():
        for parameter in contrast.encoder.parameters():
            parameter.add_(1.0)
    contrast.after_step(Progress(1, 10, 0))
    assert (contrast.queue.instance >= 0).sum() == 12
    assert sorted(contrast.queue.instance[:12].tolist()) == sorted([*range(6)] * 2)
    torch.testing.assert_close(next(contrast.target.parameters()).data, before + 0.5)


def test_byols_copy_stands_still_at_the_end_of_a_run() -> None:
    contrast = method("byol", momentum=0.5).train()
    before = next(contrast.target.parameters()).clone()
    with torch.no_grad():
        for parameter in contrast.encoder.parameters():
            parameter.add_(1.0)
    contrast.after_step(Progress(10, 10, 0))
    torch.testing.assert_close(next(contrast.target.parameters()).data, before)


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol"])
def test_every_trainable_weight_is_trained(objective: str) -> None:
    contrast = method(objective).train()
    contrast(contrast.augment(batch()))["loss"].backward()
    missing = [n for n, p in contrast.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_clips_are_varied_alone_and_their_frames_alike() -> None:
    varied = ClipContrastConfig().augment
    contrast = method("simclr", augment=varied)
    one = batch()["frames"][:, :1].expand(-1, 4, -1, -1, -1)
    clips = contrast.augment(as_batch(one))["clips"]
    assert torch.equal(clips, clips[:, :, :, :1].expand_as(clips))
    assert not any(torch.equal(first, second) for first, second in clips)


def test_single_frames_of_one_video_attract_each_other_too() -> None:
    images = EncoderConfig(stages=2, image_size=32)
    contrast = method("moco", images)
    metrics = contrast(contrast.augment(batch(length=1)))
    metrics["loss"].backward()
    assert metrics["loss"].isfinite()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="2 or more"):
        ClipContrastConfig.model_validate({"sampling": {"kind": "clips", "clips": 1}})
    with pytest.raises(SettingError, match="clip_frames"):
        ClipContrast(Encoder(CLIPS), ClipContrastConfig())
