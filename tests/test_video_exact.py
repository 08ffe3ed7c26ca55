"""The reader delivers exactly the frames that a plain decode of the whole file shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, probe, read_plan
from marey.pipeline.video.av1 import packets_needed
from marey.pipeline.video.container import ANY_TAGS, open_video
from marey.pipeline.video.convert import Converter
from marey.pipeline.video.display import UPRIGHT, from_matrix
from marey.pipeline.video.fit import plan_geometry
from marey.pipeline.video.windows import scan_near
from tests.videos import ODD_VIDEOS, encode_video, frame_number, make_odd, mutate, picture


def decode_everything(path: Path, stream: int = 0) -> tuple[list[av.VideoFrame], np.ndarray]:
    """Every frame of a file in the order shown, and its time: one decoder, from the first packet.

    Nothing is skipped, sought or planned. Frames leave a decoder in the order in which they are
    shown, so the k-th gets the k-th smallest time.
    """
    frames: list[av.VideoFrame] = []
    with av.open(str(path), **ANY_TAGS) as container:
        if not container.streams.video:
            return [], np.empty(0)
        video = container.streams.video[stream]
        video.codec_context.thread_count = 1
        try:
            for packet in container.demux(video):
                try:
                    frames += packet.decode()
                except av.FFmpegError:
                    continue
        except av.FFmpegError:
            pass
        rate = float(video.average_rate or 25)
        base = float(video.time_base or Fraction(1, 25))
    if any(frame.pts is None for frame in frames):
        return frames, np.arange(len(frames)) / rate
    ticks = np.sort([frame.pts for frame in frames])
    return frames, (ticks - ticks[0]) * base if frames else np.empty(0)


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """A frame at its own size as the reader would deliver it."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    turn = from_matrix(bytes(matrix)) if matrix else UPRIGHT
    geometry = plan_geometry(frame.width, frame.height, Fraction(1), turn, None)
    out = np.empty((geometry.out_height, geometry.out_width, 3), dtype=np.uint8)
    Converter().into(frame, geometry, out)
    return out


