"""Does CPC contrast what it says it does, look at the past only, and learn what comes next?"""

import itertools
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
from marey.models.objectives.prediction import (
    Origins,
    contrast_predictions,
    negative_masks,
    twin_blocks,
)
from marey.models.temporal.cpc import CPC, CausalTransformer, CPCConfig
from tests.learning import draw_dots, train

STEPS = 8
KINDS = ("same_clip", "same_video", "other_videos")


def _method(encoder: dict[str, Any] | None = None, **settings: Any) -> CPC:
    torch.manual_seed(0)
    sampling = {"num_frames": STEPS, "spacing_s": 0.4, **settings.pop("sampling", {})}
    tree = {"context_dim": 32, "min_context": 2, "last_step": 3, "augment": {}, **settings}
    config = CPCConfig.model_validate({"sampling": sampling, **tree})
    network = EncoderConfig(
        stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=16,
        unit_norm=True, **(encoder or {}),
    )  # fmt: skip
    return CPC(Encoder(network), config)


def _clips(generator: torch.Generator, count: int = 6, steady: bool = True) -> Batch:
    """A dot goes round in a circle, steadily at another pace in every clip, or jumps at random."""
    pace = (0.08 + 0.04 * torch.rand(count, 1, generator=generator)) * 2 * math.pi
    angle = torch.rand(count, 1, generator=generator) * 2 * math.pi + pace * torch.arange(STEPS)
    if not steady:
        angle = torch.rand(count, STEPS, generator=generator) * 2 * math.pi
    x, y = 0.5 + 0.35 * angle.cos(), 0.5 + 0.35 * angle.sin()
    background = (torch.rand(count, 1, 3, generator=generator) * 0.5).expand(-1, STEPS, -1)
    frames = draw_dots(x.flatten(), y.flatten(), background.reshape(-1, 3))
    return {
        "frames": frames.unflatten(0, (count, STEPS)),
        "time_s": (torch.arange(STEPS) * 0.4).expand(count, -1),
        "instance": torch.arange(count),
    }


@pytest.mark.parametrize("context", ["gru", "transformer"])
def test_it_learns_what_comes_next(context: str) -> None:
    method = _method(context=context, similarity="cosine", temperature=0.1, negatives=["same_clip"])
    metrics = train(method, _clips, steps=70)
    assert method.chance["clip_top1"] == pytest.approx(1 / STEPS)
    assert metrics["clip_top1"] > 0.6  # almost five times chance; 0.13 before training
    assert metrics["information"] > 1


def test_it_learns_nothing_of_what_has_no_order() -> None:
    method = _method(similarity="cosine", temperature=0.1, negatives=["same_clip"])
    metrics = train(method, lambda g: _clips(g, steady=False), steps=50)
    # what has been seen can be told from what has not: at best a guess among the rest
    guesses = [1 / (STEPS - 1 - seen) for seen, _ in method.config.predictions]
    assert metrics["clip_top1"] < sum(guesses) / len(guesses) + 0.08


def test_the_predictions_are_all_that_fit() -> None:
    config = _method(min_context=3, first_step=2, last_step=4).config
    wanted = {(t, k) for t, k in itertools.product(range(8), range(9)) if t >= 2 and 2 <= k <= 4}
    assert set(config.predictions) == {(t, k) for t, k in wanted if t + k < 8}
    assert len(config.predictions) == len(set(config.predictions))


def _origins(rows: int, generator: torch.Generator) -> tuple[Origins, Tensor]:
    clip = torch.randint(0, 5, (rows,), generator=generator)
    block = torch.randint(0, 4, (rows,), generator=generator)
    cell = torch.randint(0, 2, (rows,), generator=generator)
    time_s = torch.tensor([0.0, 0.5, 5.0, 0.0, 9.0])[clip] + 0.5 * block
    origins = Origins(clip, torch.tensor([7, 7, 7, 8, 8])[clip], time_s, block, cell)
    twins = torch.rand(5, 4, 4, generator=generator) < 0.2
    return origins, twins


def test_the_negatives_are_those_of_a_slow_formulation() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, twins = _origins(30, generator)
    columns, _ = _origins(50, generator)
    masks = negative_masks(rows, columns, KINDS, 0.7, twins)
    for i, j in itertools.product(range(30), range(50)):
        row, column = (Origins(*(k[n] for k in o)) for o, n in ((rows, i), (columns, j)))
        kind = "other_videos"
        if row.instance == column.instance:
            kind = "same_clip" if row.clip == column.clip else "same_video"
        repels = True
        if row.clip == column.clip and row.block == column.block:
            repels = bool(row.cell != column.cell)
        elif row.clip == column.clip:
            near = abs(row.time_s - column.time_s) < 0.7
            repels = not near and not twins[row.clip, row.block, column.block]
        elif row.instance == column.instance:
            repels = bool(abs(row.time_s - column.time_s) >= 0.7)
        assert {name for name in KINDS if masks[name][i, j]} == ({kind} if repels else set())


