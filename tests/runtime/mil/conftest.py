"""Builds small ML programs with coremltools' builder and opens them with the interpreter."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_runtime.hosts.coreml.mil import Program, load_program
from s2p_runtime.quiet import quiet_import

Build = Callable[..., Any]


@pytest.fixture(scope="session")
def save_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """(inputs: name -> (shape, dtype), build(mb, **variables), target) -> path of a saved .mlpackage.

    Only the passes that a backend needs run, so the saved program holds the operations that ``build`` names.
    """
    with quiet_import():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Program, types
    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
    folder = tmp_path_factory.mktemp("programs")
    gc.collect()
    gc.freeze()  # ct.convert collects garbage each time, which takes half a second with torch's objects in the way
    count = 0

    def save(inputs: Mapping[str, tuple[Sequence[int], str]], build: Build, target: str = "iOS17") -> Path:
        nonlocal count
        count += 1
        opset = getattr(ct.target, target)
        with quiet_import():
            program = Program()
            placeholders = {
                name: mb.placeholder(shape=tuple(shape), dtype=kinds[dtype]) for name, (shape, dtype) in inputs.items()
            }
            with Function(placeholders, opset_version=opset) as function:
                result = build(mb, **function.inputs)
                function.set_outputs(list(result) if isinstance(result, (list, tuple)) else [result])
                program.add_function("main", function)
            model = ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=opset,
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
            )
            path = folder / f"p{count}.mlpackage"
            model.save(str(path))
        return path

    yield save
    gc.unfreeze()


@pytest.fixture(scope="session")
def open_program(save_package: Callable[..., Path]) -> Callable[..., Program]:
    """As ``save_package``, but loads the package with the interpreter."""
    return lambda *args, **kwargs: load_program(save_package(*args, **kwargs))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
