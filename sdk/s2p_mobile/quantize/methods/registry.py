"""Methods by name. A method turns a job into a quantized U-Net; writing the checkpoint is common to all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.recipes import Recipe
from s2p_runtime.errors import S2PError

Method = Callable[[QuantizationJob], QuantizedUNet]


@dataclass(frozen=True)
class _Entry:
    method: Method
    splits_shortcuts: bool


_METHODS: dict[str, _Entry] = {}


def register(name: str, *, splits_shortcuts: bool = True) -> Callable[[Method], Method]:
    """Make a method available under ``name``.

    Args:
        splits_shortcuts: the method follows ``split_shortcuts`` of its recipe; else shortcuts stay whole, as its authors have them.
    """

    def keep(method: Method) -> Method:
        _METHODS[name] = _Entry(method, splits_shortcuts)
        return method

    return keep


def method_names() -> list[str]:
    """Names of all methods."""
    return sorted(_METHODS)


def run_method(name: str, job: QuantizationJob) -> QuantizedUNet:
    """Quantize with a method by name.

    Raises:
        S2PError: unknown method (lists what exists).
    """
    return _entry(name).method(replace(job, recipe=recipe_for(name, job.recipe)))


def recipe_for(name: str, recipe: Recipe) -> Recipe:
    """What a method makes of a recipe: the recipe, with whole shortcuts where the method never splits them.

    Raises:
        S2PError: unknown method (lists what exists).
    """
    if _entry(name).splits_shortcuts:
        return recipe
    return recipe.model_copy(update={"split_shortcuts": False})


def check_method(name: str) -> None:
    """Raise :class:`S2PError` when no method has this name."""
    _entry(name)


def _entry(name: str) -> _Entry:
    if name not in _METHODS:
        raise S2PError(f"unknown method {name!r}", f"methods are {', '.join(method_names())}")
    return _METHODS[name]
