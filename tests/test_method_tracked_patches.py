"""Do tracked patches mask by video, mine by the schedule, and learn what stays the same?"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.temporal.tracked_patches import (
    PairScores,
    TrackedPatches,
    TrackedPatchesConfig,
    _retrieval,
    draw,
    hard_negatives,
    hinges,
    lots,
    triplet_terms,
)
from tests.learning import SIDE, train

VIDEOS = torch.tensor([0, 0, 1, 1, 2, 3])


def _method(**settings: object) -> TrackedPatches:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=2, image_size=32)
    return TrackedPatches(Encoder(encoder), TrackedPatchesConfig.model_validate(settings))


def _batch(videos: Tensor = VIDEOS, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(videos), 3, SIDE, SIDE, 3)
    return {
        "frames": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "instance": videos,
    }


def _unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(
        torch.randn(*shape, 8, generator=generator, dtype=torch.float64), dim=-1
    )


def _scores(
    first: Tensor, last: Tensor, videos: Tensor, margin: float = 0.5, both_ends: bool = True
) -> PairScores:
    negative = videos[:, None] != videos.repeat(2)[None, :]
    return PairScores(hinges(first, last, torch.cat([first, last]), margin, both_ends), negative)


def _noise(scores: PairScores) -> Tensor:
    return torch.rand(scores.negative.shape)


def _slow_loss(
    pairs: Tensor, videos: list[int], margin: float, count: int, both_ends: bool
) -> float:
    """Hard mining of the `count` hardest, one number at a time, straight from the paper."""

    def distance(a: Tensor, b: Tensor) -> float:
        return 1 - sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))

    total, counted = 0.0, 0
    for i, (anchor, partner) in enumerate(pairs):
        others = [pairs[j][e] for j in range(len(pairs)) if videos[j] != videos[i] for e in (0, 1)]
        if not others:
            continue
        counted += 1
        triples = []
        for other in others:
            own = [distance(anchor, partner) - distance(anchor, other) + margin]
            if both_ends:
                own.append(distance(anchor, partner) - distance(partner, other) + margin)
            triples.append([max(0.0, value) for value in own])
        triples.sort(key=max, reverse=True)
        ends = 2 if both_ends else 1
        total += sum(map(sum, triples[:count])) / (ends * min(count, len(others)))
    return total / max(1, counted)


@pytest.mark.parametrize("both_ends", [True, False])
@pytest.mark.parametrize(("margin", "count"), [(0.5, 4), (1.0, 4), (0.2, 1), (0.5, 50)])
def test_loss_is_that_of_a_slow_loop(margin: float, count: int, both_ends: bool) -> None:
    first = _unit(6)
    last = functional.normalize(first + 2 * _unit(6, seed=1), dim=1)
    scores = _scores(first, last, VIDEOS, margin, both_ends)
    terms, counted = triplet_terms(scores, hard_negatives(scores, count, 1, _noise(scores)), count)
    slow = _slow_loss(torch.stack([first, last], dim=1), VIDEOS.tolist(), margin, count, both_ends)
    assert counted.all()
    assert slow > 0
    assert terms.mean().item() == pytest.approx(slow, abs=1e-12)


def test_the_method_computes_that_loss_from_images() -> None:
    method = _method(mining="hard", hard_share=1).eval()
    batch = method.augment(_batch())
    loss = method(batch)["loss"].item()
    images = batch["images"].transpose(0, 1).flatten(0, 1)
    rows = functional.normalize(method.projector(method.encoder(images)).double())
    pairs = torch.stack(rows.detach().chunk(2), dim=1)
    assert loss == pytest.approx(_slow_loss(pairs, VIDEOS.tolist(), 0.5, 4, True), abs=1e-5)


@pytest.mark.parametrize("mining", ["random", "hard"])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_a_collapsed_network_loses_exactly_the_margin(mining: str, margin: float) -> None:
    method = _method(mining=mining, margin=margin)
    with torch.no_grad():
        method.projector[-1].weight.zero_()
        method.projector[-1].bias.fill_(1.0)
    metrics = method(method.augment(_batch()))
    assert metrics["loss"].item() == pytest.approx(margin, abs=1e-6)
    assert metrics["violations"] == 1
    assert metrics["embedding_std"] < 1e-6
    assert metrics["ordering"] == 0.5
    assert metrics["retrieval_top1"] == 0


@pytest.mark.parametrize(
    "settings", [{"mining": "random"}, {"mining": "hard"}, {"loss": "infonce"}]
)
def test_one_video_alone_gives_nothing(settings: dict) -> None:
    method = _method(**settings)
    metrics = method(method.augment(_batch(torch.zeros(4, dtype=torch.int64))))
    metrics["loss"].backward()
    assert metrics["loss"] == 0
    assert metrics["valid"] == 0
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_autocast_rounds_no_metric() -> None:
    """Patches in a narrow cone differ by less than bfloat16 can tell."""
    torch.manual_seed(0)
    first = functional.normalize(torch.randn(1, 64) + 0.05 * torch.randn(8, 64))
    last = functional.normalize(first + 0.002 * torch.randn(8, 64))
    rows, videos = torch.cat([first, last]), torch.arange(8)
    negative = videos[:, None] != videos.repeat(2)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = _retrieval(first, last, rows, negative)
    assert metrics["ordering"] == 1
    assert metrics["retrieval_top1"] == 1


def test_pairs_without_negatives_change_nothing_for_the_others() -> None:
    """A pair of an empty row is left out of the mean, not counted as a loss of 0."""
    first, last = _unit(3), _unit(3, seed=1)
    scores = _scores(first, last, torch.tensor([0, 0, 1]))
    alone = scores._replace(negative=scores.negative & torch.tensor([[True], [False], [True]]))
    for one, chosen in ((scores, scores.negative), (alone, alone.negative)):
        terms, counted = triplet_terms(one, chosen, 4)
        assert counted.tolist() == one.negative.any(dim=1).tolist()
        torch.testing.assert_close(terms[[0, 2]], triplet_terms(scores, chosen, 4)[0][[0, 2]])
    assert terms[1] == 0


def test_far_pairs_and_near_partners_cost_nothing() -> None:
    """Partners that coincide, at right angles to all others: 0 with margin 1, 0.5 with 1.5."""
    axes = torch.eye(4, dtype=torch.float64)
    videos = torch.arange(4)
    for margin, expected in ((1.0, 0.0), (1.5, 0.5)):
        scores = _scores(axes, axes, videos, margin)
        terms, _ = triplet_terms(scores, scores.negative, count=6)
        torch.testing.assert_close(terms, torch.full_like(terms, expected))


def test_info_nce_of_a_collapsed_network_is_the_log_of_its_candidates() -> None:
    method = _method(loss="infonce")
    with torch.no_grad():
        method.projector[-1].weight.zero_()
        method.projector[-1].bias.fill_(1.0)
    loss = method(method.augment(_batch(torch.arange(6))))["loss"].item()
    assert loss == pytest.approx(math.log(1 + 2 * 5), abs=1e-5)


@pytest.mark.parametrize("both_ends", [True, False])
def test_gradient_of_the_triplets(both_ends: bool) -> None:
    videos = torch.tensor([0, 1, 1, 2])
    first, last = _unit(4).requires_grad_(), _unit(4, seed=1).requires_grad_()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        scores = _scores(functional.normalize(a), functional.normalize(b), videos, 0.5, both_ends)
        chosen = hard_negatives(scores, 2, 1, _noise(scores))
        return triplet_terms(scores, chosen, 2)[0].sum()

    assert torch.autograd.gradcheck(loss, (first, last))


@pytest.mark.parametrize("settings", [{"mining": "hard", "hard_share": 1}, {"loss": "infonce"}])
def test_permuting_the_batch_does_not_change_the_loss(settings: dict) -> None:
    method = _method(**settings).eval()
    batch = method.augment(_batch())
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    before = method(batch)
    after = method({key: value[order] for key, value in batch.items()})
    for name in ("loss", "ordering", "retrieval_top1", "valid"):
        torch.testing.assert_close(before[name], after[name])


def test_swapping_the_ends_does_not_change_the_loss() -> None:
    method = _method(mining="hard", hard_share=1).eval()
    batch = method.augment(_batch())
    swapped = {**batch, "images": batch["images"].flip(1)}
    losses = [method(both)["loss"] for both in (batch, swapped)]
    torch.testing.assert_close(*losses)


def test_negatives_come_from_other_videos_only() -> None:
    scores = _scores(_unit(6), _unit(6, seed=1), VIDEOS, margin=2.0)
    videos = VIDEOS.repeat(2)
    torch.manual_seed(0)
    seen = torch.zeros(6, 12, dtype=torch.bool)
    for _ in range(60):
        noise = lots(torch.rand(6, 3))
        drawn = draw(scores.negative, torch.tensor(4), noise)
        for chosen in (drawn, hard_negatives(scores, 4, 0.5, noise)):
            assert (chosen.sum(dim=1) == 4).all()
            seen |= chosen
    assert torch.equal(seen, VIDEOS[:, None] != videos[None, :])  # none wrong, none left out


@pytest.mark.parametrize(
    ("violating", "hard_share", "top", "rest"),
    [(3, 0.5, 3, 0), (4, 0.5, 4, 0), (5, 0.5, 3, 1), (9, 0.5, 2, 2), (9, 1, 4, 0), (9, 0, 0, 4)],
)
def test_hard_mining_mixes_the_hardest_with_other_violating_ones(
    violating: int, hard_share: float, top: int, rest: int
) -> None:
    """Of 12 negatives the first `violating` violate, the hardest first; 4 are taken."""
    hardness = (torch.arange(violating, violating - 12, -1) / 12).clamp_min(0)
    scores = PairScores(hardness.expand(1, 5, 12), torch.ones(5, 12, dtype=torch.bool))
    for seed in range(5):
        torch.manual_seed(seed)
        chosen = hard_negatives(scores, 4, hard_share, _noise(scores))
        assert not chosen[:, violating:].any()
        assert (chosen[:, :4].sum(dim=1) == top).all()
        assert (chosen[:, 4:].sum(dim=1) == rest).all()


def test_a_violation_at_either_end_makes_a_hard_negative() -> None:
    ends = torch.zeros(2, 1, 6)
    ends[1, 0, 3] = 0.4  # near the last patch only
    scores = PairScores(ends, torch.ones(1, 6, dtype=torch.bool))
    assert hard_negatives(scores, 2, 1, _noise(scores)).nonzero().tolist() == [[0, 3]]


def test_hard_mining_begins_when_random_negatives_are_solved_or_late() -> None:
    method = _method(switch_violations=0.1, switch_fraction=0.5)
    method.violations.fill_(0.11)
    method.after_step(Progress(10, 100, 0))
    assert not method.hard
    method.violations.fill_(0.09)
    method.after_step(Progress(11, 100, 0))
    assert method.hard
    method.violations.fill_(0.9)  # hard for good
    method.after_step(Progress(12, 100, 0))
    assert method.hard
    late = _method(switch_violations=0.1, switch_fraction=0.5)
    late.after_step(Progress(49, 100, 0))
    assert not late.hard
    late.after_step(Progress(50, 100, 0))
    assert late.hard


@pytest.mark.parametrize(("mining", "hard"), [("random", False), ("hard", True)])
def test_without_a_schedule_mining_stays_as_it_is(mining: str, hard: bool) -> None:
    method = _method(mining=mining)
    method.violations.fill_(0.0)
    method.after_step(Progress(100, 100, 0))
    assert bool(method.hard) is hard


def test_the_violation_rate_follows_what_training_sees() -> None:
    method = _method(margin=2.0)
    batch = method.augment(_batch())
    method.violations.fill_(0.0)
    rate = method(batch)["violations"]
    assert rate > 0.9  # of cosines within 2 of each other nearly all violate
    torch.testing.assert_close(method.violations, 0.05 * rate)
    before = method.violations.clone()
    method(method.augment(_batch(torch.zeros(4, dtype=torch.int64))))  # nothing to see
    method.eval()(batch)
    assert torch.equal(method.violations, before)


def test_a_resumed_run_mines_as_the_first_did() -> None:
    first = _method()
    first.violations.fill_(0.05)
    first.after_step(Progress(5, 100, 0))
    second = _method()
    second.load_state_dict(first.state_dict())
    assert second.hard
    batch = first.augment(_batch(seed=3))
    results = []
    for method in (first, second):
        torch.manual_seed(9)
        results.append(method(batch))
    assert results[0]["hard"] == 1
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_partners_are_the_ends_or_any_two_patches() -> None:
    frames = torch.tensor([0, 60, 120, 180], dtype=torch.uint8)[None, :, None, None, None]
    batch = {
        "frames": frames.expand(40, 4, SIDE, SIDE, 3),
        "instance": torch.arange(40),
    }
    levels = {}
    for partners in ("ends", "any"):
        method = _method(partners=partners)
        images = method.augment(batch)["images"] * method.encoder.std + method.encoder.mean
        levels[partners] = (images.mean(dim=(2, 3, 4)) * 255 / 60).round().int().unbind(1)
    assert set(zip(*(side.tolist() for side in levels["ends"]), strict=True)) == {(0, 3)}
    drawn = set(zip(*(side.tolist() for side in levels["any"]), strict=True))
    assert len(drawn) > 8
    assert all(a != b for a, b in drawn)


def test_a_track_of_one_patch_is_refused() -> None:
    batch = _batch()
    with pytest.raises(InputError, match="two patches"):
        _method().augment({**batch, "frames": batch["frames"][:, :1]})


def _tracks(generator: torch.Generator, shuffled: bool = False) -> Batch:
    """Striped things that change colour and move while they are tracked; one a video."""
    count = 16
    angle = torch.rand(count, generator=generator) * math.pi
    pitch = 2 + 3 * torch.rand(count, generator=generator)
    ends = []
    for end in range(2):
        if shuffled and end:  # the second end shows another thing
            order = torch.randperm(count, generator=generator)
            angle, pitch = angle[order], pitch[order]
        phase = torch.rand(count, generator=generator) * 2 * math.pi
        colour = 0.3 + 0.7 * torch.rand(count, 1, 1, 3, generator=generator)
        grid = torch.linspace(-1, 1, SIDE)
        across = angle.cos()[:, None, None] * grid + angle.sin()[:, None, None] * grid[:, None]
        stripes = 0.5 + 0.5 * torch.sin(
            math.pi * pitch[:, None, None] * across + phase[:, None, None]
        )
        ends.append((stripes[..., None] * colour * 255).byte())
    return {"frames": torch.stack(ends, dim=1), "instance": torch.arange(count)}


@pytest.mark.parametrize("settings", [{"mining": "scheduled"}, {"loss": "infonce"}])
def test_it_learns_to_know_a_thing_again(settings: dict) -> None:
    method = _method(augment={"crop_scale": (1.0, 1.0)}, **settings)
    metrics = train(method, _tracks, steps=28)
    assert metrics["retrieval_chance"] == pytest.approx(1 / 16)
    assert metrics["retrieval_top1"] > 0.3
    assert metrics["ordering"] > 0.8  # chance 0.5
    if "mining" in settings:
        assert metrics["hard"] == 1


def test_it_learns_nothing_from_partners_that_have_nothing_in_common() -> None:
    method = _method(augment={"crop_scale": (1.0, 1.0)})
    metrics = train(method, lambda g: _tracks(g, shuffled=True), steps=28)
    assert abs(metrics["ordering"] - method.chance["ordering"]) < 0.1
    assert metrics["retrieval_top1"] < 0.2
