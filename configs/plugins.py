"""Which modules add to marey, who allows their import, and what has each of them brought?

A plugin is a module whose import registers something: a method, sampler, layout, decoder, tracker,
protocol or backbone. Its import runs its code, so somebody has to want it:

- an installed package declares it, as an entry point of the group `marey.plugins`;
- a person names it: `--import MODULE`, the variable MAREY_PLUGINS, a name typed as `module:Name`,
  or `marey.import_plugins` in Python.

A file alone imports nothing. A recipe, a run's config.yaml or its encoder.json may name plugins:
they are imported where one of the two holds as well, and are refused by name otherwise.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from marey.configs.errors import DependencyError, MareyError, SettingError, UsageError
from marey.configs.nearest import suggest

GROUP = "marey.plugins"
"""Entry points of this group name the plugins of an installed package."""
VARIABLE = "MAREY_PLUGINS"
"""Modules, separated by commas, that a person has named. Processes started by this one inherit it,
and so they allow what it allows."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_DOTTED = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")
T = TypeVar("T")

_lock = threading.RLock()
_done: set[str] = set()
_faults: dict[str, str] = {}
"""Installed plugins that cannot be imported, and why."""
_under_way: list[str] = []
"""Plugins that are being imported, the one that was asked for first."""
_here = ""
"""The folder that a command is given in, once it may hold plugins; "" is where programs look."""
_brought: dict[tuple[str, str], str] = {}
"""(kind of thing, its name) -> the plugin that registered it."""


def use(*modules: str) -> None:
    """Import plugins that a person has named, now, and in the processes that this one will start.

    Raises UsageError for what is no module's name, DependencyError for a module that does not
    exist, MareyError for one whose import fails, with its error.
    """
    allow(*modules)
    for module in modules:
        _import(module)


def allow(*modules: str) -> None:
    """Let plugins be imported when they are needed: a person has named them."""
    for module in modules:
        if not _MODULE.fullmatch(module) or module.endswith(".py"):
            stem = Path(module).stem
            near = f"; did you mean {stem}?" if _MODULE.fullmatch(stem) else ""
            raise UsageError(
                f"{module!r} is not the name of a module, as `import` takes it{near} (plugins)"
            )
    if modules:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*named(), *modules]))


def named() -> tuple[str, ...]:
    """The modules that a person has named, here or to the process that started this one."""
    words = os.environ.get(VARIABLE, "").split(",")
    return tuple(word.strip() for word in words if word.strip())


@cache
def installed() -> dict[str, str]:
    """The plugins that installed packages declare: module -> package and version."""
    # takes longer than all else here, and most commands find what they need without it
    import importlib.metadata

    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist
        found[point.module] = f"{package.name} {package.version}" if package else point.name
    return found


def load() -> None:
    """Import all plugins: those that a person has named, and those of installed packages.

    Called before a list is shown, and before a name counts as unknown. An installed plugin that
    fails is a warning: it may have nothing to do with what is wanted. Raises as `use` does for
    one that a person has named.
    """
    for module in named():
        _import(module)
    for module, package in installed().items():
        if module not in _faults:
            try:
                _import(module)
            except MareyError as error:
                _faults[module] = f"{error} (installed: {package})"
                logging.getLogger("marey").warning("warning: %s", _faults[module])


def faults() -> dict[str, str]:
    """Installed plugins that `load` could not import, and why."""
    return dict(_faults)


def need(modules: object, origin: str) -> None:
    """Import the plugins that a file names. `origin` says which file, in an error.

    Raises UsageError for a plugin that neither a person has named nor an installed package
    declares; SettingError where `modules` is no list of names; else as `use`.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(m, str) for m in modules):
        raise SettingError(f"{origin}: plugins must be a list of modules (given: {modules!r})")
    for module in modules:
        if not _allowed(module):
            raise UsageError(
                f"{origin} needs the plugin {module!r}. Its code is imported only if you say so: "
                f"add --import {module} (or set {VARIABLE}={module}; in Python "
                f"marey.import_plugins({module!r})), or install the package that declares it"
            )
        _import(module)


def _allowed(module: str) -> bool:
    """Whether a module, or one that it lies in, was named, is declared, or brought something."""
    known = {*named(), *installed(), *_brought.values()}
    return any(f"{module}.".startswith(f"{one}.") for one in known)


def _import(module: str) -> None:
    with _lock:
        if module in _done:
            return
        if _here and _here not in sys.path and module not in installed():
            sys.path.insert(0, _here)
        _under_way.append(module)
        try:
            importlib.import_module(module)
        except Exception as error:  # a plugin's code may raise anything
            raise _told(module, error) from error
        finally:
            _under_way.pop()
        _done.add(module)


def _told(module: str, error: Exception) -> MareyError:
    """What went wrong, for the person who asked for the plugin or wrote it."""
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if absent and f"{module}.".startswith(f"{absent}."):
        return DependencyError(
            f"the plugin {module!r} cannot be imported: there is no module {absent!r}, neither in "
            f"this folder ({Path.cwd()}) nor on Python's path; install it with pip, or start the "
            "command in the folder that holds it"
        )
    where = _line_of(error)
    said = str(error) if isinstance(error, MareyError) else f"{type(error).__name__}: {error}"
    return MareyError(f"the plugin {module!r} cannot be imported: {said}{where}")


def _line_of(error: Exception) -> str:
    """Where in the plugin's own code an error arose, as the end of a message."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    libraries = (os.path.dirname(os.__file__), "site-packages")
    own = [(file, line) for file, line in frames if not any(part in file for part in libraries)]
    file, line = own[-1] if own else frames[0] if frames else ("", 0)
    return f" ({file}, line {line})" if file else ""


