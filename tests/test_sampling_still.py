"""Is a video in which nothing moves refused with the reason, and no slow one?"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from marey.configs.sampling import (
    ClipsSampling,
    FramePairsSampling,
    FramesSampling,
    Sampling,
    SpreadSampling,
    TimePairsSampling,
    TuplesSampling,
    ViewPairsSampling,
)
from marey.pipeline.data.build_index import make_index
from marey.pipeline.data.index import Event, Index
from marey.pipeline.sampling import build_sampler, event_rng
from marey.pipeline.stream.plan import make_plan
from tests.corpora import make_event, make_video
from tests.videos import encode_video

TAKE_TIME: list[Sampling] = [
    TimePairsSampling(pairs=4),
    ViewPairsSampling(pairs=4),
    TuplesSampling(max_span_s=0.6, min_gap_s=0.2),
    TuplesSampling(max_span_s=0.6, min_gap_s=0.2, motion_weighted=False),
    ClipsSampling(num_frames=8),
    ClipsSampling(num_frames=8, motion_weighted=True),
    ClipsSampling(num_frames=1, clips=2),
    SpreadSampling(num_frames=8),
    FramePairsSampling(),
]
TAKE_ONE: list[Sampling] = [
    FramesSampling(),
    ClipsSampling(num_frames=1),
    ViewPairsSampling(pairs=1),
]
SIZES = [(64, 64), (320, 240), (640, 360)]


def texture(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: detail of several sizes."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(rng.uniform(0, 255, (height // k, width // k, 3)), (width, height))
        for k in (4, 8, 32)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


def views(folder: Path, size: tuple[int, int], codec: str, pace: float = 0.0, **options: str):
    """Two views of a disc that moves `pace` pixels a frame."""
    wall = texture(*size)

    def draw(index: int) -> np.ndarray:
        picture = wall.copy()
        centre = int((size[0] / 3 + pace * index) * 16), size[1] // 2 * 16
        radius = max(2, size[1] // 40) * 16
        cv2.circle(picture, centre, radius, (230, 60, 40), -1, cv2.LINE_AA, 4)
        return picture

    for view in range(2):
        encode_video(
            folder / f"e_v{view}.mp4", 60, size=size, gop=25, codec=codec, draw=draw,
            options=options,
        )  # fmt: skip
    return Index(make_index([str(folder)], views=r"(?P<event>e)_v(?P<view>\d)"), "index").event(0)


def counts(event: Event, families: list[Sampling]) -> list[tuple[bool, str]]:
    found = [build_sampler(family).count(event) for family in families]
    return [(count > 0, reason) for count, reason in found]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"preset": "medium", "crf": "23"}), ("libx265", {})]
)
def test_an_encoded_still_has_no_motion(tmp_path, size, codec, options) -> None:
    event = views(tmp_path, size, codec, **options)
    assert counts(event, TAKE_TIME) == [(False, "no_motion")] * len(TAKE_TIME)
    assert counts(event, TAKE_ONE) == [(True, "")] * len(TAKE_ONE)
    for family in TAKE_TIME:
        assert build_sampler(family).plan(event, event_rng(0, 0, "e")) == [] or (
            family.kind == "view_pairs"
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("codec", "options", "pace"),
    [
        ("libx264", {"preset": "medium", "crf": "23"}, 0.1),
        ("libx264", {"preset": "medium", "crf": "38"}, 0.1),
        ("libx265", {}, 0.3),
        ("mpeg4", {}, 0.1),
    ],
)
def test_a_small_thing_that_moves_slowly_is_motion(tmp_path, size, codec, options, pace) -> None:
    event = views(tmp_path, size, codec, pace, **options)
    assert counts(event, TAKE_TIME) == [(True, "")] * len(TAKE_TIME)


def test_a_profile_of_zeros_is_no_motion_and_none_is_not() -> None:
    def event(motion: np.ndarray) -> Event:
        return make_event(*(make_video(f"a{n}", event="a", view=str(n), motion=motion)
                            for n in range(2)))  # fmt: skip

    assert {r for _, r in counts(event(np.zeros(16)), TAKE_TIME)} == {"no_motion"}
    assert {r for _, r in counts(event(np.eye(1, 16)[0]), TAKE_TIME)} == {""}
    assert {r for _, r in counts(event(np.empty(0)), TAKE_TIME)} == {""}


def test_one_camera_that_moves_is_enough() -> None:
    still, moving = make_video("a0", event="a", motion=np.zeros(8)), make_video("a1", event="a")
    event = make_event(still, moving)
    assert counts(event, TAKE_TIME) == [(True, "")] * len(TAKE_TIME)
    for family in TAKE_TIME:
        if family.kind != "view_pairs":
            requests = build_sampler(family).plan(event, event_rng(0, 0, "a"))
            assert {int(view) for r in requests for view in r.views} == {1}


def test_one_frame_is_named_as_that() -> None:
    event = make_event(*(make_video(f"a{n}", event="a", view=str(n), frames=1) for n in range(2)))
    assert {r for _, r in counts(event, TAKE_TIME)} == {"single_frame"}
    assert counts(event, TAKE_ONE) == [(True, "")] * len(TAKE_ONE)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_plan_counts_events_whose_motion_nobody_measured(tmp_path: Path, weighted: bool) -> None:
    for name in ("a", "b"):
        encode_video(tmp_path / f"{name}.mp4", 60)
    sampling = TuplesSampling(max_span_s=0.6, min_gap_s=0.2, motion_weighted=weighted)
    for motion in ("packets", "none"):
        index = Index(make_index([str(tmp_path)], motion=motion), "index")
        plan = make_plan(index, sampling, seed=0, epochs=1)
        assert plan.unweighted == (2 if weighted and motion == "none" else 0)
