"""A few frames of a long file are had by seeking, and are those of a whole scan."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, read_plan
from marey.pipeline.video.container import open_video
from marey.pipeline.video.timeline import KEEP_BYTES, scan
from marey.pipeline.video.windows import scan_near
from tests.videos import encode_video

PIECE = 100


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes 3,000 frames at 25 per second out of 100, `back_s` earlier from the second half on."""
    folder = tmp_path_factory.mktemp("long")
    piece = encode_video(folder / "piece.mp4", PIECE, gop=50, b_frames=2)

    def make(suffix: str, back_s: float = 0.0) -> Path:
        path = folder / f"long{back_s}{suffix}"
        live = {"live": "1"} if "live" in suffix else {}  # no length, no cues
        with av.open(str(piece)) as source, av.open(str(path), "w", options=live) as out:
            stream = source.streams.video[0]
            copy = out.add_stream_from_template(stream)
            packets = [p for p in source.demux(stream) if p.size]
            tick, span = stream.time_base or Fraction(1), PIECE / 25
            for n in range(30):
                shift = round((n * span - back_s * (n >= 15)) / tick)
                for packet in packets:
                    again = av.Packet(bytes(packet))
                    again.stream, again.time_base = copy, tick
                    again.pts, again.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                    again.is_keyframe, again.duration = packet.is_keyframe, packet.duration
                    out.mux(again)
        return path

    return make


@pytest.mark.parametrize(
    ("suffix", "sound"),
    [(".mp4", 0), (".mkv", 0), (".mkv", 1), (".ts", 1), ("live.mkv", 1)],
)
def test_windows_show_what_a_whole_scan_shows(
    suffix: str, sound: int, repeated: Callable[..., Path]
) -> None:
    path = repeated(suffix)
    rng = np.random.default_rng(0)
    with open_video(str(path), quick=True) as source:
        whole, _ = scan(source)
    assert whole.num_frames == 3000
    for size in (1, 2, 4):
        times = np.sort(rng.uniform(0, 119.9, size))
        with open_video(str(path), quick=True) as source:
            near = scan_near(source, times, KEEP_BYTES, sound=bool(sound))
        assert near is not None, "no window was cut"
        timeline, packets = near
        assert len(packets) < 400 * (size + 1)
        shown = timeline.times_s[timeline.frame_at(times)]
        assert shown == pytest.approx(whole.times_s[whole.frame_at(times)], abs=1e-9)
        requests = [FrameRequest(k, np.array([t])) for k, t in enumerate(times)]
        few = {c.request_id: c.frames for c in read_plan(str(path), requests, sound=bool(sound))}
        more = [*requests, *(FrameRequest(f"x{k}", np.array([k / 2.0])) for k in range(200))]
        for clip in read_plan(str(path), more):
            if clip.request_id in few:
                assert np.array_equal(clip.frames, few[clip.request_id])
        assert len(few) == size


@pytest.mark.parametrize("suffix", [".ts", "live.mkv"])
def test_a_file_without_a_table_that_nobody_scanned_is_scanned(
    suffix: str, repeated: Callable[..., Path]
) -> None:
    with open_video(str(repeated(suffix))) as source:
        assert scan_near(source, np.array([50.0]), KEEP_BYTES) is None
        timeline, _ = scan(source)
    assert timeline.num_frames == 3000
