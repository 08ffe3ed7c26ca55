"""One packet is not one frame: fields, in any container, make the frames that they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, frames, probe, pyav_backend, read_plan
from tests.field_streams import Coded, h264_fields, mpeg2_fields, mux_fields, number_of
from tests.videos import encode_video

FAMILIES: dict[str, Callable[[], list[Coded]]] = {
    "h264": lambda: h264_fields(20),
    "h264_mixed": lambda: h264_fields(20, mixed=True),
    "mpeg2": lambda: mpeg2_fields(12),
}


@pytest.mark.parametrize("apart", [False, True], ids=["packet_a_frame", "packet_a_field"])
@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mkv"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_fields_make_one_frame(
    family: str, suffix: str, apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = FAMILIES[family]()
    codec = "mpeg2video" if family == "mpeg2" else "libx264"
    path = tmp_path / f"fields{suffix}"
    times = mux_fields(coded, path, codec, apart=apart, delay=int(codec == "libx264"))
    info = probe(str(path))
    assert (info.frames, info.status) == (len(times), "ok")
    assert info.duration_s == pytest.approx(len(times) / 25, abs=2e-3)
    assert abs(info.container_start_s) < 10
    shown = [t for _, some in frames(str(path)) for t in some]
    assert shown == pytest.approx(times, abs=1.1e-3)
    for kept in (pyav_backend.KEEP_BYTES, 0):
        monkeypatch.setattr(pyav_backend, "KEEP_BYTES", kept)
        for n, time_s in enumerate(times):
            run = read_plan(str(path), [FrameRequest(n, np.array([time_s + 0.02]))])
            assert [number_of(clip.frames[0]) for clip in run] == [n]
            assert run.failures == {}


@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mkv"])
def test_each_field_of_hevc_is_a_picture(suffix: str, tmp_path: Path) -> None:
    options = {"x265-params": "interlace=tff:log-level=none:keyint=10"}
    path = encode_video(
        tmp_path / f"hevc{suffix}", 20, fps=50, codec="libx265", b_frames=2, options=options
    )
    info = probe(str(path))
    assert (info.frames, info.status) == (20, "ok")
    assert info.duration_s == pytest.approx(0.4, abs=2e-3)
    whole = [picture for pictures, _ in frames(str(path)) for picture in pictures]
    for n in range(20):
        run = read_plan(str(path), [FrameRequest(n, np.array([(n + 0.5) / 50]))])
        assert np.array_equal(next(run).frames[0], whole[n])