def look_here() -> None:
    """Let plugins be found in the current folder too, as `python -m` does; for a command line."""
    global _here
    _here = os.getcwd()


def is_dotted(name: object) -> bool:
    """Whether a name says where a thing is (`package.module:Name`) and not what it is called."""
    return isinstance(name, str) and _DOTTED.fullmatch(name) is not None


def module_of(dotted: str) -> str:
    """The module of `package.module:Name`."""
    return dotted.partition(":")[0]


def allow_name(name: Any) -> Any:
    """Allow the module of a name that a person has typed, if it is a dotted one; gives the name."""
    if is_dotted(name):
        allow(module_of(name))
    return name


DOTTED_KEYS = ("name", "kind", "backbone", "backend", "tracker")
"""Settings that may be a dotted name."""


def allow_typed(settings: Any, key: str = "") -> None:
    """Allow the modules in settings that a person has typed: of dotted names, and `plugins`."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            allow_typed(value, str(name))
    elif key in DOTTED_KEYS:
        allow_name(settings)
    elif key == "plugins" and isinstance(settings, list):
        allow(*map(str, settings))


def resolve(dotted: str, what: str) -> Any:
    """What `package.module:Name` stands for. what: the kind of thing, for errors.

    Raises UsageError for a module that nobody has named (see `need`), SettingError where it holds
    no such name; else as `use`.
    """
    module, _, path = dotted.partition(":")
    need([module], f"the {what} {dotted!r}")
    found = importlib.import_module(module)
    for part in path.split("."):
        # what the module itself has imported is not meant: `my_module:os.abort`
        if not hasattr(found, part) or isinstance(getattr(found, part), ModuleType):
            there = [name for name in vars(found) if not name.startswith("_")]
            near = suggest(part, there, otherwise="")
            raise SettingError(f"{what} {dotted!r}: {module} has no {part!r}{near}")
        found = getattr(found, part)
    return found


def bring(kind: str, name: str, module: str) -> None:
    """Note that something is registered. module: where its code is; its plugin is found here."""
    if module.split(".")[0] != "marey":
        _brought[kind, name] = _under_way[0] if _under_way else module


def brought(kind: str) -> list[str]:
    """Names of the things of a kind that plugins have registered."""
    return [name for own, name in _brought if own == kind]


def bringer(kind: str, name: str) -> str | None:
    """The plugin that brought a thing: None for marey's own, and for one of a main program."""
    if is_dotted(name):
        return module_of(name)
    module = _brought.get((kind, name))
    return None if module == "__main__" else module


def active() -> dict[str, bool]:
    """What a process that shares the work of this one has to import: for `adopt`.

    Module -> whether a person has named it, and not only a program imported it by itself.
    """
    brought = [module for module in _brought.values() if module != "__main__"]
    return dict.fromkeys(brought, False) | dict.fromkeys(named(), True)


def adopt(modules: Mapping[str, bool]) -> None:
    """Import, in another process, what is `active` in the one that started it.

    Raises as `use` for a module that a person has named. Of others, one that is not there may not
    be needed.
    """
    allow(*modules)
    for module, is_named in modules.items():
        try:
            _import(module)
        except DependencyError:
            if is_named:
                raise


def look_up(
    registry: Mapping[str, T],
    name: str,
    what: str,
    *,
    made_of: Callable[[str, Any], T] | None = None,
    otherwise: str | None = None,
) -> T:
    """The thing of that name: registered, brought by a plugin, or at a dotted name.

    what: the kind of thing, for errors. made_of: makes a thing of what a dotted name stands for.
    otherwise: the end of the error where no name is near; by default all names.
    Raises SettingError with the nearest names when there is none.
    """
    if name in registry:
        return registry[name]
    if made_of is not None and is_dotted(name):
        return made_of(name, resolve(name, what))
    load()
    if name in registry:
        return registry[name]
    raise SettingError(unknown(what, name, registry, otherwise=otherwise))


def unknown(what: str, name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """The message for a name that nothing has, after `load`.

    otherwise: the end where no name is near; by default all names.
    """
    listed = list(known)
    end = suggest(name, listed, otherwise="")
    if not end:
        end = otherwise if otherwise is not None else suggest(name, listed)
        end += "; one of your own needs --import MODULE"
    return f"no {what} {name!r}{end}" + "".join(f"; {fault}" for fault in _faults.values())
