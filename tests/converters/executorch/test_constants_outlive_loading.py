"""Elementwise nodes read their constants at every call: those must not lie where the runtime frees what XNNPACK has packed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s2p_converters.targets.executorch.xnnpack.program import build_program, delegate
from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph
from s2p_runtime.bundle import open_bundle
from s2p_runtime.noise import gaussian

CHILD = Path(__file__).parent / "run_with_weight_cache.py"


def run(program: Path, feeds: dict[str, np.ndarray], folder: Path, cache: bool) -> np.ndarray:
    """The output in a process of its own, loaded from the file: freed pages end it."""
    source, output = folder / "inputs.npz", folder / f"output-{int(cache)}.npy"
    np.savez(source, **feeds)
    done = subprocess.run(
        [sys.executable, str(CHILD), str(program), str(source), str(output), str(int(cache))], capture_output=True, text=True
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-500:]}"
    return np.load(output)


@pytest.fixture(scope="module", autouse=True)
def _option() -> None:
    places = find_spec("executorch").submodule_search_locations  # type: ignore[union-attr]
    if not (Path(next(iter(places))) / "backends/qualcomm/libqnn_executorch_backend.so").exists():  # type: ignore[arg-type]
        pytest.skip("this platform's ExecuTorch package does not export its options")


class Method(nn.Module):
    """A program of one subgraph."""

    def __init__(self, graph: Subgraph) -> None:
        super().__init__()
        self.subgraph = delegate(graph)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.subgraph(x)[0]


@pytest.mark.parametrize("cache", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_constant_that_equals_a_bias(tmp_path: Path, cache: bool) -> None:
    # XNNPACK packs the bias of the layer and reads the other addend where it lies.
    x, weight, bias = (gaussian(stream, shape) for stream, shape in enumerate([(16, 1024), (1024, 1024), (1024,)]))
    graph = Subgraph()
    graph.output(graph.add(graph.fully_connected(graph.input(x.shape), weight, bias, "layer"), graph.constant(bias)))
    path = tmp_path / "program.pte"
    path.write_bytes(build_program({"forward": (Method(graph), (torch.from_numpy(x),))}))
    found, want = run(path, {"x": x}, tmp_path, cache), x.astype(np.float64) @ weight.astype(np.float64).T + 2.0 * bias
    # 1024 products summed one after the other round at most 1024 times, each by 2^-24 of a partial sum.
    assert np.abs(found - want).max() <= 1024 * 2.0**-24 * np.abs(want).max()


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vae_decoder", "text_encoder"))]
)
def test_the_weight_cache_changes_no_bit(executorch_bundle: Path, tmp_path: Path, name: str) -> None:
    component = open_bundle(executorch_bundle).manifest.components[name]
    feeds = {
        port.name: gaussian(stream, port.shape) if port.dtype == "float32" else np.zeros(port.shape, port.dtype)
        for stream, port in enumerate(component.inputs)
    }
    without, held = (run(executorch_bundle / component.path, feeds, tmp_path, cache) for cache in (False, True))
    assert np.array_equal(without, held)
