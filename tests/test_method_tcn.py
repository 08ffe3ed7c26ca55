"""Does TCN mask by time, instance and view, and learn what moves?"""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.tcn import (
    TCN,
    FrameKeys,
    TCNConfig,
    _retrieval,
    frame_keys,
    time_pair_masks,
    view_pair_masks,
)
from tests.learning import draw_dots, train

PAIRS = 8
LOSSES = ("triplet", "npairs", "lifted", "infonce")


def _method(loss: str = "infonce", kind: str = "view_pairs", **settings: object) -> TCN:
    torch.manual_seed(0)
    config = TCNConfig.model_validate(
        {
            "loss": loss,
            "sampling": {"kind": kind, "pairs": PAIRS},
            "augment": AugmentConfig(jitter=0.5, brightness=0.1),
            **settings,
        }
    )
    encoder = EncoderConfig(
        stages=2,
        image_size=32,
        pool="spatial_softmax",
        pool_norm=True,
        embedding_dim=16,
        unit_norm=loss in ("triplet", "infonce"),
    )
    return TCN(Encoder(encoder), config)


def _two_views(generator: torch.Generator, shuffled: bool = False) -> Batch:
    """Dots that cross the picture, seen by one camera from the left, by the other from above."""
    samples = 4
    time_s = torch.rand(samples, PAIRS, generator=generator).sort(dim=1).values
    background = torch.rand(samples, 2, 3, generator=generator) * 0.6
    place = 0.1 + 0.8 * time_s
    other = place
    if shuffled:  # the second camera shows the same dots in an order that has nothing to tell
        order = torch.rand(samples, PAIRS, generator=generator).argsort(dim=1)
        other = place.gather(1, order)
    fixed = torch.full((PAIRS,), 0.5)
    frames = [
        torch.cat(
            [
                draw_dots(place[s], fixed, background[s, 0].expand(PAIRS, 3)),
                draw_dots(fixed, other[s], background[s, 1].expand(PAIRS, 3)),
            ]
        )
        for s in range(samples)
    ]
    return {
        "frames": torch.stack(frames),
        "time_s": time_s.repeat(1, 2) * 10,
        "view": torch.tensor([0, 1]).repeat_interleave(PAIRS).repeat(samples, 1),
        "instance": torch.arange(samples),
    }


