"""The generated tracking benchmark: its boxes are exact, its halves apart, its seeds its own."""

import numpy as np
import pytest

from marey.configs.errors import InputError, UsageError
from marey.pipeline.evaluate.tracking_layouts import read_sequence, truth_files
from marey.pipeline.evaluate.tracking_truth import find_videos, make_tracking_truth, split_videos
from marey.pipeline.synthetic.moving_things import (
    ATTRIBUTES,
    SIZE,
    draw_attributes,
    render_moving_thing,
)
from marey.pipeline.synthetic.thing import draw, make_thing, outline
from tests.tracked_scenes import texture
from tests.videos import encode_video


class Pose:
    scale, angle, turn, phase, smear = 1.0, 0.0, 0.0, 0.0, (0.0, 0.0)

    def __init__(self, **changed):
        self.__dict__.update(changed)


def rendered(*attributes, seed=0, frames=40):
    ground = np.stack([texture(150, 200, 5)] * frames)
    pictures = texture(120, 160, 6), texture(120, 160, 7)
    return render_moving_thing(attributes, ground, *pictures, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", ["box", "oval", "blob", "figure"])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_the_box_is_the_bounds_of_what_was_drawn(shape, angle):
    """White over black: the bright pixels' bounds, by a second way."""
    white = np.full((60, 60, 3), 255, np.uint8)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        thing = make_thing(white, np.array([40.0, 64.0]), rng, shape=shape, deforms=seed > 0)
        frame = np.zeros((200, 200, 3), np.float32)
        pose = Pose(angle=angle, scale=1.2, phase=0.4 * seed)
        place = np.array([100.3, 90.6])
        draw(frame, thing, place, pose)
        rows, columns = np.nonzero(frame[:, :, 0] > 127)
        x, y, w, h = outline(thing, place, pose)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], seen, atol=1.3)


def test_attributes_do_what_their_names_say():
    plain = rendered("DEF")
    size = np.sqrt(plain.boxes[:, 2] * plain.boxes[:, 3])
    assert np.nanmin(plain.visible) > 0.9
    grown = rendered("SV", frames=60).boxes
    extent = np.sqrt(grown[:, 2] * grown[:, 3])
    assert extent.max() / extent.min() > 1.4
    assert rendered("FOC").visible.min() < 0.1
    assert 0.1 < rendered("POC").visible.min() < 0.8
    gone = rendered("OV", frames=60)
    assert np.isnan(gone.boxes).any()
    assert np.isfinite(gone.boxes[[0, -1]]).all()
    assert np.sqrt(np.prod(rendered("LR").boxes[0, 2:])) < 26
    fast = rendered("FM").boxes
    step = np.linalg.norm(np.diff(fast[:, :2] + fast[:, 2:] / 2, axis=0), axis=1)
    slow = np.linalg.norm(np.diff(plain.boxes[:, :2] + plain.boxes[:, 2:] / 2, axis=0), axis=1)
    assert np.median(step / np.sqrt(fast[1:, 2] * fast[1:, 3])) > 0.1
    assert np.median(slow / size[1:]) < 0.1


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("attribute", ["SV", "CM"])
def test_a_thing_of_its_background_s_very_colours_is_made_visible(level, attribute):
    """Beside it the frame is flat, so what differs from that is the thing."""
    flat = np.full((120, 160, 3), level, np.uint8)
    rng = np.random.default_rng(1)
    made = render_moving_thing([attribute], np.stack([flat] * 30), flat, flat, rng)
    for frame, (x, y, w, h) in zip(made.frames[::10], made.boxes[::10], strict=True):
        middle = frame[int(y + h / 2) - 1 : int(y + h / 2) + 2, int(x + w / 2)]
        assert np.abs(middle.astype(float).mean() - np.median(frame)) > 12


def test_nothing_becomes_too_small_to_see():
    for seed in range(20):
        boxes = rendered("LR", "SV", seed=seed, frames=40).boxes
        assert np.nanmin(boxes[:, 2:]) > 5


def test_every_attribute_comes_in_turn_and_renders():
    rng = np.random.default_rng(0)
    first = [draw_attributes(n, rng)[0] for n in range(len(ATTRIBUTES))]
    assert first == list(ATTRIBUTES)
    for name in ATTRIBUTES:
        made = rendered(name, frames=10)
        assert made.frames.shape == (10, SIZE[1], SIZE[0], 3)
        assert np.isfinite(made.boxes[0]).all()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for n in range(4):
        frames = np.stack([texture(120, 160, n)] * 30)
        for t, frame in enumerate(frames):
            frame[:, 40:80] = np.roll(frame[:, 40:80], t, axis=0)
        encode_video(folder / f"v{n}.mp4", 30, size=(160, 120), draw=frames.__getitem__)
    return folder


def test_the_same_seed_gives_the_same_sequences_and_a_broken_run_goes_on(videos, tmp_path):
    assert make_tracking_truth(videos, tmp_path / "a", num=4, frames=12, seed=3) == 4
    gone = next((tmp_path / "a" / "reported").iterdir())
    before = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.*")
              if p.is_file()}  # fmt: skip
    (gone / "groundtruth_rect.txt").unlink()
    assert make_tracking_truth(videos, tmp_path / "a", num=4, frames=12, seed=3) == 1
    after = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.*")
             if p.is_file()}  # fmt: skip
    assert before == after
    sequences = [read_sequence(file) for file in truth_files(tmp_path / "a")]
    assert len(sequences) == 4
    assert all(len(s.attributes) >= 1 and s.visible is not None for s in sequences)
    assert {len(s.frames) for s in sequences} == {12}


def test_the_halves_share_no_video(videos):
    tuning, reported = split_videos(find_videos(videos))
    assert len(tuning) == len(reported) == 2
    assert {v.path for v in tuning}.isdisjoint({v.path for v in reported})


def test_too_few_videos_and_values_out_of_range_are_named(videos, tmp_path):
    with pytest.raises(InputError, match="at least 4"):
        find_videos(videos, without="v1")
    with pytest.raises(UsageError, match="num=1"):
        make_tracking_truth(videos, tmp_path, num=1)
