"""What a method's file declares, read without running it: its name, its paper, its settings.

A method's settings stand in the file of its network, and to import that file is to import torch,
which takes seconds. Here the file is parsed, and only the statements that its settings need are
executed, here and in the files that they come from. So lists, help and the refusal of a wrong
setting take no longer than the settings themselves, and a method stays one file.

Where settings cannot be had this way (they need torch, or the method is a plugin's), the method is
imported as usual: the answer is the same, and only later.
"""

from __future__ import annotations

import ast
import functools
import importlib
import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import marey
from marey.configs import plugins
from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.load import run_config
from marey.configs.schema import RunConfig

MODELS = Path(marey.__file__).parent / "models"
OURS = "marey.models"
"""Modules that are read; what is light is imported, beside them the settings (`configs`)."""
LIGHT = {"pydantic", *sys.stdlib_module_names}


@dataclass(frozen=True, slots=True)
class Declared:
    """A method as its file says. `family` is the folder of the file."""

    name: str
    paper: str
    family: str
    module: str
    config: str
    """Name of the class of its settings."""

    def config_model(self) -> type[MethodConfig]:
        """The class of its settings; that of the file as imported where it cannot be read."""
        try:
            return getattr(read_names(self.module, (self.config,)), self.config)
        except _Heavy:
            return getattr(importlib.import_module(self.module), self.config)


@functools.cache
def declared_methods() -> dict[str, Declared]:
    """The methods of this package by name, by family and file."""
    found = (one for path in sorted(MODELS.glob("*/*.py")) for one in _declared_in(path))
    return {one.name: one for one in found}


@functools.cache
def declared_method(name: str) -> Declared | None:
    """The method of this package with that name; only files that speak of it are parsed."""
    for path in sorted(MODELS.glob("*/*.py")):
        if f'name = "{name}"' in path.read_text(encoding="utf-8"):
            for one in _declared_in(path):
                if one.name == name:
                    return one
    return None


def all_methods() -> list[Declared]:
    """The methods of this package, and of plugins: those named, and those of installed packages."""
    plugins.load()
    others = [plugin_method(name) for name in plugins.brought("method")]
    return [*declared_methods().values(), *sorted(others, key=lambda one: one.name)]


def plugin_method(name: str) -> Declared:
    """What a plugin's method says of itself, by its name or dotted name; torch is loaded."""
    from marey.models.method import find_method

    found = find_method(name)
    return Declared(name, found.paper, "plugins", found.__module__, found.Config.__qualname__)


def check_run(tree: dict[str, Any]) -> RunConfig:
    """The settings of a run, checked; torch is loaded only where they cannot be read without it.

    Raises SettingError for an unknown method, or a setting that is unknown or wrong.
    """
    try:
        return run_config(tree, method_settings(tree["name"]))
    except _Heavy:
        from marey.models.method import find_method

        return run_config(tree, find_method(tree["name"]).Config)


def method_settings(name: str) -> type[MethodConfig]:
    """The class of a method's settings. Raises SettingError where there is no such method."""
    found = declared_method(name)
    if found is not None:
        return found.config_model()
    plugins.load()
    if name in plugins.brought("method") or plugins.is_dotted(name):
        from marey.models.method import find_method

        return find_method(name).Config
    raise SettingError(plugins.unknown("method", name, declared_methods()))


def _declared_in(path: Path) -> Iterator[Declared]:
    # what stands before the method is not needed here, and parsing takes most of the time
    _, mark, text = path.read_text(encoding="utf-8").partition("\n@register\n")
    for node in ast.parse(mark + text).body:
        if isinstance(node, ast.ClassDef) and "register" in map(ast.unparse, node.decorator_list):
            said = dict(_assigned(node))
            if {"name", "paper", "Config"} <= said.keys():
                family = path.parent.name
                module = f"marey.models.{family}.{path.stem}"
                yield Declared(said["name"], said["paper"], family, module, said["Config"])


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Names in the body of a class that stand for a text or for another name."""
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            if isinstance(line.value, ast.Constant) and isinstance(line.value.value, str):
                yield line.targets[0].id, line.value.value
            elif isinstance(line.value, ast.Name):
                yield line.targets[0].id, line.value.id


class _Heavy(Exception):
    """What is wanted needs a package that is not imported here."""


class _Later:
    """Stands for what such a package has: in a signature it does no harm, in use it is refused."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise _Heavy(f"{self._name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise _Heavy(self._name)


def read_names(module: str, wanted: tuple[str, ...]) -> ModuleType:
    """A module that holds `wanted` and what these need, and not all else of the real one.

    Raises _Heavy where a package that takes long to import is needed at once.
    """
    made, tree = _opened(module)
    statements = {name: node for node in tree.body for name in _bound(node)}
    needed = _needed(statements, wanted) - vars(made).keys()
    rest: list[ast.stmt] = []
    for node in tree.body:
        own = needed & _bound(node)
        if isinstance(node, ast.ImportFrom) and own and (node.module or "").startswith(OURS):
            aliases = {a.asname or a.name: a.name for a in node.names}
            there = read_names(node.module or "", tuple(aliases[name] for name in own))
            vars(made).update({name: getattr(there, aliases[name]) for name in own})
        elif own and isinstance(node, ast.Import | ast.ImportFrom) and not _is_light(node):
            vars(made).update({name: _Later(name) for name in own})
        elif own or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            rest.append(node)
    exec(compile(ast.Module(rest, []), made.__file__ or "", "exec"), vars(made))
    return made


@functools.cache
def _opened(module: str) -> tuple[ModuleType, ast.Module]:
    """An empty module that stands for a file, and the file's statements."""
    path = MODELS.parent / f"{module.removeprefix('marey.').replace('.', '/')}.py"
    text = path.read_text(encoding="utf-8")
    made = ModuleType(f"declared {module}")
    made.__file__ = name = f"<{made.__name__}>"
    # pydantic looks names up in the module, and reads what settings mean in the source
    sys.modules[made.__name__] = made
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return made, ast.parse(text)


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement of a module makes."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return set()


def _needed(statements: dict[str, ast.stmt], wanted: tuple[str, ...]) -> set[str]:
    """`wanted`, and all names of the module that these use, directly or not."""
    needed: set[str] = set()
    left = [*wanted]
    while left:
        name = left.pop()
        if name in statements and name not in needed:
            needed.add(name)
            left += [n.id for n in ast.walk(statements[name]) if isinstance(n, ast.Name)]
    return needed


def _is_light(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    return all(
        module and (module.split(".")[0] in LIGHT or module.startswith("marey.configs"))
        for module in modules
    )
