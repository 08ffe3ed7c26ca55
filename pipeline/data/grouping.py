"""Which videos show one event from several cameras, and what does an event show?"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.listing import Listed
from marey.pipeline.runtime.storage import local_path


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a video stands among its event's views, and what the event shows, if that is known."""

    event: str
    view: str
    label: str = ""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0


SEPARATORS = "/_-."
"""Characters that part a name."""
Rule = Callable[[str], Placement | None]
"""The placement of a video id; None where the rule does not cover it."""


def place_rows(rows: Sequence[Listed], views: str | None) -> dict[str, Placement]:
    """The event and view of every row: as its layout says, or else `group_views`.

    Raises UsageError as that does.
    """
    placed = group_views([row.video_id for row in rows if not row.event], views)
    result: dict[str, Placement] = {}
    for row in rows:
        home = placed.get(row.video_id)
        if home is None:
            home = Placement(row.event, row.view)
        if (row.clock_offset_s, row.clock_rate) != (0.0, 1.0):
            home = replace(home, clock_offset_s=row.clock_offset_s, clock_rate=row.clock_rate)
        result[row.video_id] = replace(home, label=row.label or home.label)
    _check_views(result, "the list" if views is None else f"--views {views}")
    return result


def group_views(names: Sequence[str], views: str | None) -> dict[str, Placement]:
    """The event and view of every video id.

    views: None (each video is its own event), a regular expression with the named groups `event`
    and `view`, `label`, or all three, searched for in the id, or the path of a CSV with the columns
    `video_id,event,view` and optionally `label,clock_offset_s,clock_rate`. A video that it does not
    cover is its own event, without label.
    Raises UsageError when it covers none, or gives two videos one view of one event.
    """
    if views is None:
        return {name: Placement(name, "0") for name in names}
    rule = _read_placements(views) if views.lower().endswith(".csv") else _match_placements(views)
    placed = {name: rule(name) for name in names}
    if names and not any(placed.values()):
        raise UsageError(f"--views {views} covers none of the videos (first: {names[0]!r})")
    result = {name: home or Placement(name, "0") for name, home in placed.items()}
    _check_views(result, f"--views {views}")
    return result


def _check_views(placed: dict[str, Placement], by: str) -> None:
    """Raises UsageError where two videos are one view of one event."""
    taken: dict[tuple[str, str], str] = {}
    for name, home in placed.items():
        other = taken.setdefault((home.event, home.view), name)
        if other != name:
            raise UsageError(
                f"{by} gives {other!r} and {name!r} the same event {home.event!r} "
                f"and view {home.view!r}"
            )


def _match_placements(expression: str) -> Rule:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--views {expression} is no regular expression: {error}") from error
    groups = pattern.groupindex.keys()
    grouped = {"event", "view"} <= groups
    if not grouped and not ("label" in groups and groups.isdisjoint({"event", "view"})):
        raise UsageError(
            f"--views {expression} must name the groups (?P<event>...) and (?P<view>...), "
            "or (?P<label>...) alone"
        )

    def place(name: str) -> Placement | None:
        match = pattern.search(name)
        if match is None or (grouped and match["event"] is None):
            return None
        label = (match["label"] or "") if "label" in groups else ""
        if not grouped:
            return Placement(name, "0", label)
        # what stands before the event keeps equal names of different folders apart
        event = _without(name[: match.end("event")], *match.span("view"))
        return Placement(event, match["view"] or "0", label)

    return place


def _without(name: str, start: int, end: int) -> str:
    """A name without the camera's part [start, end), and without the separator left double there.

    A part that lies behind the name leaves it as it is.
    """
    if not 0 <= start < len(name):
        return name
    before, after = name[:start], name[min(end, len(name)) :]
    if not before or before[-1] in SEPARATORS:
        after = after.lstrip(SEPARATORS)
    return before + after


COLUMNS = ("video_id", "event", "view", "label", "clock_offset_s", "clock_rate")
"""What a CSV of placements may say."""


def _read_placements(location: str) -> Rule:
    path = local_path(location)
    if not path.is_file():
        raise InputError(f"no such file: {location}")
    rows: dict[str, Placement] = {}
    lines: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or ())
        absent = {"video_id", "event", "view"} - set(names)
        if absent:
            raise InputError(f"{location} lacks the column {', '.join(sorted(absent))}")
        if unknown := [name for name in names if name not in COLUMNS]:
            raise InputError(
                f"{location} has the column {', '.join(unknown)}, which placements do not have "
                f"(allowed: {', '.join(COLUMNS)}); a list of videos with columns of its own is "
                f"indexed as a source: marey index {location} -o index.parquet"
            )
        for line, row in enumerate(reader, start=2):
            if None in row:
                raise InputError(f"{location}, line {line}: has more cells than the header")
            name = row["video_id"]
            if name in lines:
                raise InputError(
                    f"{location}, line {line}: {name!r} stands in line {lines[name]} already"
                )
            lines[name] = line
            try:
                offset = float(row.get("clock_offset_s") or 0)
                rate = float(row.get("clock_rate") or 1)
            except ValueError as error:
                raise InputError(f"{location}, line {line}: {error}") from error
            if not 0.5 <= rate <= 2:
                raise InputError(f"{location}, line {line}: clock_rate {rate} is not in [0.5, 2]")
            label = row.get("label") or ""
            rows[name] = Placement(row["event"], row["view"], label, offset, rate)
    return rows.get


def label_rule(expression: str) -> Callable[[str], str]:
    """The label of a video id, by `--labels-from`: `folder` (its parent's name), or a regular
    expression with the named group `label`; empty where it gives none.

    Raises UsageError for anything else.
    """
    if expression == "folder":
        return lambda name: PurePosixPath(name.partition("#")[0]).parent.name
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--labels-from {expression} is no regular expression: {error}") from error
    if "label" not in pattern.groupindex:
        raise UsageError(
            f"--labels-from {expression}: either `folder`, or a regular expression with the group "
            "(?P<label>...)"
        )

    def label(name: str) -> str:
        match = pattern.search(name)
        return (match["label"] or "") if match else ""

    return label
