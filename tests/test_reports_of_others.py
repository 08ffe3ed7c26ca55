"""Faults that users of other projects reported, tried here; each case names its thread."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.evaluate.tracking import otb_scores
from marey.pipeline.video import FrameRequest, probe, read, read_plan
from marey.pipeline.video.frame_clock import FrameClock
from marey.trackers import build, iou
from tests.tracked_scenes import moving_square
from tests.videos import MS, encode_video, frame_number, picture


def hevc_of_short_groups(folder: Path) -> Path:
    options = {"x265-params": "keyint=3:crf=10:log-level=none"}
    return encode_video(folder / "a.mp4", 61, fps=10, codec="libx265", gop=3, options=options)


def hevc_at_half_a_second(folder: Path) -> Path:
    options = {"x265-params": "keyint=2:log-level=none"}
    return encode_video(folder / "a.mp4", 10, fps=10, codec="libx265", gop=2, options=options)


def longer_sound(folder: Path) -> Path:
    path = folder / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16000)
        sound.layout = "mono"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(40):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
            part.sample_rate, part.pts = 16000, number * 1024
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


def times_before_zero(folder: Path) -> Path:
    whole, path = encode_video(folder / "whole.mp4", 40, gop=12), folder / "a.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        early = int(7 / 25 / video.time_base)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - early, packet.dts - early
                packet.stream = stream
                target.mux(packet)
    return path


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "meta-pytorch/torchcodec#1339 stale frame after a seek back": hevc_of_short_groups,
    "meta-pytorch/torchcodec#179 seek past the time in HEVC": hevc_at_half_a_second,
    "meta-pytorch/torchcodec#1502 hidden leading packets": times_before_zero,
    "meta-pytorch/torchcodec#1649 odd sides": lambda folder: encode_video(
        folder / "a.mp4", 12, size=(81, 61), pix_fmt="yuv444p"
    ),
    "dmlc/decord#91 VP8 in WebM gives the first frames": lambda folder: encode_video(
        folder / "a.webm", 60, codec="libvpx", options={}
    ),
    "dmlc/decord#54 frames counted by the longer sound": longer_sound,
    "dmlc/decord#124 AVI cannot be sought in": lambda folder: encode_video(
        folder / "a.avi", 49, codec="mpeg4", fps=10, options={}
    ),
    "PyAV-Org/PyAV#976 the last frame is missing": lambda folder: encode_video(
        folder / "a.mp4", 20, b_frames=3
    ),
    "PyAV-Org/PyAV#1280 raw H.264 has no times": lambda folder: encode_video(
        folder / "a.h264", 25
    ),
    "NVIDIA/DALI#1041 starts after 0": lambda folder: encode_video(
        folder / "a.mkv", 30, fps=30, ticks=[67 + round(n * 1000 / 30) for n in range(30)],
        time_base=MS,
    ),
    "NVIDIA/DALI#3123 40 frames/s taken for a varying rate": lambda folder: encode_video(
        folder / "a.mp4", 60, fps=40
    ),
    "RomanArzumanyan/VALI#170 a rounded mean rate": lambda folder: encode_video(
        folder / "a.mp4", 60, fps=Fraction(2499985, 100000)
    ),
}  # fmt: skip


@pytest.mark.parametrize("thread", VIDEOS)
def test_every_frame_is_had_by_its_time_in_any_order(thread: str, tmp_path: Path) -> None:
    path = str(VIDEOS[thread](tmp_path))
    with av.open(path) as container:
        shown = [frame_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    info = probe(path, motion="none")
    assert (info.frames, info.status, info.frame_times) == (len(shown), "ok", ())
    middles_s = FrameClock.even(info.frames, info.fps).middles(np.arange(info.frames))
    requests = [FrameRequest(n, time_s[None]) for n, time_s in enumerate(middles_s)]
    run = read_plan(path, requests, None)
    got = {clip.request_id: frame_number(clip.frames[0]) for clip in run}
    assert [got[n] for n in range(len(shown))] == shown
    for number in (len(shown) - 2, 3):  # near the end, then back
        assert frame_number(read(path, [middles_s[number]])[0]) == shown[number]


def test_a_time_beyond_the_end_fails_alone(tmp_path: Path) -> None:
    """huggingface/lerobot#2627 (of a merged dataset), and #3423 (a time at the very edge)."""
    path = str(encode_video(tmp_path / "a.mp4", 25))
    late, fine = np.array([460.4]), np.array([n / 25 for n in range(25)])
    run = read_plan(path, [FrameRequest("late", late), FrameRequest("fine", fine)], None)
    (clip,) = run
    assert [frame_number(frame) for frame in clip.frames] == list(range(25))
    assert run.failures == {"late": "past_end"}


def test_pixels_that_are_no_squares_are_shown_in_shape(tmp_path: Path) -> None:
    """meta-pytorch/torchcodec#733: 64x48 pixels of 64:45."""
    path = str(encode_video(tmp_path / "a.mp4", 12, sar=Fraction(64, 45)))
    assert read(path, [0.1], 24).shape == (1, 24, 46, 3)


@pytest.mark.parametrize("name", ["kcf-hog", "staple", "median-flow", "affinity", "opencv-mil"])
@pytest.mark.parametrize(
    ("box", "reason"), [([50, 50, 2, 2], "box_too_small"), ([-99, -99, 30, 30], "outside_image")]
)
def test_boxes_that_hold_nothing_are_refused(name: str, box: list[int], reason: str) -> None:
    """alantrrs/OpenTLD#1 (an abort), visionml/pytracking#18, pyannote/pyannote-video#7."""
    frames, _ = moving_square(4)
    assert build(name).track(frames, np.array([box], np.float32)).reason == (reason,)


def test_scores_are_shares_whatever_is_absent() -> None:
    """votchallenge/toolkit#122 (recall above 1), StrangerZhang/pysot-toolkit#7 (20 of 21),
    votchallenge/toolkit-legacy#2 (overlap of boxes apart in both directions)."""
    truth = np.array([[10, 20, 30, 40]] * 5, np.float32)
    truth[2:4] = np.nan
    assert otb_scores(np.nan_to_num(truth, nan=5), truth) == pytest.approx((20 / 21, 1.0, 1.0))
    assert iou(np.array([[0, 0, 10, 10.0]]), np.array([[20, 30, 10, 10.0]])) == 0
