"""Estimators against closed forms, torch's Jacobians and Hessians, and direct measurement, on tiny networks."""

from __future__ import annotations

import contextlib
import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from s2p_mobile.quantize.finished import FinishedParts
from s2p_mobile.quantize.sensitivity import ESTIMATORS, CallSample, rank_layers
from s2p_mobile.quantize.sensitivity.candidates import round_candidates
from s2p_mobile.quantize.sensitivity.estimators import Measurement
from s2p_mobile.quantize.sensitivity.fisher import weighted_fisher
from s2p_mobile.quantize.sensitivity.gradient import first_order
from s2p_mobile.quantize.sensitivity.hutchinson import hessian_traces
from s2p_mobile.quantize.sensitivity.linear import squared_first_order
from s2p_mobile.quantize.sensitivity.probes import normal_probe, rademacher_probe
from s2p_mobile.quantize.sensitivity.samples import mean_signal
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.progress import Silent

BITS = (2, 4)
LAYERS = ("first", "second")


class LinearStack(nn.Module):
    """``second(first(x))`` on [B, 3] -> [B, 2], without biases."""

    device = torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, sample: Tensor, step: Tensor, embedding: Tensor) -> Tensor:
        return self.second(self.first(sample))


class Curved(LinearStack):
    """As above with a tanh between, the embedding [B, 4] added inside and the step as a factor."""

    def forward(self, sample: Tensor, step: Tensor, embedding: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(sample) * (1.0 + step[:, None]) + embedding))


