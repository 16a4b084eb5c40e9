"""Things by name: those that a package brings itself, and those that installed plug-ins add through entry points."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Generic, TypeVar, cast

from s2p_runtime.errors import S2PError

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class BuiltIn:
    """A thing that comes with this package.

    Attributes:
        place: ``module:attribute``; imported when it is asked for.
        extra: what pip installs for it (``name[extra]``), where it needs more than the package itself.
        needs: top-level packages of that extra which the module at ``place`` does not import by itself: it is left out without them.
        machines: where these packages exist, if not everywhere.
    """

    place: str
    extra: str | None = None
    needs: tuple[str, ...] = ()
    machines: str | None = None


class Registry(Generic[Entry]):
    """Entries of one kind. A plug-in may not take the name of a built-in; one that cannot be imported is left out and named."""

    def __init__(self, kind: str, group: str, built_in: Mapping[str, BuiltIn | str]) -> None:
        """
        Args:
            kind: in words, for messages: ``target``.
            group: of the entry points: ``s2p_mobile.targets``.
            built_in: name -> place, see :class:`BuiltIn`.
        """
        self.kind, self.group = kind, group
        self._built_in = {name: place if isinstance(place, BuiltIn) else BuiltIn(place) for name, place in built_in.items()}
        self._loaded: dict[str, Entry] = {}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found = sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value))
        return {point.name: point for point in found if point.name not in self._built_in}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is registered, built-in ones first, whether or not it can be imported."""
        return (*self._built_in, *self._plugins)

    def get(self, name: str) -> Entry:
        """An entry by name; imported at its first use.

        Raises:
            S2PError: unknown (lists what is there), or it needs a package that is not installed (names the extra).
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Entry:
        if name in self._built_in:
            own = self._built_in[name]
            try:
                _require(own.needs)
                return _import(own.place)
            except ImportError as error:
                if own.extra is None:
                    raise
                lacking = error.name or str(error)
                where = "" if own.machines is None else f" ({own.machines})"
                raise S2PError(
                    f"{self.kind} {name!r} needs {lacking}, which is not installed", f"run pip install '{own.extra}'{where}"
                ) from error
        if name not in self._plugins:
            raise S2PError(f"unknown {self.kind} {name!r}", f"there are {self.listing}", self.kind)
        point = self._plugins[name]
        try:
            return cast(Entry, point.load())
        except Exception as error:  # whatever a plug-in's own code raises
            raise S2PError(
                f"{self.kind} {name!r} of the plug-in {_owner(point)} cannot be imported ({_reason(error)})",
                f"mend or uninstall {_owner(point)}",
            ) from error

    @property
    def entries(self) -> dict[str, Entry]:
        """Every entry that can be imported, by name; the others are in :attr:`broken`."""
        found = {}
        for name in self.names:
            try:
                found[name] = self.get(name)
            except S2PError:
                continue
        return found

    @property
    def broken(self) -> dict[str, str]:
        """Why an entry is left out, by name: a plug-in that fails, a built-in whose extra is not installed."""
        reasons = {}
        for name in self.names:
            try:
                self.get(name)
            except S2PError as error:
                reasons[name] = str(error)
        return reasons

    @property
    def listing(self) -> str:
        """Every name for a message, and for what cannot be used what would mend that."""
        usable, lacking = ", ".join(self.entries) or "none", self.broken
        hints = [f"{name} ({self._hint(name)})" for name in lacking]
        return usable if not hints else f"{usable}; not usable: {', '.join(hints)}"

    def _hint(self, name: str) -> str:
        own = self._built_in.get(name)
        if own is not None and own.extra is not None:
            return f"pip install '{own.extra}'"
        return f"plug-in {_owner(self._plugins[name])} fails"


def _require(packages: Iterable[str]) -> None:
    """Raise :class:`ImportError` for the first of these that is not installed; nothing is imported."""
    for name in packages:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _import(place: str) -> Entry:  # type: ignore[type-var]
    module, _, attribute = place.partition(":")
    return cast(Entry, getattr(importlib.import_module(module), attribute))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
