"""Fake quantization against plain autograd, and what is trained against what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.graph import LayerSpec, StepTables
from s2p_converters.core.reference import (
    Constants,
    exact,
    exact_weight,
    reference_unet,
    step_tables,
    table_columns,
    to_float32,
)
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.grid import snap_activation_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.student.layers import TrainedLayer
from s2p_mobile.quantize.student.student import quantized_unet, student_layers
from s2p_mobile.quantize.student.tables import TrainedTables
from s2p_mobile.quantize.training import Trainer
from s2p_mobile.quantize.workers import Workers

SPECS = {
    "conv": LayerSpec("layer", "conv", 3, 5, kernel=3, padding=1),
    "strided": LayerSpec("layer", "conv", 3, 5, kernel=3, stride=2, padding=1, bias=False),
    "linear": LayerSpec("layer", "linear", 6, 4),
}


def straight_through(value: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """LSQ as it is usually written: clamp, round with the gradient of the identity, multiply; autograd does the rest."""
    clamped = torch.clamp(value / scale, low, high)
    return ((torch.round(clamped) - clamped).detach() + clamped) * scale


@pytest.mark.parametrize("zero", [0, -110])
@pytest.mark.parametrize("kind", list(SPECS))
def test_gradients_are_those_of_lsq(kind: str, zero: int) -> None:
    """Values inside and outside both grids; float64, so that nothing but the formulas can differ."""
    spec = SPECS[kind]
    torch.manual_seed(0)
    layer = TrainedLayer(spec, 4, 8, freezes=False, activation_zero=zero).double()
    weight = torch.randn(spec.weight_shape, dtype=torch.float64)
    with torch.no_grad():
        layer.base.copy_((weight.flatten(1).abs().amax(1) / 6).half().double())
        column = layer.base.reshape(-1, *([1] * (weight.dim() - 1)))
        layer.weight.copy_(weight / column * 1.4)
    shape = (2, 7, 6) if spec.kind == "linear" else (2, 3, 6, 6)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    # Powers of two, so that step and reciprocal are each other's inverse without a rounding error.
    steps = torch.tensor([[2.0**-6], [2.0**-5]], dtype=torch.float64, requires_grad=True)
    inverse = 1 / steps.detach()
    target = torch.randn_like(layer(x, {"layer.scale": steps, "layer.inverse": inverse}))
    loss = (layer(x, {"layer.scale": steps, "layer.inverse": inverse}) * target).sum()
    mine = torch.autograd.grad(loss, [layer.weight, layer.log_scale, x, steps])

    units = layer.weight.detach().clone().requires_grad_()
    scale = layer.base.clone().requires_grad_()
    wide = scale.reshape(-1, *([1] * (weight.dim() - 1)))
    rounded = straight_through(x, spec.per_step(steps), -128 - zero, 127 - zero)
    output = spec.apply(rounded, straight_through(units * wide.detach(), wide, -8, 7), layer.bias)
    theirs = torch.autograd.grad((output * target).sum(), [units, scale, x, steps])
    for name, a, b in zip(("weight", "scale", "x", "step"), mine, theirs, strict=True):
        # The learned scale is a logarithm: d/dlog s = s d/ds. Tolerance: float64 sums of some hundred terms.
        torch.testing.assert_close(a, b * scale.detach() if name == "scale" else b, rtol=1e-9, atol=1e-9, msg=name)


def test_weight_of_the_forward_pass_is_integers_times_fp16_scales() -> None:
    spec = SPECS["linear"]
    torch.manual_seed(0)
    layer = TrainedLayer(spec, 4, None, freezes=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(spec.weight_shape) * 6)
        layer.log_scale.copy_(torch.randn(4) * 0.3)
        # One-hot inputs give back the weight: products with one and sums with zeros are exact.
        weight = layer(torch.eye(6)[None], {})[0].T
    scale = layer.scale.detach()
    assert torch.equal(scale, scale.half().float())
    assert torch.equal(weight, layer.integers().float() * scale[:, None])
    assert layer.integers().min() >= -8 and layer.integers().max() <= 7


@pytest.mark.parametrize("per_step", [True, False])
def test_tables_give_snapped_scales_of_each_step(per_step: bool) -> None:
    base = snap_activation_scale(torch.rand(3, 2) + 0.1)
    tables = TrainedTables(StepTables({"r.time": torch.randn(3, 4)}), ["a", "b"], base, per_step)
    assert tables.log_scales is not None
    with torch.no_grad():
        tables.log_scales += torch.tensor([0.1, -0.2])
    row = tables(torch.tensor([2, 0, 2]))
    expected = snap_activation_scale(base * torch.tensor([0.1, -0.2]).exp())
    for column, name in enumerate(("a", "b")):
        assert torch.equal(row[f"{name}.scale"][:, 0], expected[[2, 0, 2], column])
        # Both factors are rounded to float32: half a unit in the last place each.
        torch.testing.assert_close(row[f"{name}.scale"] * row[f"{name}.inverse"], torch.ones(3, 1), rtol=2**-22, atol=0)
    row["a.scale"][0].sum().backward()
    gradient = tables.log_scales.grad
    assert gradient is not None
    assert gradient.shape == ((3, 2) if per_step else (1, 2))
    assert gradient[2 if per_step else 0, 0] != 0 and gradient.count_nonzero() == 1


@pytest.mark.parametrize(
    "recipe", [{}, {"activations": {"bits": None}}, {"activations": {"per_step": False}}, {"time": "quantized"}], ids=str
)
def test_checkpoint_computes_what_was_trained(
    make_job: Callable[..., QuantizationJob],
    latents: LatentDataset,
    start: StudentSpec,
    folder: Path,
    recipe: dict[str, object],
) -> None:
    job = make_job(recipe=recipe)
    assert start.activation_scales is not None
    # Scales of this test's own: the student holds them, and they are written to below.
    grids = (start.activation_scales.clone(), start.activation_zeros) if job.recipe.activations.bits else (None, {})
    trainer = Trainer(job, StudentSpec(start.weight_bits, *grids), latents, folder, Workers("cpu"))
    trained = trainer.run()
    student = trainer.student
    (folder / "checkpoint").mkdir()
    write_checkpoint(job, "s2p", trained, folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")
    for name, layer in student_layers(student).items():
        np.testing.assert_array_equal(checkpoint.layers[name].integers, layer.integers().numpy())
        assert checkpoint.layers[name].weight_bits == layer.weight_bits
    # The learned values are put in as they round in float32, because that is what was trained and what is written.
    with torch.no_grad():
        for layer in student_layers(student).values():
            integers, scale = layer.integers(), layer.scale
            layer.weight.copy_(integers.float())
            layer.base.copy_(scale)
            layer.log_scale.zero_()
        tables = student.tables
        assert isinstance(tables, TrainedTables)
        if tables.base is not None and tables.log_scales is not None:
            tables.base.copy_(tables.scales)
            tables.log_scales.zero_()
    prompts, calls = [0, 1, 3, 2, 0], [0, 1, 2, 3, 4]
    sample = torch.from_numpy(latents.states(prompts, calls)).double()
    text = latents.conditions(prompts)[0][:, 1].double()
    with torch.no_grad():
        student.double()
        # One constant that differs in float32 is enough to round one of the network's activations otherwise now and then. So rows
        # are float32 on both sides, as they are in training and in the checkpoint, and all else is float64, attention's scale too.
        tables.float()
        mine = student(sample, torch.tensor(calls), text)
        reference = reference_unet(checkpoint, Constants(stored=exact, weight=exact_weight))
        reference.tables = step_tables(
            table_columns(checkpoint, to_float32, job.recipe.activations.bits is not None), checkpoint
        )
        theirs = torch.cat([reference(sample[i : i + 1], torch.tensor([i]), text[i : i + 1]) for i in range(5)])
    # What is left is the order of float64's additions: 2^-53 for each of some thousand operations one after the other.
    assert (mine - theirs).norm() <= 1e-12 * theirs.norm()
    assert quantized_unet(student).layers.keys() == checkpoint.layers.keys()
