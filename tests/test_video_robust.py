"""Bad files: reported, never fatal; and nothing leaks however many are opened."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

from configs.errors import InputError, SettingError
from pipeline.video import FrameRequest, probe, read, read_plan
from pipeline.video.isolate import read_plan_isolated
from pipeline.video.source import open_video
from tests.videos import encode_video, make_odd, mutate

MUTANTS = (
    ("libx264", ".mp4"),
    ("libx264", ".mkv"),
    ("mpeg4", ".avi"),
    ("libx264", ".ts"),
    ("libsvtav1", ".mkv"),
    ("libvpx-vp9", ".webm"),
)
LIMIT_S = 20.0


def check_mutants(folder: Path, count: int) -> dict[str, int]:
    """Probe and read `count` damaged files; each must be answered, within the time limit."""
    wholes = [
        encode_video(folder / f"{codec}{suffix}", 24, codec=codec, gop=8, b_frames=2)
        for codec, suffix in MUTANTS
    ]
    outcome = {"ok": 0, "damaged": 0, "unreadable": 0, "lost": 0}
    for seed in range(count):
        whole = wholes[seed % len(wholes)]
        path = mutate(whole, folder / f"mutant{whole.suffix}", seed)
        began = time.monotonic()
        info = probe(str(path))
        times = np.linspace(0, max(info.duration_s, 0.1) * 0.99, 5)
        requests = [FrameRequest(k, times[[k]]) for k in range(5)]
        run = read_plan(str(path), requests, 32, time_limit_s=LIMIT_S)
        served = {clip.request_id for clip in run}
        assert served | set(run.failures) == set(range(5))
        assert served.isdisjoint(run.failures)
        assert time.monotonic() - began < 2 * LIMIT_S
        if info.status == "unreadable":
            assert info.error
            assert run.error
        outcome[info.status] += 1
        outcome["lost"] += bool(run.failures) or run.stats.damaged > 0
    return outcome


def test_every_mutated_file_is_answered(tmp_path: Path) -> None:
    outcome = check_mutants(tmp_path, 120)
    assert outcome["lost"] > 0
    assert outcome["unreadable"] > 0


@pytest.mark.slow
def test_two_thousand_mutated_files_are_answered(tmp_path: Path) -> None:
    print(check_mutants(tmp_path, 2000))


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def check_opens(folder: Path, count: int) -> tuple[int, int]:
    """Open and read `count` times; returns growth of memory in KiB and of open descriptors."""
    good = encode_video(folder / "a.mp4", 12, gop=6)
    remote = encode_video(folder / "b.mkv", 12, gop=6)
    bad = folder / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:700])
    files = [str(good), str(remote), str(bad)]

    def once(k: int) -> None:
        uri = files[k % 3]
        probe(uri)
        run = read_plan(
            uri, [FrameRequest(0, np.array([0.1, 0.3])), FrameRequest(1, np.zeros(1))], 24
        )
        if k % 5:
            list(run)
        else:
            next(run, None)  # left early
            run.close()

    for k in range(300):  # libraries fill their caches
        once(k)
    gc.collect()
    memory, descriptors = resident_kib(), len(os.listdir("/proc/self/fd"))
    for k in range(count):
        once(k)
    gc.collect()
    return resident_kib() - memory, len(os.listdir("/proc/self/fd")) - descriptors


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_opening_many_files_leaks_nothing(tmp_path: Path) -> None:
    memory, descriptors = check_opens(tmp_path, 900)
    assert descriptors == 0
    assert memory < 6 * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_twenty_thousand_opens_leak_nothing(tmp_path: Path) -> None:
    memory, descriptors = check_opens(tmp_path, 20_000)
    print(f"memory grew by {memory} KiB, descriptors by {descriptors}")
    assert descriptors == 0
    assert memory < 12 * 1024


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_a_read_closes_its_file_before_it_returns(tmp_path: Path) -> None:
    path = str(encode_video(tmp_path / "a.mp4", 12))
    read(path, [0.2])
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            read(path, [0.2])
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 4)
    with pytest.raises(InputError, match="64x48, the bound is 3000 pixels"):
        open_video(str(path), max_pixels=3000)


def test_a_time_limit_ends_the_decoding_and_is_reported(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 60, gop=60)
    requests = [FrameRequest(k, np.array([k / 25])) for k in range(60)]
    run = read_plan(str(path), requests, time_limit_s=1e-9)
    assert list(run) == []
    assert set(run.failures.values()) == {"timeout"}


def test_good_frames_of_a_truncated_file_are_kept(tmp_path: Path) -> None:
    path = make_odd("truncated_mp4", tmp_path)
    info = probe(str(path))
    assert info.status == "damaged"
    assert info.error
    assert read(str(path), np.arange(30) / 25).shape[0] == 30


def test_one_lost_frame_fails_only_the_requests_that_need_it(tmp_path: Path) -> None:
    """Every byte of one frame in mid-group is overwritten; the groups around stay whole."""
    path = encode_video(tmp_path / "a.mp4", 36, gop=12, b_frames=0)
    with open_video(str(path)) as source:
        packets = [p for p in source.container.demux(source.stream) if p.size]
        place, size = packets[14].pos, packets[14].size
    assert place is not None
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes([255]) * size
    path.write_bytes(bytes(data))
    requests = [FrameRequest(k, np.array([k / 25])) for k in range(36)]
    run = read_plan(str(path), requests)
    served = {clip.request_id for clip in run}
    assert set(range(12)) | set(range(24, 36)) <= served
    assert run.failures.get(14) == "decode_gap"
    assert run.stats.damaged > 0


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 50, bytes(5000)])
def test_what_is_no_video_is_unreadable_with_a_reason(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    info = probe(str(path))
    assert info.status == "unreadable"
    assert str(path) in (info.error or "")
    run = read_plan(str(path), [FrameRequest(0, np.zeros(1))])
    assert list(run) == []
    assert run.failures == {0: "unreadable"}
    assert run.error
    with pytest.raises(InputError):
        read(str(path), [0.0])


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "no such file" in (probe(str(tmp_path / "none.mp4")).error or "")
    assert "is a folder" in (probe(str(tmp_path)).error or "")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe" in (probe(str(tmp_path / "pipe.mp4")).error or "")


def test_an_isolated_reader_serves_the_same_and_can_be_killed(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 12)
    requests = [FrameRequest(k, np.array([k / 25])) for k in (0, 5, 99)]
    clips, failures = read_plan_isolated(str(path), requests, 32, time_limit_s=60)
    assert failures == {99: "past_end"}
    for clip in clips:
        assert np.array_equal(clip.frames, read(str(path), [clip.request_id / 25], 32))
    clips, failures = read_plan_isolated(str(path), requests, 32, time_limit_s=0.001)
    assert clips == []
    assert failures == dict.fromkeys((0, 5, 99), "timeout")
    with pytest.raises(SettingError):
        read_plan_isolated(str(path), requests, time_limit_s=0)
