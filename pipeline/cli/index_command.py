"""What `marey index` does and says."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, REFUSED, Result
from marey.pipeline.runtime.telling import now

if TYPE_CHECKING:
    from marey.pipeline.data.build_index import Summary


def index(options: argparse.Namespace) -> Result:
    """Describe a corpus: probe every file, write the index, name what is bad."""
    from marey.pipeline.data.build_index import check_place, probe_corpus, summarise, write_index
    from marey.pipeline.data.corpus import Corpus
    from marey.pipeline.data.index_files import made_of
    from marey.pipeline.data.layouts.known import layout_of
    from marey.pipeline.data.list_files import ListOptions, read_columns
    from marey.pipeline.runtime.cores import default_workers
    from marey.pipeline.runtime.progress import Progress, minutes, print_first

    check_place(options.out)
    if options.sync and not options.views:
        raise UsageError("--sync needs --views, which says which videos show one event")
    for name in ("workers", "time_limit", "sync_within"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: a positive number is needed")
    workers = options.workers or default_workers()
    lists = ListOptions(
        read_columns(options.columns), options.root, options.times, options.rows_at or ""
    )
    renewal = "append" if options.append else "refresh" if options.refresh else None
    note: str | None = None

    def compare(corpus: Corpus) -> None:
        nonlocal note
        # what is appended to holds more than these sources
        if renewal != "append":
            note = f"{corpus.digest()} {options.sync} {options.sync_within if options.sync else 0}"
        before = None if renewal or options.overwrite else made_of(options.out)
        if before is None:
            return
        if before == note:
            raise _ThereAlready
        raise UsageError(
            f"{options.out} is an index that was made of other files, or in another way: "
            "--refresh takes over what has changed since, --append adds to it, --overwrite "
            "makes it anew, or give another -o"
        )

    now("looking for videos")
    bar = Progress("index", "videos")
    try:
        parts = probe_corpus(
            options.source,
            options.out,
            views=options.views,
            motion=options.motion,
            labels_from=options.labels_from,
            lists=lists,
            layout=partial(layout_of, name=options.layout, fps=options.frames_fps),
            scan=options.scan,
            elsewhere=_on_ray() if options.engine == "ray" else None,
            renewal=renewal,
            workers=workers,
            limit_s=options.time_limit,
            progress=lambda done, total, seconds: bar.update(done, total, seen=minutes(seconds)),
            say=lambda layout: print(layout, file=sys.stderr),
            found=compare,
        )
    except _ThereAlready:
        return _there_already(options.out)
    finally:
        bar.close()
    tables: Any = parts
    unplaced = []
    if options.sync:
        table, unplaced = _synchronised(parts.table(), options.sync, options.sync_within, workers)
        tables = [table]
    now("writing the index")
    write_index(tables, options.out, note)
    summary = summarise(tables)
    parts.remove()
    bad = [f"{status}: {video_id}: {error}" for status, video_id, error in summary.bad]
    print_first(bad, options.out)
    print_first([f"cut: {video_id}: {error}" for _, video_id, error in summary.cut], options.out)
    _print_events(summary, options.views)
    print(
        f"{summary.videos} videos, {summary.events} events, {summary.minutes:.1f} minutes -> "
        f"{options.out}",
        file=sys.stderr,
    )
    if summary.requests:
        print(
            f"{summary.scans['header']} from their headers, {summary.scans['full']} read whole; "
            f"{summary.read_bytes / 1e6:.1f} MB in {summary.requests} requests (those of local "
            "files that were read whole are not counted)",
            file=sys.stderr,
        )
    figures = _figures(summary)
    if options.sync:
        figures["unsynchronised"] = {clock.video_id: clock.clock.reason for clock in unplaced}
    return (REFUSED if summary.bad or unplaced else DONE), figures


class _ThereAlready(Exception):
    """The index that is asked for is there already."""


def _there_already(location: str) -> Result:
    from marey.pipeline.data.build_index import SUMMARISED, summarise
    from marey.pipeline.data.index_files import read_table

    summary = summarise([read_table(location, SUMMARISED)])
    there = f"this index is there already; {summary.videos} videos"
    print(f"nothing to do: {there} -> {location}", file=sys.stderr)
    return DONE, _figures(summary)


def _figures(summary: Summary) -> dict[str, Any]:
    return {
        "videos": summary.videos,
        "events": summary.events,
        "views": {str(views): count for views, count in sorted(summary.views.items())},
        "cut": len(summary.cut),
        "minutes": summary.minutes,
        "status": dict(summary.status),
        "scans": dict(summary.scans),
        "read_bytes": summary.read_bytes,
        "requests": summary.requests,
    }


def _on_ray() -> Any:
    """Who makes the parts of an index on a cluster."""
    from marey.pipeline.stream.index_stage import index_parts

    return index_parts


def _print_events(summary: Summary, views: str | None) -> None:
    """How many events have how many views, a few of them, and whether `--views` did anything."""
    counts = ", ".join(
        f"{count} with {n} view{'s' if n > 1 else ''}" for n, count in sorted(summary.views.items())
    )
    print(f"events: {counts or 'none'}", file=sys.stderr)
    for example in summary.examples:
        print(f"  {example}", file=sys.stderr)
    if views is None and (guess := summary.guess) and guess.named:
        print(
            f"their names look like {guess.events} events with the views {', '.join(guess.views)}; "
            f"to group them, add --overwrite --views '{guess.expression}'",
            file=sys.stderr,
        )
    grouping = views is not None and (views.lower().endswith(".csv") or "?P<view>" in views)
    if grouping and max(summary.views, default=1) == 1:
        print(
            f"warning: --views {views} grouped nothing: every event has one view. The event's name "
            "is what the path has up to the end of the group `event`, without the group `view`; "
            "does the camera's part stand there a second time?",
            file=sys.stderr,
        )


def _synchronised(table: Any, kind: Any, within_s: float, workers: int) -> tuple[Any, list[Any]]:
    """The index with estimated clocks, and the views that could not be placed."""
    from marey.pipeline.data.sync import synchronise
    from marey.pipeline.runtime.progress import Progress

    bar = Progress("sync", "events")
    table, clocks = synchronise(
        table,
        kind,
        within_s=within_s,
        workers=workers,
        progress=lambda n, all_: bar.update(n, all_),
    )
    bar.close()
    unplaced = [clock for clock in clocks if clock.clock.reason]
    for view in unplaced:
        print(
            f"unsynchronised: {view.video_id} leaves {view.event}: {view.clock.reason}"
            f" ({view.detail or f'{view.clock.agreeing} of {view.clock.windows} windows agree'})",
            file=sys.stderr,
        )
    print(f"{len(clocks) - len(unplaced)} of {len(clocks)} views synchronised", file=sys.stderr)
    return table, unplaced
