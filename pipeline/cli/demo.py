"""The whole job as one command: index, train, embed, evaluate, and a page to look at."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from marey.configs.errors import InputError, UsageError
from marey.configs.load import override, read_preset, run_config
from marey.models.method import find_method
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.guess_views import guess_views
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import read_table
from marey.pipeline.embedding.embed import embed
from marey.pipeline.evaluate.run import render, run_eval
from marey.pipeline.report import (
    embedding_sections,
    index_sections,
    run_sections,
    task_section,
    write_page,
)
from marey.pipeline.runtime import telling
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.engine import ray_session
from marey.pipeline.runtime.progress import Progress, minutes, print_first, training_words
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.synthetic.arm_corpus import make_corpus
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.pretext import Pretext, pretext
from marey.pipeline.training.record import warnings_in

STATE = "demo.json"
"""What a demo is made of, and its figures once it is finished."""
MADE = (
    STATE, "index.parquet", "train.parquet", "test.parquet", "run", "embeddings-trained",
    "embeddings-untrained", "report.html",
)  # fmt: skip
"""What a demo writes into its folder; `videos` beside, where it generates them."""
VIEWS = r"(?P<event>fetch\d+)_view(?P<view>\d+)"
"""Grouping of the generated corpus."""
EVENTS = 24
"""Events of the generated corpus."""
HELD_OUT = 0.2
"""Share of one's own events that is kept from training, where there are enough."""
ENOUGH_EVENTS = 5
TASK_SAMPLES = 64
"""Samples of single videos on which the pretext task is scored."""
SINGLE_VIEW = {"kind": "time_pairs", "pairs": 16, "positive_s": 0.2, "negative_s": 0.6}
"""What the preset samples where no event has two views."""