def test_neighbours_exactly_one_step_apart_repel_whatever_their_rounding() -> None:
    block = torch.arange(6)
    zero = torch.zeros(6, dtype=torch.int64)
    origins = Origins(zero, zero, 3000 + 0.4 * torch.arange(6, dtype=torch.float32), block, zero)
    masks = negative_masks(origins, origins, KINDS, 0.4, torch.zeros(1, 6, 6, dtype=torch.bool))
    assert masks["same_clip"].sum() == 30


def test_the_contrast_equals_a_slow_formulation() -> None:
    torch.manual_seed(0)
    predicted = torch.randn(6, 3, dtype=torch.float64)
    candidates = torch.randn(9, 3, dtype=torch.float64)
    own = torch.tensor([0, 3, 3, 8, 1, 2])
    masks = {"same_clip": torch.rand(6, 9) < 0.3, "other_videos": torch.rand(6, 9) < 0.3}
    for mask in masks.values():
        mask[torch.arange(6), own] = False
        mask[4] = False  # the fifth row has no negative and must not count
    masks["other_videos"] &= ~masks["same_clip"]
    terms, bits, tops, shares = [], [], [], [0, 0]
    for i in (0, 1, 2, 3, 5):
        scores = (candidates @ predicted[i]).tolist()
        negatives = [j for j in range(9) if masks["same_clip"][i, j] or masks["other_videos"][i, j]]
        total = sum(math.exp(scores[j]) for j in [own[i], *negatives])
        terms.append(math.log(total) - scores[own[i]])
        bits.append(math.log(1 + len(negatives)))
        tops.append(all(scores[own[i]] > scores[j] for j in negatives))
        shares[0] += int(masks["same_clip"][i].sum())
        shares[1] += int(masks["other_videos"][i].sum())
    found = contrast_predictions(predicted, candidates, own, masks)
    loss = sum(terms) / 5
    assert found["loss"].item() == pytest.approx(loss, abs=1e-9)
    assert found["information"].item() == pytest.approx(sum(bits) / 5 - loss, abs=1e-5)
    assert found["top1"].item() == pytest.approx(sum(tops) / 5)
    assert found["valid"].item() == pytest.approx(5 / 6)
    assert found["share_same_clip"].item() == pytest.approx(shares[0] / sum(shares))
    assert found["share_other_videos"].item() == pytest.approx(shares[1] / sum(shares))


@pytest.mark.parametrize("sure_of", ["nothing", "clip and cell", "all"])
def test_information_of_time_is_told_apart_from_that_of_clips_and_cells(sure_of: str) -> None:
    """Three blocks of four cells of five clips; what a prediction is sure of it scores high."""
    clip, _, cell = (
        part.flatten()
        for part in torch.meshgrid(torch.arange(5), torch.arange(3), torch.arange(4), indexing="ij")
    )
    same_clip, same_cell = clip[:, None] == clip, cell[:, None] == cell
    own = torch.eye(60, dtype=torch.bool)
    masks = {"same_clip": same_clip & ~own, "other_videos": ~same_clip}
    certain = {"nothing": torch.zeros(60, 60), "clip and cell": same_clip & same_cell, "all": own}
    found = contrast_predictions(
        50 * certain[sure_of].float(), torch.eye(60), torch.arange(60), masks, same_cell=same_cell
    )
    timeless = math.log(60) - math.log(3)
    assert found["timeless_information"].item() == pytest.approx(timeless, abs=1e-4)
    wanted = {"nothing": (0, 0), "clip and cell": (timeless, 0), "all": (math.log(60), math.log(3))}
    whole, of_time = wanted[sure_of]
    assert found["information"].item() == pytest.approx(whole, abs=1e-4)
    assert found["time_information"].item() == pytest.approx(of_time, abs=1e-4)


def test_predictions_that_say_nothing_hold_no_information() -> None:
    masks = {"other_videos": ~torch.eye(7, dtype=torch.bool)}
    found = contrast_predictions(torch.zeros(7, 3), torch.randn(7, 3), torch.arange(7), masks)
    assert found["loss"].item() == pytest.approx(math.log(7))
    assert found["information"].item() == pytest.approx(0, abs=1e-6)
    sure = contrast_predictions(100 * torch.eye(7), torch.eye(7), torch.arange(7), masks)
    assert sure["information"].item() == pytest.approx(math.log(7), abs=1e-5)


def test_gradients() -> None:
    torch.manual_seed(0)
    predicted = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    own = torch.tensor([0, 2, 4, 1])
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[torch.arange(4), own] = False
    mask[3] = False
    assert torch.autograd.gradcheck(
        lambda a, b: contrast_predictions(a, b, own, {"same_clip": mask})["loss"],
        (predicted, candidates),
    )


@pytest.mark.parametrize("context", ["gru", "transformer"])
def test_no_summary_sees_what_comes_later(context: str) -> None:
    method = _method(context=context).eval()
    steps = torch.randn(2, STEPS, 16)
    later = steps.clone()
    later[:, 5:] += 1

    def summary(values: Tensor) -> Tensor:
        out = method.context(values)
        return out[0] if isinstance(out, tuple) else out

    torch.testing.assert_close(summary(steps)[:, :5], summary(later)[:, :5])
    assert not torch.allclose(summary(steps)[:, 5:], summary(later)[:, 5:])


