"""Which `--views` expression groups these videos, as their names look?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from marey.configs.errors import UsageError
from marey.pipeline.data.grouping import group_views

_CAMERA = (
    r"(?:cam(?:era)?|view|angle|kinect|gopro|webcam|left|right|top|front|back|rear|side|wrist|"
    r"gripper|hand|head|overhead|ego|exo|first|third|fpv|tpv|dev|stereo)"
)
"""How cameras are called, in parts of names: cam_0, view1, left, wrist, observation.images.top."""
_NAMED = re.compile(rf"(?i)(?<![a-z]){_CAMERA}(?![a-z])|^{_CAMERA}|{_CAMERA}$")
_RULES = (
    rf"(?P<event>[^/]*)[_.-](?P<view>(?i:{_CAMERA})[_-]?\w*)\.\w+$",
    r"(?P<event>[^/]*)[_.-](?P<view>[^/_.-]+)\.\w+$",
    r"^(?P<view>[^/]+)/(?P<event>.+)\.\w+$",
    r"(?P<view>[^/]+)/(?P<event>[^/]+)\.\w+$",
    r"(?P<event>[^/]+)/(?P<view>[^/]+)\.\w+$",
    r"(?P<view>[^/_.-]+)[_.-](?P<event>[^/]+)\.\w+$",
    r"(?P<event>[^/]*\d)(?P<view>[a-zA-Z]+)\.\w+$",
)
"""Where the camera's part of a name stands: take1_cam_0.mp4, take1_left.mp4, left/day1/take1.mp4,
day1/left/take1.mp4, take1/left.mp4, left_take1.mp4, take1a.mp4."""
MOST_NAMES = 50_000
"""Of more names no expression is looked for: it would take longer than it is worth."""
MOST_VIEWS = 16
MAY_LACK = 0.2
"""The largest share of events in which a view may be missing."""


@dataclass(frozen=True, slots=True)
class Guess:
    """An expression for `--views` that groups videos.

    events: how many it makes. views: what it calls the cameras. named: whether they are called as
    cameras mostly are. Without it the parts that differ may be anything, such as the clips of one
    recording.
    """

    expression: str
    events: int
    views: tuple[str, ...]
    named: bool


def guess_views(names: Sequence[str]) -> Guess | None:
    """The likeliest expression for the names (paths) of videos; None where none groups them.

    All events have the same views then, two to `MOST_VIEWS`; where the views are called as cameras
    mostly are, a fifth of the events may lack some. Those go before others, then fewer views.
    """
    if not 2 <= len(names) <= MOST_NAMES:
        return None
    guesses = [guess for rule in _RULES if (guess := _try(names, rule))]
    return min(guesses, key=_worse, default=None)


def _worse(guess: Guess) -> tuple[bool, int, int]:
    return not guess.named, len(guess.views), len(guess.expression)


def _try(names: Sequence[str], rule: str) -> Guess | None:
    try:
        placed = group_views(names, rule)
    except UsageError:  # it covers none, or two videos are one view
        return None
    views: dict[str, set[str]] = defaultdict(set)
    for home in placed.values():
        views[home.event].add(home.view)
    all_views = set().union(*views.values())
    if not 2 <= len(all_views) <= MOST_VIEWS:
        return None
    named = all(map(_NAMED.search, all_views))
    complete = sum(seen == all_views for seen in views.values()) / len(views)
    if complete < (1 - MAY_LACK if named else 1):
        return None
    seen_views = tuple(sorted(all_views))
    # a rule that lists how cameras may be called is told with those that are there
    rule = rule.replace(f"(?i:{_CAMERA})[_-]?\\w*", "|".join(map(re.escape, seen_views)))
    return Guess(rule, len(views), seen_views, named)
