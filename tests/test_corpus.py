"""Is the generated corpus what it claims: real, synchronised, labelled, repeatable, varied?"""

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from marey.configs.errors import InputError, SettingError
from marey.pipeline.synthetic.arm_corpus import PHASES, make_corpus
from marey.pipeline.synthetic.look import Set, Shot
from marey.pipeline.synthetic.scene import FOREARM, UPPER_ARM, Event

SMALL = {"events": 4, "views": 2, "seconds": 2.0, "fps": 10, "size": 48}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, make_corpus(folder, **SMALL)


def _frames(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_every_event_has_every_view_in_one_split_only(corpus):
    folder, paths = corpus
    assert [path.name for path in paths] == [
        f"fetch{event:03d}_view{view}.mp4" for event in range(4) for view in range(2)
    ]
    assert sorted(paths) == sorted(folder.rglob("*.mp4"))
    split = {path.name[:8]: path.parent.name for path in paths}
    assert list(split.values()) == ["train", "train", "train", "test"]
    assert not list(folder.rglob("*.part"))


def test_videos_are_h264_with_reordered_frames_at_the_asked_rate(corpus):
    for path in corpus[1]:
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == 10
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        stamps = [float(packet.pts * packet.time_base) for packet in packets]
        assert any(later < earlier for earlier, later in pairwise(stamps)), "no B-frame"
        assert np.allclose(sorted(stamps), np.arange(20) / 10)
        assert _frames(path).shape == (20, 48, 48, 3)


def test_labels_cover_every_frame_and_phases_only_advance(corpus):
    for number in range(4):
        state = json.loads((corpus[0] / "labels" / f"fetch{number:03d}.json").read_text())
        assert state["fps"] == 10
        assert state["phases"] == list(PHASES)
        phase = np.array([frame["phase"] for frame in state["frames"]])
        assert len(phase) == 20
        assert phase[0] == 0
        assert np.all(np.isin(np.diff(phase), (0, 1)))
        assert set(phase) == set(range(len(PHASES)))


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(corpus, tmp_path):
    again = make_corpus(tmp_path / "again", **SMALL)
    other = make_corpus(tmp_path / "other", **SMALL, seed=1)
    for first, second, third in zip(corpus[1], again, other, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes() != third.read_bytes()


def test_the_picture_changes_with_time_with_the_view_and_with_the_event(corpus):
    clips = [_frames(path).astype(float) for path in corpus[1]]
    for clip in clips:
        assert np.abs(clip[-1] - clip[len(clip) // 2]).mean() > 2
        assert clip.std(axis=(0, 1, 2)).min() > 10
    views, events = (clips[0], clips[1]), (clips[0], clips[2])
    for first, second in (views, events):
        moves = np.abs(np.diff(first, axis=0)).mean()
        assert np.abs(first - second).mean() > 5 * moves


def test_two_cameras_look_from_two_sides():
    for number in range(5):
        stage = Set.draw(Event(0, number, 2.0), np.random.default_rng(number))
        azimuth = [
            np.arctan2(
                *Shot(stage, view, 32, np.random.default_rng([number, view])).camera.position[1::-1]
            )
            for view in range(2)
        ]
        assert azimuth[0] - azimuth[1] > np.deg2rad(45)


def test_the_arm_is_rigid_smooth_and_carries_the_block():
    event = Event(seed=3, number=1, seconds=6)
    states = [event.state(t) for t in np.linspace(0, 6, 601)]
    for state in states:
        shoulder = np.array([0, 0, state.elbow_xyz[2] - UPPER_ARM * np.sin(state.shoulder)])
        assert np.linalg.norm(state.elbow_xyz - shoulder) == pytest.approx(UPPER_ARM)
        assert np.linalg.norm(state.wrist_xyz - state.elbow_xyz) == pytest.approx(FOREARM)
    for name in ("wrist_xyz", "block_xyz"):
        steps = np.diff([getattr(state, name) for state in states], axis=0)
        assert np.linalg.norm(steps, axis=1).max() < 0.03, f"{name} jumps"
    assert np.allclose(states[0].block_xyz, event.start_xyz)
    assert np.allclose(states[-1].block_xyz, event.goal_xyz)


@pytest.mark.parametrize("wrong", [{"events": 1}, {"views": 0}, {"size": 49}, {"fps": 0}])
def test_numbers_out_of_range_are_refused_before_anything_is_written(wrong, tmp_path):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make_corpus(tmp_path / "corpus", **wrong)
    assert not (tmp_path / "corpus").exists()


def test_a_corpus_is_not_mixed_with_another(corpus):
    with pytest.raises(InputError, match="other settings"):
        make_corpus(corpus[0], **{**SMALL, "events": 2})
