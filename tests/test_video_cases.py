"""Files that public bug reports describe: every frame is the one meant, however it is asked for.

The pictures of `tests/cases` tell their numbers by ten bars. Where `FILE.expect.json` holds the
right answer, as [seconds, number], it counts; else a whole decode with one decoder does.
"""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, frames, probe, pyav_backend, read_plan

CASES = Path(__file__).parent / "cases"
STEPS_BACK = ("mkv_back_300ms.mkv", "flv_back_300ms.flv")
NAMES = sorted(p.name for p in CASES.iterdir() if p.suffix != ".json" and p.name != "cenc.mp4")
LARGE = (
    "paff_fields.ts", "avchd_fields_b2.ts", "avchd_fields_b2_fieldpes.ts", "avchd_remux.mp4",
    "long_dup_pts.mp4", "long_elst_two_parts.mp4", "stsd_two_long.mp4",
)  # fmt: skip


def number_of(picture: np.ndarray) -> int:
    """The number that ten bars across the upper part spell, most significant first."""
    height, width = picture.shape[:2]
    places = [int((n + 0.5) * width / 10) for n in range(10)]
    bars = picture[: height // 3].reshape(height // 3, width, -1).mean(axis=(0, 2)) > 128
    return int("".join(str(int(bars[place])) for place in places), 2)


def whole_decode(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        packets = container.demux(video)
        return [number_of(f.to_ndarray(format="rgb24")) for p in packets for f in p.decode()]


def expected(path: Path) -> list[int]:
    answer = Path(f"{path}.expect.json")
    return [n for _, n in json.loads(answer.read_text())] if answer.exists() else whole_decode(path)


def check_case(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames; then each alone and in random sets, with packets kept and read again."""
    info, right = probe(str(path)), expected(path)
    walk = [(t, p) for pictures, times in frames(str(path)) for t, p in zip(times, pictures)]  # noqa: B905
    got = [number_of(picture) for _, picture in walk]
    if path.name in STEPS_BACK:  # what comes before the step, and word of the rest
        assert info.status == "damaged"
        assert "times start again" in (info.error or "")
        assert len(got) >= 30
        assert got == right[: len(got)]
    else:
        assert info.status == "ok"
        assert got == right
    assert info.frames == len(got)
    assert info.container_start_s < 1e6
    times = np.array([t for t, _ in walk])
    assert (np.diff(times) > 0).all()
    assert times[-1] < info.duration_s
    pixels = {float(t): picture for t, picture in walk}
    rng = np.random.default_rng(len(times))
    alone = rng.choice(times, min(len(times), 24), replace=False)
    sets = [[t] for t in alone.tolist()]
    sets += [rng.choice(times, min(len(times), n)).tolist() for n in (2, 3, 5, 8, 30)]
    for kept in (pyav_backend.KEEP_BYTES, 0):
        monkeypatch.setattr(pyav_backend, "KEEP_BYTES", kept)
        for asked in sets if kept else sets[::4]:
            run = read_plan(str(path), [FrameRequest(t, np.array([t])) for t in set(asked)])
            for clip in run:
                assert np.array_equal(clip.frames[0], pixels[clip.request_id]), clip.request_id
            assert run.failures == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_the_one_meant_however_it_is_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_case(CASES / name, monkeypatch)


@pytest.mark.data
@pytest.mark.parametrize("name", LARGE)
def test_also_in_the_larger_files(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_case(shared_data.parent / "cases" / "video" / name, monkeypatch)


def test_an_encrypted_file_is_called_encrypted() -> None:
    path = str(CASES / "cenc.mp4")
    run = read_plan(path, [FrameRequest(0, np.zeros(1))])
    assert list(run) == []
    assert run.failures == {0: "unreadable"}
    info = probe(path)
    assert (info.status, info.frames) == ("unreadable", 0)
    assert "is encrypted" in (info.error or "")
    assert "is encrypted" in (run.error or "")
