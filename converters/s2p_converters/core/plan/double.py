"""Diffusers schedulers in double precision.

Diffusers builds its tables in float32 and some schedulers (Euler, DPM-Solver++) cast the state to ``torch.float32`` inside
``step``, so a scheduler probed as it stands gives rows with seven digits. Here the scheduler's own source file is imported a
second time under a private name, and in that copy alone the names ``torch`` and ``np`` are proxies whose ``float32`` is
``float64``. The arithmetic is diffusers' own, line for line; the module that everybody else uses is untouched. A scheduler from
elsewhere is copied likewise, and what its copy imports from diffusers, to inherit from it, are such copies.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

Draw = Callable[[torch.Size], torch.Tensor]
"""(shape) -> the fresh noise a scheduler asks for"""

_draw: ContextVar[Draw] = ContextVar("draw")


class _DoublePrecision(types.ModuleType):
    """Stands for a module; its ``float32`` is ``float64``, everything else is the module's."""

    def __init__(self, module: types.ModuleType, double: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.float32 = double

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _drawn_noise(shape: Any, *_: Any, **__: Any) -> torch.Tensor:
    """In the place of diffusers' ``randn_tensor``: what the innermost :func:`noise_from` says."""
    return _draw.get()(torch.Size(shape))


@contextmanager
def noise_from(draw: Draw) -> Iterator[None]:
    """Inside the block, double-precision schedulers take their noise from ``draw``."""
    token = _draw.set(draw)
    try:
        yield
    finally:
        _draw.reset(token)


class _DoubleSchedulers(types.ModuleType):
    """Stands for a module; the schedulers in it are double-precision ones, everything else is the module's."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, type) and issubclass(found, SchedulerMixin) and found is not SchedulerMixin:
            return getattr(_double_module(found.__module__), found.__name__)
        return _DoubleSchedulers(found) if isinstance(found, types.ModuleType) and _has_schedulers(found.__name__) else found


def _has_schedulers(module: str) -> bool:
    return module.partition(".")[0] == diffusers.__name__


def _import(name: str, *arguments: Any) -> Any:
    """``__import__`` as a copied module sees it."""
    module = builtins.__import__(name, *arguments)
    return _DoubleSchedulers(module) if _has_schedulers(module.__name__) else module


@functools.cache
def _double_module(name: str) -> types.ModuleType:
    origin = getattr(sys.modules[name], "__file__", None)
    package, _, leaf = name.rpartition(".")
    # The private name stays inside the package, so that the file's relative imports and diffusers' own look-ups work.
    spec = importlib.util.spec_from_file_location(f"{package}._double_{leaf}", origin) if origin else None
    if spec is None or spec.loader is None:
        raise S2PError(f"the source of scheduler module {name} cannot be found", "install diffusers as files")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    spec.loader.exec_module(module)
    replacements = {
        "torch": _DoublePrecision(torch, torch.float64),
        "np": _DoublePrecision(np, np.float64),
        "randn_tensor": _drawn_noise,
    }
    for attribute, replacement in replacements.items():
        if hasattr(module, attribute):
            setattr(module, attribute, replacement)
    return module


def double_precision(scheduler: Any) -> Any:
    """A fresh scheduler of the same class and configuration that computes in float64 throughout.

    Fresh noise has to be provided with :func:`noise_from`.

    Raises:
        S2PError: the source of the scheduler's class cannot be found.
    """
    kind = type(scheduler)
    return getattr(_double_module(kind.__module__), kind.__name__).from_config(scheduler.config)
