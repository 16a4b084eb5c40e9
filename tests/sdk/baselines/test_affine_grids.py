"""Grids with zero points against torch's own fake quantization; the pieces of adaptive rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s2p_converters.core.graph import LayerSpec, StepTables
from s2p_converters.core.grids import AffineWeight, GeneralLayer, LayerPart, StepGrid
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, GeneralReferenceLayer, general_columns
from s2p_mobile.quantize.rounding.affine import activation_grid, fake_affine, weight_grid
from s2p_mobile.quantize.rounding.layers import AdaRoundWeight, IndexedTables, RoundedLayer, rounded_layer
from s2p_mobile.quantize.rounding.learned import RoundingRule, UnitData, learn_rounding
from s2p_mobile.quantize.rounding.waiting import RowsInFile, RowsInMemory, WaitingRoom

SPEC = LayerSpec("layer", "conv", 6, 4, 3, 1, 1)


def random_weight(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Shifted, so that the zero points are not in the middle.
    return torch.randn(SPEC.weight_shape, generator=generator) + torch.tensor([0.0, 1.0, -1.0, 3.0]).reshape(4, 1, 1, 1)


@pytest.mark.parametrize("search", ["minmax", "clip"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_weights_equal_torch_fake_quantization(bits: int, search: str) -> None:
    weight = random_weight()
    rounded = AdaRoundWeight(weight, bits, search)
    scale, zero = rounded.scale.flatten(), rounded.zero.flatten()
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zero.int(), 0, 0, 2**bits - 1)
    # torch multiplies by 1 / scale where we divide: the same integers except at ties, and there is none among random numbers.
    torch.testing.assert_close(rounded(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rounded.export().values, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_clip_search_has_the_least_error_of_all_shares() -> None:
    weight, bits = random_weight(1), 3
    found = weight_grid(weight, bits, "clip")
    got = (torch.fake_quantize_per_channel_affine(weight, found.scale, found.zero.int(), 0, 0, 7) - weight).abs() ** 2.4
    low, high = weight.flatten(1).amin(1).clamp(max=0), weight.flatten(1).amax(1).clamp(min=0)
    for percent in range(0, 80):
        scale = ((high - low) * (1 - percent / 100) / 7).half().float()
        zero = (-low * (1 - percent / 100) / scale).round().clamp(0, 7)
        error = (torch.fake_quantize_per_channel_affine(weight, scale, zero.int(), 0, 0, 7) - weight).abs() ** 2.4
        assert (got.flatten(1).sum(1) <= error.flatten(1).sum(1) * (1 + 1e-5)).all()


@pytest.mark.parametrize(("bits", "shift"), [(8, 0.0), (8, 2.0), (10, -3.0), (16, 0.5)])
def test_activations_equal_torch_fake_quantization_and_have_lsq_gradients(bits: int, shift: float) -> None:
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(bits)) + shift
    grid = activation_grid(x, bits)
    scale = grid.scale.clone().requires_grad_(True)
    values = x.clone().requires_grad_(True)
    found = fake_affine(values, scale, grid.zero, 2.0**bits - 1)
    expected = torch.fake_quantize_per_tensor_affine(x, float(grid.scale), int(grid.zero), 0, 2**bits - 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    found.sum().backward()
    # torch's own learnable operator gives LSQ's gradient of the scale.
    learned = torch._fake_quantize_learnable_per_tensor_affine
    other, value = grid.scale.reshape(1).clone().requires_grad_(True), x.clone().requires_grad_(True)
    learned(value, other, grid.zero.reshape(1), 0, 2**bits - 1, 1.0).sum().backward()
    assert scale.grad is not None and other.grad is not None
    torch.testing.assert_close(values.grad, value.grad)
    # Sums of a hundred terms of either sign up to half a step, each known to about 2^-24 of x / s.
    torch.testing.assert_close(scale.grad, other.grad[0], rtol=1e-3, atol=100 * 2.0 ** (bits - 24))


def test_reference_of_a_split_layer_equals_two_layers_of_torch() -> None:
    """Each half with its own grids; the widths change from call to call."""
    rng, channels = np.random.default_rng(3), (2, 4)
    parts = []
    for count in channels:
        shape = (SPEC.out_channels, count, 3, 3)
        weight = AffineWeight(
            4,
            rng.integers(0, 16, shape, np.uint8),
            rng.uniform(0.01, 0.1, 4).astype(np.float16),
            rng.integers(0, 16, 4, np.uint8),
        )
        grid = StepGrid(
            np.array([8, 10], np.uint8), rng.uniform(0.01, 0.05, 2).astype(np.float32), rng.integers(0, 256, 2).astype(np.int32)
        )
        parts.append(LayerPart(count, weight, grid))
    layer = GeneralLayer(SPEC, tuple(parts), rng.normal(size=4).astype(np.float32))
    module = GeneralReferenceLayer(layer, CHECKPOINT_CONSTANTS)
    x = torch.from_numpy(rng.normal(size=(3, 6, 5, 5)) * 4)
    for call in (0, 1):
        row = {name: table[[call]] for name, table in general_columns(layer, lambda value: value).items()}
        expected = torch.from_numpy(layer.bias).double().reshape(1, -1, 1, 1)
        for part, half in zip(parts, x.split(channels, dim=1), strict=True):
            assert part.activation is not None and isinstance(part.weight, AffineWeight)
            grid = part.activation
            top = 2 ** int(grid.bits[call]) - 1
            rounded = torch.fake_quantize_per_tensor_affine(half, float(grid.scale[call]), int(grid.zero[call]), 0, top)
            integers = torch.from_numpy(part.weight.integers.astype(np.float64))
            scale, zero = (
                torch.from_numpy(v.astype(np.float64)).reshape(-1, 1, 1, 1) for v in (part.weight.scale, part.weight.zero)
            )
            expected = expected + torch.nn.functional.conv2d(rounded, (integers - zero) * scale, padding=1)
        # torch rounds to float32 inside: 2^-24 of each of 54 products of up to 256 * 0.05 * 15 * 0.1.
        torch.testing.assert_close(module(x, row), expected, rtol=0, atol=54 * 19.2 * 2.0**-24)


def rows(values: torch.Tensor) -> RowsInMemory:
    return RowsInMemory(values, torch.device("cpu"))


def layer_data(samples: int = 24) -> tuple[RoundedLayer, UnitData, torch.Tensor, IndexedTables]:
    weight = 0.05 * random_weight(5)
    layer = rounded_layer(SPEC, weight, None, 3, "minmax")
    # Inputs whose channels go together, so that rounding errors can make up for each other.
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, 1, 6, 6, generator=generator) + 0.1 * torch.randn(samples, 6, 6, 6, generator=generator)
    targets = SPEC.apply(inputs, weight)
    data = UnitData([rows(inputs)], torch.zeros(samples, dtype=torch.int64), rows(targets))
    return layer, data, weight, IndexedTables(StepTables({"unused": torch.zeros(1, 1)}))


def test_adaptive_rounding_moves_no_weight_further_than_a_step_and_ends_at_zero_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, data, weight, tables = layer_data()
    part = layer.parts[0]
    inputs, targets = (values.get(slice(None)) for values in (data.inputs[0], data.targets))
    before = (SPEC.apply(inputs, part()) - targets).square().mean()
    soft: list[torch.Tensor] = []
    finish = AdaRoundWeight.finish
    monkeypatch.setattr(AdaRoundWeight, "finish", lambda self: (soft.append(self.softness().detach()), finish(self)))
    rule = RoundingRule(iterations=400, batch=8, learning_rate=0.05, quantized_inputs=False, warmup=0.2)
    learn_rounding(layer, tables, data, rule, torch.Generator().manual_seed(0))
    # The penalty has done its work before anything is cut off.
    assert float(((soft[0] < 1e-3) | (soft[0] > 1 - 1e-3)).float().mean()) > 0.99
    assert part.variables is None and torch.equal(part.integers(), part.integers().round())
    steps = weight / part.scale + part.zero
    inside = (steps > 0) & (steps < 7)
    moved = part.integers() - steps
    assert (moved[inside].abs() < 1).all()
    lower = steps.floor().clamp(0, 7)
    assert ((part.integers() == lower) | (part.integers() == (lower + 1).clamp(max=7)))[inside].all()
    after = (SPEC.apply(inputs, part()) - targets).square().mean()
    assert after < 0.7 * before


def test_learning_starts_at_the_float_weights() -> None:
    weight = random_weight(2)
    rounded = AdaRoundWeight(weight, 4, "minmax")
    rounded.begin()
    # h starts at the weight's own fraction: only the ends of the fp16 grid may lie beyond the last step.
    inside = (weight / rounded.scale + rounded.zero > 0) & (weight / rounded.scale + rounded.zero < 15)
    torch.testing.assert_close(rounded()[inside], weight[inside], rtol=1e-4, atol=1e-5)


def test_penalty_follows_the_schedule() -> None:
    rule = RoundingRule(iterations=100, batch=1, learning_rate=1.0, quantized_inputs=True, warmup=0.2)
    assert rule.exponent(19) is None and rule.exponent(20) == 20.0
    assert rule.exponent(60) == pytest.approx(11.0) and rule.exponent(99) == pytest.approx(2.0 + 18 / 80)


class _Interrupting:
    """Keeps what is learned after each iteration, and gives up after some."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, 0
        self.kept: dict[str, torch.Tensor] | None = None

    def load(self) -> dict[str, torch.Tensor] | None:
        return self.kept

    def save(self, tensors: Callable[[], dict[str, torch.Tensor]]) -> None:
        self.seen += 1
        self.kept = {name: value.detach().clone() for name, value in tensors().items()}
        if self.seen == self.after:
            raise KeyboardInterrupt