def build(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind().double().eval().requires_grad_(False)


def samples_of(count: int, batch: int = 1, guidance: float = 1.0) -> list[CallSample]:
    generator = torch.Generator().manual_seed(5)
    return [
        CallSample(
            call=k,
            sample=torch.randn(1, 3, generator=generator, dtype=torch.float64).repeat(batch, 1),
            conditions=(torch.randn(batch, 4, generator=generator, dtype=torch.float64),),
            guidance=guidance,
        )
        for k in range(count)
    ]


def measurement(unet: nn.Module, samples: list[CallSample], search: str = "absmax") -> Measurement:
    weights = {name: getattr(unet, name).weight for name in LAYERS}
    signal = mean_signal(unet, samples)
    return Measurement(unet, weights, round_candidates(weights, BITS, search), samples, signal, 0, Silent())


def absmax_error(weight: Tensor, bits: int) -> np.ndarray:
    """``w - Q_b(w)`` on the symmetric grid per output channel with fp16 scales, in numpy."""
    values = weight.numpy().astype(np.float32)
    high = 2 ** (bits - 1) - 1
    scale = (np.abs(values).max(axis=1, keepdims=True) / np.float32(high)).astype(np.float16).astype(np.float32)
    rounded = np.clip(np.round(values / scale), -high - 1, high) * scale
    return weight.numpy() - rounded.astype(np.float64)


def repeated(samples: list[CallSample], times: int) -> list[CallSample]:
    return [sample for sample in samples for _ in range(times)]


def unit_probe(index: int, shape: tuple[int, ...]) -> Tensor:
    """sqrt(2) e_0, sqrt(2) e_1, sqrt(2) e_0, ...: over two in a row the mean of r r^T is exactly the identity."""
    return torch.eye(2, dtype=torch.float64)[index % 2].reshape(shape) * 2**0.5


def test_fisher_of_a_linear_stack_is_its_closed_form() -> None:
    # y = B A x: the diagonal of J^T J is sum_i B_ij^2 x_k^2 for A_jk, and (A x)_j^2 for B_ij.
    unet = build(LinearStack)
    samples = samples_of(3)
    found = weighted_fisher(measurement(unet, repeated(samples, 2)), unit_probe)
    a, b = unet.first.weight.numpy(), unet.second.weight.numpy()
    inputs = [sample.sample.numpy()[0] for sample in samples]
    signal = np.mean([np.sum((b @ a @ x) ** 2) for x in inputs])
    diagonal_a = np.mean([np.outer((b**2).sum(0), x**2) for x in inputs], axis=0)
    diagonal_b = np.mean([np.outer(np.ones(2), (a @ x) ** 2) for x in inputs], axis=0)
    for bits in BITS:
        # Rounding errors are formed from float32 scales (2^-24 relative each), everything else is double.
        assert found["first"][bits] == pytest.approx(
            (diagonal_a * absmax_error(unet.first.weight, bits) ** 2).sum() / signal, rel=1e-6
        )
        assert found["second"][bits] == pytest.approx(
            (diagonal_b * absmax_error(unet.second.weight, bits) ** 2).sum() / signal, rel=1e-6
        )


def test_fisher_squares_the_gradient_of_each_sample_not_of_their_mean() -> None:
    guidance, seed = 3.0, 11
    unet = build(Curved)
    samples = samples_of(5, batch=2, guidance=guidance)
    values = rank_layers(unet, samples, LAYERS, "fisher", BITS, "absmax", seed)
    squares, mean = np.zeros((4, 3)), np.zeros((4, 3))
    signal = 0.0
    for index, sample in enumerate(samples):

        def guided(weight: Tensor, sample: CallSample = sample) -> Tensor:
            hidden = torch.tanh(sample.sample @ weight.T * (1.0 + sample.call) + sample.conditions[0])
            without, given = hidden @ unet.second.weight.T
            return without + guidance * (given - without)

        jacobian = torch.autograd.functional.jacobian(guided, unet.first.weight)
        probe = torch.from_numpy(gaussian(seed, (1, 2), 2**31 + index)).double()[0]
        gradient = torch.einsum("i,ijk->jk", probe, jacobian).numpy()
        squares += gradient**2 / len(samples)
        mean += gradient / len(samples)
        signal += float(guided(unet.first.weight).square().sum()) / len(samples)
    for bits in BITS:
        error = absmax_error(unet.first.weight, bits)
        expected = (squares * error**2).sum() / signal
        assert values["first"][bits] == pytest.approx(expected, rel=1e-6)
        assert (mean**2 * error**2).sum() / signal < 0.7 * expected


def test_fisher_with_its_own_probes_meets_the_closed_form() -> None:
    # The square of a normal number has relative standard deviation sqrt(2), a mean of 1,000 of them sqrt(2 / 1000) = 4.5%.
    unet = build(LinearStack)
    samples = samples_of(1)
    exact = weighted_fisher(measurement(unet, repeated(samples, 2)), unit_probe)
    found = rank_layers(unet, repeated(samples, 1000), LAYERS, "fisher", BITS, "absmax")
    for name, bits in itertools.product(LAYERS, BITS):
        assert found[name][bits] == pytest.approx(exact[name][bits], rel=5 * 0.045)


def test_hessian_trace_is_that_of_the_error_against_the_fp_output() -> None:
    unet = build(Curved)
    samples = samples_of(3)
    signs = list(itertools.product((-1.0, 1.0), repeat=2))
    # All four sign vectors for each sample: the expectation over Rademacher probes, exactly.
    traces = hessian_traces(
        measurement(unet, repeated(samples, 4)), lambda index, shape: torch.tensor(signs[index % 4]).reshape(shape)
    )
    for name in LAYERS:
        expected = 0.0
        for sample in samples:
            target = sample.observe(unet)

            def loss(weight: Tensor, sample: CallSample = sample, target: Tensor = target, name: str = name) -> Tensor:
                output = torch.func.functional_call(
                    unet, {f"{name}.weight": weight}, (sample.sample, torch.tensor([sample.call]), *sample.conditions)
                )
                return 0.5 * (output - target).square().sum()

            weight = getattr(unet, name).weight
            hessian = torch.autograd.functional.hessian(loss, weight.detach().clone())
            expected += float(hessian.reshape(weight.numel(), -1).trace()) / len(samples)
        assert traces[name] == pytest.approx(expected, rel=1e-10)


def test_hutchinson_is_the_mean_trace_times_the_squared_error() -> None:
    unet = build(Curved)
    work = measurement(unet, samples_of(4))
    traces = hessian_traces(work, rademacher_probe(9))
    values = rank_layers(unet, work.samples, LAYERS, "hutchinson", BITS, "absmax", seed=9)
    for name, bits in itertools.product(LAYERS, BITS):
        weight = getattr(unet, name).weight
        squared = (absmax_error(weight, bits) ** 2).sum()
        assert values[name][bits] == pytest.approx(traces[name] * squared / weight.numel() / work.signal, rel=1e-6)


def test_gradient_is_the_directional_derivative_along_the_rounding_error() -> None:
    unet = build(Curved)
    work = measurement(unet, samples_of(4))
    values = first_order(work, normal_probe(2))
    for name, bits in itertools.product(LAYERS, BITS):
        weight = getattr(unet, name).weight
        error = torch.from_numpy(absmax_error(weight, bits))
        total = 0.0
        for index, sample in enumerate(work.samples):

            def output(value: Tensor, sample: CallSample = sample, name: str = name) -> Tensor:
                return torch.func.functional_call(
                    unet, {f"{name}.weight": value}, (sample.sample, torch.tensor([sample.call]), *sample.conditions)
                )

            # Forward mode: J dw, where the estimator goes backward.
            _, change = torch.func.jvp(output, (weight.detach(),), (error,))
            total += abs(float((change * torch.from_numpy(gaussian(2, (1, 2), 2**31 + index))).sum()))
        assert values[name][bits] == pytest.approx(total / len(work.samples) / work.signal**0.5, rel=1e-5)


def test_sqnr_is_the_error_measured_with_one_layer_replaced() -> None:
    unet = build(Curved)
    samples = samples_of(3, batch=2, guidance=2.0)
    values = rank_layers(unet, samples, LAYERS, "sqnr", BITS, "absmax")
    for name, bits in itertools.product(LAYERS, BITS):
        changed = copy.deepcopy(unet)
        layer = getattr(changed, name)
        layer.weight.data -= torch.from_numpy(absmax_error(layer.weight, bits))
        noise = signal = 0.0
        for sample in samples:
            exact, rounded = (
                m(sample.sample, torch.tensor([sample.call]), *sample.conditions).numpy() for m in (unet, changed)
            )
            exact, rounded = (u + 2.0 * (c - u) for u, c in (exact, rounded))
            noise += ((rounded - exact) ** 2).sum()
            signal += (exact**2).sum()
        # The weights themselves are rebuilt in float32.
        assert values[name][bits] == pytest.approx(noise / signal, rel=1e-5)


def test_linear_is_the_expected_square_of_the_first_order_change() -> None:
    """Over both unit probes the mean square of ``<r, J dw>`` is ``|J dw|^2``; forward mode gives J dw."""
    unet = build(Curved)
    samples = samples_of(3)
    work = measurement(unet, repeated(samples, 2))
    values = squared_first_order(work, unit_probe)
    for name, bits in itertools.product(LAYERS, BITS):
        weight = getattr(unet, name).weight
        error = torch.from_numpy(absmax_error(weight, bits))
        total = 0.0
        for sample in samples:

            def output(value: Tensor, sample: CallSample = sample, name: str = name) -> Tensor:
                return torch.func.functional_call(
                    unet, {f"{name}.weight": value}, (sample.sample, torch.tensor([sample.call]), *sample.conditions)
                )

            total += float(torch.func.jvp(output, (weight.detach(),), (error,))[1].square().sum())
        assert values[name][bits] == pytest.approx(total / len(samples) / work.signal, rel=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_interrupted_anywhere_the_result_is_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    """Stopped again and again: what is done is not done again, and the numbers are those of an undisturbed run."""
    samples = samples_of(3)
    whole = rank_layers(build(Curved), samples, LAYERS, name, BITS)
    # Enough for the FP outputs and the largest part: of sqnr all samples at both bit-widths, of the others one gradient.
    unet = Counting(allowed=12 if name == "sqnr" else 4).double().eval().requires_grad_(False)
    unet.load_state_dict(build(Curved).state_dict())
    attempts, found = 0, None
    while found is None:
        attempts, unet.count = attempts + 1, 0
        with contextlib.suppress(KeyboardInterrupt):
            found = rank_layers(unet, samples, LAYERS, name, BITS, kept=FinishedParts(tmp_path / "parts", "job"))
    assert found == whole and attempts > 1
    unet.count = 0
    assert rank_layers(unet, samples, LAYERS, name, BITS, kept=FinishedParts(tmp_path / "parts", "job")) == whole
    assert unet.count == 0
    unet.count, unet.allowed = 0, 100
    assert rank_layers(unet, samples, LAYERS, name, BITS, kept=FinishedParts(tmp_path / "parts", "another")) == whole
    assert unet.count > 4, "what was kept of another job is not taken"


class Counting(Curved):
    """Gives up after so many samples."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self.allowed, self.count = allowed, 0

    def forward(self, sample: Tensor, step: Tensor, embedding: Tensor) -> Tensor:
        self.count += len(sample)
        if self.count > self.allowed:
            raise KeyboardInterrupt
        return super().forward(sample, step, embedding)


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_network_is_unchanged_and_the_result_repeats(name: str) -> None:
    unet = build(Curved)
    samples = samples_of(3)
    before = copy.deepcopy(unet.state_dict())
    first = rank_layers(unet, samples, LAYERS, name, BITS, seed=1)
    assert rank_layers(unet, samples, LAYERS, name, BITS, seed=1) == first
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert list(first) == list(LAYERS) and all(list(widths) == list(BITS) for widths in first.values())
    # The square of a single probe's product may be small by chance.
    assert all((name == "linear" or widths[2] > widths[4]) and widths[4] > 0 for widths in first.values())


@pytest.mark.parametrize("name", ["fisher", "hutchinson", "linear", "gradient"])
def test_another_seed_gives_other_probes(name: str) -> None:
    unet, samples = build(Curved), samples_of(3)
    assert rank_layers(unet, samples, LAYERS, name, BITS, seed=1) != rank_layers(unet, samples, LAYERS, name, BITS, seed=2)


def test_probes_have_zero_mean_and_unit_variance() -> None:
    # 40,000 numbers: standard error 1 / 200 of the mean, sqrt(2) / 200 of a normal's variance; 5 of them.
    normal = torch.stack([normal_probe(3)(index, (100, 100)) for index in range(4)])
    assert abs(normal.mean().item()) < 5 / 200 and abs(normal.var().item() - 1) < 5 * 2**0.5 / 200
    signs = torch.stack([rademacher_probe(3)(index, (100, 100)) for index in range(4)])
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean().item()) < 5 / 200
    assert not torch.equal(normal[0], normal[1])


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(S2PError, match=r"unknown estimator 'guess'; .*fisher.*sqnr"):
        rank_layers(build(Curved), samples_of(1), LAYERS, "guess", BITS)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_useless_outputs_are_refused(value: float) -> None:
    unet = build(LinearStack)
    unet.second.weight.data[:] = value
    with pytest.raises(S2PError, match="check the model's weights"):
        rank_layers(unet, samples_of(1), LAYERS, "fisher", BITS)
