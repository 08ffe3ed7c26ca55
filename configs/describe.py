"""Every setting of a model as a person reads it: key, default, bounds, meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings that a setting may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in get_args(annotation) for m in models_in(argument)]


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


class Setting(NamedTuple):
    """One setting, as a person reads it."""

    key: str
    default: str
    allowed: str
    """Bounds or choices; "" where the type says all."""
    meaning: str


def describe(model: type[BaseModel], prefix: str = "") -> list[Setting]:
    """Every setting of a model, groups opened.

    A group that may be unset has a row of its own before those of its settings.
    """
    rows = []
    for name, info in model.model_fields.items():
        if name == "kind":
            continue
        inner = models_in(info.annotation)
        if len(inner) == 1:
            if info.default is None:
                rows.append(Setting(prefix + name, "null", "", info.description or ""))
            rows += describe(inner[0], f"{prefix}{name}.")
        elif inner:
            for option in inner:
                rows += describe(option, f"{prefix}{name}[{_kind(option)}].")
        else:
            default = (
                "required"
                if info.is_required()
                else typed(info.get_default(call_default_factory=True, validated_data={}))
            )
            meaning = info.description or ""
            rows.append(Setting(prefix + name, default, _allowed(info), meaning))
    return rows


def typed(value: Any) -> str:
    """A value as it would be typed after `key=` (YAML on one line)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if value and yaml.safe_load(value) == value else repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(typed, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {typed(item)}" for key, item in value.items()) + "}"
    return repr(value)


def _allowed(info: FieldInfo) -> str:
    """What a setting may be, in words: its choices, or the bounds of its numbers."""
    bounds: dict[str, Any] = {}
    choices: list[str] = []
    _constraints([*info.metadata, info.annotation], bounds, choices)
    if choices:
        return ", ".join(choices)
    low = f"{bounds['ge']:,}" if "ge" in bounds else ""
    above = f"more than {bounds['gt']:,}" if "gt" in bounds else ""
    high = f"{bounds['le']:,}" if "le" in bounds else ""
    below = f"less than {bounds['lt']:,}" if "lt" in bounds else ""
    if low and high:
        return f"{low} to {high}"
    if above and high:
        return f"{above}, at most {high}"
    parts = [low and f"at least {low}", above, high and f"at most {high}", below]
    return ", ".join(part for part in parts if part)


def _constraints(parts: Sequence[Any], bounds: dict[str, Any], choices: list[str]) -> None:
    for part in parts:
        if get_origin(part) is Literal:
            choices += [str(choice) for choice in get_args(part)]
        elif isinstance(part, FieldInfo):
            _constraints(part.metadata, bounds, choices)
        elif get_args(part):
            _constraints(get_args(part), bounds, choices)
        else:
            found = {name: getattr(part, name, None) for name in ("ge", "gt", "le", "lt")}
            bounds |= {name: v for name, v in found.items() if isinstance(v, int | float)}
