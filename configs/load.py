"""From a preset and `key=value` words to checked settings; mistakes name what is allowed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from marey.configs import plugins
from marey.configs.base import MethodConfig, Settings
from marey.configs.describe import describe
from marey.configs.errors import SettingError
from marey.configs.nearest import nearest_settings, plain, suggest
from marey.configs.recipes import method_of, preset_path, presets, published
from marey.configs.renamed import OLD_PRESETS, renamed
from marey.configs.schema import RunConfig

S = TypeVar("S", bound=Settings)


def read_preset(name: str) -> dict[str, Any]:
    """A preset by name, or any YAML file by path; of a plugin's method, by its name, the defaults.

    The plugins that a file names are imported, see `plugins.need`. Raises SettingError when there
    is no such preset or file.
    """
    if plugins.is_dotted(plugins.allow_name(name)):
        return {"name": name}
    own = name.endswith((".yaml", ".yml"))
    stem, said = (name, {}) if own else OLD_PRESETS.get(name, (name, {}))
    path = Path(name) if own else preset_path(stem)
    if own and not (path and path.is_file()):
        raise SettingError(f"no such file: {name}")
    if path is None:
        plugins.load()
        if name in plugins.brought("method"):
            return {"name": name}
        raise SettingError(_no_preset(name))
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not YAML: {_one_line(error)}") from error
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        content = content["config"]  # what a run has written beside its provenance
    if not isinstance(content, dict) or "name" not in content:
        raise SettingError(f"{path} must be a mapping with the key `name` (the method)")
    content.pop("recipe", None)  # what is known of it, see `recipes`
    if said:
        content["name"] = name
        content["method"] = {**content["method"], **said}
    plugins.need(content.get("plugins") or [], str(path))
    return content


def _no_preset(name: str) -> str:
    if (Path(name) / "config.yaml").is_file():
        return f"{name} is the folder of a run; its settings are {name}/config.yaml"
    known = [*presets(), *published()]
    own = [one for one in known if method_of(one) == plain(name) and one != "demo"]
    if own and plain(name) not in known:
        return f"the method {plain(name)} has several presets: give one of {', '.join(own)}"
    if Path(f"{name}.py").is_file():
        return f"no method or preset {name!r}; for that of {name}.py here, add --import {name}"
    end = suggest(name, known, otherwise="; `marey methods` lists all")
    return f"no method or preset {name!r}{end}"


def read_yaml(text: str) -> Any:
    """YAML as Python values; libyaml's reader, where there is one, takes a tenth of the time."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def preset_with(name: str, words: list[str]) -> dict[str, Any]:
    """A preset with `key=value` words applied, where what was typed holds against the preset.

    A preset may set its length in `trainer.steps`; a typed `trainer.epochs` then replaces it.
    Raises SettingError where both are typed.
    """
    tree = override(read_preset(name), words)
    given = override({}, words).get("trainer")
    given = given if isinstance(given, dict) else {}
    steps, epochs = given.get("steps"), given.get("epochs")
    if steps is not None and epochs is not None:
        raise SettingError(
            f"trainer.steps={steps} and trainer.epochs={epochs} both set the length of a run: "
            "give one of them"
        )
    if epochs is not None and isinstance(tree.get("trainer"), dict):
        tree["trainer"]["steps"] = None
    return tree


def override(tree: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """A copy of a tree of settings with `a.b=value` words applied; values are read as YAML.

    Names of older versions, in the tree or the words, become today's.
    """
    result = _copy(tree)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise SettingError(f"{word!r} is not of the form key=value")
        try:
            value = read_yaml(text)
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
        plugins.allow_typed({leaf: value})
    plugins.need(result.get("plugins") or [], "the settings")
    return renamed(result)


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


def check(model: type[S], tree: dict[str, Any], prefix: str = "", known: Sequence[str] = ()) -> S:
    """A tree of settings as a checked model. Raises SettingError with every mistake.

    prefix: of the tree's keys in what a person has typed. known: all keys that could have been
    meant, where the model has only some of them.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        known = known or [row.key for row in describe(model, prefix)]
        lines = [_explain(item, prefix, known) for item in error.errors()]
        raise SettingError("; ".join(dict.fromkeys(lines))) from None


def run_config(tree: dict[str, Any], method_config: type[MethodConfig]) -> RunConfig:
    """The settings of a run, the method's part checked by the method's own model.

    Raises SettingError for an unknown or wrong setting, naming the nearest by its whole key.
    """
    known = [row.key for row in describe(method_config, "method.")]
    known += [row.key for row in describe(RunConfig) if row.key != "name"]
    unknown = [key for key in tree if key not in RunConfig.model_fields]
    if unknown:
        # of a group that does not exist, the setting that was meant
        key = next(iter(flat({unknown[0]: tree[unknown[0]]})), unknown[0])
        raise SettingError(_no_setting(key, known))
    method = check(method_config, tree.get("method") or {}, "method.", known)
    return check(RunConfig, {**tree, "method": method}, "", known)


def _no_setting(key: str, known: Sequence[str]) -> str:
    near = nearest_settings(key, known)
    if near:
        end = f"; did you mean {' or '.join(near)}?"
    elif any(name.startswith("trainer.") for name in known):
        end = "; `marey methods PRESET` lists all"
    else:
        end = f"; known are {', '.join(known)}"
    return f"no setting {key!r}{end}"


def _explain(item: Any, prefix: str, known: Sequence[str]) -> str:
    """One mistake in words: which key, what was given, what is allowed."""
    # a discriminated union puts the chosen kind into the path: it is no key
    place = [str(part) for part in item["loc"]]
    bare = {re.sub(r"\[\w+\]", "", key): None for key in known}
    groups = {key.rpartition(".")[0] for key in bare}
    groups |= {group.rpartition(".")[0] for group in groups}
    parts: list[str] = []
    for number, part in enumerate(place):
        key = prefix + ".".join([*parts, part])
        last = number == len(place) - 1
        if last or key in groups or key in bare:
            parts.append(part)
    key = (prefix + ".".join(parts)).rstrip(".")
    if item["type"] == "extra_forbidden":
        return _no_setting(key, known)
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if item["type"] == "model_type":
        inside = next((one for one in bare if one.startswith(f"{key}.")), "")
        message = "a group of settings, not a value" + (f"; such as {inside}" if inside else "")
    given = item.get("input")
    shown = f" (given: {given!r})" if not isinstance(given, dict | BaseModel) else ""
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"
