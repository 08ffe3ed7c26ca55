"""Do mask generators hide what their papers hide, as often and in the same shapes?"""

import math

import pytest
import torch

from marey.models.augmentation.masking import (
    KEPT,
    MASKED,
    REPLACED,
    UNTOUCHED,
    bert_corruption,
    bert_selection,
    block_mask,
    cell_mask,
    random_mask,
    span_selection,
    tube_blocks,
    tube_mask,
    visible_places,
)
from marey.models.encoders.patchify import spread


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_berts_rule_selects_its_share_and_never_what_is_not_valid() -> None:
    valid = torch.ones(1000, 128, dtype=torch.bool)
    valid[:, 0] = valid[:, 127] = False
    valid[500:, 100:] = False
    selected = bert_selection(valid)
    assert not (selected & ~valid).any()
    assert set(selected[:500].sum(1).tolist()) == {round(0.15 * 126)}
    assert set(selected[500:].sum(1).tolist()) == {round(0.15 * 99)}
    assert set(bert_selection(valid, most=7).sum(1).tolist()) == {7}
    share = selected[:500, 1:127].float().mean(0)
    sigma = math.sqrt(19 / 126 * (1 - 19 / 126) / 500)
    assert ((share - 19 / 126).abs() < 5 * sigma).all()  # every position is as likely


def test_at_least_one_position_is_selected_and_none_of_an_empty_row() -> None:
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert bert_selection(valid).sum(1).tolist() == [1, 0]


def test_selected_positions_are_masked_replaced_and_kept_in_80_10_10() -> None:
    selected = torch.rand(1000, 400) < 0.25
    kind = bert_corruption(selected)
    assert ((kind != UNTOUCHED) == selected).all()
    counts = torch.bincount(kind[selected], minlength=4) / selected.sum()
    assert counts[MASKED].item() == pytest.approx(0.8, abs=0.01)
    assert counts[REPLACED].item() == pytest.approx(0.1, abs=0.01)
    assert counts[KEPT].item() == pytest.approx(0.1, abs=0.01)


def test_the_choice_is_made_once_a_span() -> None:
    selected, span = span_selection(torch.ones(2000, 32, dtype=torch.bool), 0.4)
    kind = bert_corruption(selected, span)
    for row in range(200):
        for number in span[row][span[row] >= 0].unique():
            assert len(kind[row][span[row] == number].unique()) == 1
    share = (kind[selected] == MASKED).float().mean()
    assert share.item() == pytest.approx(0.8, abs=0.02)


def test_spans_select_their_share_in_runs_and_leave_a_frame() -> None:
    valid = torch.ones(3000, 64, dtype=torch.bool)
    valid[1500:, 40:] = False
    selected, span = span_selection(valid, 0.25, mean=3.0, longest=10)
    assert not (selected & ~valid).any()
    assert ((span >= 0) == selected).all()
    assert set(selected[:1500].sum(1).tolist()) == {16}
    assert set(selected[1500:].sum(1).tolist()) == {10}
    starts = selected & ~torch.cat([torch.zeros(3000, 1, dtype=torch.bool), selected[:, :-1]], 1)
    runs = selected.sum() / starts.sum()
    assert 2.5 < runs < 4.5  # spans of mean 3, some cut, some touching; single frames have 1.3
    everything, _ = span_selection(torch.ones(50, 4, dtype=torch.bool), 0.99)
    assert (everything.sum(1) == 3).all()


def test_beit_hides_75_of_196_in_blocks_or_somewhat_fewer() -> None:
    counts = block_mask(10_000, 14, 14, 75, exact=False).sum((1, 2)).float()
    assert counts.max() == 75
    assert counts.mean().item() == pytest.approx(74.5, abs=0.2)
    assert (counts == 75).float().mean().item() == pytest.approx(0.67, abs=0.03)
    assert (block_mask(500, 14, 14, 75).sum((1, 2)) == 75).all()


