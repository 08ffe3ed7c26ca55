"""From a preset and `key=value` words to checked settings; mistakes name what is allowed."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from marey.configs.base import MethodConfig, Settings
from marey.configs.errors import SettingError
from marey.configs.schema import RunConfig

PRESETS = Path(__file__).parent / "presets"
S = TypeVar("S", bound=Settings)


def suggest(word: str, known: list[str]) -> str:
    """The end of an error message: what may have been meant."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known are {', '.join(known[:20])}" if known else ""


def presets() -> list[str]:
    """Names of the presets that marey ships."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """A preset by name, or any YAML file by path. Raises SettingError when there is none."""
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else PRESETS / f"{name}.yaml"
    if own and not path.is_file():
        raise SettingError(f"no such file: {name}")
    if not path.is_file():
        raise SettingError(f"no method or preset {name!r}{suggest(name, presets())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not YAML: {_one_line(error)}") from error
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        content = content["config"]  # what a run has written beside its provenance
    if not isinstance(content, dict) or "name" not in content:
        raise SettingError(f"{path} must be a mapping with the key `name` (the method)")
    return content


def override(tree: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """A copy of a tree of settings with `a.b=value` words applied; values are read as YAML."""
    result = _copy(tree)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise SettingError(f"{word!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingError(f"{word!r}: the value is not YAML: {_one_line(error)}") from error
        # YAML reads 1e-3 as a word
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        branch = result
        *parents, leaf = key.split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise SettingError(f"{key}: {parent} is a single value, not a group of settings")
        branch[leaf] = value
    return result


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _copy(tree: Any) -> Any:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted keys, as `override` takes them."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def check(model: type[S], tree: dict[str, Any], prefix: str = "") -> S:
    """A tree of settings as a checked model. Raises SettingError with every mistake, one a line."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, item, prefix) for item in error.errors()]
        raise SettingError("; ".join(dict.fromkeys(lines))) from None


def run_config(tree: dict[str, Any], method_config: type[MethodConfig]) -> RunConfig:
    """The settings of a run, the method's part checked by the method's own model."""
    unknown = [key for key in tree if key not in RunConfig.model_fields]
    if unknown:
        known = [name for name in RunConfig.model_fields if name != "name"]
        raise SettingError(f"no setting {unknown[0]!r}{suggest(unknown[0], known)}")
    method = check(method_config, tree.get("method") or {}, "method.")
    return check(RunConfig, {**tree, "method": method})


def _explain(model: type[BaseModel], item: Any, prefix: str) -> str:
    """One mistake in words: which key, what was given, what is allowed."""
    place = [str(part) for part in item["loc"]]
    # a discriminated union puts the chosen kind into the path
    key = (prefix + ".".join(place)).rstrip(".")
    if item["type"] == "extra_forbidden":
        return f"no setting {key!r}{suggest(place[-1], _keys_beside(model, place))}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "model_type":
        message = "a group of settings, not a value"
    given = item.get("input")
    shown = f" (given: {given!r})" if not isinstance(given, dict | BaseModel) else ""
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _keys_beside(model: type[BaseModel], place: list[str]) -> list[str]:
    """The keys that are allowed where a wrong one stands."""
    current: list[type[BaseModel]] = [model]
    for part in place[:-1]:
        fields = [m.model_fields[part].annotation for m in current if part in m.model_fields]
        if fields:
            current = [m for annotation in fields for m in _models(annotation)]
        else:
            # the name of a union's kind: keep its member
            current = [m for m in current if _kind(m) == part] or current
    return sorted({name for m in current for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in get_args(annotation) for m in _models(argument)]


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
        inner = _models(info.annotation)
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