def subsets(count: int, seed: int) -> list[list[int]]:
    """Everything, the ends, and a few sparse random choices of frames."""
    rng = np.random.default_rng(seed)
    chosen = [list(range(count)), [0], [count - 1], [0, count - 1]]
    for size in (1, 1, 2, 3, 5, max(1, count // 4)):
        chosen.append(sorted(rng.choice(count, min(size, count), replace=False).tolist()))
    return [sorted(set(places)) for places in chosen]


def check_exact(path: Path, stream: int = 0, *, seed: int = 0) -> None:
    """Every frame asked for by its time equals the one of the plain decode, bit by bit."""
    frames, times = decode_everything(path, stream)
    assert frames, "the reference holds no frame"
    expected = [to_rgb(frame) for frame in frames]
    for chosen in subsets(len(frames), seed):
        requests = [FrameRequest(k, times[[k]]) for k in chosen]
        got: dict[object, np.ndarray] = {}
        run = read_plan(str(path), requests, stream=stream)
        for clip in run:
            got[clip.request_id] = clip.frames[0]
            np.testing.assert_allclose(clip.shown_s, times[[clip.request_id]], atol=1e-9)
        painted = {k for k in chosen if frames[k].is_corrupt}  # over by the decoder's guess
        assert run.failures == dict.fromkeys(painted, "damaged")
        for k in got:
            assert np.array_equal(got[k], expected[k]), f"frame {k} of {path.name} differs"


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_every_frame_of_an_odd_video_is_exact(name: str, tmp_path: Path) -> None:
    check_exact(make_odd(name, tmp_path))


@pytest.mark.parametrize("name", ["plain", "b_pyramid", "variable_rate", "hevc", "open_gop"])
def test_pictures_show_the_number_that_was_asked_for(name: str, tmp_path: Path) -> None:
    """Against the encoder's own input rather than against another decode."""
    path = make_odd(name, tmp_path)
    _, times = decode_everything(path)
    middle = (times + np.append(times[1:], times[-1] + 0.02)) / 2
    run = read_plan(str(path), [FrameRequest("all", middle)])
    (clip,) = list(run)
    assert [frame_number(frame) for frame in clip.frames] == list(range(len(times)))


def test_frames_that_nothing_refers_to_are_not_decoded(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "b.mp4", 60, gop=60, b_frames=3)
    run = read_plan(str(path), [FrameRequest(0, np.array([0.0, 50 / 25]))])
    assert [clip.request_id for clip in run] == [0]
    assert run.stats.delivered == 2
    assert run.stats.decoded < 0.8 * run.stats.packets


def test_only_what_an_av1_frame_is_made_of_is_decoded(tmp_path: Path) -> None:
    """A pyramid of 64 frames: one of them needs a few. All are the same bits, none tried twice."""
    path = make_odd("av1_pyramid", tmp_path)
    frames, times = decode_everything(path)
    fed = []
    for k in range(64):
        run = read_plan(str(path), [FrameRequest(0, times[[k]])])
        (clip,) = list(run)
        assert np.array_equal(clip.frames[0], to_rgb(frames[k]))
        assert run.stats.retried == run.stats.damaged == 0
        fed.append(run.stats.packets)
    assert np.mean(fed) < 0.4 * np.mean(np.arange(1, 65))


def test_av1_packets_that_are_left_out_change_nothing_and_the_others_do(tmp_path: Path) -> None:
    """Against the decoder itself: drop one packet, see which of the later frames change."""
    with av.open(str(make_odd("av1_pyramid", tmp_path))) as container:
        video = container.streams.video[0]
        extradata = video.codec_context.extradata or b""
        data = [bytes(packet) for packet in container.demux(video) if packet.size][:40]

    def shown(dropped: int) -> dict[int, bytes]:
        context = av.CodecContext.create("libdav1d", "r")
        context.thread_count = 1
        found = {}
        for at, coded in enumerate(data):
            if at == dropped:
                continue
            packet = av.Packet(coded)
            packet.pts = at
            try:
                for frame in context.decode(packet):
                    found[frame.pts] = frame.to_ndarray().tobytes()
            except av.FFmpegError:
                continue
        return found

    whole = shown(-1)
    assert len(whole) == 40
    one = np.eye(40, dtype=bool)
    needed = [packets_needed([memoryview(d) for d in data], one[k], extradata) for k in range(40)]
    felt = 0
    for dropped in range(1, 40):
        left = shown(dropped)
        for k in range(dropped + 1, 40):
            if not needed[k][dropped]:
                assert left[k] == whole[k], f"frame {k} needed packet {dropped}"
            else:
                felt += left.get(k) != whole[k]
    assert felt > 0.8 * (sum(row.sum() for row in needed) - 40 - 39), "most of the rest is felt"


def test_av1_headers_that_are_cut_off_leave_nothing_out(tmp_path: Path) -> None:
    with av.open(str(make_odd("av1_pyramid", tmp_path))) as container:
        video = container.streams.video[0]
        data = [bytes(packet) for packet in container.demux(video) if packet.size][:8]
    wanted = np.arange(8) == 7
    whole = packets_needed([memoryview(d) for d in data], wanted, b"")
    assert whole is not None
    assert not whole.all()
    for at in range(8):
        for keep in (0, 3, 7):
            cut = [memoryview(d[:keep] if k == at else d) for k, d in enumerate(data)]
            if keep < len(data[at]):
                assert packets_needed(cut, wanted, b"") is None
    assert packets_needed([memoryview(d) for d in data[1:]], wanted[1:], b"") is None


def test_a_group_of_pictures_is_decoded_once_for_all_requests(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 48, gop=12, b_frames=0)
    times = np.arange(48) / 25
    requests = [FrameRequest(k, times[k % 48 : k % 48 + 4]) for k in range(44)]
    run = read_plan(str(path), requests)
    assert len(list(run)) == 44
    assert run.stats.packets <= 48


def test_groups_that_nobody_wants_are_skipped(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 120, gop=12, b_frames=0)
    run = read_plan(str(path), [FrameRequest(0, np.array([13 / 25, 97 / 25]))])
    assert len(list(run)) == 1
    assert run.stats.packets == 2 + 2


AGAIN: dict[str, dict] = {
    "a.mp4": {},
    "a.mkv": {},
    "a.ts": {},
    "a.avi": {"b_frames": 0},
    "raw.h264": {},  # cannot seek
    "program.mpg": {"codec": "mpeg2video", "size": (96, 64)},  # has other times after a seek
    "negative.mkv": {  # a seek to its first packet lands behind it
        "ticks": [-1000 + 40 * i for i in range(90)],
        "time_base": Fraction(1, 1000),
        "container_options": {"avoid_negative_ts": "disabled"},
    },
}


@pytest.mark.parametrize("name", AGAIN)
def test_packets_read_again_from_the_file_give_the_same_frames(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams too large for memory are demuxed a second time, with seeks where they lead there."""
    path = encode_video(tmp_path / name, 90, gop=12, **AGAIN[name])
    monkeypatch.setattr("marey.pipeline.video.pyav_backend.KEEP_BYTES", 1)
    check_exact(path)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_of_a_damaged_file_is_exact(seed: int, codec: str, tmp_path: Path) -> None:
    """What is delivered is just so in the plain decode; what is missing lies behind damage."""
    whole = encode_video(tmp_path / "whole.mkv", 40, codec=codec, gop=10, b_frames=2)
    path = mutate(whole, tmp_path / "damaged.mkv", seed)
    try:
        frames, _ = decode_everything(path)
    except av.FFmpegError:
        frames = []
    info = probe(str(path))
    if not frames:  # a probe, which decodes nothing, need not see it; a reader must
        run = read_plan(str(path), [FrameRequest(0, np.zeros(1))])
        assert list(run) == []
        assert info.status != "ok" or run.failures
        return
    # Times count from the first packet, also if its frame is the one that is lost.
    expected = {round(f.pts / 1000 - info.container_start_s, 6): f for f in frames}
    requests = [FrameRequest(t, np.array([t])) for t in expected if 0 <= t < info.duration_s]
    run = read_plan(str(path), requests)
    for clip in run:
        frame = expected[clip.request_id]
        assert clip.shown_s[0] == pytest.approx(clip.request_id, abs=1e-6)
        assert not frame.is_corrupt
        assert np.array_equal(clip.frames[0], to_rgb(frame))
    assert set(run.failures.values()) <= {"damaged"}
    assert bool(run.failures) <= (run.stats.damaged > 0)


@pytest.mark.parametrize("lengths", [(40, 40), (40, 20), (30, 60)])
def test_of_streams_joined_end_to_end_the_first_is_read_and_the_rest_is_named(
    lengths: tuple[int, int], tmp_path: Path
) -> None:
    """As by `cat a.ts b.ts`: the same times stand for frames of either."""
    first, second = lengths
    one = encode_video(tmp_path / "a.ts", first)
    other = encode_video(tmp_path / "b.ts", second, draw=lambda k: picture(k + 500, shot=1))
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + other.read_bytes())
    frames, times = decode_everything(one)
    info = probe(str(path))
    assert (info.frames, info.status) == (first, "damaged")
    assert f"the {second} packets from there on are not read" in (info.error or "")
    middle = (np.arange(first + second) + 0.5) / 25
    run = read_plan(str(path), [FrameRequest(k, middle[[k]]) for k in range(first + second)])
    served = {clip.request_id: clip for clip in run}
    # the packet before the seam is marked by the demuxer, which counts on across it
    assert len(served) >= first - 1
    assert {run.failures.get(k, "damaged") for k in set(range(first)) - set(served)} <= {"damaged"}
    for k, clip in served.items():
        assert np.array_equal(clip.frames[0], to_rgb(frames[int(str(k))]))
        assert clip.shown_s[0] == pytest.approx(times[int(str(k))])
    assert all(run.failures[k] == "past_end" for k in range(first, first + second))


@pytest.mark.data
def test_every_real_video_is_exact(shared_data: Path) -> None:
    for path in sorted((shared_data / "videos").rglob("*.*")):
        if path.name == "corrupted.mp4":
            continue  # see test_video_robust
        check_exact(path)
        if path.name == "nasa_13013.mp4":
            check_exact(path, stream=1)


@pytest.mark.parametrize(
    "name", ["plain", "b_pyramid", "open_gop", "variable_rate", "edit_list", "hevc", "late_start",
             "intra_refresh", "negative_times", "fragmented", "truncated_mp4", "av1_pyramid"]
)  # fmt: skip
def test_windows_of_a_long_file_show_the_same_frames(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way in which long files are read, forced upon short ones."""
    monkeypatch.setattr("marey.pipeline.video.windows.LONG_FRAMES", 1)
    monkeypatch.setattr("marey.pipeline.video.windows.FRAMES_A_WINDOW", 0)
    monkeypatch.setattr("marey.pipeline.video.windows.NEAR_S", 0.1)
    path = make_odd(name, tmp_path)
    for seed in range(3):
        check_exact(path, seed=seed)
    past = probe(str(path)).duration_s + 0.1
    run = read_plan(str(path), [FrameRequest(0, np.array([past])), FrameRequest(1, np.zeros(1))])
    assert [clip.request_id for clip in run] == [1]
    assert run.failures == {0: "past_end"}


@pytest.mark.parametrize("open_groups", [0, 1])
def test_a_few_frames_of_a_long_file_do_not_cost_a_scan_of_it(
    open_groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"x264-params": f"open-gop={open_groups}"}
    path = encode_video(
        tmp_path / "long.mp4", 2500, size=(32, 32), gop=25, b_frames=2, options=options
    )
    wanted = [40, 1203, 2311]
    with open_video(str(path), quick=True) as source:
        near = scan_near(source, np.array(wanted) / 25, 2**20)
        assert near is not None
        assert len(near[1]) < 150
    monkeypatch.setattr("marey.pipeline.video.pyav_backend.scan", None)
    run = read_plan(str(path), [FrameRequest(k, np.array([k / 25])) for k in wanted])
    shown = {clip.request_id: round(float(clip.shown_s[0]) * 25) for clip in run}
    assert shown == {k: k for k in wanted}


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1", "libvpx"])
def test_opening_to_read_decodes_nothing(codec: str, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mkv", 6, codec=codec)
    with open_video(str(path)) as source:
        assert source.stream.codec_context.pix_fmt == "yuv420p", "known from a decoded frame"
    with open_video(str(path), quick=True) as source:
        assert source.stream.codec_context.pix_fmt is None
    check_exact(path)


def test_a_size_that_only_the_frames_tell_is_found_all_the_same(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 12, codec="libvpx-vp9")
    data = bytearray(path.read_bytes())
    entry = data.index(b"vp09", data.index(b"stsd"))
    data[entry + 28 : entry + 32] = bytes(4)  # width and height of the sample entry
    path.write_bytes(data)
    check_exact(path)


def test_open_groups_cost_little_more_than_closed_ones(tmp_path: Path) -> None:
    """What a strict decoder refuses at the start of an open group is neither damage nor a reason
    to decode the file from its start."""
    times = np.random.default_rng(0).integers(0, 200, 12) / 25
    requests = [FrameRequest(n, [time_s]) for n, time_s in enumerate(times)]
    cost = {}
    for kind in ("closed", "open"):
        options = {"x264-params": f"open-gop={int(kind == 'open')}"}
        path = encode_video(tmp_path / f"{kind}.mp4", 200, gop=24, b_frames=3, options=options)
        run = read_plan(str(path), requests)
        got = {clip.request_id: frame_number(clip.frames[0]) for clip in run}
        assert [got[n] for n in range(12)] == np.round(times * 25).tolist()
        assert run.stats.damaged == 0
        cost[kind] = run.stats.decoded
    assert cost["open"] < 1.5 * cost["closed"]
