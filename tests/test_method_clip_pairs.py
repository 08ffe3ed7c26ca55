"""Are clips of one video each other's positives, by each of three losses, against slow forms?"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.load import override, read_preset, run_config
from marey.configs.renamed import renamed
from marey.configs.schema import RunConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress, methods
from marey.models.objectives.info_nce import NearDuplicates
from marey.models.temporal.clip_byol import ClipBYOL
from marey.models.temporal.clip_moco import ClipMoCo, ClipMoCoConfig
from marey.models.temporal.clip_pairs import ClipPairs
from marey.models.temporal.clip_simclr import ClipSimCLR, ClipSimCLRConfig, clip_masks
from tests.dot_clips import as_batch, dot_videos
from tests.learning import train
from tests.moments import unseen

CLIPS = EncoderConfig(backbone="tiny_r3d", stages=2, image_size=32, clip_frames=2)


METHODS: dict[str, type[ClipPairs]] = {"simclr": ClipSimCLR, "moco": ClipMoCo, "byol": ClipBYOL}


def method(objective: str, encoder: EncoderConfig = CLIPS, **settings) -> Any:
    torch.manual_seed(0)
    kind = METHODS[objective]
    clips = settings.pop("clips", 2)
    sampling = {"kind": "clips", "num_frames": encoder.clip_frames, "clips": clips}
    given = {"sampling": sampling, "head_dim": 32, "projection_dim": 16, "queue": 64}
    given |= {"augment": AugmentConfig(), **settings}
    known = {key: value for key, value in given.items() if key in kind.Config.model_fields}
    return kind(Encoder(encoder), kind.Config.model_validate(known))


def batch(count: int = 6, clips: int = 2, length: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return as_batch(dot_videos(generator, count, clips * length, speed=0.08))


def noise(clips: int) -> Batch:
    """Six videos of noise: as unlike each other, and from clip to clip, as can be."""
    torch.manual_seed(1)
    return as_batch(torch.randint(0, 256, (6, 2 * clips, 32, 32, 3), dtype=torch.uint8))


def _apart(contrast: Any) -> Any:
    """In evaluation mode, with a copy that is no longer equal to the encoder."""
    with torch.no_grad():
        for weight in contrast.target.parameters():
            weight.add_(0.3 * weight.std(correction=0) * torch.randn_like(weight))
    return contrast.eval()


def _embedded(of: Any, given: Batch) -> Tensor:
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


def test_clips_of_one_video_in_other_samples_are_neither_positives_nor_negatives() -> None:
    sample = torch.tensor([0, 1, 2, 0, 1, 2])
    where = unseen([7, 7, 8, 7, 7, 8], [0.0, 2, 0, 5, 30, 1])
    positive, negative = clip_masks(sample, where, NearDuplicates())
    assert positive[0].tolist() == [False, False, False, True, False, False]
    assert positive.sum(1).tolist() == [1] * 6
    # 1 is of the same video and near; 4 is far enough to be something else
    assert negative[0].tolist() == [False, False, True, False, True, True]
    _, negative = clip_masks(sample, where, NearDuplicates(within_s=3600.0))
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


def test_clips_are_augmented_apart_and_their_frames_together() -> None:
    varied = ClipSimCLRConfig().augment
    contrast = method("simclr", augment=varied)
    one = batch()["frames"][:, :1].expand(-1, 4, -1, -1, -1)
    clips = contrast.augment(as_batch(one))["clips"]
    assert torch.equal(clips, clips[:, :, :, :1].expand_as(clips))
    assert not any(torch.equal(first, second) for first, second in clips)


def test_single_frames_of_one_video_are_positives_too() -> None:
    images = EncoderConfig(stages=2, image_size=32)
    contrast = method("moco", images)
    metrics = contrast(contrast.augment(batch(length=1)))
    metrics["loss"].backward()
    assert metrics["loss"].isfinite()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="2 or more"):
        ClipSimCLRConfig.model_validate({"sampling": {"kind": "clips", "clips": 1}})
    with pytest.raises(SettingError, match="clip_frames"):
        ClipMoCo(Encoder(CLIPS), ClipMoCoConfig())


OLD = """
name: clip_contrast
method: {objective: OBJECTIVE, head_dim: 32, queue: 64, alike: {within_s: 60.0}}
encoder: {backbone: tiny_r3d, clip_frames: 8, clip_step_s: 0.27, image_size: 32}
"""


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol"])
def test_settings_of_older_versions_still_open(objective: str, tmp_path: Path) -> None:
    """As a file of a user's own, and by the old preset's name."""
    file = tmp_path / "mine.yaml"
    file.write_text(OLD.replace("OBJECTIVE", objective))
    tree = override(read_preset(str(file)), ["method.projection_dim=64"])
    config = run_config(tree, methods()[tree["name"]].Config)
    assert config.name == f"clip_{objective}"
    assert (config.method.head_dim, config.method.projection_dim) == (32, 64)
    words = [f"method.objective={objective}", "method.momentum=0.9"]
    tree = override(read_preset("clip_contrast"), words)
    preset = run_config(tree, methods()[tree["name"]].Config)
    assert preset.name == f"clip_{objective}"
    assert preset.method.sampling == read_settings("clip_simclr").method.sampling
    assert getattr(preset.method, "momentum", 0.9) == 0.9


def read_settings(preset: str) -> RunConfig:
    tree = read_preset(preset)
    return run_config(tree, methods()[tree["name"]].Config)


def test_what_was_not_said_keeps_the_value_that_it_had() -> None:
    """clip_contrast had one default of momentum and width for all objectives."""
    byol = renamed({"name": "clip_contrast", "method": {"objective": "byol"}})["method"]
    assert byol == {"momentum": 0.994, "projection_dim": 128}
    assert renamed({"name": "clip_contrast"})["name"] == "clip_moco"