def test_the_transformer_knows_the_order_of_what_it_sees() -> None:
    torch.manual_seed(0)
    context = CausalTransformer(4, 16, 1, 6)
    steps = torch.randn(1, 6, 4)
    assert not torch.allclose(context(steps)[:, -1], context(steps[:, [1, 0, 2, 3, 4, 5]])[:, -1])


def test_copies_of_a_frame_do_not_repel_it() -> None:
    method = _method()
    batch = _clips(torch.Generator().manual_seed(0), count=2)
    batch["frames"][0] = batch["frames"][0, :1]  # the first clip stands still
    twins = twin_blocks(batch["frames"], method.config)[:, 0]
    assert twins[0].all()
    assert torch.equal(twins[1], torch.eye(STEPS, dtype=torch.bool))
    alone = method(method.augment({key: value[:1] for key, value in batch.items()}))
    alone["loss"].backward()
    assert alone["valid"] == 0
    assert alone["loss"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_kinds_of_negatives_are_chosen_and_reported() -> None:
    batch = _clips(torch.Generator().manual_seed(0), count=4)
    batch["instance"] = torch.tensor([0, 0, 1, 2])
    batch["time_s"] = batch["time_s"] + torch.tensor([0.0, 10.0, 0.0, 0.0])[:, None]
    metrics = _method(negatives=list(KINDS))
    found = metrics(metrics.augment(batch))
    assert sum(found[f"share_{kind}"].item() for kind in KINDS) == pytest.approx(1)
    # of 31 candidates: 7 of the clip; 8 of the video's other clip, for half of the clips
    counts = [[7, 8, 16]] * 2 + [[7, 0, 24]] * 2
    for place, kind in enumerate(KINDS):
        wanted = sum(c[place] for c in counts) / sum(sum(c) for c in counts)
        assert found[f"share_{kind}"].item() == pytest.approx(wanted)
    only = _method(negatives=["other_videos"])
    found = only(only.augment(batch))
    assert found["share_other_videos"] == 1
    assert "clip_top1" not in found
    assert set(only.chance) == {"information"}


def test_a_clip_has_one_crop_and_each_frame_its_own_colours() -> None:
    batch = _clips(torch.Generator().manual_seed(0), count=2)
    batch["frames"] = batch["frames"][:, :1].expand(-1, STEPS, -1, -1, -1)
    torch.manual_seed(0)
    images = _method(augment={"crop_scale": (0.3, 0.6)}).augment(batch)["images"]
    assert torch.equal(images[:, 0], images[:, -1])
    images = _method(augment={"jitter": 1.0, "brightness": 0.4}).augment(batch)["images"]
    assert not torch.equal(images[:, 0], images[:, -1])


def test_several_clips_of_a_sample_equal_as_many_samples() -> None:
    batch = _clips(torch.Generator().manual_seed(0), count=4)
    batch["instance"] = torch.tensor([0, 0, 1, 1])
    batch["time_s"] = batch["time_s"] + torch.tensor([0.0, 9.0, 0.0, 9.0])[:, None]
    one = _method().eval()
    two = _method(sampling={"clips": 2}).eval()
    folded = {
        "frames": batch["frames"].unflatten(0, (2, 2)).flatten(1, 2),
        "time_s": batch["time_s"].reshape(2, -1),
        "instance": torch.tensor([0, 1]),
    }
    torch.testing.assert_close(one(one.augment(batch))["loss"], two(two.augment(folded))["loss"])


@pytest.mark.parametrize("clip_frames", [1, 2])
def test_a_step_may_be_a_block_of_frames(clip_frames: int) -> None:
    method = _method(
        encoder={"clip_frames": clip_frames, "clip_step_s": 0.4, "fusion": "convolution"},
        block_frames=2, min_context=2, last_step=2,
    )  # fmt: skip
    assert method.config.blocks == 4
    metrics = method(method.augment(_clips(torch.Generator().manual_seed(0))))
    metrics["loss"].backward()
    assert metrics["loss"].isfinite()
    assert all(p.grad is not None for p in method.parameters())


def test_wrong_settings_are_refused() -> None:
    for words, message in (
        ({"last_step": 8}, "too short"),
        ({"first_step": 4}, "must not be below"),
        ({"block_frames": 3}, "multiple"),
        ({"negatives": []}, "different kinds"),
        ({"context": "transformer", "context_dim": 30}, "multiple of 4"),
    ):
        with pytest.raises(ValidationError, match=message):
            _method(**words)
    with pytest.raises(SettingError, match="clip_frames"):
        _method(encoder={"clip_frames": 4})
    with pytest.raises(SettingError, match="clip_step_s"):
        _method(encoder={"clip_frames": 2, "clip_step_s": 0.1}, block_frames=2, last_step=2)
