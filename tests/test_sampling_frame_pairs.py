"""Pairs of frames: within bounds and shots, the earlier first, all distances alike."""

import numpy as np
import pytest

from marey.configs.sampling import FramePairsSampling
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video


def _numbers(video, pairs: int = 400, **settings) -> np.ndarray:
    """Frame numbers of the pairs drawn of one video, int64 [pairs, 2]."""
    sampler = build_sampler(FramePairsSampling(per_video=pairs, **settings))
    requests = sampler.plan(make_event(video), event_rng(0, 0, "e"))
    assert len(requests) == sampler.count(make_event(video))[0] == pairs
    times = np.stack([request.targets["time_s"] for request in requests])
    return np.floor(times * video.fps).astype(int)


def test_distances_are_within_their_bounds_and_uniform() -> None:
    numbers = _numbers(make_video(frames=300, fps=30.0), pairs=4500)
    gaps = numbers[:, 1] - numbers[:, 0]
    assert (gaps.min(), gaps.max()) == (4, 48)
    counts = np.bincount(gaps)[4:]
    assert abs(counts / 4500 - 1 / 45).max() < 0.012


def test_both_frames_are_of_one_shot() -> None:
    video = make_video(frames=120, fps=30.0, cuts=(1.0, 2.5))
    numbers = _numbers(video)
    edges = np.array([0, 30, 75, 120])
    shots = np.searchsorted(edges, numbers, side="right")
    assert (shots[:, 0] == shots[:, 1]).all()
    assert len(set(shots[:, 0].tolist())) == 3
    # a distance that only the longest shots have room for is drawn there
    assert (numbers[:, 1] - numbers[:, 0]).max() == 44


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        (make_video(frames=4, fps=30.0), "too_short"),
        (make_video(frames=1), "single_frame"),
        (make_video(frames=90, motion=np.zeros(6, np.float32)), "no_motion"),
        (make_video(frames=90, fps=0.2), "frame_rate_too_low"),
    ],
)
def test_videos_without_such_frames_are_refused(video, reason: str) -> None:
    sampler = build_sampler(FramePairsSampling())
    assert sampler.count(make_event(video)) == (0, reason)
    assert sampler.plan(make_event(video), event_rng(0, 0, "e")) == []


def test_bounds_are_in_order() -> None:
    with pytest.raises(ValueError, match="must be at least min_gap_s"):
        FramePairsSampling(min_gap_s=1.0, max_gap_s=0.5)
