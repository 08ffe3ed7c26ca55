"""What `marey check` found: how many of each fault, and the worst cases as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath

from marey.configs.errors import MareyError
from marey.pipeline.data.checks.check_index import Checked
from marey.pipeline.data.checks.finding import KINDS, Finding
from marey.pipeline.data.checks.glimpse import MOMENTS
from marey.pipeline.data.events import Video
from marey.pipeline.data.index import Index
from marey.pipeline.report.page import (
    Section,
    figure,
    long_table,
    number,
    picture,
    render_page,
    tiles,
)
from marey.pipeline.report.pictures import frame_of
from marey.pipeline.runtime.storage import Folder, split

_SHOWN = 6
"""Findings of each kind that are shown as pictures."""
_HEIGHT = 96


def write_checks(location: str, checked: Checked, out: str) -> None:
    """Write the page of what was found in an index, whole or not at all."""
    title = f"Check of {PurePosixPath(location).name}"
    faulty = len({finding.video_id for finding in checked.findings})
    subtitle = f"{faulty} of {checked.videos} videos have a fault"
    folder, name = split(out)
    page = render_page(title, subtitle, check_sections(location, checked, out))
    Folder(folder).write(name, page.encode())


def check_sections(location: str, checked: Checked, out: str) -> list[Section]:
    """A section for each kind of fault that was found. out: where the whole list is."""
    wanted = {f.video_id for f in checked.findings} | {f.other for f in checked.findings}
    videos = {
        video.video_id: video
        for event in Index.load(location).events()
        for video in event.videos
        if video.video_id in wanted
    }
    head = [(number(checked.videos), "videos", f"{checked.events} events")]
    head += [(number(count), kind.replace("_", " "), "") for kind, count in checked.counts.items()]
    sections = [Section("Found", tiles(head))]
    for kind in checked.counts:
        found = [finding for finding in checked.findings if finding.kind == kind]
        rows = [(f.video_id, f.event, f.detail) for f in found]
        body = _pictures(found[:_SHOWN], videos) + long_table(
            ("video", "event", "found"), rows, out
        )
        intro = KINDS[kind][0].upper() + KINDS[kind][1:] + "."
        sections.append(Section(kind.replace("_", " ").capitalize(), body, intro))
    return sections


def _pictures(found: Sequence[Finding], videos: dict[str, Video]) -> str:
    strips = []
    for finding in found:
        video, other = videos.get(finding.video_id), videos.get(finding.other)
        shown = _strip(video, finding.times_s) if video else ""
        if other is not None and other.video_id != finding.video_id:
            beside = _strip(other, ())
            shown += f"<p>{escape(other.video_id)}</p>{beside}" if beside else ""
        if shown:
            strips.append(
                f"<div><p>{escape(finding.video_id)}: {escape(finding.detail)}</p>{shown}</div>"
            )
    return f'<div class="samples">{"".join(strips)}</div>' if strips else ""


def _strip(video: Video, times_s: Sequence[float]) -> str:
    """Frames of a video at some of its times; evenly spread where none are given."""
    cells = []
    last = video.duration_s - (0.5 / video.fps if video.fps else 0)
    for time_s in times_s or [share * video.duration_s for share in MOMENTS]:
        at = min(max(0.0, time_s), max(0.0, last))
        try:
            frame = frame_of(video, float(video.event_time(at)), _HEIGHT)
        except MareyError:
            continue
        cells.append(f"<div>{picture(frame, video.video_id)}{at:.1f} s</div>")
    return figure(f'<div class="strip">{"".join(cells)}</div>', wide=True) if cells else ""
