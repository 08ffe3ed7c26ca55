"""What `probe` says of a file without decoding it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from marey.configs.errors import SettingError
from marey.pipeline.video import display, probe, read
from marey.pipeline.video.bitstream import restarts_at_once, scene_grid
from marey.pipeline.video.container import ANY_TAGS, open_video
from marey.pipeline.video.packet_plan import Run, plan_runs
from marey.pipeline.video.profile import _usual_cost
from marey.pipeline.video.timeline import MISSING, Timeline
from tests.videos import cut_short, encode_video, make_odd, picture


def test_an_ordinary_video_is_described(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 50, gop=10, options={"x264-params": "scenecut=0"})
    info = probe(str(path))
    assert (info.frames, info.width, info.height, info.rotation) == (50, 64, 48, 0)
    assert (info.codec, info.status, info.error) == ("h264", "ok", None)
    assert info.duration_s == pytest.approx(2.0)
    assert info.fps == pytest.approx(25)
    np.testing.assert_allclose(info.keyframes, [0, 0.4, 0.8, 1.2, 1.6], atol=1e-6)
    assert len(info.motion) == info.motion_hz * info.duration_s == 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotated_90", {"rotation": 90, "width": 48, "height": 64}),
        ("rotated_180", {"rotation": 180, "width": 64, "height": 48}),
        ("rotated_270", {"rotation": 270, "width": 48, "height": 64}),
        ("anamorphic", {"width": 64, "sar": pytest.approx(4 / 3)}),
        ("late_start", {"container_start_s": 5.0, "duration_s": pytest.approx(1.2)}),
        ("raw_h264", {"frames": 30, "duration_s": pytest.approx(1.2)}),
        ("edit_list", {"frames": 20, "container_start_s": 0.0}),
        ("one_frame", {"frames": 1, "duration_s": pytest.approx(0.04)}),
        ("vp9", {"codec": "vp9", "cuts": ()}),
        ("av1", {"codec": "av1", "cuts": ()}),
        ("truncated_mp4", {"status": "damaged"}),
    ],
)
def test_oddities_are_described(name: str, expected: dict, tmp_path: Path) -> None:
    info = probe(str(make_odd(name, tmp_path)))
    assert {key: getattr(info, key) for key in expected} == expected


def half_still(index: int) -> np.ndarray:
    """Stands still for 50 frames, then moves for 50."""
    return picture(max(0, index - 50), 128, 96)


@pytest.mark.parametrize("motion", ["packets", "vectors", "flow"])
@pytest.mark.parametrize("gop", [10, 250])
def test_the_motion_profile_tells_moving_from_still(motion: str, gop: int, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 100, size=(128, 96), gop=gop, draw=half_still)
    info = probe(str(path), motion=motion)  # pyright: ignore
    profile = np.array(info.motion)
    still, moving = profile[:7], profile[9:]
    assert moving.min() > 3 * still.max() + 1e-6
    if gop == 10:  # keyframes every 0.4 s do not show
        assert moving.max() < 8 * np.median(moving)


def test_the_camera_is_taken_out_of_the_flow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    wide = np.kron(small, np.ones((8, 8, 1), dtype=np.uint8))

    def pan(index: int) -> np.ndarray:
        return wide[40:168, 2 * index : 2 * index + 160]

    def pan_with_disc(index: int) -> np.ndarray:
        frame = pan(index).copy()
        frame[40 : 40 + 48, 120 - 3 * index : 168 - 3 * index] = (255, 0, 0)
        return frame

    levels = []
    for name, draw in (("pan", pan), ("disc", pan_with_disc)):
        path = encode_video(tmp_path / f"{name}.mp4", 30, size=(160, 128), draw=draw)
        levels.append(np.median(probe(str(path), motion="flow").motion))
    panned = 2 * 25 / np.hypot(160, 128)  # diagonals a second, were the pan not removed
    assert levels[0] < 0.15 * panned
    assert levels[1] > 2 * levels[0]


def test_no_profile_on_request(tmp_path: Path) -> None:
    info = probe(str(encode_video(tmp_path / "a.mp4")), motion="none")
    assert (info.motion, info.motion_hz) == ((), 0.0)
    with pytest.raises(SettingError, match="motion='pixels'"):
        probe("x", motion="pixels")  # pyright: ignore


@pytest.mark.parametrize("scenecut", [0, 40])
def test_hard_cuts_are_found_and_nothing_else(scenecut: int, tmp_path: Path) -> None:
    """With keyframes at the cuts, and without, where only sizes tell."""
    cuts = (31, 70, 112)
    params = {"preset": "medium", "x264-params": f"scenecut={scenecut}"}

    def slow(index: int) -> np.ndarray:
        return picture(index // 5, 160, 128, shot=2 * sum(index >= cut for cut in cuts))

    path = encode_video(
        tmp_path / "a.mp4", 150, size=(160, 128), gop=250, draw=slow, options=params
    )
    found = np.array(probe(str(path)).cuts) * 25
    assert len(found) == len(cuts)
    assert np.abs(found - cuts).max() < 3.5, "within one run of B-frames"
    calm = encode_video(tmp_path / "b.mp4", 150, size=(128, 96), gop=30)
    assert probe(str(calm)).cuts == ()


def test_an_encoder_that_says_nothing_has_no_grid() -> None:
    assert scene_grid(b"x264 - options: keyint=250 keyint_min=25 scenecut=40 ") == 250
    assert scene_grid(b"keyint=250 scenecut=0 ") is None
    assert scene_grid(b"\0\0\1") is None


@pytest.mark.parametrize(("bits", "count"), [(0b10000000, 0), (0b01000000, 1), (0b00101000, 4)])
def test_a_frame_at_which_the_picture_only_begins_to_heal(bits: int, count: int) -> None:
    sei = bytes([6, 6, 1, bits, 0x80])  # recovery point, one byte long
    packet = b"\0\0\1" + sei + b"\0\0\1\x41slice"
    assert restarts_at_once(packet, b"") == (count == 0)
    assert restarts_at_once(b"\0\0\1\x65idr", b"")


def make_timeline(pts: list[int], keys: list[int]) -> Timeline:
    ticks = np.array(pts)
    shown = np.argsort(ticks)
    key = np.isin(np.arange(len(pts)), keys)
    times = (ticks[shown] - ticks.min()) / 25.0
    return Timeline(
        Fraction(1, 25), ticks, ticks, key, np.ones(len(pts)), shown, times,
        float(times[-1]) + 0.04, by_order=False,
    )  # fmt: skip


def test_a_plan_starts_at_the_keyframe_and_ends_at_the_last_frame_wanted() -> None:
    timeline = make_timeline([0, 2, 1, 4, 3, 5, 7, 6, 9, 8], [0, 5])
    assert plan_runs(timeline, np.array([3])) == [Run(0, 5)]
    assert plan_runs(timeline, np.array([6, 9])) == [Run(5, 9)]
    assert plan_runs(timeline, np.array([1, 7])) == [Run(0, 3), Run(5, 7)]
    assert plan_runs(timeline, np.array([], dtype=int)) == []


def test_a_leading_picture_is_planned_from_the_group_before() -> None:
    """Shown before the keyframe that it follows in the file (open GOP)."""
    timeline = make_timeline([0, 1, 2, 5, 3, 4, 6], [0, 3])
    assert plan_runs(timeline, np.array([3])) == [Run(0, 5)]
    assert plan_runs(timeline, np.array([5])) == [Run(3, 4)]
    assert timeline.has_open_groups


def test_half_a_tick_of_tolerance_and_no_more() -> None:
    timeline = make_timeline([0, 1, 2], [0])
    times = np.array([0.0395, 0.0399999, 0.0405, -0.001, 0.1204, 0.13, np.nan])
    assert timeline.frame_at(times).tolist() == [1, 1, 1, -1, 2, -2, -1]
    assert timeline.frame_at(np.array([0.0394])).tolist() == [0]
    assert timeline.pts[0] != MISSING


@pytest.mark.data
def test_real_videos_are_described(shared_data: Path) -> None:
    folder = shared_data / "videos"
    infos = {p.name: probe(str(p)) for p in sorted(folder.rglob("*.*"))}
    assert len(infos) == 34
    assert all(info.status != "unreadable" for info in infos.values())
    assert infos["bottle-detection.mp4"].frames == 1189
    assert infos["video_90.mov"].rotation == 90
    assert infos["video_180.mov"].rotation == 180
    assert all(infos[n].frames > 0 for n in infos if n.endswith(".mkv"))
    assert probe(str(folder / "nasa_13013.mp4"), stream=1).width == 480


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_container_s_rotation_is_that_of_its_frames(
    suffix: str, turn: int, tmp_path: Path
) -> None:
    path = encode_video(tmp_path / f"a{suffix}", 2, rotation=turn)
    info = probe(str(path))
    assert info.rotation == turn
    assert read(str(path), [0.0]).shape[1:3] == (info.height, info.width)
    short = cut_short(path, tmp_path / f"b{suffix}", 0.05)
    with open_video(str(path)) as source, short.open("rb") as file:
        assert display.from_matroska(file, source.stream.index) == display.UPRIGHT


@pytest.mark.parametrize("name", ["edits.mp4", "dropped.avi"])
def test_frames_that_a_header_counts_and_nobody_shows_are_no_damage(
    name: str, tmp_path: Path
) -> None:
    """An edit list may leave groups out; AVI counts frames that a camera dropped."""
    start = -50 if name == "edits.mp4" else 0
    path = encode_video(
        tmp_path / name,
        90,
        codec="mpeg4",
        b_frames=0,
        ticks=[start + n + n // 9 for n in range(90)],
        container_options={"avoid_negative_ts": "disabled", "movflags": "faststart"},
    )
    info = probe(str(path))
    assert (info.status, info.error) == ("ok", None)
    info = probe(str(cut_short(path, tmp_path / f"short_{name}")))
    assert info.status != "ok"


def test_tags_that_are_no_utf_8_do_not_make_a_video_unreadable(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.avi", 12, codec="mpeg4", tags={"title": "Sommer#tag"})
    path.write_bytes(path.read_bytes().replace(b"Sommer#", b"S\xf6mmer\xe4"))
    if ANY_TAGS:
        with pytest.raises(UnicodeDecodeError):
            av.open(str(path))
    info = probe(str(path))
    assert (info.status, info.frames) == ("ok", 12)
    assert len(read(str(path), [0.0, 0.2], None)) == 2


@pytest.mark.parametrize("keys", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("frames", [1, 2, 24, 49, 5000])
def test_what_is_usual_around_a_frame_is_the_75th_percentile_bit_for_bit(
    frames: int, keys: float
) -> None:
    rng = np.random.default_rng(frames)
    size, key = np.floor(rng.lognormal(6, 2, frames)), rng.random(frames) < keys
    padded = np.pad(np.where(key, np.nan, size), 24, constant_values=np.nan)
    windows = [row[~np.isnan(row)] for row in sliding_window_view(padded, 49)]
    slow = np.array([np.percentile(row, 75) if len(row) else 1.0 for row in windows])
    assert np.array_equal(_usual_cost(size, key), np.maximum(slow, 1.0))
