"""What `marey check` does and says."""

from __future__ import annotations

import argparse
import sys

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, REFUSED, Result
from marey.pipeline.runtime.telling import now


def check(options: argparse.Namespace) -> Result:
    """Look for faults in a data set: a table of them, on request a page and a clean index."""
    from marey.pipeline.cli.locations import check_suffix, check_there

    check_there(options.index, "INDEX", "make one with `marey index VIDEOS -o index.parquet`")
    if options.out:
        check_suffix(options.out, ".parquet", "an index")
    if options.page:
        check_suffix(options.page, ".html", "a page")
    if options.min_seconds < 0 or (options.workers is not None and options.workers < 1):
        raise UsageError("--min-seconds is 0 or more, --workers 1 or more")
    now("reading the index")
    from marey.pipeline.data.build_index import write_index
    from marey.pipeline.data.checks.check_index import check_index, clean_table
    from marey.pipeline.data.checks.finding import KINDS
    from marey.pipeline.runtime.cores import default_workers
    from marey.pipeline.runtime.progress import Progress, print_first

    bar = Progress("check", "looks")
    checked = check_index(
        options.index,
        least_s=options.min_seconds,
        workers=options.workers or default_workers(),
        progress=bar.update,
    )
    bar.close()
    lines = [f"{f.kind}: {f.video_id}: {f.detail}" for f in checked.findings]
    print_first(lines, options.page or "--page PAGE.html")
    to = sys.stderr if options.json else sys.stdout
    for kind, count in checked.counts.items():
        print(f"{count:>8}  {kind:<16} {KINDS[kind]}", file=to)
    if options.page:
        from marey.pipeline.report.of_checks import write_checks

        write_checks(options.index, checked, options.page)
        print(f"-> {options.page}", file=sys.stderr)
    if options.out:
        table = clean_table(options.index, checked)
        write_index(table, options.out)
        print(f"{len(table)} of {checked.videos} videos -> {options.out}", file=sys.stderr)
    print(
        f"{len(checked.findings)} faults in {len({f.video_id for f in checked.findings})} of "
        f"{checked.videos} videos, {checked.events} events",
        file=sys.stderr,
    )
    figures = {
        "videos": checked.videos,
        "events": checked.events,
        "counts": checked.counts,
        "findings": [
            {"kind": f.kind, "video_id": f.video_id, "event": f.event, "detail": f.detail,
             "other": f.other, "times_s": list(f.times_s)}
            for f in checked.findings
        ],
    }  # fmt: skip
    return (REFUSED if checked.findings else DONE), figures
