"""What `marey find` does and says: the moments of other events that are most like a given one."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result


def find(options: argparse.Namespace) -> Result:
    """Print the most similar moments, and draw them on a page where one is asked for."""
    from marey.pipeline.cli.locations import check_data, check_suffix, check_there

    if options.count < 1:
        raise UsageError(f"--count {options.count}: one moment or more")
    if options.page:
        check_suffix(options.page, ".html", "a page")
    made = "write it with `marey embed RUN --data INDEX -o EMBEDDINGS`"
    check_there(options.embeddings, "EMBEDDINGS", made)
    if options.data:
        check_data(options.data)
    from marey.pipeline.embedding.embeddings import load_embeddings
    from marey.pipeline.evaluate.nearest_moments import find as search

    embeddings = load_embeddings(options.embeddings)
    asked, found = search(embeddings, options.video, options.time_s, options.count)
    out = sys.stderr if options.json else sys.stdout
    print(f"{asked.video_id}, frame {asked.frame} at {asked.time_s:.2f} s is most like:", file=out)
    width = max(len("video"), *(len(one.video_id) for one in found))
    print(f"{'video':<{width}}  {'time_s':>8}  {'frame':>6}  similarity", file=out)
    for one in found:
        print(
            f"{one.video_id:<{width}}  {one.time_s:>8.2f}  {one.frame:>6}  {one.similarity:>10.4f}",
            file=out,
        )
    if options.page:
        from marey.pipeline.report import write_page
        from marey.pipeline.report.of_moments import moment_page

        write_page(options.page, *moment_page(embeddings, asked, found, options.data))
        print(f"-> {options.page}", file=sys.stderr)
    return DONE, {"query": asdict(asked), "found": [asdict(one) for one in found]}
