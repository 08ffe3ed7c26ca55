"""Was the pretext task solved, best on videos that were not trained on?"""

from __future__ import annotations

from collections.abc import Mapping

from marey.pipeline.report.answer import answer
from marey.pipeline.report.page import Section, number, table


def task_section(
    trained: Mapping[str, float],
    untrained: Mapping[str, float],
    chance: Mapping[str, float],
    *,
    held_out: bool,
) -> Section:
    """In a sentence whether the task was learned, and a row for each metric of it; those whose
    chance is known come first."""
    names = sorted(trained, key=lambda name: (name not in chance, name))
    rows = [
        [name.replace("_", " "), number(trained[name]), number(untrained[name]),
         number(chance[name]) if name in chance else ""]
        for name in names
    ]  # fmt: skip
    known = [name for name in names if name in chance]
    first = "".join(
        answer(
            name.replace("_", " "), trained[name], chance[name], untrained[name],
            higher_is_better=not name.endswith(("error", "loss")),
        )
        for name in known[:1]
    )  # fmt: skip
    return Section(
        "The task on videos held out" if held_out else "The task",
        first + table(["metric", "trained", "untrained", "chance"], rows),
        "The run's own metrics, on videos that it was "
        + ("not trained on." if held_out else "trained on: there were too few to hold some out."),
    )
