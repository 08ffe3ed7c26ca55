"""What there is and what can be set: the lists that `marey methods` and `--help` print."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from marey.configs import plugins
from marey.configs.describe import Setting, describe, typed
from marey.configs.load import flat, read_preset
from marey.configs.recipes import (
    SMALL_HARDWARE,
    method_of,
    presets,
    published,
    recipe_of,
    recipes_of,
)
from marey.configs.renamed import renamed
from marey.configs.schema import RunConfig
from marey.pipeline.cli.declared import (
    all_methods,
    check_run,
    declared_method,
    method_settings,
    plugin_method,
)


def list_methods() -> tuple[str, dict[str, Any]]:
    """All methods by family with their paper and presets, as text and as data."""
    by_method: dict[str, list[str]] = {}
    for preset in presets():
        by_method.setdefault(method_of(preset), []).append(preset)
    lines, data, family = [], {}, ""
    for one in all_methods():
        own = by_method.get(one.name, [])
        if one.family != family:
            lines += ["", one.family] if family else [one.family]
            family = one.family
        lines.append(f"  {one.name:<22} {one.paper}")
        lines.append(f"  {'':<22} presets: {', '.join(own) or 'none'}")
        large = {name: recipe for preset in own for name in recipes_of(preset)
                 if (recipe := recipe_of(name)) is not None}  # fmt: skip
        for name, recipe in large.items():
            lines.append(f"  {'':<22} published: {name} ({recipe.hardware}): {recipe.figure}")
        data[one.name] = {
            "family": one.family,
            "paper": one.paper,
            "presets": own,
            "published": {name: recipe.model_dump() for name, recipe in large.items()},
        }
    lines += [
        "",
        f"Presets are small, for {SMALL_HARDWARE}; published ones are what the authors trained.",
        "`marey methods PRESET` lists every setting.",
    ]
    return "\n".join(lines), data


def describe_method(name: str) -> tuple[str, dict[str, Any]]:
    """Every setting of a preset (or method): value, default, bounds, meaning."""
    known = [*presets(), *published()]
    named = name not in known and any(one.name == name for one in all_methods())
    tree = {"name": name} if named else renamed(read_preset(name))
    model = method_settings(tree["name"])
    values = flat(check_run(tree).model_dump(mode="json"))
    rows = describe(model, "method.") + [
        row for row in describe(RunConfig) if not row.key.startswith(("method", "name"))
    ]
    of = f" (method {tree['name']})" if tree["name"] != name else ""
    found = declared_method(tree["name"]) or plugin_method(tree["name"])
    title = f"{name}{of}: {found.paper}"
    text = "\n".join([title, *_about(name), "", *setting_lines(rows, values)])
    return text, {"method": tree["name"], "settings": values}


def _about(preset: str) -> list[str]:
    """What a preset is made for, and what else there is of its method."""
    recipe = recipe_of(preset)
    if recipe is not None:
        return [
            f"the published recipe ({recipe.source})",
            f"trained on: {recipe.hardware}; encoder: {recipe.parameters} parameters; "
            f"reported: {recipe.figure}",
        ]
    if preset not in presets():
        return []
    large = recipes_of(preset)
    beside = f"; the published: {', '.join(large)}" if large else ""
    return [f"the small recipe, for {SMALL_HARDWARE}{beside}"]


def describe_protocol(name: str) -> str:
    """What a protocol of `marey eval` measures, and every setting of it."""
    from marey.pipeline.evaluate.protocols import find_protocol

    protocol = find_protocol(plugins.allow_name(name))
    options = [f"--{o} ({'needed' if o in protocol.required else 'may be given'})"
               for o in protocol.options]  # fmt: skip
    return "\n".join(
        [
            protocol.about,
            f"It is run on: {protocol.target}" + "".join(f", {option}" for option in options),
            "",
            *setting_lines(describe(protocol.settings)),
        ]
    )


def list_protocols() -> str:
    """One line for each protocol of `marey eval`."""
    from marey.pipeline.evaluate.protocols import protocols

    lines = [f"  {name:<12} {protocol.about}" for name, protocol in protocols().items()]
    return "\n".join(["protocols:", *lines])


def describe_tracker(name: str) -> str:
    """Every setting of a tracker."""
    from marey.configs.tracking import declared_tracker
    from marey.trackers import find_tracker

    find_tracker(plugins.allow_name(name))
    settings = declared_tracker(name)
    if settings is None:
        return f"{name}: a tracker that declares no settings"
    about = (inspect.getdoc(settings) or "").splitlines()[0]
    own = flat(settings.model_dump(mode="json"))
    rows = [row._replace(default=typed(own[row.key])) for row in describe(type(settings))]
    return "\n".join([f"{name}: {about}", "", *setting_lines(rows)])


def list_trackers() -> str:
    """The trackers by kind."""
    plugins.load()
    from marey.configs.tracking import declared_tracker
    from marey.trackers import names

    kinds: dict[str, list[str]] = {}
    for name in names():
        settings = declared_tracker(name)
        about = (inspect.getdoc(settings) or "").splitlines()[0] if settings else "others"
        kinds.setdefault(about, []).append(name)
    lines = [f"  {', '.join(own)}\n      {about}" for about, own in kinds.items()]
    return "\n".join(["trackers:", *lines])


def describe_kind(kind: str) -> str:
    """Every setting of `marey mine --kind KIND`."""
    from marey.configs.mining import SamplesMining, mining_settings

    model = mining_settings(kind, [])
    about = (inspect.getdoc(model) or "").splitlines()[0]
    rows = describe(type(model))
    if isinstance(model, SamplesMining):
        rows = [
            *describe(type(model.sampling), "sampling."),
            *(row for row in rows if not row.key.startswith("sampling")),
        ]
    return "\n".join([f"--kind {kind}: {about}", "", *setting_lines(rows)])


def setting_lines(rows: Iterable[Setting], values: Mapping[str, Any] | None = None) -> list[str]:
    """Two lines a setting: value, default and bounds; then what it means.

    values: those in use by key, where they are not the defaults.
    """
    values = values or {}
    lines = []
    unset = tuple(f"{key}." for key, value in values.items() if value is None)
    for key, default, allowed, meaning in rows:
        # of a group either the one line that it is unset, or those of its settings
        if key.startswith(unset) or any(name.startswith(f"{key}.") for name in values):
            continue
        shown = typed(values[key]) if key in values else default
        notes = [f"default {default}" if shown != default else "", allowed]
        note = "; ".join(filter(None, notes))
        lines.append(f"  {key} = {shown}" + (f"  ({note})" if note else ""))
        lines.append(f"      {' '.join(meaning.split())}")
    return lines
