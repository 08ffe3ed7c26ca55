"""Does TCN mask by time, instance and view, and learn what moves?"""

import pytest
import torch
from torch import Tensor

from configs.encoder import EncoderConfig
from configs.errors import SettingError
from models.augment import AugmentConfig
from models.encoder import Encoder
from models.method import Batch
from models.temporal.tcn import TCN, FrameKeys, TCNConfig, time_pair_masks, view_pair_masks
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
    metrics = train(_method(loss, "time_pairs"), _one_view, steps=40)
    assert metrics["retrieval_top1"] > 0.5


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
