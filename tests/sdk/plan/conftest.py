"""diffusers' schedulers in double precision, by another way than the extraction's."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def in_double() -> Callable[[type], types.ModuleType]:
    """``in_double(kind)``: the source file of a scheduler's class with float32 replaced by float64 in its text (not the proxies that
    the extraction uses)."""

    def make(kind: type) -> types.ModuleType:
        source = inspect.getsource(importlib.import_module(kind.__module__))
        module = types.ModuleType(f"{kind.__module__}_in_double")
        module.__package__ = "diffusers.schedulers"
        doubled = source.replace("torch.float32", "torch.float64").replace("np.float32", "np.float64")
        exec(compile(doubled, kind.__module__, "exec"), module.__dict__)
        return module

    return make
