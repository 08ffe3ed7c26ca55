"""Are samples refused that repeat a frame or are uneven, and no sample of an even video?"""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from marey.configs.sampling import (
    ClipsSampling,
    FramesSampling,
    Sampling,
    SpreadSampling,
    TimePairsSampling,
    TuplesSampling,
    ViewPairsSampling,
)
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.frame_parts import FrameParts
from marey.pipeline.embedding.read_part import ReadPart
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.sampling.shown import BLANK, REPEATED_FRAME, UNEVEN_SPACING, unlike_plan
from marey.pipeline.stream.plan import make_plan
from tests.corpora import decoder
from tests.videos import MS, encode_video, frame_number, picture

DATA = DataConfig(decode_size=64)
FAMILIES = [
    FramesSampling(per_video=20),
    TimePairsSampling(pairs=8, window_s=2.0, per_video=20),
    ViewPairsSampling(pairs=8, window_s=1.0, per_event=20),
    ViewPairsSampling(pairs=3, stack=3, stack_s=0.1, per_event=20),
    TuplesSampling(max_span_s=0.5, min_gap_s=0.2, per_video=20),
    ClipsSampling(num_frames=8, spacing_s=0.1, clips=2, per_video=20),
    ClipsSampling(num_frames=8, spacing_s=0.05, per_video=20),
    SpreadSampling(num_frames=20, positive_s=0.2, per_video=20),
]
CLIPS = ClipsSampling(num_frames=4, spacing_s=0.2, per_video=40)


def rows_of(index: Index, sampling: Sampling) -> dict[str, np.ndarray]:
    plan = make_plan(index, sampling, seed=0, epochs=1)
    stage = decoder(plan, index, DATA)
    rows = [rows for unit in plan.units() for rows in stage(unit)]
    return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def indexed(folder: Path, views: str | None = None) -> Index:
    return Index(make_index([str(folder)], views=views), "index")


def slowing(folder: Path) -> Index:
    """Two seconds at 30 frames/s, then twelve at 5: 8.6 on average."""
    ticks = np.cumsum([0] + [33] * 60 + [200] * 59).tolist()
    folder.mkdir()
    encode_video(folder / "slowing.mp4", 120, ticks=ticks, time_base=MS, size=(64, 64))
    return indexed(folder)


def reasons(rows: dict[str, np.ndarray]) -> set[str]:
    return {str(reason).split(": ")[-1] for reason in rows["refused"] if reason}


def numbers_of(sample: np.ndarray) -> list[int]:
    return [frame_number(frame) for frame in sample]


def test_a_positive_that_is_its_anchor_is_refused_where_the_rate_varies(tmp_path: Path) -> None:
    index = slowing(tmp_path / "videos")
    rows = rows_of(index, TimePairsSampling(pairs=2, window_s=1.0, per_video=200))
    assert reasons(rows) == {REPEATED_FRAME}
    good = rows["refused"] == ""
    assert 0.1 < good.mean() < 0.9
    for sample in rows["frames"][good]:
        first, second, *near = numbers_of(sample)
        assert near[0] != first
        assert near[1] != second
    # and what was refused repeats some frame
    assert all(len(set(numbers_of(sample))) < 4 for sample in rows["frames"][~good])


def test_clips_are_even_or_refused_where_the_rate_varies(tmp_path: Path) -> None:
    index = slowing(tmp_path / "videos")
    (video,) = index.event(0).videos
    rows = rows_of(index, CLIPS)
    assert reasons(rows) == {UNEVEN_SPACING}
    good = rows["refused"] == ""
    assert good.any()
    shown_at = np.cumsum([0] + [0.033] * 60 + [0.2] * 59)
    wanted = round(0.2 * video.fps) / video.fps
    for sample in rows["frames"][good]:
        spacing = np.diff(shown_at[numbers_of(sample)])
        assert (abs(spacing - wanted) <= 0.2 * wanted + 0.5 / video.fps + 1e-3).all()


def test_clips_that_would_repeat_frames_are_not_embedded(tmp_path: Path) -> None:
    index = slowing(tmp_path / "videos")
    read = ReadPart(index.reader, 0.0, (64, 64), clip=(4, 0.12))
    (part,) = FrameParts(index, 0.0)
    rows = read.columns(part)
    assert reasons(rows) == {REPEATED_FRAME}
    (video,) = index.event(0).videos
    middles_s = video.frame_clock.middles(rows["frame"])
    wanted_s, _ = clip_times(video, middles_s, 4, 0.12)
    shown_at = np.cumsum([0] + [0.033] * 60 + [0.2] * 59)
    shown_s = shown_at[np.searchsorted(shown_at, wanted_s + 0.0005, side="right") - 1]
    for gaps, reason in zip(np.diff(shown_s), rows["refused"], strict=True):
        assert reason == (REPEATED_FRAME if (gaps == 0).any() else "")
    for clip in rows["frames"][rows["refused"] == ""]:
        assert len(set(numbers_of(clip))) == 4
    frames = ReadPart(index.reader, 0.0, (64, 64)).columns(part)
    assert not any(frames["refused"])


