"""What a decoder keeps from one packet on is known wherever it starts.

Parameter sets and palettes that a stream tells once, in its packets or beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import PacketSideData, packet_sidedata_type_from_literal

from marey.pipeline.video import FrameRequest, frames, probe, pyav_backend, read_plan
from marey.pipeline.video.parameter_sets import ParameterSets, nal_units, sets_in_header
from tests.videos import encode_video, picture

SIZE = (64, 48)


def packets_of(path: Path) -> tuple[list[av.Packet], bytes]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        found = [packet for packet in container.demux(video) if packet.size]
        return found, video.codec_context.extradata or b""


def encoded(folder: Path, codec: str, params: str, start: int) -> list[tuple[bytes, bool]]:
    """36 frames as (Annex B packet, keyframe), parameter sets before the first one alone."""
    key = "x264-params" if codec == "libx264" else "x265-params"
    path = encode_video(
        folder / f"{codec}{start}.ts", 36, size=SIZE, gop=12, b_frames=0, codec=codec,
        options={key: f"{params}:scenecut=0"}, draw=lambda k: picture(start + k, *SIZE),
    )  # fmt: skip
    result: list[tuple[bytes, bool]] = []
    kinds = (7, 8) if codec == "libx264" else (32, 33, 34)
    for packet in packets_of(path)[0]:
        units = list(nal_units(bytes(packet), 0))
        if result:
            units = [u for u in units if _kind(u, codec) not in kinds]
        result.append((b"".join(b"\0\0\0\1" + u for u in units), packet.is_keyframe))
    return result


def _kind(unit: bytes, codec: str) -> int:
    return unit[0] & 31 if codec == "libx264" else unit[0] >> 1 & 63


def joined(folder: Path, codec: str, suffix: str) -> Path:
    """Two settings of an encoder in one stream; each tells its parameter sets once."""
    one, other = ("cabac=1:ref=1", "cabac=0:ref=3:8x8dct=0")
    if codec == "libx265":
        one, other = ("ctu=32:log-level=none", "ctu=16:sao=0:amp=0:log-level=none")
    parts = encoded(folder, codec, one, 0) + encoded(folder, codec, other, 500)
    path = folder / f"joined{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 25)
        for number, (data, key) in enumerate(parts):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), key
            packet.pts = packet.dts = number
            packet.duration = 1
            container.mux(packet)
    return path


def palette_video(folder: Path) -> Path:
    """Pictures of 8 bits whose palette comes with the first one, and changes with the 13th."""
    path = folder / "palette.avi"
    kind = packet_sidedata_type_from_literal("palette")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number in range(24):
            packet = av.Packet(np.full((48, 64), number, np.uint8).tobytes())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            if number in (0, 12):
                shade = np.arange(256, dtype=np.uint32) * (9 if number else 5) % 256
                content = (0xFF000000 | shade * 0x10101).astype("<u4").tobytes()
                side = PacketSideData(kind, len(content))
                side.update(content)
                side.to_packet(packet)
            container.mux(packet)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "h264_ts": lambda d: joined(d, "libx264", ".ts"),
    "h264_mkv": lambda d: joined(d, "libx264", ".mkv"),
    "h264_mp4": lambda d: joined(d, "libx264", ".mp4"),
    "hevc_ts": lambda d: joined(d, "libx265", ".ts"),
    "palette": palette_video,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_request_gives_the_same_pixels_whatever_else_is_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MAKERS[name](tmp_path)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        packets = container.demux(video)
        right = [f.to_ndarray(format="rgb24").mean() for p in packets for f in p.decode()]
    walk = {
        float(t): picture
        for pictures, times in frames(str(path))
        for t, picture in zip(times, pictures, strict=True)
    }
    assert len(walk) == len(right) == probe(str(path)).frames
    assert np.allclose([p.mean() for p in walk.values()], right, atol=2)
    rng = np.random.default_rng(0)
    times = np.array(sorted(walk))
    sets = [[t] for t in times.tolist()] + [rng.choice(times, n).tolist() for n in (2, 3, 6)]
    for kept in (pyav_backend.KEEP_BYTES, 0):
        monkeypatch.setattr(pyav_backend, "KEEP_BYTES", kept)
        for asked in sets if kept else sets[::3]:
            run = read_plan(str(path), [FrameRequest(t, np.array([t])) for t in set(asked)])
            for clip in run:
                assert np.array_equal(clip.frames[0], walk[clip.request_id]), clip.request_id
            assert run.failures == {}


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_ordinary_files_have_no_state_to_tell(codec: str, suffix: str, tmp_path: Path) -> None:
    """Sets that are repeated at each keyframe, or that the container states, change nothing."""
    path = encode_video(tmp_path / f"v{suffix}", 30, codec=codec, gop=6)
    packets, extradata = packets_of(path)
    sets = ParameterSets("h264" if codec == "libx264" else "hevc", extradata)
    assert sets_in_header(extradata, "h264" if codec == "libx264" else "hevc")
    assert not any(sets.see(packet) for packet in packets)
    assert sets.prefix() == b""


@pytest.mark.parametrize(("b_frames", "reorder"), [(0, 0), (1, 1), (3, 2)])
def test_a_stream_says_how_far_it_reorders_frames(
    b_frames: int, reorder: int, tmp_path: Path
) -> None:
    options = {"x264-params": "b-adapt=0:b-pyramid=normal:scenecut=0"}
    path = encode_video(tmp_path / "v.mp4", 30, b_frames=b_frames, options=options)
    assert ParameterSets("h264", packets_of(path)[1]).reorder == reorder
