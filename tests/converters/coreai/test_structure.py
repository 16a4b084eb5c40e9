"""What operations a written U-Net is made of, as Apple's bindings read them: one gather, roundings where the checkpoint has them, and
the two forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.target import TARGET
from s2p_converters.targets.golden import reference_call
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

SUM, PRODUCT = "coreai.conv2d", "coreai.decomposable.broadcasting_batch_matmul"
UNITS = ("gpu", "neural-engine")


@dataclass(frozen=True)
class Graphs:
    """A program taken apart.

    Attributes:
        program: owns the operations: they are views into it.
        main: its operations.
        called: how often ``main`` calls each composite, by the name that Apple's compilers know.
        inner: operations inside of composites.
    """

    program: Any
    main: list[Any]
    called: Counter[str]
    inner: set[str]

    @property
    def count(self) -> Counter[str]:
        return Counter(operation.name for operation in self.main)


def operations(graph: Any) -> Iterator[Any]:
    for region in graph.regions:
        for block in region.blocks:
            for operation in block.operations:
                yield operation
                yield from operations(operation)


def taken_apart(path: Path) -> Graphs:
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(path).program
    graphs = {str(graph.attributes["sym_name"]).strip('"'): graph for graph in program._module._mlir_module.body.operations}
    declared = {name: str(graph.attributes["composite_decl"]).split('"')[1] for name, graph in graphs.items() if name != "main"}
    main = list(operations(graphs["main"]))
    calls = [str(one).split("@")[1].split("(")[0] for one in main if one.name == "coreai.invoke"]
    inner = {one.name for name in declared for one in operations(graphs[name])}
    return Graphs(program, main, Counter(declared[name] for name in calls), inner)


def source(value: Any) -> Any:
    """What a value comes from, past what only moves numbers."""
    operation = value.owner
    while name(operation) in ("pad", "reshape", "transpose"):
        operation = operation.operands[0].owner
    return operation


def name(operation: Any) -> str:
    """Of an operation, without its dialect; an input of the graph has none."""
    return getattr(operation, "name", "an input").removeprefix("coreai.")


def layer_sums(graphs: Graphs) -> dict[str, Any]:
    """The sum of each layer, by the layer whose weight is its second operand."""
    found = {}
    for operation in graphs.main:
        if operation.name not in (SUM, PRODUCT):
            continue
        stored = source(operation.operands[1])
        if name(stored) in ("lut_to_dense", "blockwise_shift_scale"):
            stored = stored.operands[0].owner
        if name(stored) == "constant":
            label = str(stored.attributes["value"]).split("<")[1].split(">")[0]
            found[label.removesuffix(".weight")] = operation
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_tables_are_one_gather(unit: str, checkpoint: Checkpoint, write_unet: Callable[..., Path]) -> None:
    graphs = taken_apart(write_unet(checkpoint, precision="fp32", compute_unit=unit))
    gathers = [one for one in graphs.main if "gather" in one.name]
    assert len(gathers) == 1 and not any("gather" in name for name in graphs.inner)
    (table, _) = gathers[0].operands
    scales = sum(layer.activation_scale is not None for layer in checkpoint.layers.values())
    columns = sum(values.shape[1] for values in checkpoint.time_tables.values())
    assert list(table.type.shape) == [len(checkpoint.manifest.plan.calls), columns + scales]


@pytest.mark.parametrize("unit", UNITS)
def test_the_two_forms(unit: str, checkpoint: Checkpoint, write_unet: Callable[..., Path]) -> None:
    graphs = taken_apart(write_unet(checkpoint, precision="fp32", compute_unit=unit))
    sums = layer_sums(graphs)
    assert set(sums) == {spec.name for spec in checkpoint.specs}
    attentions = sum(spec.name.endswith(".to_q") for spec in checkpoint.specs)
    norms = sum(name.endswith(".weight") and ".norm" in name and ".transformer_blocks." in name for name in checkpoint.floats)
    # What diffusers calls so is their number.
    heads = checkpoint.manifest.unet_config["attention_head_dim"]
    assert attentions == 2 and norms == 3 and heads == 2
    # Group norms are a composite in both.
    assert graphs.called["group_norm"] == sum(
        name.endswith(".weight") and "norm" in name and ".transformer_blocks." not in name for name in checkpoint.floats
    )
    if unit == "gpu":
        kinds = {"conv": SUM, "linear": PRODUCT}
        assert {spec.name: kinds[spec.kind] for spec in checkpoint.specs} == {name: one.name for name, one in sums.items()}
        # Nothing else is multiplied outside of Apple's composite for attention.
        assert graphs.count[PRODUCT] == sum(spec.kind == "linear" for spec in checkpoint.specs)
        assert graphs.called["scaled_dot_product_attention"] == attentions and graphs.called["layer_norm"] == norms
        assert "coreai.softmax" not in graphs.count
    else:
        assert {one.name for one in sums.values()} == {SUM} and graphs.count[SUM] == len(checkpoint.specs)
        assert set(graphs.called) == {"group_norm"}
        # Head by head: scores and their sum over the values, a softmax over the channel axis, which holds the keys.
        assert graphs.count[PRODUCT] == 2 * attentions * heads and graphs.count["coreai.softmax"] == attentions * heads
        states = [one.operands[0].type.shape for one in graphs.main if one.name == "coreai.softmax"]
        assert all(len(shape) == 4 and shape[2] == 1 for shape in states)
        assert all(len(one.operands[0].type.shape) == 4 for one in sums.values())


@pytest.fixture(scope="module")
def partly(checkpoint: Checkpoint) -> Checkpoint:
    """Every third layer's input in float."""
    left = {name for place, name in enumerate(checkpoint.layers) if place % 3 == 1}
    layers = {
        name: replace(layer, activation_bits=None, activation_scale=None) if name in left else layer
        for name, layer in checkpoint.layers.items()
    }
    return replace(checkpoint, layers=layers)


