"""Which settings have another name today, so that older presets, files and runs still open?"""

from __future__ import annotations

from typing import Any

OLD_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_contrast": ("clip_simclr", {"objective": "simclr"}),
}
"""Preset of an older version -> the one with its values, and what it said of the method beside."""

_CLIP_CONTRAST = {
    "simclr": {"momentum", "queue", "norm_groups"},
    "moco": set(),
    "byol": {"temperature", "queue", "norm_groups", "alike", "min_negatives"},
}
"""By `method.objective`: the settings of `clip_contrast` that did nothing."""


def renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings as this version names them; what has its old name elsewhere stays.

    `clip_contrast` with `method.objective` is one of three methods: `clip_simclr`, `clip_moco` (the
    default) and `clip_byol`. What was not said keeps the value that it had.
    """
    method = tree.get("method") or {}
    if tree.get("name") != "clip_contrast" or not isinstance(method, dict):
        return tree
    objective = method.get("objective", "moco")
    if objective not in _CLIP_CONTRAST:
        return tree  # refused by name, with what there is
    unused = _CLIP_CONTRAST[objective] | {"objective"}
    said = {key: value for key, value in method.items() if key not in unused}
    if objective == "byol":
        said = {"momentum": 0.994, "projection_dim": 128} | said
    return tree | {"name": f"clip_{objective}", "method": said}
