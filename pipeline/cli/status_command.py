"""What `marey status` does and says: how far a command is, or was when it ended."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from typing import Any

from marey.configs.errors import InputError, UsageError
from marey.pipeline.cli.outcome import ALARM, DONE, FAILED, Result
from marey.pipeline.runtime.status_file import STATUS, read_status
from marey.pipeline.runtime.storage import Folder

BELOW = ("run", "tracks", "embeddings-trained", "embeddings-untrained")
"""Folders below one of a command in which its work may stand: a demo's, tracks mined for a run."""
FINISHED = {
    "summary.json": "training", "manifest.json": "shards", "_meta.parquet": "embeddings",
    "meta.json": "embeddings", "demo.json": "demo",
}  # fmt: skip
"""What is written last, and of what: results of versions without a status file."""
LATE = 4.0
"""Work of which nothing was heard for so many times the interval of its status is lost."""
LEAST_S = 10.0


def status(options: argparse.Namespace) -> Result:
    """Say how far the work on a folder is, and whether it is alive; once, or until it ends."""
    for name in ("refused_above", "rate_below"):
        share = getattr(options, name)
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"--{name.replace('_', '-')} {share}: a share from 0 to 1")
    if options.watch is not None and not options.watch > 0:
        raise UsageError(f"--watch {options.watch}: a number of seconds")
    code = DONE
    while True:
        found = [_judged(place, status) for place, status in _found(options.run_folder)]
        alarms = [alarm for one in found for alarm in _alarms(one, options)]
        if not options.json:
            print("\n".join(line for one in found for line in _lines(one)), flush=True)
        for alarm in alarms:
            print(f"alarm: {alarm}", file=sys.stderr)
        if alarms and code != ALARM:  # told once, however long it lasts
            _call(options.on_alarm, found, alarms)
        code = ALARM if alarms else code
        if options.watch is None or not any(one["alive"] for one in found):
            break
        time.sleep(options.watch)
    lost = any(one["state"] in ("lost", "failed") for one in found)
    return (ALARM if code == ALARM else FAILED if lost else DONE), {
        "work": found, "alarms": alarms,
    }  # fmt: skip


def _found(location: str) -> list[tuple[str, dict[str, Any]]]:
    """The folders with a status at a location, and what each says; the newest first."""
    folder = Folder(location)
    places = [location]
    if location.endswith(".parquet"):
        places = [f"{location}.unfinished"]
    elif folder.exists():
        places += [folder.join(name) for name in BELOW]
    found = [(place, read_status(Folder(place))) for place in places]
    known = [(place, status) for place, status in found if status is not None]
    if known:
        return sorted(known, key=lambda one: -one[1]["updated"])
    if not folder.exists():
        raise InputError(f"{location}: no such folder; give the -o of the command that you ask for")
    if location.endswith(".parquet"):
        return [(location, {"kind": "index", "state": "finished"})]
    for name, kind in FINISHED.items():
        if folder.exists(name):
            return [(location, {"kind": kind, "state": "finished", **_said(folder, kind)})]
    raise InputError(
        f"{location} has no {STATUS}: no command of marey has worked in it, or one of a version "
        "before it wrote this file"
    )


def _said(folder: Folder, kind: str) -> dict[str, Any]:
    """What finished work says of itself."""
    if kind == "embeddings":
        from marey.pipeline.embedding.folder_meta import read_meta

        meta = read_meta(folder)
        done = {"done": meta["frames"], "total": meta["frames"], "unit": "frames"}
        return done | {"refused": meta["refused"]}
    if kind == "shards":
        manifest = json.loads(folder.read("manifest.json"))
        return {"done": manifest["rows"], "total": manifest["rows"], "unit": "samples"}
    return {}


def _judged(place: str, status: dict[str, Any]) -> dict[str, Any]:
    """A status with `place`, `heard_s` ago, and `alive`; one that says "running" may be lost."""
    heard_s = max(0.0, time.time() - float(status.get("updated", time.time())))
    running = status["state"] == "running"
    late = heard_s > max(LEAST_S, LATE * float(status.get("every_s", 1.0)))
    alive = running and not late and not _is_gone(status)
    state = status["state"] if alive or not running else "lost"
    return {**status, "place": place, "heard_s": round(heard_s, 1), "alive": alive, "state": state}


