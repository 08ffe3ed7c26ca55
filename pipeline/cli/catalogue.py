"""Which methods there are, and what can be set: what `marey methods` prints."""

from __future__ import annotations

from typing import Any

from marey.configs.load import describe, flat, override, presets, read_preset, run_config, suggest
from marey.configs.schema import RunConfig
from marey.models.method import find_method, methods


def list_methods() -> tuple[str, dict[str, Any]]:
    """All methods by family with their paper and presets, as text and as data."""
    by_method: dict[str, list[str]] = {}
    for preset in presets():
        by_method.setdefault(read_preset(preset)["name"], []).append(preset)
    lines, data, family = [], {}, ""
    ordered = sorted(methods().items(), key=lambda item: (item[1].__module__, item[0]))
    for name, method in ordered:
        folder = method.__module__.split(".")[1]
        if folder != family:
            lines += ["", folder] if family else [folder]
            family = folder
        lines.append(f"  {name:<22} {method.paper}")
        lines.append(f"  {'':<22} presets: {', '.join(by_method.get(name, ['none']))}")
        data[name] = {
            "family": folder, "paper": method.paper, "presets": by_method.get(name, []),
        }  # fmt: skip
    lines += ["", "`marey methods PRESET` lists every setting."]
    return "\n".join(lines), data


def describe_method(name: str) -> tuple[str, dict[str, Any]]:
    """Every setting of a preset (or method): value, default, meaning."""
    tree = read_preset(name) if name in presets() or name not in methods() else {"name": name}
    method = find_method(tree["name"], suggest)
    config = run_config(override(tree, []), method.Config)
    values = flat(config.model_dump(mode="json"))
    rows = describe(method.Config, "method.") + [
        row for row in describe(RunConfig) if not row[0].startswith(("method", "name"))
    ]
    lines = [f"{method.name}: {method.paper}", ""]
    unset = tuple(f"{key}." for key, value in values.items() if value is None)
    for key, default, meaning in rows:
        # of a group either the one line that it is unset, or those of its settings
        if key.startswith(unset) or any(name.startswith(f"{key}.") for name in values):
            continue
        value = values.get(key)
        shown = (
            f"{value!r} (default {default})"
            if key in values and repr(value) != default
            else default
        )
        lines.append(f"  {key} = {shown}")
        lines.append(f"      {' '.join(meaning.split())}")
    return "\n".join(lines), {"method": method.name, "settings": values}
