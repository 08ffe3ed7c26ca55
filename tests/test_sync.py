"""Clocks of an event's views: planted offsets and drifts are found, what cannot be told is said."""

import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.sync import (
    MIN_RATIO,
    SIGNALS,
    Peak,
    estimate_clock,
    find_lag,
    fit_clock,
    synchronise,
)
from marey.pipeline.video.energy import motion_energy
from marey.pipeline.video.sound import read_sound
from tests.sounds import encode_with_sound, happening, recorded
from tests.videos import encode_video

VIEWS = r"(?P<event>[a-z]+)_(?P<view>\d)"


def _noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


@pytest.mark.parametrize("whiten", [True, False])
def test_a_window_is_found_where_it_was_cut_out(whiten: bool) -> None:
    other = _noise(4000, 0)
    for place in (0, 777, 3000):
        window = 0.3 * other[place : place + 1000]
        peak = find_lag(window, other, 100.0, guard_s=0.05, whiten=whiten)
        assert peak.lag_s == pytest.approx(place / 100, abs=0.002)
        assert peak.ratio > 2
    nowhere = find_lag(_noise(1000, 5), other, 100.0, guard_s=0.05, whiten=whiten)
    assert nowhere.ratio < MIN_RATIO


def test_lags_are_found_between_samples() -> None:
    time_s = np.arange(3000) / 100
    tones = [(f, _noise(2, k)) for k, f in enumerate(np.linspace(0.3, 9, 25))]

    def signal(t: np.ndarray) -> np.ndarray:
        return sum(a * np.sin(6.28 * f * t) + b * np.cos(6.28 * f * t) for f, (a, b) in tones)

    window = signal(time_s[1000:2000] + 0.004)
    peak = find_lag(window, signal(time_s), 100.0, guard_s=0.1, whiten=False)
    assert peak.lag_s == pytest.approx(10.004, abs=0.001)


def test_correlation_without_whitening_equals_the_coefficient_at_every_place() -> None:
    window, other = _noise(50, 1), _noise(200, 2) * np.linspace(0.1, 3, 200)
    other[120:170] += 2 * window
    scores = [
        np.dot(window, part) / np.linalg.norm(window) / np.linalg.norm(part)
        for part in (other[p : p + 50] for p in range(151))
    ]
    best = int(np.argmax(scores))
    elsewhere = [s for p, s in enumerate(scores) if abs(p - best) > 3]
    peak = find_lag(window, other, 10.0, guard_s=0.3, whiten=False)
    assert abs(peak.lag_s * 10 - best) <= 0.5
    assert peak.ratio == pytest.approx(scores[best] / max(elsewhere), rel=1e-6)


def _found(lags: list[float], ratio: float = 3.0) -> list[tuple[float, Peak]]:
    return [(20.0 * (n + 1), Peak(lag, ratio)) for n, lag in enumerate(lags)]


def test_a_line_is_fitted_in_spite_of_wrong_windows() -> None:
    lags = [2.0 + 1e-4 * 20 * (n + 1) for n in range(10)]
    lags[3], lags[7] = -11.0, 19.0
    clock = fit_clock(_found(lags))
    assert clock.reason == ""
    assert (clock.windows, clock.agreeing) == (10, 8)
    assert clock.offset_s == pytest.approx(2.0, abs=1e-6)
    assert clock.rate == pytest.approx(1.0001, abs=1e-8)


def test_noise_in_the_lags_is_not_taken_for_drift() -> None:
    lags = (1.0 + 0.002 * _noise(8, 0)).tolist()
    clock = fit_clock(_found(lags))
    assert clock.rate == 1.0
    assert clock.offset_s == pytest.approx(1.0, abs=0.003)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "no_clear_peak"),
        (_found([1.0, 1.0, 1.0], ratio=1.1), "no_clear_peak"),
        (_found([1.0, -7.0, 5.0, 20.0]), "windows_disagree"),
        (_found([0.1 * n for n in range(8)]), "implausible_rate"),
        (_found([1.0]) + _found([2.0] * 4, ratio=1.0), "no_clear_peak"),
    ],
)
def test_what_cannot_be_told_has_a_reason(found: list, reason: str) -> None:
    clock = fit_clock(found)
    assert clock.reason == reason
    assert (clock.offset_s, clock.rate) == (0.0, 1.0)