def _is_gone(status: dict[str, Any]) -> bool:
    """Whether the process is one of this machine that is no more."""
    if status.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(status["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _lines(status: dict[str, Any]) -> list[str]:
    """What a person reads."""
    name = f" {status['name']}" if "name" in status else ""
    state = status["state"]
    if status["alive"]:
        state = f"running (process {status['pid']} on {status['host']})"
    elif state == "lost":
        state = f"lost: it was killed, or its machine is; last heard of {_ago(status['heard_s'])}"
    elif "updated" in status:
        state = f"{state} {_ago(status['heard_s'])}"
    lines = [f"{status['place']}: {status['kind']}{name}, {state}"]

    def row(word: str, text: object) -> None:
        lines.append(f"  {word:<11}{text}")

    if status["alive"] and status.get("doing"):
        row("now", status["doing"])
    if "done" in status:
        unit = status.get("unit", "")
        done = f"{status['done']} of {status['total']} {unit}"
        if status["alive"] and "rate" in status:
            done += f", {status['rate']:.3g} {unit}/s, {_clock(status['left_s'])} left"
        row("done", done)
    if "loss" in status:
        row("loss", f"{status['loss']:.4g}")
    if "samples_per_s" in status:
        row("rate", f"{status['samples_per_s']:.3g} samples/s, waiting for data "
            f"{100 * status.get('data_wait', 0):.1f} % of the time")  # fmt: skip
    refused = status.get("refused") or {}
    if refused:
        most = sorted(refused.items(), key=lambda one: -one[1])[:5]
        more = f"; and {len(refused) - 5} more reasons" if len(refused) > 5 else ""
        row("refused", "; ".join(f"{reason}: {n}" for reason, n in most) + more)
    if "checkpoint" in status:
        row("checkpoint", status["checkpoint"] or "none yet")
    if status.get("error"):
        row("error", status["error"])
    if status.get("command"):
        row("command", status["command"])
    if status["state"] in ("lost", "stopped", "failed") and status.get("command"):
        row("go on", _way_on(status))
    return lines


def _way_on(status: dict[str, Any]) -> str:
    """The command that goes on with work that has ended too early."""
    line = status["command"]
    if status["kind"] == "training" and status.get("checkpoint") and "--resume" not in line:
        return f"{line} --resume"
    return line


def _alarms(status: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """What is worse than was asked for, in words."""
    alarms = []
    seen, refused = status.get("seen") or 0, sum((status.get("refused") or {}).values())
    if options.refused_above is not None and seen and refused / seen > options.refused_above:
        alarms.append(
            f"{status['place']}: {refused / seen:.1%} are refused ({refused} of {seen}), more than "
            f"{options.refused_above:.1%}"
        )
    rate, best = status.get("rate"), status.get("best_rate")
    least = 0.0 if options.rate_below is None or not best else options.rate_below * best
    if status["alive"] and rate is not None and rate < least:
        alarms.append(
            f"{status['place']}: {rate:.3g} {status.get('unit', '')}/s, less than "
            f"{options.rate_below:.0%} of the {best:.3g} that it has reached"
        )
    if (options.refused_above, options.rate_below) != (None, None) and status["state"] == "lost":
        alarms.append(f"{status['place']}: lost, last heard of {_ago(status['heard_s'])}")
    return alarms


def _call(command: str | None, found: list[dict[str, Any]], alarms: list[str]) -> None:
    """Run a command of the person's own, without a shell, with the status as JSON on its input."""
    if command is None:
        return
    words = shlex.split(command)
    told = json.dumps({"alarms": alarms, "work": found})
    try:
        done = subprocess.run(words, input=told, text=True, check=False)
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"--on-alarm {command}: {error}") from error
    if done.returncode:
        print(f"--on-alarm {words[0]}: exit code {done.returncode}", file=sys.stderr)


def _ago(seconds: float) -> str:
    return f"{_clock(seconds)} ago"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