def test_learning_that_was_interrupted_ends_in_the_same_integers() -> None:
    rule = RoundingRule(iterations=60, batch=8, learning_rate=0.05, quantized_inputs=False, warmup=0.2)
    layer, data, _, tables = layer_data()
    learn_rounding(layer, tables, data, rule, torch.Generator().manual_seed(0))
    other, data, _, tables = layer_data()
    kept = _Interrupting(after=25)
    with pytest.raises(KeyboardInterrupt):
        learn_rounding(other, tables, data, rule, torch.Generator().manual_seed(0), kept)
    again, data, _, tables = layer_data()
    learn_rounding(again, tables, data, rule, torch.Generator().manual_seed(99), kept)
    assert kept.seen == 60
    assert torch.equal(again.parts[0].integers(), layer.parts[0].integers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_come_back_from_memory_and_from_files(dtype: torch.dtype, tmp_path: Path) -> None:
    """The second rows find no memory left, and get it when the first ones are freed."""
    values = torch.randn(7, 3, 5).to(dtype)
    room = WaitingRoom(torch.device("cpu"), dtype, values.nbytes, tmp_path)
    first, second = room.of(values), room.rows(7, values.shape[1:])
    assert isinstance(first, RowsInMemory) and isinstance(second, RowsInFile) and room.left == 0
    for part in (slice(4, 7), slice(0, 4)):
        second.put(part.start, values[part])
    chosen = torch.tensor([6, 0, 3, 3])
    for rows_of in (first, second):
        assert rows_of.count == 7
        assert torch.equal(rows_of.get(chosen), values[chosen].float())
        assert torch.equal(rows_of.get(slice(2, 5)), values[2:5].float())
    first.free()
    second.free()
    assert room.left == values.nbytes
