"""Does TCC judge cycles as the paper says, pair the right videos, and align what moves?"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus
from marey.models.temporal.tcc import (
    TCC,
    Sequences,
    TCCConfig,
    cycle_classification,
    cycle_logits,
    cycle_regression,
    match_errors,
    sequence_pairs,
    time_contrast,
)
from tests.learning import draw_dots, train

FRAMES = 10


def _method(encoder: dict[str, Any] | None = None, **settings: Any) -> TCC:
    torch.manual_seed(0)
    sampling = {"num_frames": FRAMES, **settings.pop("sampling", {})}
    config = TCCConfig.model_validate({"sampling": sampling, "augment": {}, **settings})
    network = EncoderConfig(
        stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=16,
        **(encoder or {}),
    )  # fmt: skip
    return TCC(Encoder(network), config)


def _videos(generator: torch.Generator, moving: bool = True, count: int = 4) -> Batch:
    """A dot crosses the picture at another pace in every video, on another background."""
    time = (torch.arange(FRAMES) + torch.rand(count, FRAMES, generator=generator)) / FRAMES
    pace = 0.6 + 0.8 * torch.rand(count, 1, generator=generator)
    x = 0.1 + 0.8 * time**pace if moving else torch.full_like(time, 0.5)
    background = (torch.rand(count, 1, 3, generator=generator) * 0.6).expand(-1, FRAMES, -1)
    frames = draw_dots(x.flatten(), torch.full((x.numel(),), 0.5), background.reshape(-1, 3))
    return {
        "frames": frames.unflatten(0, (count, FRAMES)),
        "progress": time,
        "time_s": time * 5,
        "view": torch.zeros(count, FRAMES, dtype=torch.int64),
        "instance": torch.arange(count),
    }


@pytest.mark.parametrize("loss", ["regression", "classification"])
def test_it_learns_to_align_videos_of_one_process(loss: str) -> None:
    method = _method(loss=loss, variance_floor=1e-4)
    metrics = train(method, _videos, steps=40)
    assert method.chance["soft_cycle_accuracy"] == 1 / FRAMES
    assert metrics["soft_cycle_accuracy"] > 0.4  # four times chance; 0.18 before training
    assert metrics["match_error"] < 0.8 * method.chance["match_error"]


def test_videos_in_which_nothing_happens_stay_at_chance() -> None:
    metrics = train(_method(), lambda g: _videos(g, moving=False), steps=10)
    assert metrics["soft_cycle_accuracy"] < 0.2
    assert metrics["match_error"] > 0.25


def test_distances_of_neighbours_tell_moments() -> None:
    """A cycle closes over any one-to-one matching; only where neighbours lie tells the moment."""
    generator = torch.Generator().manual_seed(0)
    progress = torch.linspace(0, 1, FRAMES).expand(2, -1)
    chance = _method().chance
    found = [
        match_errors(torch.randn(2, FRAMES, 64, generator=generator), progress)[0, 1]
        for _ in range(400)
    ]
    assert torch.stack(found).mean().item() == pytest.approx(chance["match_error"], abs=0.06)
    frames = torch.randn(FRAMES, 64, generator=generator)
    same = torch.stack([frames, frames])
    assert match_errors(same, progress)[0, 1] == 0
    mixed = torch.stack([frames, frames[torch.randperm(FRAMES, generator=generator)]])
    assert match_errors(mixed, progress)[0, 1] > 0.2


def test_embeddings_without_time_have_the_cycle_error_of_chance() -> None:
    """Where all frames look alike, or no two videos have anything in common, cycles end in the
    middle, a quarter of the video away in the mean."""
    progress = (torch.arange(FRAMES) + 0.5) / FRAMES
    flat = torch.zeros(FRAMES, 8)
    errors = cycle_regression(cycle_logits(flat, flat, 0.1), progress, plain=True).sqrt()
    assert errors.mean().item() == pytest.approx(_method().chance["cycle_error"], abs=1e-6)


def _slow_logits(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    rows = []
    for here in u:
        distance = torch.stack([(here - there).square().sum() for there in v])
        weights = torch.exp(-distance / len(here) / temperature)
        nearest = (weights[:, None] * v).sum(0) / weights.sum()
        back = torch.stack([(nearest - other).square().sum() for other in u])
        rows.append(-back / len(here) / temperature)
    return torch.stack(rows)


def test_cycles_equal_a_slow_formulation() -> None:
    torch.manual_seed(0)
    u, v = torch.randn(5, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    logits = cycle_logits(u, v, 0.3)
    torch.testing.assert_close(logits, _slow_logits(u, v, 0.3), rtol=1e-9, atol=1e-9)
    progress = torch.rand(5, dtype=torch.float64).sort().values
    for i, row in enumerate(logits):
        weights = [math.exp(x) for x in row.tolist()]
        weights = [w / sum(weights) for w in weights]
        mean = sum(w * p for w, p in zip(weights, progress.tolist(), strict=True))
        variance = sum(w * (p - mean) ** 2 for w, p in zip(weights, progress.tolist(), strict=True))
        error = (progress[i].item() - mean) ** 2
        regression = cycle_regression(logits, progress, variance_weight=0.01)[i]
        assert regression.item() == pytest.approx(error / variance + 0.01 * math.log(variance))
        assert cycle_regression(logits, progress, plain=True)[i].item() == pytest.approx(error)
        target = [0.1 / 5 + 0.9 * (k == i) for k in range(5)]
        entropy = -sum(t * math.log(w) for t, w in zip(target, weights, strict=True))
        assert cycle_classification(logits, 0.1)[i].item() == pytest.approx(entropy)


def test_all_ordered_pairs_at_once_equal_pair_by_pair() -> None:
    torch.manual_seed(0)
    sequences = torch.randn(3, 5, 4)
    for similarity in ("l2", "cosine"):
        every = cycle_logits(sequences[:, None], sequences[None], 0.2, similarity)
        for a in range(3):
            for b in range(3):
                one = cycle_logits(sequences[a], sequences[b], 0.2, similarity)
                torch.testing.assert_close(every[a, b], one, rtol=1e-4, atol=1e-4)


def test_closed_forms() -> None:
    far = 100 * torch.eye(6)
    progress = (torch.arange(6) + 0.5) / 6
    logits = cycle_logits(far, far, 0.1)
    assert cycle_regression(logits, progress, plain=True).max() < 1e-10
    assert cycle_classification(logits, 0.0).max() < 1e-5
    # collapse: every cycle ends anywhere, with the mean and variance of the frames themselves
    logits = cycle_logits(torch.ones(6, 3), torch.ones(6, 3), 0.1)
    variance = progress.var(correction=0)
    assert cycle_classification(logits, 0.0).mean().item() == pytest.approx(math.log(6))
    value = cycle_regression(logits, progress).mean()
    assert value.item() == pytest.approx(1 + 0.001 * variance.log().item())


def test_a_cycle_that_is_wrong_and_sure_has_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[0.0, 500.0], [0.0, 500.0]], requires_grad=True)
    terms = cycle_regression(logits, torch.tensor([0.2, 0.8]))
    terms.sum().backward()
    assert terms[0].item() == pytest.approx(0.36 / 1e-6 + 0.001 * math.log(1e-6))
    assert torch.isfinite(logits.grad).all()


def test_gradients() -> None:
    torch.manual_seed(0)
    u, v = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    progress = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    for similarity in ("l2", "cosine"):
        assert torch.autograd.gradcheck(
            lambda a, b, kind=similarity: cycle_regression(cycle_logits(a, b, 0.5, kind), progress),
            (u, v),
        )
    assert torch.autograd.gradcheck(
        lambda a, b: cycle_classification(cycle_logits(a, b, 1.0)), (u, v)
    )


def test_which_sequences_are_compared() -> None:
    # two views of event 5, one of them twice, and two other events of which one is of its class
    keys = Sequences(*map(torch.tensor, ([5, 5, 5, 6, 7], [0, 1, 0, 0, 0], [1, 1, 1, 1, -1])))
    views = {(0, 1), (1, 0), (1, 2), (2, 1)}
    events = {(i, j) for i in range(5) for j in range(5) if i != j and not (i < 3 and j < 3)}

    def found(pairs: str, same_class: bool = False) -> set[tuple[int, ...]]:
        return {tuple(p) for p in sequence_pairs(keys, pairs, same_class).nonzero().tolist()}

    assert found("all") == views | events
    assert found("same_event") == views
    assert found("other_events") == events
    assert found("all", same_class=True) == {p for p in views | events if 4 not in p}


def test_a_batch_of_one_view_gives_nothing_and_no_nan() -> None:
    method = _method()
    batch = method.augment(_videos(torch.Generator().manual_seed(0)))
    metrics = method({**batch, "instance": torch.zeros(4, dtype=torch.int64)})
    metrics["loss"].backward()
    assert metrics["valid"] == 0
    assert metrics["loss"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_the_time_contrastive_term_equals_a_slow_formulation() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(2, 6, 4, dtype=torch.float64)
    time_s = torch.tensor([[0.0, 0.5, 2.0, 0.1, 0.4, 2.1], [0.0, 1.0, 2.0, 0.1, 1.1, 1.9]])
    terms = []
    for sample, times in zip(embeddings, time_s, strict=True):
        for i in range(3):
            scores = {j: (sample[i] @ sample[3 + j]).item() for j in range(3)}
            far = [j for j in range(3) if j != i and abs(times[i] - times[3 + j]) > 0.6]
            total = sum(math.exp(scores[j]) for j in [i, *far])
            terms.append(math.log(total) - scores[i])
    lengths = embeddings.square().sum(-1)
    wanted = sum(terms) / 6 + 0.25 * 0.01 * (lengths[:, :3].mean() + lengths[:, 3:].mean())
    torch.testing.assert_close(time_contrast(embeddings, time_s, 0.6, 0.01), wanted)


def test_the_time_contrastive_term_is_mixed_in_by_its_weight() -> None:
    batch = _videos(torch.Generator().manual_seed(0))
    for name in ("frames", "time_s", "view"):
        batch[name] = torch.cat([batch[name], batch[name].flip(1).flip(1)], dim=1)
    losses = {}
    for weight in (0.5, 0.999999):
        method = _method(tcn_weight=weight, sampling={"positive_s": 0.2}).eval()
        losses[weight] = method(method.augment(batch))["loss"]
    alone = _method().eval()
    first = {**batch, "frames": batch["frames"][:, :FRAMES]}
    cycle = alone(alone.augment(first))["loss"]
    torch.testing.assert_close(losses[0.5], (cycle + losses[0.999999]) / 2, rtol=1e-3, atol=1e-4)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        TCCConfig.model_validate({"tcn_weight": 0.5})
    with pytest.raises(ValidationError, match="must exceed"):
        TCCConfig.model_validate({"tcn_weight": 0.5, "sampling": {"positive_s": 0.5}})
    with pytest.raises(SettingError, match="clip_frames"):
        _method(encoder={"clip_frames": 2})
    with pytest.raises(SettingError, match="labels"):
        _method(same_class=True).prepare(Corpus(places=4))


def test_an_encoder_of_clips_sees_each_frame_with_those_before_it() -> None:
    method = _method(
        encoder={"clip_frames": 2, "clip_step_s": 0.2, "fusion": "convolution"},
        sampling={"stack": 2, "stack_s": 0.2},
    )
    batch = _videos(torch.Generator().manual_seed(0))
    for name in ("frames", "time_s", "view"):
        batch[name] = batch[name].repeat_interleave(2, dim=1)
    metrics = method(method.augment(batch))
    assert metrics["loss"].isfinite()
    assert metrics["valid"] == 1


def test_one_video_alone_is_refused_before_training() -> None:
    method = _method(sampling={"per_video": 2})
    with pytest.raises(SettingError, match=r"one video.*`tcn_single`"):
        method.prepare(Corpus(places=2))
    method.prepare(Corpus(places=4))


def test_videos_of_several_kinds_are_doubted_unless_they_are_kept_apart() -> None:
    kinds = Corpus(places=4, classes=3)
    (doubt,) = _method().doubts(kinds)
    assert "3 kinds" in doubt
    assert "same_class=true" in doubt
    assert "tcn_single" in doubt
    assert not _method().doubts(Corpus(places=4))
    assert not _method().doubts(Corpus(places=4, classes=1))
    assert not _method(same_class=True).doubts(kinds)
