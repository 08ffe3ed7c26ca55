"""What the commands do that only call and print: `report`, `methods`, `doctor`, `demo`."""

from __future__ import annotations

import argparse
import sys

from marey.pipeline.cli.outcome import DONE, FAILED, Result
from marey.pipeline.runtime.telling import now


def report(options: argparse.Namespace) -> Result:
    """Write a page with pictures."""
    from marey.pipeline.cli.locations import check_suffix, check_there

    check_suffix(options.out, ".html", "a report")
    made = "train a run, index videos, mine shards or embed first (`marey` lists the commands)"
    check_there(options.target, "TARGET", made)
    now("drawing the page")
    from marey.pipeline.report import write_report

    write_report(options.target, options.out, baseline=options.baseline, labels=options.labels)
    print(f"-> {options.out}", file=sys.stderr)
    return DONE, {"page": options.out}


def methods(options: argparse.Namespace) -> Result:
    """List the methods, or the settings of one."""
    from marey.pipeline.cli.catalogue import describe_method, list_methods

    text, figures = describe_method(options.name) if options.name else list_methods()
    print(text, file=sys.stderr if options.json else sys.stdout)
    return DONE, figures


def doctor(options: argparse.Namespace) -> Result:
    """Look at what is installed, saying each thing as soon as it is known."""
    from marey.pipeline.cli.doctor import examine, line_of

    findings = []
    for finding in examine():
        findings.append(finding)
        print(line_of(finding), file=sys.stderr if options.json else sys.stdout, flush=True)
    bad = any(finding.state == "missing" for finding in findings)
    return (FAILED if bad else DONE), {
        f.name: {"state": f.state, "found": f.found} for f in findings
    }


def demo(options: argparse.Namespace) -> Result:
    """Run the whole job."""
    from marey.pipeline.cli.demo import run_demo

    return DONE, run_demo(
        options.out, videos=options.videos, views=options.views, overwrite=options.overwrite
    )