@pytest.mark.parametrize(
    ("fps", "suffix", "time_base"),
    [
        (Fraction(30000, 1001), "mp4", None),
        (Fraction(30000, 1001), "mkv", MS),
        (Fraction(24000, 1001), "mkv", MS),
        (Fraction(60), "mkv", MS),
        (Fraction(25), "mp4", None),
    ],
)
def test_a_constant_rate_loses_no_sample_also_in_milliseconds(
    tmp_path: Path, fps: Fraction, suffix: str, time_base: Fraction | None
) -> None:
    ticks = [round(n * 1000 / fps) for n in range(150)] if time_base else None
    for view in range(2):
        encode_video(
            tmp_path / f"e_v{view}.{suffix}", 150, fps=fps, ticks=ticks, time_base=time_base
        )
    index = indexed(tmp_path, r"(?P<event>e)_v(?P<view>\d)")
    for sampling in FAMILIES:
        rows = rows_of(index, sampling)
        assert not any(rows["refused"]), (sampling, reasons(rows))


@pytest.mark.parametrize("fps", [23.976, 29.97, 59.94])
@pytest.mark.parametrize("phase", np.linspace(0, 1, 9))
def test_neighbouring_frames_in_rounded_milliseconds_are_no_repetition(
    fps: float, phase: float
) -> None:
    """Wherever in a frame its view is asked, as the clock of another view may have it."""
    shown = np.round(np.arange(600) / fps, 3)
    times = (np.arange(500) + phase) / fps
    found = shown[np.searchsorted(shown, times + 1e-9, side="right") - 1]
    assert unlike_plan(times, found, fps) == ""
    if 0 < phase < 1:  # clips are of one view, and ask for the middle of its frames
        assert unlike_plan(times, found, fps, 4) == ""


def test_what_is_refused_and_what_is_not() -> None:
    apart = np.array([0.05, 0.15, 0.25, 0.35])
    assert unlike_plan(apart, np.array([0.0, 0.1, 0.2, 0.3]), 10.0, 4) == ""
    assert unlike_plan(apart, np.array([0.0, 0.1, 0.1, 0.3]), 10.0) == REPEATED_FRAME
    # one time asked for twice, by whatever rounding, is no repetition
    twice = np.array([0.15, 0.15 + 1e-12, 0.05])
    assert unlike_plan(twice, np.array([0.1, 0.1, 0.0]), 10.0) == ""
    late = np.array([0.0, 0.1, 0.2, 0.38])
    assert unlike_plan(apart, late, 10.0, 4) == UNEVEN_SPACING
    assert unlike_plan(apart, late, 10.0, 2) == UNEVEN_SPACING
    assert unlike_plan(apart, late, 10.0) == ""
    # two clips: what lies between them is no spacing
    assert (
        unlike_plan(np.array([0.05, 0.15, 5.05, 5.15]), np.array([0.0, 0.1, 5.05, 5.15]), 10.0, 2)
        == ""
    )


def test_frames_that_show_nothing_are_left_out(tmp_path: Path) -> None:
    """A video that begins with a second of black, and a picture of one colour."""
    dark = np.full((48, 64, 3), 17, np.uint8)
    folder = tmp_path / "videos"
    folder.mkdir()
    encode_video(folder / "fade.mp4", 50, draw=lambda n: dark if n < 25 else picture(n))
    rows = rows_of(indexed(folder), FramesSampling(per_video=20))
    blank = rows["time_s"][:, 0] < 0.999
    assert blank.any()
    assert reasons(rows) == {BLANK}
    assert ((rows["refused"] != "") == blank).all()
    every = rows_of(indexed(folder), FramesSampling(per_video=20, min_contrast=0))
    assert not reasons(every)
    stills = tmp_path / "images"
    stills.mkdir()
    for name, still in (("one", dark), ("two", picture(3))):
        cv2.imwrite(str(stills / f"{name}.png"), still)
    source = open_source(str(stills))
    plan = make_plan(source, FramesSampling(), seed=0, epochs=1)
    stage = decoder(plan, source, DATA)
    refused = [str(r) for unit in plan.units() for rows in stage(unit) for r in rows["refused"]]
    assert sorted(refused) == ["", f"one.png: {BLANK}"]
