"""What `marey mine` does and says."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from marey.pipeline.cli.outcome import DONE, REFUSED, Result
from marey.pipeline.runtime.telling import now

if TYPE_CHECKING:  # pydantic takes a quarter of a second, which `--help` has no need of
    from marey.configs.mining import SamplesMining, TracksMining
    from marey.pipeline.stream.graph import Engine

LOST = ("video: ", "event: ", "sample: ", "window: ")
"""Reasons of mining that name an input which gave nothing; the others are the miner's choice."""


def mine(options: argparse.Namespace) -> Result:
    """Store tracks or planned samples as shards."""
    from marey.configs.mining import mining_settings
    from marey.pipeline.cli.locations import check_data

    now("reading the data")
    settings = mining_settings(options.kind, options.settings)
    check_data(options.data, "DATA")
    from marey.pipeline.mining.mine import mined_before
    from marey.pipeline.video.reasons import FILE_FAULTS

    before = None if options.overwrite else mined_before(options.data, options.out, settings)
    if before is not None:
        there = f"these shards are there already; {before['rows']} samples"
        print(f"nothing to do: {there} -> {options.out}", file=sys.stderr)
        return DONE, _figures(before)
    manifest = mined(options.data, options.out, settings, options.engine, options.overwrite)
    figures = _figures(manifest)
    lost = [r for r in manifest["reasons"] if r.startswith(LOST) and r != "sample: accepted"]
    refused = any(fault in reason for reason in manifest["reasons"] for fault in FILE_FAULTS)
    return (REFUSED if refused or lost else DONE), figures


def _figures(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in ("kind", "rows", "parts", "reasons")}


def mined(
    data: str,
    out: str,
    settings: TracksMining | SamplesMining,
    engine: Engine,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Mine with a bar, and say what came of it; returns the manifest."""
    from marey.pipeline.mining.mine import mine_corpus
    from marey.pipeline.runtime.progress import Progress, print_first, showing

    bar = Progress("mine", "parts")
    with showing():
        manifest = mine_corpus(
            data,
            out,
            settings,
            engine=engine,
            overwrite=overwrite,
            progress=lambda done, total, rows: bar.update(done, total, samples=rows),
        )
    bar.close()
    lines = [f"{count:>8}  {reason}" for reason, count in manifest["reasons"].items()]
    print_first(lines, f"{out}/manifest.json")
    print(f"{manifest['rows']} samples -> {out}", file=sys.stderr)
    return manifest