@pytest.mark.parametrize(("offset_s", "rate"), [(0.0, 1.0), (4.25, 1.0), (-6.5, 1.00015)])
def test_planted_clocks_of_sounds_are_found(offset_s: float, rate: float) -> None:
    signal = SIGNALS["audio"]
    sound = happening(110.0)
    reference, other = (
        recorded(sound, 100.0, offset_s=o, rate=r, seed=s)[::2]
        for o, r, s in ((0.0, 1.0, 1), (offset_s, rate, 2))
    )
    clock = estimate_clock(reference, other, signal, within_s=10.0)
    assert clock.reason == ""
    for time_s in (20.0, 80.0):
        wanted = rate * time_s + offset_s
        assert clock.rate * time_s + clock.offset_s == pytest.approx(wanted, abs=0.003)
    if rate != 1.0:
        assert clock.rate != 1.0


def test_sounds_of_two_happenings_are_not_matched_and_short_ones_refused() -> None:
    signal = SIGNALS["audio"]
    first, second = (recorded(happening(30.0, s), 30.0, offset_s=0.0, seed=s)[::2] for s in (0, 9))
    assert estimate_clock(first, second, signal).reason == "no_clear_peak"
    assert estimate_clock(first, first[:8000], signal).reason == "too_short"
    # the right offset lies outside of what is looked for
    late = np.concatenate([_noise(8000 * 12, 3) * 0.1, first])
    assert estimate_clock(first, late, signal, within_s=5.0).reason == "no_clear_peak"


def test_sound_is_on_the_clock_of_the_pictures(tmp_path) -> None:
    click = np.zeros(16_000 * 4)
    click[16_000 * 2 : 16_000 * 2 + 80] = 0.9
    for suffix, codec, late_s in (("mp4", "aac", 0.0), ("mkv", "libopus", 0.8)):
        path = tmp_path / f"click.{suffix}"
        encode_with_sound(path, click, seconds=4, late_s=late_s, codec=codec)
        heard = read_sound(str(path))
        assert np.abs(heard).argmax() / 8000 == pytest.approx(2.0, abs=0.03)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """An event whose four cameras heard one thing, nothing, another thing, and saw it late."""
    folder = tmp_path_factory.mktemp("heard")
    sound = happening(24.0)
    encode_with_sound(folder / "talk_0.mp4", recorded(sound, 20.0, offset_s=0.0), seconds=20)
    late = recorded(sound, 20.0, offset_s=-3.2, seed=2)
    encode_with_sound(folder / "talk_1.mkv", late, seconds=20, late_s=0.6)
    encode_with_sound(folder / "talk_2.mp4", None, seconds=20)
    other = recorded(happening(24.0, seed=7), 20.0, offset_s=0.0, seed=3)
    encode_with_sound(folder / "talk_3.mp4", other, seconds=20)
    encode_with_sound(folder / "solo_0.mp4", None, seconds=2)
    return folder


def test_an_index_gets_the_planted_clock_and_unplaced_views_leave_with_a_reason(heard) -> None:
    table = make_index([str(heard)], views=VIEWS)
    synced, found = synchronise(table, "audio", within_s=8.0)
    assert synced.schema == table.schema
    assert [view.clock.reason for view in found] == ["", "", "no_signal", "no_clear_peak"]
    assert "no sound" in found[2].detail
    rows = {row["video_id"]: row for row in synced.to_pylist()}
    assert rows["talk_1.mkv"]["clock_offset_s"] == pytest.approx(-3.2, abs=0.01)
    assert {name: row["event"] for name, row in rows.items()} == {
        "talk_0.mp4": "talk",
        "talk_1.mkv": "talk",
        "talk_2.mp4": "talk_2.mp4",
        "talk_3.mp4": "talk_3.mp4",
        "solo_0.mp4": "solo",
    }


