"""Which protocols `marey eval` has: one list, open for others' (`register_protocol`).

A protocol is a name, typed settings and a function. The function is imported when it is called:
listing protocols and checking their settings takes no time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from marey.configs import evaluation, plugins
from marey.configs.base import Settings
from marey.configs.errors import SettingError, UsageError
from marey.configs.load import check, suggest

Target = Literal["embeddings", "encoder", "run", "sequences"]
"""What a protocol is run on: the word after its name."""
TABLE = "marey.pipeline.evaluate.run:render"
"""What makes text of most results."""
Option = Literal["data", "gallery", "labels", "baseline"]
"""Locations that a protocol may take besides."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The locations that a protocol is given; None where an option was left out."""

    target: str
    data: str | None = None
    gallery: str | None = None
    labels: str | None = None
    baseline: str | None = None
    baseline_gallery: str | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way of measuring. `register_protocol` explains the fields."""

    name: str
    settings: type[Settings]
    run: str | Callable[..., dict[str, Any]]
    target: Target = "embeddings"
    options: tuple[Option, ...] = ()
    required: tuple[Option, ...] = ()
    same_videos: bool = False
    table: str | Callable[[Mapping[str, Any]], str] = TABLE

    @property
    def about(self) -> str:
        """One line: what it measures."""
        return (inspect.getdoc(self.settings) or self.name).splitlines()[0]

    def check(self, given: Mapping[str, Any]) -> Any:
        """The settings, checked. Raises SettingError for an unknown or wrong one."""
        unknown = [key for key in given if key not in self.settings.model_fields]
        if unknown:
            known = list(self.settings.model_fields)
            raise SettingError(
                f"{self.name} has no setting {unknown[0]!r}{suggest(unknown[0], known)} "
                f"(`marey eval {self.name} --help` lists them)"
            )
        return check(self.settings, dict(given))

    def check_needed(self, inputs: Inputs) -> None:
        """Raises UsageError when an option is missing that the protocol cannot run without."""
        for option in self.required:
            if getattr(inputs, option) is None:
                raise UsageError(f"{self.name} needs --{option}: {OPTION_MEANING[option]}")

    def check_unused(self, inputs: Inputs) -> None:
        """Raises UsageError for an option that the protocol would not use."""
        for option in OPTION_MEANING:
            if getattr(inputs, option) is not None and option not in self.options:
                takes = ", ".join(f"--{own}" for own in self.options) or "no further location"
                raise UsageError(f"{self.name} does not use --{option}; it takes {takes}")

    def function(self) -> Callable[..., dict[str, Any]]:
        """What is called, imported now."""
        return _imported(self.run)

    def render(self, result: Mapping[str, Any]) -> str:
        """A result as text."""
        return _imported(self.table)(result)


def _imported(function: Any) -> Any:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


OPTION_MEANING: dict[str, str] = {
    "data": "the index (or image table) with the frames",
    "gallery": "other embeddings to train on or to search in",
    "labels": "a folder of JSON files, or a CSV or Parquet table",
    "baseline": "the same of another encoder (mostly the untrained one)",
}
LOCATIONS = (*OPTION_MEANING, "baseline_gallery")
_registry: dict[str, Protocol] = {}


def register_protocol(
    name: str,
    settings: type[Settings],
    run: str | Callable[..., dict[str, Any]],
    *,
    target: Target = "embeddings",
    options: tuple[Option, ...] = ("baseline",),
    required: tuple[Option, ...] = (),
    same_videos: bool = False,
    table: str | Callable[[Mapping[str, Any]], str] = TABLE,
) -> None:
    """Make a protocol known to `marey eval` and `run_eval`.

    name: the word after `marey eval`. settings: a model of `marey.configs.base.Settings`; the first
    line of its docstring says what the protocol measures.
    run: the function, or where it is as "module:name", which is imported when it is called. With
    target="embeddings" it is called as `run(test, gallery, labels, settings)`, test and gallery
    being `Embeddings` (gallery may be None) and labels a location or None, and returns its figures
    as plain numbers; the baseline is run through it too. With another target it is called as
    `run(inputs, settings)` with `Inputs`, and returns {"figures": ..., "baseline"?: ...,
    "embeddings"?: what was measured}.
    target: what the location after the name is. options: which further options it takes; required:
    without which it cannot run. same_videos: the gallery holds the tested videos themselves.
    table: what makes text of a result, where the usual table of figures does not serve.

    Raises SettingError when the name is taken.
    """
    made = Protocol(name, settings, run, target, (*options,), (*required,), same_videos, table)
    if _registry.get(name, made) != made:
        raise SettingError(f"two evaluation protocols are called {name!r}: give another name")
    _registry[name] = made
    module = run.partition(":")[0] if isinstance(run, str) else run.__module__
    plugins.bring("protocol", name, module)


def protocols() -> dict[str, Protocol]:
    """All protocols by name, in the order in which they were registered; plugins' come last."""
    plugins.load()
    return dict(_registry)


