"""How do methods stand beside each other? The table of docs/methods.md, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.methods_results import HELD_OUT, Result
from marey.models.method import methods
from marey.pipeline.training.record import UNTRAINED

Cell = Callable[[list[Result]], str]
"""A preset's results, one a seed, to what stands in its row."""


def table(suite: str, rows: dict[str, list[Result]]) -> str:
    """A row a preset in the order given; of several seeds mean ± standard deviation."""
    columns = _columns(suite, _figures(rows))
    lines = [_line(["preset", *columns]), "|" + "---|" * (len(columns) + 1)]
    for preset, results in rows.items():
        lines.append(_line([f"`{preset}`", *(cell(results) for cell in columns.values())]))
    return "\n".join(lines)


def _figures(rows: dict[str, list[Result]]) -> list[str]:
    """Names of the figures that were measured (phases need labels)."""
    results = [result for seeds in rows.values() for result in seeds]
    names = results[0]["figures"]
    return [name for name in names if any(r["figures"][name] is not None for r in results)]


def _columns(suite: str, figures: Sequence[str]) -> dict[str, Cell]:
    def untrained(results: list[Result]) -> str:
        return " / ".join(spread([r[UNTRAINED][name] for r in results]) for name in figures)

    def of(name: str) -> Cell:
        return lambda results: spread([result["figures"][name] for result in results])

    measured = {name: of(name) for name in figures}
    speed: dict[str, Cell] = {"steps/s": _steps_per_s, "data wait": _data_wait}
    if suite == "videos":
        return {HELD_OUT: _held_out, UNTRAINED: untrained, "chance": _chance, **speed}
    trained: dict[str, Cell] = {**measured, UNTRAINED: untrained, "pretext (chance)": _pretext}
    if suite == "images":
        return {"family": _family, **trained, "images/s": _images_per_s}
    return {"steps": _steps, **trained, **speed}


def _family(results: list[Result]) -> str:
    return methods()[results[0]["method"]].__module__.split(".")[-2]  # the folder of its file


def _pretext(results: list[Result]) -> str:
    return ", ".join(
        f"{name} {spread([r['pretext'][name]['trained'] for r in results])} ({level['chance']:.3g})"
        for name, level in results[0]["pretext"].items()
    )


def _held_out(results: list[Result]) -> str:
    return f"{results[0]['metric']} {spread([r['figures'][HELD_OUT] for r in results])}"


def _chance(results: list[Result]) -> str:
    level = results[0]["chance"][HELD_OUT]
    return "" if level is None else f"{level:.3g}"


def _steps(results: list[Result]) -> str:
    return str(results[0]["steps"])


def _steps_per_s(results: list[Result]) -> str:
    return f"{statistics.mean(r['samples_per_s'] / r['batch_size'] for r in results):.1f}"


def _images_per_s(results: list[Result]) -> str:
    return f"{statistics.mean(r['samples_per_s'] for r in results):.0f}"


def _data_wait(results: list[Result]) -> str:
    return f"{statistics.mean(r['data_wait'] for r in results):.0%}"


def spread(values: Sequence[float | None]) -> str:
    """The mean, of several with its standard deviation; empty where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{statistics.mean(known):.3f}"
    return text + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