def _one_view(generator: torch.Generator) -> Batch:
    """Dots on a circle, anchors and positives a little later; backgrounds tell the videos apart."""
    samples = 4
    anchors = torch.rand(samples, PAIRS, generator=generator) * 10
    time_s = torch.cat([anchors, anchors + 0.05 + 0.1 * torch.rand(samples, PAIRS)], dim=1)
    background = torch.rand(samples, 3, generator=generator) * 0.6
    angle = time_s / 10 * 2 * torch.pi
    x, y = 0.5 + 0.35 * angle.cos(), 0.5 + 0.35 * angle.sin()
    frames = [draw_dots(x[s], y[s], background[s].expand(2 * PAIRS, 3)) for s in range(samples)]
    return {
        "frames": torch.stack(frames),
        "time_s": time_s,
        "view": torch.zeros(samples, 2 * PAIRS, dtype=torch.int64),
        "instance": torch.arange(samples),
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_multi_view_learns_to_find_the_instant_in_the_other_view(loss: str) -> None:
    method = _method(loss)
    metrics = train(method, _two_views, steps=60)
    assert method.chance["retrieval_top1"] == 1 / PAIRS
    assert metrics["retrieval_top1"] > 0.3  # more than twice the chance of 0.125


def test_multi_view_learns_nothing_where_the_views_have_nothing_in_common() -> None:
    metrics = train(_method(), lambda g: _two_views(g, shuffled=True), steps=60)
    assert metrics["retrieval_top1"] < 0.2


@pytest.mark.parametrize("loss", ["triplet", "infonce"])
def test_single_view_learns_what_moves(loss: str) -> None:
    method = _method(loss, "time_pairs")
    metrics = train(method, _one_view, steps=40)
    assert metrics["retrieval_top1"] > 0.5
    assert "retrieval_top1" not in method.chance  # times too near to repel are no candidates
    assert metrics["ordering"] > 0.85


def test_retrieval_counts_candidates_only_and_has_its_stated_chance() -> None:
    keys = FrameKeys(
        sample=torch.zeros(8, dtype=torch.int64), pair=torch.arange(4).repeat(2),
        side=torch.tensor([0, 1]).repeat_interleave(4), instance=torch.zeros(8, dtype=torch.int64),
        view=torch.zeros(8, dtype=torch.int64), time_s=torch.tensor([0.0, 0.1, 0.2, 5.0]).repeat(2),
    )  # fmt: skip
    _, negative = time_pair_masks(keys, positive_s=0.05, negative_s=1.0, other_samples=False)
    generator = torch.Generator().manual_seed(0)
    draws = [
        _retrieval(torch.randn(8, 6, generator=generator), keys, negative) for _ in range(2000)
    ]
    # three frames a side have one candidate beside the pair, the last has three
    top1 = torch.stack([found["retrieval_top1"] for found in draws]).mean()
    assert top1 == pytest.approx((3 / 2 + 1 / 4) / 4, abs=0.02)
    assert torch.stack([found["ordering"] for found in draws]).mean() == pytest.approx(
        0.5, abs=0.02
    )
    collapsed = _retrieval(torch.ones(8, 6), keys, negative)
    assert (collapsed["retrieval_top1"], collapsed["ordering"]) == (0, 0.5)
    alone = _retrieval(torch.randn(8, 6), keys, torch.zeros(8, 8, dtype=torch.bool))
    assert alone["retrieval_top1"] == 0


def test_nothing_that_moves_is_nothing_to_learn() -> None:
    def still(generator: torch.Generator) -> Batch:
        batch = _one_view(generator)
        return batch | {"frames": batch["frames"][:, :1].expand(-1, 2 * PAIRS, -1, -1, -1)}

    metrics = train(_method("infonce", "time_pairs"), still, steps=40)
    assert abs(metrics["ordering"] - 0.5) < 0.1


@pytest.mark.parametrize("loss", ["triplet", "lifted"])
def test_margin_losses_report_their_active_share(loss: str) -> None:
    method = _method(loss)
    generator = torch.Generator().manual_seed(0)
    metrics = method(method.augment(_two_views(generator)))
    assert 0 < metrics["active"] <= 1
    assert metrics["embedding_std"] > 0
    assert metrics["valid"] == 1
    assert all(not v.requires_grad for name, v in metrics.items() if name != "loss")


@pytest.mark.parametrize(("loss", "unit"), [("triplet", False), ("lifted", True)])
def test_a_loss_refuses_embeddings_of_the_wrong_length(loss: str, unit: bool) -> None:
    with pytest.raises(SettingError, match="unit_norm"):
        TCN(Encoder(EncoderConfig(unit_norm=unit)), TCNConfig(loss=loss))


def test_a_single_time_is_refused_since_nothing_would_repel() -> None:
    single = TCNConfig.model_validate({"sampling": {"kind": "view_pairs", "pairs": 1}})
    with pytest.raises(SettingError, match="pairs"):
        TCN(Encoder(EncoderConfig(unit_norm=True)), single)


STACK = {"stack": 3, "stack_s": 0.1}


def _multi_frame(**encoder: object) -> TCN:
    torch.manual_seed(0)
    sampling = {"kind": "view_pairs", "pairs": PAIRS, **STACK}
    config = TCNConfig.model_validate({"loss": "infonce", "sampling": sampling, "augment": {}})
    clips = {"clip_frames": 3, "clip_step_s": 0.1, "fusion": "convolution", **encoder}
    network = EncoderConfig.model_validate(
        {"stages": 2, "image_size": 32, "pool": "spatial_softmax", "pool_norm": True,
         "embedding_dim": 16, "unit_norm": True, **clips}
    )  # fmt: skip
    return TCN(Encoder(network), config)


def _moving(generator: torch.Generator, stack: int) -> Batch:
    """Dots that move at some pace: one frame shows where they are, only several tell the pace.

    The first camera shows a moving dot, the second one at rest that is the higher the faster the
    first goes to the right.
    """
    samples = 4
    pace = 2 * torch.rand(samples, PAIRS, 1, generator=generator) - 1
    end = 0.35 + 0.3 * torch.rand(samples, PAIRS, 1, generator=generator)
    x = end + 0.3 * pace * torch.linspace(-1, 0, stack if stack > 1 else 2)[-stack:]
    y = (0.5 - 0.35 * pace).expand_as(x)
    middle = torch.full_like(x, 0.5)
    first = draw_dots(x.flatten(), middle.flatten(), torch.zeros(x.numel(), 3))
    second = draw_dots(middle.flatten(), y.flatten(), torch.zeros(x.numel(), 3))
    shape = (samples, PAIRS * stack)
    frames = torch.cat([first.unflatten(0, shape), second.unflatten(0, shape)], dim=1)
    back = torch.arange(stack - 1, -1, -1) * 0.1
    time_s = (torch.arange(PAIRS)[:, None] - back).flatten().repeat(samples, 2)
    view = torch.tensor([0, 1]).repeat_interleave(PAIRS * stack).repeat(samples, 1)
    return {"frames": frames, "time_s": time_s, "view": view, "instance": torch.arange(samples)}


def test_several_frames_tell_how_things_move_and_one_does_not() -> None:
    many = train(_multi_frame(), lambda g: _moving(g, 3), steps=32)
    one = train(_method(augment={}), lambda g: _moving(g, 1), steps=20)
    assert one["retrieval_top1"] < 0.2
    assert many["retrieval_top1"] > 0.3  # more than twice the chance of 0.125


def test_a_stack_has_one_crop_and_stands_for_its_last_time() -> None:
    batch = _moving(torch.Generator().manual_seed(0), 3)
    keys = frame_keys(batch, stack=3)
    assert keys.time_s.tolist() == list(range(PAIRS)) * 8
    assert keys.pair[:PAIRS].tolist() == keys.pair[PAIRS : 2 * PAIRS].tolist()
    assert keys.side.tolist() == ([0] * PAIRS + [1] * PAIRS) * 4
    method = _multi_frame()
    method.config = method.config.model_copy(
        update={"augment": AugmentConfig(crop_scale=(0.3, 0.6))}
    )
    still = {**batch, "frames": batch["frames"][:, :1].expand(-1, 6 * PAIRS, -1, -1, -1)}
    images = method.augment(still)["images"].unflatten(1, (-1, 3))
    assert torch.equal(images[:, :, 0], images[:, :, 2])
    assert not torch.equal(images[:, 0], images[:, 1])


def test_stacks_that_share_frames_do_not_repel() -> None:
    keys = _keys(
        [
            (0, 0, 5, 0, 1.0),
            (0, 1, 5, 0, 1.2),
            (0, 0, 5, 1, 1.0),
            (0, 1, 5, 1, 1.2),
            (1, 2, 5, 1, 1.35),
        ]
    )
    _, negative = view_pair_masks(keys, 0.02, True, look_back_s=0.25)
    assert _entries(negative) == {(0, 4), (2, 4)}
    _, negative = view_pair_masks(keys, 0.02, True, look_back_s=0.1)
    assert _entries(negative) == {(0, 1), (0, 3), (1, 2), (2, 3), *((n, 4) for n in range(4))}


def test_stacks_must_be_the_encoders_clips() -> None:
    with pytest.raises(SettingError, match="clip_frames"):
        _multi_frame(clip_frames=2)
    with pytest.raises(SettingError, match="clip_step_s"):
        _multi_frame(clip_step_s=0.2)
    with pytest.raises(SettingError, match="clip_frames"):
        _method(sampling={"kind": "view_pairs", "pairs": PAIRS, "stack": 2})
    with pytest.raises(ValidationError, match="share frames"):
        TCNConfig.model_validate({"sampling": {"kind": "time_pairs", "stack": 6, "stack_s": 0.1}})


def _keys(rows: list[tuple[int, int, int, int, float]]) -> FrameKeys:
    sample, pair, instance, view, time_s = (torch.tensor(column) for column in zip(*rows))  # noqa: B905
    return FrameKeys(sample, pair, view, instance, view, time_s.float())


def _entries(mask: Tensor) -> set[tuple[int, int]]:
    return {(i, j) for i, j in mask.nonzero().tolist() if i < j}


def test_view_pairs_attract_and_other_instants_repel() -> None:
    # sample, pair, instance, view, time: two samples of event 5 share the instant 1.0
    keys = _keys(
        [
            (0, 0, 5, 0, 1.0),
            (0, 1, 5, 0, 2.0),
            (0, 0, 5, 1, 1.0),
            (0, 1, 5, 1, 2.0),
            (1, 2, 5, 1, 1.01),
            (1, 3, 5, 1, 3.0),
            (2, 4, 6, 0, 1.0),
        ]
    )
    positive, negative = view_pair_masks(keys, same_s=0.02, other_samples=False)
    assert _entries(positive) == {(0, 2), (1, 3)}
    assert _entries(negative) == {(0, 1), (0, 3), (1, 2), (2, 3), (4, 5)}
    positive, negative = view_pair_masks(keys, same_s=0.02, other_samples=True)
    assert _entries(positive) == {(0, 2), (1, 3)}
    # all but: the pairs, and rows 0 and 2 with row 4, which shows the same instant
    every = {(i, j) for i in range(7) for j in range(i + 1, 7)}
    assert every - _entries(negative) == {(0, 2), (1, 3), (0, 4), (2, 4)}


def test_time_pairs_attract_within_and_repel_beyond_the_band() -> None:
    keys = _keys(
        [
            (0, 0, 5, 0, 1.0),
            (0, 1, 5, 0, 1.3),  # in the band
            (0, 0, 5, 0, 1.1),
            (0, 1, 5, 0, 1.5),
            (1, 2, 5, 0, 1.0),  # the same frame as row 0, in another sample
            (1, 3, 5, 1, 9.0),  # the other view of the event
            (2, 4, 6, 0, 1.0),  # another video
        ]
    )
    positive, negative = time_pair_masks(keys, 0.2, 0.4, other_samples=False)
    assert _entries(positive) == {(0, 2), (1, 2), (1, 3)}
    assert _entries(negative) == {(0, 3)}
    positive, negative = time_pair_masks(keys, 0.2, 0.4, other_samples=True)
    assert _entries(positive) == {(0, 2), (1, 2), (1, 3), (2, 4)}
    assert _entries(negative) == {(0, 3), (3, 4), *((i, 6) for i in range(6))}


def test_masks_are_symmetric_and_disjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 40
    pair = torch.arange(rows // 2).repeat(2)
    keys = FrameKeys(
        sample=pair // 5,
        pair=pair,
        side=torch.arange(rows) // (rows // 2),
        instance=(pair // 5) % 3,
        view=torch.randint(0, 2, (rows,), generator=generator),
        time_s=torch.rand(rows, generator=generator) * 2,
    )
    for positive, negative in (
        view_pair_masks(keys, 0.02, True),
        time_pair_masks(keys, 0.2, 0.4, True),
    ):
        assert torch.equal(positive, positive.T)
        assert torch.equal(negative, negative.T)
        assert not (positive & negative).any()
        assert not positive.diagonal().any()
        assert not negative.diagonal().any()
        assert positive.any(dim=1).all()


def test_candidates_of_the_other_side_leave_the_own_view_out() -> None:
    """With the own view's frames all alike, only contrast among `all` frames feels it."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for candidates in ("other_side", "all"):
        method = _method(candidates=candidates).eval()
        values[candidates] = method(method.augment(_two_views(generator)))["loss"].item()
        generator.manual_seed(0)
    assert values["all"] > values["other_side"] + 0.5  # log(15 / 8) were both views alike
