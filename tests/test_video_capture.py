"""A recording that begins between two keyframes has the frames that a decoder can show."""

from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, probe, read_plan, windows
from tests.videos import encode_video, frame_number

CODECS = {
    "closed groups": ("libx264", {"x264-params": "open-gop=0:scenecut=0"}),
    "open groups": ("libx264", {"x264-params": "open-gop=1:scenecut=0"}),
    "HEVC": ("libx265", {"x265-params": "keyint=12:min-keyint=12:open-gop=1:log-level=none"}),
    "MPEG-2": ("mpeg2video", {}),
}


def capture(path: Path, out: Path, first: int) -> Path:
    """The packets of a file from one of them on, as a tuner that was switched on then records."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        for number, packet in enumerate(source.demux(video)):
            if packet.dts is not None and number >= first:
                packet.stream = stream
                target.mux(packet)
    return out


@pytest.mark.parametrize("first", [1, 5])
@pytest.mark.parametrize("suffix", ["ts", "mkv"])
@pytest.mark.parametrize("codec", CODECS)
def test_frames_before_the_first_keyframe_are_none(
    codec: str, suffix: str, first: int, tmp_path: Path
) -> None:
    name, options = CODECS[codec]
    whole = encode_video(tmp_path / f"whole.{suffix}", 40, codec=name, options=options)
    path = str(capture(whole, tmp_path / f"cut.{suffix}", first))
    with av.open(path) as container:
        shown = [frame_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    info = probe(path, motion="none")
    assert (info.frames, info.status) == (len(shown), "damaged")
    assert "between two keyframes" in (info.error or "")
    times_s = (np.arange(info.frames) + 0.5) / info.fps
    run = read_plan(path, [FrameRequest(n, [time_s]) for n, time_s in enumerate(times_s)], None)
    got = {clip.request_id: frame_number(clip.frames[0]) for clip in run}
    assert not run.failures
    assert [got[n] for n in range(len(shown))] == shown


def test_a_few_times_of_a_long_one_are_those_of_a_whole_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_video(tmp_path / "whole.mkv", 200)
    path = str(capture(whole, tmp_path / "cut.mkv", 5))
    requests = [FrameRequest(n, [n / 2 + 0.01]) for n in range(6)]
    seen = []
    for long in (10**6, 50):
        monkeypatch.setattr(windows, "LONG_FRAMES", long)
        monkeypatch.setattr(windows, "FRAMES_A_WINDOW", 10)
        clips = read_plan(path, requests, None)
        seen.append({clip.request_id: frame_number(clip.frames[0]) for clip in clips})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6
