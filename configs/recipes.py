"""Which presets there are: small ones, and beside them the recipes that papers trained.

A small preset is made for two CPU cores and minutes (`presets/NAME.yaml`). A published recipe is
what the authors ran (`presets/published/NAME-SIZE.yaml`): every number has its source beside it,
and the key `recipe` says what is known of it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from marey.configs.base import Settings

PRESETS = Path(__file__).parent / "presets"
PUBLISHED = PRESETS / "published"
SMALL_HARDWARE = "two CPU cores"
"""What small presets are made for."""


class Recipe(Settings):
    """What is known of a published recipe; it changes nothing of a run."""

    source: str
    """Paper, and public repository with the commit that was read."""
    hardware: str
    """What the authors trained on."""
    parameters: str
    """Parameters of the encoder as published: a count, or millions (`86.2M`)."""
    figure: str
    """What the paper or its repository reports of it."""


def presets() -> list[str]:
    """Names of the small presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def published() -> list[str]:
    """Names of the published recipes."""
    return sorted(path.stem for path in PUBLISHED.glob("*.yaml"))


def preset_path(name: str) -> Path | None:
    """Where the preset of that name is; None where there is none."""
    for folder in (PRESETS, PUBLISHED):
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    return None


def method_of(preset: str) -> str:
    """Which method a preset is of, without reading its settings."""
    path = preset_path(preset)
    text = path.read_text(encoding="utf-8") if path else ""
    found = re.search(r"^name:\s*(\w+)", text, re.MULTILINE)
    return found[1] if found else preset


def recipes_of(preset: str) -> list[str]:
    """The published recipes beside a small preset: `moco_v2` has `moco_v2-r50`."""
    return [name for name in published() if name.rpartition("-")[0] == preset]


@functools.cache
def recipe_of(preset: str) -> Recipe | None:
    """What is known of a published recipe; None for a small preset."""
    import yaml

    path = PUBLISHED / f"{preset}.yaml"
    if not path.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader)
    return Recipe.model_validate(content["recipe"])
