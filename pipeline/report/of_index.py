"""What an index shows: how many videos of which kind, how they move, and which were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import MareyError
from marey.pipeline.data.events import Video
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import read_table
from marey.pipeline.report.charts import bar_chart, sparkline
from marey.pipeline.report.choose import spread
from marey.pipeline.report.page import (
    Section,
    duration,
    figure,
    grid,
    note,
    number,
    picture,
    table,
    tiles,
)
from marey.pipeline.report.pictures import frame_of
from marey.pipeline.report.plate import plate

_ROWS = 300
"""Videos listed; of a larger index the first ones."""
_PICTURES = 12
"""Videos of which a few frames are shown."""
_FRAMES = 8
"""Frames shown of each."""
_PLATES = 6


def index_sections(location: str) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of an index."""
    index = Index.load(location)
    rows = read_table(location).to_pylist()
    refused = [row for row in rows if row["status"] != "ok" or row["error"]]
    sections = [Section("Corpus", _summary(rows))]
    look = _look(index)
    if look:
        sections.append(
            Section(
                "A look at it",
                look,
                "A few videos, each as frames evenly spread over its time; views of one event "
                "are neighbours.",
            )
        )
    if refused:
        body = table(
            ("video", "status", "reason"),
            [(r["video_id"], _status(r["status"]), r["error"] or "") for r in refused],
            raw=frozenset([1]),
        )
        sections.append(
            Section(
                "Refused or damaged",
                body,
                "Every file that was found has a row. A damaged video still gives its good frames; "
                "an unreadable one gives none; a span that ends after its file is cut there.",
            )
        )
    sections.append(Section("Videos", _videos(rows)))
    title = f"Index: {PurePosixPath(location).name}"
    return title, f"{len(rows)} videos described without decoding them", sections


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    usable = [row for row in rows if row["status"] != "unreadable"]
    seconds = sum(row["duration_s"] or 0 for row in usable)
    states = Counter(row["status"] for row in rows)
    events = Counter(row["event"] for row in rows)
    views = Counter(events.values())
    grouped = ", ".join(
        f"{count} with {size} view{'s' if size > 1 else ''}"
        for size, count in sorted(views.items())
    )
    files = {row["uri"]: row["bytes"] or 0 for row in rows}  # spans share theirs
    head = tiles(
        [
            (number(len(rows)), "videos", ", ".join(f"{n} {name}" for name, n in states.items())),
            (number(len(events)), "events", grouped),
            (duration(seconds), "of video", f"{sum(r['frames'] or 0 for r in usable):,} frames"),
            (_size(sum(files.values())), "on disk", f"{len(files)} files"),
        ]
    )
    lengths = _histogram([row["duration_s"] for row in usable if row["duration_s"]])
    charts = [figure(bar_chart("length", lengths))] if lengths else []
    for title, names in (
        ("codec", [row["codec"] for row in usable]),
        ("frame size", [f"{row['width']} × {row['height']}" for row in usable if row["width"]]),
        ("frames per second", [f"{row['fps']:.4g}" for row in usable if row["fps"]]),
    ):
        counted = Counter(name for name in names if name).most_common(8)
        if counted:
            charts.append(
                figure(bar_chart(title, [(name, float(n), str(n)) for name, n in counted]))
            )
    return head + grid(charts, smallest=230)


def _histogram(seconds: Sequence[float]) -> list[tuple[str, float, str]]:
    """Counts of lengths in classes that suit clips as well as films."""
    edges = [0, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, np.inf]
    names = ["< 1 s", "1-2 s", "2-5 s", "5-10 s", "10-30 s", "30-60 s", "1-5 min", "5-30 min",
             "0.5-2 h", "> 2 h"]  # fmt: skip
    counts = np.histogram(np.array(seconds, dtype=float), bins=edges)[0]
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    kept = range(filled[0], filled[-1] + 1)
    return [(names[i], float(counts[i]), str(int(counts[i]))) for i in kept]


def _look(index: Index) -> str:
    """Frames of a few events that can be read, evenly spread over the index; first as plates."""
    events = [event for event in index.events() if any(v.status == "ok" for v in event.videos)]
    if not events:
        return ""
    per_event = max(1, round(float(np.mean([len(event.videos) for event in events]))))
    chosen = spread(events, max(1, _PICTURES // per_event))
    plates, strips = [], []
    for video in [video for event in chosen for video in event.videos][: 2 * _PICTURES]:
        shown, frames = _frames_of(video)
        if not frames:
            continue
        cells = "".join(
            f"<div>{picture(frame, video.video_id)}{time_s:.1f} s</div>"
            for time_s, frame in zip(shown, frames, strict=True)
        )
        strip = figure(f'<div class="strip">{cells}</div>', wide=True)
        strips.append(f"<div><p>{escape(video.video_id)}</p>{strip}</div>")
        whole = plate(np.stack(frames)) if len(plates) < _PLATES else None
        if whole is not None:
            plates.append(figure(picture(whole, f"plate of {video.video_id}"), video.video_id))
    on_plates = ""
    if plates:
        on_plates = grid(plates, smallest=150) + note(
            "Several moments of one video on one plate, as Étienne-Jules Marey took them; "
            "only for cameras that stand still."
        )
    return on_plates + (f'<div class="samples">{"".join(strips)}</div>' if strips else "")


def _frames_of(video: Video) -> tuple[list[float], list[NDArray[np.uint8]]]:
    """Frames evenly spread over a video and their times in it; those that can be read."""
    if video.status == "unreadable" or not video.has_frames:
        return [], []
    shown, frames = [], []
    for time_s in (np.arange(_FRAMES) + 0.5) / _FRAMES * video.frames / video.fps:
        clock = video.event_time(float(time_s))
        try:
            frames.append(frame_of(video, clock))
        except MareyError:
            continue
        shown.append(float(time_s))
    return shown, frames


def _videos(rows: Sequence[dict[str, Any]]) -> str:
    grouped = len({row["event"] for row in rows}) < len(rows)
    lines = []
    for row in rows[:_ROWS]:
        keys = row["keyframes"] or []
        spacing = f"{np.median(np.diff(keys)):.3g} s" if len(keys) > 1 else ""
        turned = f", {row['rotation']}°" if row["rotation"] else ""
        lines.append(
            (
                row["video_id"],
                _status(row["status"]),
                *((row["event"], f"view {row['view']}") if grouped else ()),
                duration(row["duration_s"]) if row["duration_s"] else "",
                f"{row['width']} × {row['height']}{turned}" if row["width"] else "",
                f"{row['fps']:.4g}" if row["fps"] else "",
                row["codec"] or "",
                spacing,
                sparkline(np.array(row["motion"] or [], dtype=float)),
            )
        )
    header = ("video", "status", *(("event", "view") if grouped else ()), "length", "size", "fps",
              "codec", "keyframe every", "motion over time")  # fmt: skip
    listed = table(header, lines, raw=frozenset([1, len(header) - 1]))
    left = len(rows) - len(lines)
    return listed + (note(f"{left:,} more videos are in the index.") if left > 0 else "")


def _status(status: str) -> str:
    return f'<span class="{"good" if status == "ok" else "bad"}">{status}</span>'


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""