@pytest.mark.parametrize("unit", UNITS)
def test_inputs_are_rounded_where_the_checkpoint_rounds_them(
    unit: str, partly: Checkpoint, write_unet: Callable[..., Path]
) -> None:
    graphs = taken_apart(write_unet(partly, precision="fp32", compute_unit=unit))
    rounded = {layer: name(source(one.operands[0])) == "dequantize" for layer, one in layer_sums(graphs).items()}
    wanted = {
        spec.name: spec.name in partly.layers and partly.layers[spec.name].activation_scale is not None for spec in partly.specs
    }
    assert rounded == wanted and {*wanted.values()} == {True, False}
    # Every scale is a slice of the row that the one gather gives.
    scales = [source(one.operands[1]) for one in graphs.main if name(one) == "quantize"]
    assert scales and all(name(one) == "slice" and name(source(one.operands[0])) == "gather_nd" for one in scales)


def test_inputs_left_in_float_are_the_reference(partly: Checkpoint, write_unet: Callable[..., Path]) -> None:
    options = CoreAIOptions(precision="fp32", compute_unit="gpu")
    shape, tokens = partly.manifest.latents.shape, partly.manifest.tokenizer.max_length
    sample, text = gaussian(5, (2, *shape[1:])), gaussian(6, (2, tokens, partly.structure.context_dim))
    engine = Engine()
    engine.load("unet", write_unet(partly, precision="fp32", compute_unit="gpu"), "main")
    feeds = {"sample": sample, "step": np.array([1], np.int32), "encoder_hidden_states": text}
    found = engine.run("unet", "main", feeds)["noise_pred"]
    engine.close()
    want = reference_call(TARGET.reference(partly, options), sample, 1, {"encoder_hidden_states": text})
    tolerance = TARGET.self_check_tolerance(options, "unet")
    assert tolerance is not None and relative_error(found, want) <= tolerance
