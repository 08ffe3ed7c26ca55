"""Times that repeat or step back: every frame keeps a time of its own, or its loss is told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, frames, probe, read_plan
from marey.pipeline.video.clock import distinct_times, forward
from tests.videos import encode_video, frame_number


@pytest.mark.parametrize("seed", range(20))
def test_times_ascend_and_those_that_stood_alone_or_last_are_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.choice([0, 0, 1, 40, 41, 4000], 60)
    steps[: seed % 5] = 0
    ticks = np.cumsum(steps).astype(float)
    times = distinct_times(ticks, ticks[-1] + 40)
    assert (np.diff(times) > 0).all()
    last = np.append(np.diff(ticks) > 0, True) & (ticks > ticks[0])
    assert np.array_equal(times[last], ticks[last])
    assert times[0] == ticks[0]
    assert times[-1] < ticks[-1] + 40


@pytest.mark.parametrize("rate", [1200, 1999, 2000, 3000.5, 10_000])
def test_a_rate_above_the_ticks_is_found_again(rate: float) -> None:
    true = np.arange(300) * 1000 / rate
    times = distinct_times(np.floor(true + 0.5), 1e9)
    assert np.abs(times - true).max() < 500 / rate  # half a frame: never its neighbour


@pytest.mark.parametrize("reorder", [0, 1, 2])
def test_reordered_frames_are_no_step(reorder: int) -> None:
    order = {0: [0], 1: [1, 0], 2: [3, 1, 0, 2]}[reorder]
    pts = np.array([40 * (len(order) * g + k) for g in range(20) for k in order])
    for stated in (reorder, None):
        kept, cut = forward(pts, np.zeros(len(pts), bool), stated)
        assert cut is None
        assert np.array_equal(kept, pts)
    _, cut = forward(pts, np.zeros(len(pts), bool), 0)  # a stream that says too little
    assert cut is None


@pytest.mark.parametrize("back", [90, 300, 499, 5000])
@pytest.mark.parametrize("reorder", [0, 1, 2])
def test_a_step_back_is_found_where_it_is(back: int, reorder: int) -> None:
    order = {0: [0], 1: [1, 0], 2: [3, 1, 0, 2]}[reorder]
    pts = np.array([40 * (len(order) * g + k) for g in range(50) for k in order])
    place = 25 * len(order)
    pts[place:] -= back + 40 * len(order) * (reorder > 0)
    key = np.arange(len(pts)) % (5 * len(order)) == 0
    assert forward(pts, key, reorder)[1] == place


def test_a_single_wrong_time_ends_nothing() -> None:
    pts = np.arange(0, 4000, 40)
    pts[30] = 2500
    assert forward(pts, np.arange(100) % 10 == 0, 0)[1] is None


def rewrite_times(path: Path, times_ms: list[int]) -> None:
    """Give the packets of a Matroska file of one cluster other times, also such as repeat."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    at = 0
    for packet, time_ms in zip(packets, times_ms, strict=True):
        at = data.index(packet, at)
        data[at - 3 : at - 1] = time_ms.to_bytes(2, "big")
        at += len(packet)
    path.write_bytes(bytes(data))


def clip_at(path: Path, times_ms: list[int]) -> Path:
    encode_video(path, len(times_ms), b_frames=0)
    rewrite_times(path, times_ms)
    return path


@pytest.mark.parametrize("back_ms", [100, 300, 499, 2000])
def test_two_takes_are_never_interleaved(back_ms: int, tmp_path: Path) -> None:
    times = [40 * k - back_ms * (k >= 60) for k in range(100)]
    path = clip_at(tmp_path / "takes.mkv", times)
    info = probe(str(path))
    assert info.status == "damaged"
    assert info.frames == 60
    numbers = [frame_number(p) for pictures, _ in frames(str(path)) for p in pictures]
    assert numbers == list(range(60))


@pytest.mark.parametrize("twice", [(11,), (11, 29), (1,), (11, 12, 13), range(1, 50)])
def test_frames_of_one_time_are_all_had_and_told_apart(
    twice: Iterable[int], tmp_path: Path
) -> None:
    again = set(twice)
    times = np.cumsum([0 if k in again or not k else 40 for k in range(50)]).tolist()
    path = clip_at(tmp_path / "twice.mkv", times)
    shown, numbers = [], []
    for pictures, begins in frames(str(path)):
        shown += begins.tolist()
        numbers += [frame_number(picture) for picture in pictures]
    assert numbers == list(range(50))
    assert probe(str(path)).frames == 50
    for n in (0, 9, 10, 11, 12, 28, 29, 30):
        run = read_plan(str(path), [FrameRequest(0, np.array([shown[n]]))])
        assert [frame_number(clip.frames[0]) for clip in run] == [n]
