"""Names of videos that several cameras have made, and names that only look so."""

import random

import pytest

from marey.pipeline.data.grouping import group_views
from marey.pipeline.data.guess_views import MOST_NAMES, guess_views

FORMS = {
    "camera behind": "{event}_{view}.mp4",
    "a folder a camera": "{view}/{event}.mp4",
    "a folder a camera, deeper": "day1/{view}/{event}.mp4",
    "a folder a camera, days below": "{view}/day1/{event}.mp4",
    "a folder an event": "{event}/{view}.mp4",
    "camera before": "{view}-{event}.mp4",
}
CAMERAS = {
    "numbered": ("cam0", "cam1", "cam2"),
    "with a line": ("cam_0", "cam_1"),
    "by side": ("left", "right"),
    "of a robot": ("wrist", "top"),
    "of LeRobot": ("observation.images.front", "observation.images.wrist"),
    "capitals": ("Camera1", "Camera2"),
}
EVENTS = {
    "numbers": [f"ep{n:03}" for n in range(7)],
    "words": ["pour_1000", "pour_1001", "stir_7"],
    "times": ["2024-01-03-10-22", "2024-01-03-11-40"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize("events", EVENTS)
def test_the_expression_puts_the_cameras_of_an_event_together(form, cameras, events):
    if form == "camera before" and cameras in ("with a line", "of LeRobot"):
        pytest.skip("where such a camera's name ends cannot be told")
    name = {
        FORMS[form].format(event=event, view=view): event
        for event in EVENTS[events]
        for view in CAMERAS[cameras]
    }
    names = random.Random(0).sample(sorted(name), len(name))
    guess = guess_views(names)
    assert guess is not None
    assert guess.named
    assert (guess.events, len(guess.views)) == (len(EVENTS[events]), len(CAMERAS[cameras]))
    placed = group_views(names, guess.expression)
    together = {home.event: set() for home in placed.values()}
    for one, home in placed.items():
        together[home.event].add(name[one])
    assert all(len(events) == 1 for events in together.values())


def test_parts_that_are_no_cameras_are_a_guess_that_says_so():
    names = [f"run_g0{group}_c0{clip}.avi" for group in range(3) for clip in range(4)]
    guess = guess_views(names)
    assert guess is not None
    assert not guess.named


def test_a_view_that_failed_once_is_no_hindrance():
    names = [f"take{n}_{view}.mp4" for n in range(9) for view in ("left", "right")]
    guess = guess_views(names[1:])
    assert guess is not None
    assert (guess.events, guess.views) == (9, ("left", "right"))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["one_left.mp4"],
        ["a.mp4", "b.mp4", "c.mp4"],
        ["take1_left.mp4", "take1_right.mp4", "take2_left.mp4"],
        ["take1_a.mp4", *(f"take{n}_{view}.mp4" for n in range(2, 9) for view in "ab")],
        [f"take1_cam{n}.mp4" for n in range(40)],
        [f"take{n}_cam{c}.mp4" for n in range(MOST_NAMES // 2 + 1) for c in range(2)],
    ],
    ids=[
        "none",
        "one",
        "no parts",
        "half are not paired",
        "no cameras, and one lacks",
        "too many views",
        "too many names",
    ],
)
def test_where_nothing_groups_them_all_nothing_is_guessed(names):
    assert guess_views(names) is None
