"""Bad files: reported, never fatal; and nothing leaks however many are opened."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import av
import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.pipeline.video import Clip, FrameRequest, PlanRun, isolate, probe, read, read_plan
from marey.pipeline.video.bitstream import nothing_refers_to
from marey.pipeline.video.container import open_video
from tests.videos import encode_video, frame_number, make_odd, mutate, overwrite_packet

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
        outcome["lost"] += bool(run.failures)
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


def read_damaged(path: Path, hit: int) -> tuple[PlanRun, dict[int, np.ndarray], int]:
    """Overwrite packet `hit` of a copy and ask for every frame by its time.

    Returns the run, what it delivered by frame number, and the number of the frame in the packet.
    """
    with open_video(str(path)) as source:
        times = [
            float(p.pts * p.time_base) for p in source.container.demux(source.stream) if p.size
        ]
    damaged = overwrite_packet(path, path.with_stem("damaged"), hit)
    run = read_plan(str(damaged), [FrameRequest(k, np.array([k / 25])) for k in range(len(times))])
    served = {int(str(clip.request_id)): clip.frames[0] for clip in run}
    return run, served, round((times[hit] - min(times)) * 25)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "mpeg2video"])
def test_no_frame_behind_damage_is_taken_for_good(codec: str, tmp_path: Path) -> None:
    """The frames that refer to a damaged one fail by name; the groups around it stay whole."""
    whole = encode_video(tmp_path / "a.mp4", 36, codec=codec, gop=12, b_frames=0, size=(320, 240))
    truth = read(str(whole), np.arange(36) / 25)
    run, served, hit = read_damaged(whole, 14)
    assert hit == 14
    assert set(served) == {*range(14), *range(24, 36)}
    for k, frame in served.items():
        assert np.array_equal(frame, truth[k])
    assert run.failures == dict.fromkeys(range(14, 24), "damaged")
    assert run.stats.damaged > 0


@pytest.mark.parametrize("hit", range(6, 24))
@pytest.mark.parametrize("name", ["open_gop", "b_pyramid", "mpeg2"])
def test_frames_shown_before_the_damage_that_they_refer_to_are_held_back(
    name: str, hit: int, tmp_path: Path
) -> None:
    options = {"x264-params": "open-gop=1:b-adapt=0:scenecut=0"} if name == "open_gop" else {}
    codec = "mpeg2video" if name == "mpeg2" else "libx264"
    path = encode_video(
        tmp_path / "a.mp4", 36, gop=10, b_frames=3, codec=codec, size=(320, 240), options=options
    )
    truth = read(str(path), np.arange(36) / 25)
    run, served, number = read_damaged(path, hit)
    assert number not in served
    assert set(run.failures.values()) == {"damaged"}
    assert len(served) > 10
    for k, frame in served.items():
        assert np.array_equal(frame, truth[k])


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_damage_in_a_frame_that_nothing_refers_to_costs_that_frame_alone(
    codec: str, tmp_path: Path
) -> None:
    path = encode_video(tmp_path / "a.mp4", 36, gop=36, b_frames=2, codec=codec, size=(320, 240))
    with open_video(str(path)) as source:
        packets = [p for p in source.container.demux(source.stream) if p.size]
        name, header = source.stream.codec_context.name, source.stream.codec_context.extradata
    free = [k for k, p in enumerate(packets) if nothing_refers_to(bytes(p), name, header or b"")]
    assert 8 < len(free) < 28
    hit = free[len(free) // 2]
    run, served, number = read_damaged(path, hit)
    assert run.failures == {number: "damaged"}
    assert len(served) == 35


def test_a_stream_whose_packets_name_no_frame_is_good_up_to_its_damage(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.h264", 36, gop=12, b_frames=0, size=(320, 240))
    truth = read(str(path), np.arange(36) / 25)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"\0\0\0\1"]
    at = starts[len(starts) // 2]
    data[at + 40 : at + 400] = np.random.default_rng(0).bytes(360)
    path.write_bytes(bytes(data))
    run = read_plan(str(path), [FrameRequest(k, np.array([k / 25])) for k in range(36)])
    served = {int(str(clip.request_id)): clip.frames[0] for clip in run}
    assert set(run.failures.values()) == {"damaged"}
    assert 5 < len(served) < 30
    assert set(served) == set(range(len(served)))
    for k, frame in served.items():
        assert np.array_equal(frame, truth[k])


@pytest.mark.data
def test_a_real_damaged_video_gives_what_lies_before_its_damage(shared_data: Path) -> None:
    """Frame 32 is the first that the decoder calls damaged; frames 29 to 31 refer to it."""
    path = str(shared_data / "videos" / "odd" / "corrupted.mp4")
    middle = (np.arange(50) + 0.5) / 50 * probe(path).duration_s
    run = read_plan(path, [FrameRequest(k, middle[[k]]) for k in range(50)], 64)
    assert {clip.request_id for clip in run} == set(range(29))
    assert run.failures == dict.fromkeys(range(29, 50), "damaged")


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


def test_an_isolated_reader_serves_the_same_and_can_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode_video(tmp_path / "a.mp4", 12)
    requests = [FrameRequest(k, np.array([k / 25])) for k in (0, 5, 99)]
    clips: list[Clip] = []
    failures, error = isolate.read_into(clips.append, str(path), requests, 32, suspected=True)
    assert (failures, error) == ({99: "past_end"}, None)
    assert len(clips) == 2
    for clip in clips:
        assert np.array_equal(clip.frames, read(str(path), [clip.request_id / 25], 32))
    # the limit is that of reading, however long the process takes to start
    monkeypatch.setattr(isolate, "TIME_LIMIT_S", 1e-6)
    clips = []
    failures, error = isolate.read_into(clips.append, str(path), requests, 32, suspected=True)
    assert clips == []
    assert failures == dict.fromkeys((0, 5, 99), "timeout")
    assert "took more than" in (error or "")


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:b-adapt=0:scenecut=0"}),
        ("libx265", {"x265-params": "open-gop=1:log-level=none:b-adapt=0:scenecut=0"}),
        ("mpeg2video", {}),
    ],
)
def test_a_recording_that_starts_in_an_open_group_lacks_only_what_refers_to_before(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = encode_video(tmp_path / "a.ts", 60, codec=codec, gop=12, b_frames=2, options=options)
    with av.open(str(path)) as whole, av.open(str(tmp_path / "cut.ts"), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        keys = 0
        for packet in whole.demux(video=0):
            keys += packet.is_keyframe
            if keys >= 3 and packet.dts is not None:
                packet.stream = stream
                cut.mux(packet)
    info = probe(str(tmp_path / "cut.ts"))
    requests = [FrameRequest(k, [k / 25]) for k in range(info.frames)]
    run = read_plan(str(tmp_path / "cut.ts"), requests)
    shown = {clip.request_id: frame_number(clip.frames[0]) for clip in run}
    first = round(info.keyframes[0] * 25)
    assert first > 0, "nothing is shown before the first keyframe"
    assert shown == {k: 60 - info.frames + k for k in range(first, info.frames)}
    assert set(run.failures) == set(range(first))
    assert run.stats.damaged == 0
