"""Which of the known layouts lies at a location? The register that sources and listings share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from marey.configs import plugins


class Recognisable(Protocol):
    """A layout: frozen, so that registering the same one twice is no fault."""

    @property
    def name(self) -> str:
        """What it is called in messages and settings."""
        ...

    @property
    def recognises(self) -> Callable[[str], bool]:
        """Whether it lies at a location. It must be quick, and False for what it cannot read: it is
        asked about every location."""
        ...


L = TypeVar("L", bound=Recognisable)


class Register(Generic[L]):
    """Layouts of one kind. Those registered last are asked first, so a plugin's before marey's own.

    kind: what plugins bring them as, see `plugins.bring`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._known: dict[str, L] = {}

    def add(self, layout: L, module: str) -> None:
        """Make a layout known. module: where its code is. Raises TypeError for a name taken by
        another."""
        if (known := self._known.setdefault(layout.name, layout)) != layout:
            raise TypeError(f"two layouts are called {layout.name!r}: {known} and {layout}")
        plugins.bring(self._kind, layout.name, module)

    def forget(self, name: str) -> None:
        """Take a layout out again, if it is there."""
        self._known.pop(name, None)

    def names(self) -> list[str]:
        """Names of the layouts, in the order in which a location is compared with them."""
        return list(reversed(self._known))

    def named(self, name: str) -> L | None:
        """The layout of that name; None where there is none."""
        plugins.load()
        return self._known.get(name)

    def at(self, location: str) -> L | None:
        """The layout that lies at a location; None where none is recognised."""
        plugins.load()
        latest_first = reversed(self._known.values())
        return next((one for one in latest_first if one.recognises(location)), None)