def run_demo(
    out: str, *, videos: str | None = None, views: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Run everything into the folder `out`; returns the figures of the evaluation.

    videos: a folder of one's own; without it a small corpus of two-view videos is generated.
    A demo that was interrupted goes on; one that is finished is left as it is, unless `overwrite`.
    Raises UsageError when `out` holds a demo of other videos, InputError when the videos are
    unusable.
    """
    home = Path(out)
    given = {"videos": videos and str(Path(videos).absolute()), "views": views}
    done = _begun(home, given, overwrite)
    if "page" in done:
        _say(f"nothing to do: this demo is finished; open {done['page']} (--overwrite: anew)")
        return done
    start = time.monotonic()
    labels = None
    if videos is None:
        if not (home / "index.parquet").exists():
            _say("generating a corpus of two-view videos")
            bar = Progress("render", "videos")
            make_corpus(home / "videos", events=EVENTS, progress=bar.update)
            bar.close()
        videos, views, labels = str(home / "videos"), VIEWS, str(home / "videos" / "labels")
    train, test = _index(home, videos, views)
    tree = read_preset("demo")
    if _has_views(train):
        _say("events that several cameras saw: what they show at one moment becomes alike (tcn)")
    else:
        _say("no event that two cameras saw: moments near each other become alike (tcn_single)")
        _propose_views(home, videos)
        tree = override(tree, [f"method.sampling={SINGLE_VIEW}"])
    config = run_config(tree, find_method(tree["name"]).Config)
    probe = test if _has_views(test) else None
    prepared = prepare(config, train, str(home / "run"), resume=True, probe_data=probe)
    with ray_session():
        total = prepared.job.total_steps()
        _say(f"training {config.name} through Ray: {total} steps")
        bar = Progress("train", "steps", total)
        summary = run_training(prepared, watch=lambda lines: _show(bar, lines))
        bar.close()
        refused = prepared.job.plan.refused_by_name() + Counter(summary["refused"])
        print_first([f"refused: {why} ({n})" for why, n in refused.items()], str(home / "run"))
        for name, encoder in (("trained", "run"), ("untrained", "run/untrained")):
            _say(f"embedding the {'held-out ' if test != train else ''}videos, {name} encoder")
            bar = Progress("embed", "frames")
            out_of = str(home / f"embeddings-{name}")
            embed(str(home / encoder), test, out_of, rate=0, progress=bar.update)
            bar.close()
    _say("evaluating")
    figures = _evaluate(home, labels, paired=probe is not None)
    task = _task(home, test) if probe is None else None
    if task is not None:
        figures["pretext"] = {"trained": task.trained, "untrained": task.untrained}
    page = home / "report.html"
    _say("drawing the page")
    _page(home, labels, task, page, held_out=test != train)
    _say(f"done in {time.monotonic() - start:.0f} s; open {page}")
    figures = {"page": str(page), "seconds": round(time.monotonic() - start), **figures}
    Folder(home).write(STATE, json.dumps({"given": given, "done": figures}).encode())
    return figures


def _begun(home: Path, given: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """The figures of a finished demo; empty for one that begins or goes on.

    Raises UsageError for a folder of other videos, or of anything else.
    """
    folder = Folder(home)
    if folder.exists(STATE):
        before = json.loads(folder.read(STATE))
        if overwrite:
            for name in MADE if before["given"]["videos"] else (*MADE, "videos"):
                folder.remove(name)
        elif before["given"] == given:
            return before["done"]
        else:
            raise UsageError(
                f"{home} holds a demo of {before['given']['videos'] or 'the generated videos'}, "
                f"with --views {before['given']['views']}; --overwrite starts anew, or give "
                "another -o"
            )
    elif found := [name for name in MADE if (home / name).exists()]:
        raise UsageError(
            f"{home} holds {', '.join(found)} and no {STATE}: it is a demo of an earlier version, "
            "or something else; give another -o, or remove it first"
        )
    folder.write(STATE, json.dumps({"given": given, "done": {}}).encode())
    return {}


def _index(home: Path, videos: str, views: str | None) -> tuple[str, str]:
    """Index the corpus and part it by events: (training index, held-out index).

    What an interrupted demo has indexed stays: a run goes on with the data that it began with.
    """
    if (home / "index.parquet").exists():
        parts = [home / "train.parquet", home / "test.parquet"]
        if all(part.exists() for part in parts):
            return str(parts[0]), str(parts[1])
        if (home / "run").exists():  # too few events to part
            return str(home / "index.parquet"), str(home / "index.parquet")
    bar = Progress("index", "videos")
    table = make_index(
        [videos],
        views=views,
        workers=default_workers(),
        progress=lambda done, total, seconds: bar.update(done, total, seen=minutes(seconds)),
    )
    bar.close()
    for row in table.select(["video_id", "status", "error"]).to_pylist():
        if row["error"]:
            _say(f"{row['status']}: {row['video_id']}: {row['error']}")
    write_index(table, str(home / "index.parquet"))
    readable = sorted({r["event"] for r in table.to_pylist() if r["status"] != "unreadable"})
    if not readable:
        raise InputError(f"{videos}: none of its {len(table)} videos can be read")
    held_out = _held_out(readable)
    if not held_out:
        _say(f"only {len(readable)} videos: evaluating on the training videos themselves")
        return str(home / "index.parquet"), str(home / "index.parquet")
    inside = [event in held_out for event in table["event"].to_pylist()]
    locations = []
    for name, mask in (("train", [not i for i in inside]), ("test", inside)):
        locations.append(str(home / f"{name}.parquet"))
        write_index(table.filter(pa.array(mask)), locations[-1])
    return locations[0], locations[1]


def _held_out(events: Sequence[str]) -> set[str]:
    """A fifth of the events, chosen by their names alone; the generated corpus names its own."""
    named = {event for event in events if event.startswith("test/")}
    if named:
        return named
    if len(events) < ENOUGH_EVENTS:
        return set()
    by_hash = sorted(events, key=lambda event: hashlib.blake2b(event.encode()).digest())
    return set(by_hash[: max(1, round(HELD_OUT * len(events)))])


def _propose_views(home: Path, videos: str) -> None:
    """Say how the videos might be grouped, where their names look as if cameras had made them."""
    names = read_table(str(home / "index.parquet"), ["video_id"])["video_id"].to_pylist()
    guess = guess_views(names)
    if guess and guess.named:
        _say(
            f"their names look like {guess.events} events with the views {', '.join(guess.views)}; "
            f"to learn across cameras: make demo VIDEOS={videos} OUT={home}-views "
            f"VIEWS='{guess.expression}'"
        )


def _has_views(index: str) -> bool:
    return any(len(event.videos) > 1 for event in Index.load(index).events())


def _evaluate(home: Path, labels: str | None, *, paired: bool) -> dict[str, Any]:
    """The table of trained beside untrained, printed and returned."""
    protocols: list[tuple[str, str | None]] = [("geometry", None)]
    if paired:
        protocols.insert(0, ("alignment", labels))
    if labels is not None:
        protocols.insert(1, ("knn", labels))
    figures = {}
    for protocol, given in protocols:
        result = run_eval(
            protocol,
            str(home / "embeddings-trained"),
            labels=given,
            baseline=str(home / "embeddings-untrained"),
        )
        print(render(result) + "\n")
        figures[protocol] = {"trained": result["figures"], "untrained": result["baseline"]}
    return figures


def _task(home: Path, test: str) -> Pretext | None:
    """The run's own task on single videos, printed and returned.

    Nothing else of single videos without labels says whether training helped: that frames of one
    video find each other is easiest by their background, which the task makes a network forget.
    """
    try:
        found = pretext(str(home / "run"), test, samples=TASK_SAMPLES)
    except InputError as error:  # all of them too short, say
        _say(f"the task was not scored: {error}")
        return None
    print(render(found.figures()) + "\n")
    return found


def _page(
    home: Path, labels: str | None, task: Pretext | None, page: Path, *, held_out: bool
) -> None:
    title, subtitle, run = run_sections(str(home / "run"))
    _, _, embeddings = embedding_sections(
        str(home / "embeddings-trained"),
        baseline=str(home / "embeddings-untrained"),
        labels=labels,
    )
    _, _, index = index_sections(str(home / "index.parquet"))
    if task is not None:
        section = task_section(task.trained, task.untrained, task.chance, held_out=held_out)
        embeddings.insert(0, section)  # it has the answer, where no two views are compared
    write_page(str(page), title, subtitle, [*embeddings, *run, *index])


def _show(bar: Progress, lines: list[dict[str, Any]]) -> None:
    shown: dict[str, Any] = {}
    for line in lines:
        shown |= training_words(line)
        shown |= {k: v for k, v in line.get("probe", {}).items() if k.endswith("_error")}
    for warning in warnings_in(lines):
        bar.note(f"warning: {warning}")
    bar.update(lines[-1]["step"], lines[-1]["total"], **shown)


def _say(text: str) -> None:
    """Print what is done from now on; it is said again while it lasts."""
    print(text, file=sys.stderr, flush=True)
    telling.moves(text, printed=True)
