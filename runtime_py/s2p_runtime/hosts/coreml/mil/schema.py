"""Core ML's protobuf message classes, without the rest of coremltools.

``import coremltools.proto`` runs ``coremltools/__init__.py``, which takes seconds and prints a dozen warnings. The
generated ``*_pb2`` modules need only protobuf, so they are loaded from their folder under a private package name. protobuf
keeps one class per message descriptor: a later ordinary import of coremltools gets the same classes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

from s2p_runtime.errors import S2PError

_PACKAGE = "_s2p_coreml_proto"


@functools.cache
def _load(module: str) -> Any:
    if "coremltools" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{module}")
    spec = importlib.machinery.PathFinder.find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise S2PError(
            "reading a Core ML package needs coremltools, which is not installed", "run pip install 's2p-runtime[coreml]'"
        )
    if _PACKAGE not in sys.modules:
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [str(Path(location) / "proto") for location in spec.submodule_search_locations]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{module}")


def new_model() -> Any:
    """An empty ``CoreML.Specification.Model`` message."""
    return _load("Model_pb2").Model()