def test_a_block_of_beit_has_an_allowed_aspect_and_never_spans_a_side() -> None:
    masks = block_mask(3000, 14, 14, 16, exact=False)  # one block of 16 patches' area
    for mask in masks:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        if rows * columns != mask.sum():
            continue  # a second block completes the first one
        assert 0 < rows < 14
        assert 0 < columns < 14
        if rows * columns >= 12:
            assert (rows - 0.5) / (columns + 0.5) <= 1 / 0.3
            assert (rows + 0.5) / (columns - 0.5) >= 0.3
    assert masks.float().mean(0).min() > 0.003  # every place is hidden now and then


def test_mae_keeps_a_quarter_of_the_patches_and_knows_which() -> None:
    mask, keep = random_mask(200, 196)
    assert (mask.sum(1) == 196 - 49).all()
    assert keep.shape == (200, 49)
    assert not mask.gather(1, keep).any()
    assert (keep.diff(dim=1) > 0).all()
    often = (~random_mask(4000, 196)[0]).float().mean(0)
    assert ((often - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 4000)).all()
    for length in (7, 10, 16, 64):
        assert random_mask(1, length)[1].shape[1] == int(length / 4)
    assert random_mask(1, 10, ratio=0.9)[1].shape[1] == 1  # 10 * (1 - 0.9) is below 1 in floats


def test_tubes_hide_the_same_places_at_all_times() -> None:
    mask, keep = tube_mask(50, 8, 196)
    tubes = mask.unflatten(1, (8, 196))
    assert (tubes == tubes[:, :1]).all()
    assert (tubes.sum(2) == 196 - 19).all()
    assert not mask.gather(1, keep).any()
    assert keep.shape == (50, 8 * 19)
    assert (keep.diff(dim=1) > 0).all()


@pytest.mark.parametrize(("side", "hidden"), [(6, 22), (7, 30)])
def test_simmim_hides_whole_cells(side: int, hidden: int) -> None:
    cells = cell_mask(300, side, side)
    assert (cells.sum((1, 2)) == hidden).all()
    fine = spread(cells, 8 * side, 8 * side).unflatten(2, (side, 8)).unflatten(1, (side, 8))
    corner = fine[:, :, :1, :, :1]
    assert (fine == corner).all()
    assert (corner[:, :, 0, :, 0] == cells).all()


@pytest.mark.parametrize(("blocks", "area", "share"), [(8, 0.15, 0.64), (2, 0.7, 0.84)])
def test_v_jepa_hides_unions_of_blocks(blocks: int, area: float, share: float) -> None:
    masks = tube_blocks(2000, 14, 14, blocks=blocks, area=area)
    assert masks.float().mean().item() == pytest.approx(share, abs=0.02)
    assert not masks.flatten(1).all(1).any()
    single = tube_blocks(300, 14, 14, blocks=1, area=area)
    for mask in single:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert rows * columns == mask.sum()
        assert abs(rows * columns / 196 - area) < 0.08
        assert (rows - 0.5) / (columns + 0.5) <= 1.5
        assert (rows + 0.5) / (columns - 0.5) >= 0.75
    assert tube_blocks(100, 4, 4, blocks=9, area=0.99).sum((1, 2)).max() == 15


def test_visible_places_are_all_listed_and_fillers_are_marked() -> None:
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    keep, present = visible_places(mask)
    assert keep[0][present[0]].tolist() == [1, 4]
    assert keep[1][present[1]].tolist() == [0, 1, 3, 4]
    assert keep.shape == (2, 4)


def test_a_seed_draws_the_same_masks() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(5)
        valid = torch.ones(4, 16, dtype=torch.bool)
        return [
            bert_selection(valid),
            span_selection(valid, 0.4)[1],
            block_mask(4, 8, 8, 24, least=5),
            random_mask(4, 64).mask,
            cell_mask(4, 8, 8),
            tube_blocks(4, 8, 8, blocks=8, area=0.15),
        ]

    first, second = draw(), draw()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(block_mask(4, 8, 8, 24, least=5), first[2])
