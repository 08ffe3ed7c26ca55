"""Do presets, as they ship, learn where there is one right answer, and nowhere else?

Worlds are generated (`pipeline/synthetic/worlds.py`) and go through index, plan and decode; the
ceiling is read from the pixels after the preset's own augmentation (`benchmarks/worlds.py`).
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import world_oracles as oracles
from benchmarks.world_tasks import TASKS, WITHOUT
from benchmarks.worlds import Arm, arm_config, ceiling, indexed_world, measure, share_of_way
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.load import presets
from marey.models.encoders.encoder import Encoder
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.synthetic.picture_worlds import PICTURE_WORLDS
from marey.pipeline.synthetic.worlds import FPS, SECONDS, VIEWS, WORLDS, make_world
from marey.pipeline.video import FrameRequest, read_plan
from tests.corpora import load

ENOUGH = 0.8
"""Share of the way from chance to the ceiling."""
LEARNED = (
    "arrow_of_time", "clip_order", "colorization", "cpc", "dense_cpc", "jigsaw", "odd_one_out",
    "playback_speed", "relative_position", "rotation", "shuffle_and_learn", "sort_frames", "st_dim",
    "tcc", "tcn_single",
)  # fmt: skip
"""Presets that go so far in the steps of `TASKS`."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    make_world("process", folder, train=2, test=1, views=2)
    return folder


def test_the_hand_stands_where_the_table_says(process: Path) -> None:
    """Read by the oracle from decoded frames, to a few degrees."""
    states = pq.read_table(process / "states.parquet").to_pandas()
    encoder = Encoder(EncoderConfig(stages=1))
    times = np.arange(0, SECONDS, 0.5)
    for path in sorted(process.glob("t*/*.mp4")):
        (clip,) = read_plan(str(path), [FrameRequest(0, times)], 64)
        angles = oracles.read_angles(encoder.preprocess(torch.from_numpy(clip.frames)), encoder)
        known = states[states["video_id"] == path.name].set_index("time_s")["state"]
        truth = [known.iloc[round(time * FPS)] for time in times]
        np.testing.assert_allclose(np.cos(angles.numpy()), truth, atol=0.08)


def test_a_world_is_indexed_as_events_of_cameras_that_show_one_time(process: Path) -> None:
    write_index(make_index([str(process / "train")], views=VIEWS), str(process / "i.parquet"))
    events = list(load(process / "i.parquet").events())
    assert [len(event.videos) for event in events] == [2, 2]
    states = pq.read_table(process / "states.parquet").to_pandas()
    first, second = (states[states["video_id"] == f"process00_view{v}.mp4"] for v in (0, 1))
    np.testing.assert_array_equal(first["state"], second["state"])


def test_the_control_holds_the_same_states_in_another_order(tmp_path: Path) -> None:
    for name, scrambled in (("plain", False), ("mixed", True)):
        make_world("clock", tmp_path / name, train=1, test=1, scrambled=scrambled)
    plain, mixed = (
        pq.read_table(tmp_path / name / "states.parquet").to_pandas()["state"].to_numpy()
        for name in ("plain", "mixed")
    )
    half = len(plain) // 2
    np.testing.assert_allclose(np.sort(plain[:half]), np.sort(mixed[:half]))
    assert np.abs(np.diff(mixed)).mean() > 5 * np.abs(np.diff(plain)).mean()


def test_an_unknown_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"known are {', '.join(WORLDS)}"):
        make_world("moon", tmp_path)


def test_every_preset_has_a_world_or_a_reason() -> None:
    named = {*TASKS, *WITHOUT}
    assert named == set(presets()) - {"demo"}
    assert not set(TASKS) & set(WITHOUT)
    known = {*WORLDS, *PICTURE_WORLDS}
    assert {task.world for task in TASKS.values()} == known


@pytest.mark.slow
@pytest.mark.parametrize("preset", LEARNED)
def test_the_preset_learns_its_world(preset: str, tmp_path: Path) -> None:
    """One training of one to five minutes of one core."""
    arm = Arm(preset, 0, False, tmp_path / preset)
    config = arm_config(arm, None, [])
    possible = ceiling(arm, config, tmp_path)
    found = measure(arm, config, tmp_path)
    print(preset, found)
    assert found["ceiling"] == pytest.approx(possible)
    assert share_of_way(found) > ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "steps", "data"),
    [("sort_frames", 100, "clock-1-0-control/train.parquet"),
     ("rotation", 60, "board-0-control/train")],
)  # fmt: skip
def test_where_all_is_in_random_order_nothing_is_learned(
    preset: str, steps: int, data: str, tmp_path: Path
) -> None:
    arm = Arm(preset, 0, True, tmp_path / "control")
    found = measure(arm, arm_config(arm, steps, []), tmp_path)
    assert found["held-out pretext"] == pytest.approx(found["chance"], abs=0.05)
    assert indexed_world(arm, tmp_path)[0].endswith(data)
