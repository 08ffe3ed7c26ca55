"""Do worlds of pictures hold one right answer, where the oracles look for it and nowhere else?"""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from benchmarks.picture_crops import Crops, cells, histogram, retrieval
from benchmarks.picture_oracles import agreement, directions, painted
from marey.configs.errors import SettingError
from marey.models.augmentation.masking import cell_mask
from marey.models.encoders.patchify import spread
from marey.models.objectives.content_free import filled_from_around
from marey.pipeline.data.source import open_source
from marey.pipeline.synthetic.picture_worlds import (
    PICTURE_WORLDS,
    SIDE,
    Wander,
    make_pictures,
    moving,
    scrambled_blocks,
    write_sequence,
)


def _pictures(name: str, count: int) -> Tensor:
    """float [N, 3, S, S] in [0, 1]."""
    drawn = []
    for number in range(count):
        rng = np.random.default_rng(number)
        drawn.append(PICTURE_WORLDS[name](rng).picture(SIDE, 0.0, rng))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def test_what_is_hidden_of_stripes_is_what_their_rows_show_and_not_what_is_around() -> None:
    images = _pictures("stripes", 32)
    torch.manual_seed(0)
    hidden = spread(cell_mask(32, 8, 8, 0.6), SIDE, SIDE)[:, None].expand(-1, 3, -1, -1)
    answers = painted(images, hidden[:, :1]), filled_from_around(images, hidden[:, :1])
    whole = (images - images.mean(dim=(2, 3), keepdim=True))[hidden].square().mean()
    known, smooth = ((answer - images)[hidden].square().mean() / whole for answer in answers)
    assert known < 0.03
    assert smooth > 10 * known


def test_a_row_of_which_nothing_is_seen_is_painted_from_the_rows_around() -> None:
    images = torch.linspace(0, 1, 16).view(1, 1, 16, 1).expand(1, 3, 16, 16)
    hidden = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hidden[:, :, 8] = True
    assert (painted(images, hidden) - images).abs().max() < 0.05


def test_the_oracle_reads_the_directions_of_a_texture_up_to_mirroring() -> None:
    middle = (np.arange(60) + 0.5) / 60 * np.pi / 2
    for number in range(20):
        rng = np.random.default_rng(number)
        texture = PICTURE_WORLDS["textures"](rng)
        picture = torch.from_numpy(texture.picture(SIDE, 0.0, rng)).permute(2, 0, 1)[None].float()
        angle = abs(texture.angles[0])  # pyright: ignore
        found = middle[int(directions(picture).argmax())]
        assert abs(found - min(angle, np.pi - angle)) < 0.12
        mirrored = directions(picture.flip(3))
        torch.testing.assert_close(mirrored, directions(picture), atol=0.02, rtol=0)


def test_directions_find_a_texture_s_other_crop_and_colours_do_not(tmp_path: Path) -> None:
    make_pictures("textures", tmp_path, train=1, test=160)
    crops = Crops.of(tmp_path / "test", 160)
    chance = 1 / 16
    assert crops.ceiling() > 0.5
    for blind in (histogram, cells):
        assert retrieval(blind(crops.first), blind(crops.second)) < chance + 0.06


def test_a_board_agrees_with_boards_that_stand_as_it_does() -> None:
    known, seen = _pictures("board", 64).split(32)
    fits = [
        agreement(torch.rot90(seen, turn, (2, 3)).flatten(1), known.flatten(1)).amax(dim=1)
        for turn in range(4)
    ]
    assert (torch.stack(fits).argmax(dim=0) == 0).float().mean() > 0.9
    # whatever their brightness and contrast
    dimmer = agreement((0.3 * seen + 0.1).flatten(1), known.flatten(1)).amax(dim=1)
    torch.testing.assert_close(dimmer, fits[0])


def test_nothing_but_the_disc_changes_while_it_wanders(tmp_path: Path) -> None:
    shown = Wander.draw(np.random.default_rng(3))
    times_s = np.arange(8) / 4
    write_sequence(tmp_path / "one", shown, times_s, 64, seed=0)
    rows = (tmp_path / "one" / "groundtruth_rect.txt").read_text().split()
    boxes = np.array([[float(value) for value in row.split(",")] for row in rows]) - (1, 1, 0, 0)
    files = sorted((tmp_path / "one" / "img").glob("*.jpg"))
    frames = np.stack([cv2.imread(str(file)) for file in files]).astype(int)  # pyright: ignore
    outside = np.ones(frames.shape[1:3], dtype=bool)
    for x, y, wide, high in boxes.round().astype(int):
        outside[max(0, y - 2) : y + high + 2, max(0, x - 2) : x + wide + 2] = False
    assert outside.mean() > 0.2
    change = np.abs(frames - frames[0]).mean(axis=(0, 3))
    assert change[outside].mean() < 6
    assert change[~outside].mean() > 20


@pytest.mark.parametrize("name", PICTURE_WORLDS)
def test_a_video_s_states_are_those_of_its_frames(name: str) -> None:
    times_s = np.arange(6) / 3
    frames, states = moving(name, times_s, 48, np.random.default_rng(1))
    shown = list(frames)
    assert len(shown) == len(states) == 6
    assert shown[0].shape == (48, 48, 3)
    order = np.array([3, 0, 5, 1, 2, 4])
    _, mixed = moving(name, times_s[order], 48, np.random.default_rng(1))
    np.testing.assert_allclose(mixed, states[order])


def test_pictures_are_a_folder_and_a_table_and_the_same_for_a_seed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make_pictures("board", tmp_path / folder, train=3, test=2, seed=5)
    one, two = (sorted((tmp_path / f).rglob("*.png")) for f in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    source = open_source(str(tmp_path / "one" / "train"))
    assert len(source) == 3
    names = pq.read_table(tmp_path / "one" / "states.parquet")["video_id"].to_pylist()
    assert [source.event(n).videos[0].video_id for n in range(3)] == names[:3]


def test_scrambled_pictures_have_the_same_pixels_in_other_places() -> None:
    rng = np.random.default_rng(0)
    picture = PICTURE_WORLDS["board"](rng).picture(SIDE, 0.0, rng)
    mixed = scrambled_blocks(picture, rng)
    assert not np.array_equal(mixed, picture)
    colours = (np.sort(one.reshape(-1, 3), axis=0) for one in (picture, mixed))
    np.testing.assert_array_equal(*colours)


def test_an_unknown_world_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="known are board"):
        make_pictures("clock", tmp_path)
