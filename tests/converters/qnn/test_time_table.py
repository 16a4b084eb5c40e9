"""SDXL's time table on a chip that computes in float16, and its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s2p_converters.core.graph import TimeNetwork
from s2p_converters.targets.executorch.qnn.components import LookedUpIds, write_float
from s2p_converters.targets.executorch.qnn.onnx_graph import OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.executorch.qnn.unet import SymbolTables
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.ports import tensor
from s2p_runtime.component import TensorSpec
from s2p_runtime.hosts.executorch.delegates import RUNNABLE
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine
from s2p_runtime.hosts.executorch.qnn.socs import SOCS
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

POOLED, ID_WIDTH, CALLS = 24, 16, 3
IDS = np.array([[1024.0, 1016.0, 0.0, 8.0, 2048.0, 1023.0]] * 2, np.float32)


@pytest.fixture
def network() -> TimeNetwork:
    torch.manual_seed(1)
    made = TimeNetwork(["a.time", "b.time"], [8, 12], CALLS, 32, POOLED + 6 * ID_WIDTH, ID_WIDTH)
    with torch.no_grad():
        made.embeddings.normal_()
        made.rows.normal_()
    return made.eval()


def test_looked_up_sinusoids_are_the_networks(network: TimeNetwork) -> None:
    pooled = torch.from_numpy(gaussian(2, (2, POOLED)))
    with torch.no_grad():
        wanted = network.double()(pooled.double(), torch.from_numpy(IDS).double())
        found = LookedUpIds(network.float())(pooled, torch.from_numpy(IDS))
    # Angles in float32 are wrong by 2^-24 of 2048; everything else is float32.
    assert torch.allclose(found.double(), wanted, atol=1e-3)


def test_the_chip_makes_the_table(network: TimeNetwork, engine: QnnEngine, tmp_path: Path) -> None:
    inputs = (tensor("pooled_text", (2, POOLED)), tensor("time_ids", (2, 6)))
    outputs = (tensor("time_table", (2, CALLS, 20)),)
    given = {"pooled_text": gaussian(3, (2, POOLED)), "time_ids": IDS}
    component = FloatComponent("time_table", "time table", inputs, outputs, lambda: network, lambda: given, needs_float32=True)
    write_float(tmp_path / "t.onnx", component)
    compiled = engine.compile("the time table", tmp_path / "t.onnx", tmp_path / "t.qnn", SOCS["SM8650"], inputs)
    engine.load("table", tmp_path / "t.qnn", compiled.graph, SOCS["SM8650"], inputs, outputs)
    found = engine.run("table", given)["time_table"]
    wanted = component.call(network.double(), given)["time_table"]
    assert relative_error(found, wanted) < RUNNABLE["qnn"].tolerance("time_table")


def test_the_chip_looks_up_the_row_of_every_prompt(engine: QnnEngine, tmp_path: Path) -> None:
    """The two branches of a guided call bring tables of their own."""
    ports = (tensor("time_table", (2, CALLS, 20)), TensorSpec(name="step", dtype="int32", shape=(1,)))
    outputs = (tensor("row", (2, 12)),)
    with OnnxGraph(tmp_path / "m.onnx") as graph:
        table, step = (Symbol(graph, graph.input(port), port.shape) for port in ports)
        row = SymbolTables({}, {"a.time": 8, "b.time": 12})(step, table)
        graph.output(outputs[0], row["b.time"].value)
    compiled = engine.compile("rows", tmp_path / "m.onnx", tmp_path / "m.qnn", SOCS["SM8650"], ports)
    engine.load("rows", tmp_path / "m.qnn", compiled.graph, SOCS["SM8650"], ports, outputs)
    values = gaussian(4, (2, CALLS, 20))
    for call in range(CALLS):
        found = engine.run("rows", {"time_table": values, "step": np.array([call], np.int32)})["row"]
        # As float16 has them.
        assert np.abs(found - values[:, call, 8:]).max() <= 2.0**-11 * np.abs(values).max()