def find_protocol(name: str) -> Protocol:
    """The protocol of that name, or at a dotted name (`package.module:function`).

    Raises SettingError with the nearest names when there is none.
    """
    end = f" (`marey eval --help` lists them: {', '.join(_registry)})"
    return plugins.look_up(_registry, name, "protocol", made_of=_made_of, otherwise=end)


def _made_of(dotted: str, run: Any) -> Protocol:
    """A registered protocol by its function, for its import has registered it."""
    for protocol in _registry.values():
        if run is protocol.run:
            return protocol
    raise SettingError(
        f"protocol {dotted!r}: its module registers no protocol with this function "
        "(register_protocol)"
    )


_ROOM = "marey.pipeline.evaluate"
_LABELS = f"{_ROOM}.label_protocols"
_OTHERS = f"{_ROOM}.unlabelled_protocols"
register_protocol(
    "knn", evaluation.KNNSettings, f"{_LABELS}:knn", options=("gallery", "labels", "baseline")
)
register_protocol(
    "linear", evaluation.LinearSettings, f"{_LABELS}:linear",
    options=("gallery", "labels", "baseline"),
)  # fmt: skip
register_protocol(
    "states", evaluation.StatesSettings, f"{_ROOM}.states:states",
    options=("gallery", "labels", "baseline"), required=("labels",),
)  # fmt: skip
register_protocol(
    "progression", evaluation.ProgressionSettings, f"{_LABELS}:progression",
    options=("gallery", "labels", "baseline"),
)  # fmt: skip
register_protocol(
    "alignment", evaluation.AlignmentSettings, f"{_OTHERS}:alignment",
    options=("labels", "baseline"),
)  # fmt: skip
register_protocol(
    "retrieval", evaluation.RetrievalSettings, f"{_OTHERS}:retrieve",
    options=("gallery", "labels", "baseline"),
)  # fmt: skip
register_protocol(
    "copies", evaluation.CopiesSettings, f"{_OTHERS}:copies",
    options=("gallery", "baseline"), required=("gallery",), same_videos=True,
)  # fmt: skip
register_protocol("geometry", evaluation.GeometrySettings, f"{_OTHERS}:geometry")
register_protocol(
    "finetune", evaluation.FinetuneSettings, f"{_ROOM}.finetune:run_finetune", target="encoder",
    options=("data", "gallery", "labels", "baseline"), required=("data",),
)  # fmt: skip
register_protocol(
    "attentive", evaluation.AttentiveSettings, f"{_ROOM}.finetune:run_attentive", target="encoder",
    options=("data", "gallery", "labels", "baseline"), required=("data",),
)  # fmt: skip
register_protocol(
    "propagation", evaluation.PropagationSettings, f"{_ROOM}.propagation:run_propagation",
    target="encoder", options=("data", "baseline"), required=("data",),
)  # fmt: skip
register_protocol(
    "pretext", evaluation.PretextSettings, "marey.pipeline.training.pretext:run_pretext",
    target="run", options=("data",), required=("data",),
)  # fmt: skip
register_protocol(
    "tracking", evaluation.TrackingSettings, f"{_ROOM}.tracking:run_tracking",
    target="sequences", options=(), table=f"{_ROOM}.tracking:render",
)  # fmt: skip