def test_the_command_reports_what_it_could_not_place(heard, tmp_path, capsys) -> None:
    out = tmp_path / "index.parquet"
    words = ["index", str(heard), "-o", str(out), "--views", VIEWS, "--sync", "audio"]
    assert main([*words, "--sync-within", "8", "--workers", "1", "--json"]) == 3
    shown = capsys.readouterr()
    assert "unsynchronised: talk_3.mp4 leaves talk: no_clear_peak" in shown.err
    assert "2 of 4 views synchronised" in shown.err
    assert '"talk_2.mp4": "no_signal"' in shown.out
    event = next(e for e in Index.load(str(out)).events() if e.event_id == "talk")
    assert [video.video_id for video in event.videos] == ["talk_0.mp4", "talk_1.mkv"]
    assert main(["index", str(heard), "-o", str(out), "--sync", "audio"]) == 2


def _waver(seconds: float, fps: int, offset_s: float, mirrored: bool, seed: int = 0):
    """Pictures of a bar that moves by fits and starts, as one of two cameras sees it."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0, 1, 200) ** 3 * 40
    fine_s = np.arange(0, 100, 0.01)
    way = np.cumsum(np.interp(fine_s * 2, np.arange(200), speed)) * 0.01

    def draw(number: int) -> np.ndarray:
        x = np.interp(number / fps - offset_s, fine_s, way)
        bar = np.abs((np.arange(64) - x) % 64 - 32) < 6
        row = np.where(bar, 200, 60).astype(np.uint8)
        rgb = np.repeat(np.broadcast_to(row, (48, 64))[..., None], 3, axis=2).copy()
        if mirrored:
            rgb = rgb[:, ::-1] // 2 + 40
            rgb[:16] = 90
        return np.ascontiguousarray(rgb)

    return {"num_frames": int(seconds * fps), "fps": fps, "draw": draw}


def test_views_without_sound_are_placed_by_what_moves(tmp_path) -> None:
    encode_video(tmp_path / "wave_0.mp4", **_waver(30, 20, 0.0, False))
    encode_video(tmp_path / "wave_1.mp4", **_waver(30, 15, 2.4, True))
    encode_video(tmp_path / "wave_2.mp4", **_waver(30, 20, 0.0, True, seed=5))
    encode_video(
        tmp_path / "wave_3.mp4", 300, fps=10, draw=lambda n: np.full((48, 64, 3), 77, np.uint8)
    )
    table = make_index([str(tmp_path)], views=VIEWS)
    synced, found = synchronise(table, "motion", within_s=6.0)
    reasons = [view.clock.reason for view in found]
    assert reasons[:2] == ["", ""]
    assert reasons[2] in ("no_clear_peak", "windows_disagree")
    assert reasons[3] == "no_signal"
    rows = {row["video_id"]: row for row in synced.to_pylist()}
    # less than a frame of the slower camera
    assert rows["wave_1.mp4"]["clock_offset_s"] == pytest.approx(2.4, abs=1 / 15)
    assert rows["wave_2.mp4"]["event"] == "wave_2.mp4"


def test_energy_does_not_depend_on_the_frame_rate_and_is_nothing_where_nothing_moves(tmp_path):
    profiles = []
    for fps in (10, 20):
        path = tmp_path / f"v{fps}.mp4"
        encode_video(path, **_waver(12, fps, 0.0, False))
        profiles.append(motion_energy(str(path))[:280])
    assert np.corrcoef(profiles)[0, 1] > 0.8
    still = encode_video(
        tmp_path / "still.mp4", 20, draw=lambda n: np.full((48, 64, 3), 80, np.uint8)
    )
    assert motion_energy(str(still)).max() == 0
    one = encode_video(tmp_path / "one.mp4", 1)
    with pytest.raises(InputError, match="too few frames"):
        motion_energy(str(one))


def test_processes_find_what_one_finds(tmp_path) -> None:
    for event in ("a", "b"):
        for view, offset_s in ((0, 0.0), (1, 1.0)):
            encode_video(tmp_path / f"{event}_{view}.mp4", **_waver(16, 10, offset_s, False))
    table = make_index([str(tmp_path)], views=VIEWS)
    alone = synchronise(table, "motion", within_s=3.0)
    together = synchronise(table, "motion", within_s=3.0, workers=2)
    assert alone[0].equals(together[0])
    assert alone[1] == together[1]
    write_index(together[0], str(tmp_path / "index.parquet"))
