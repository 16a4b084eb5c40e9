"""Loss, freezing, averages, schedule, time path, devices."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.grid import quantize_weight, weight_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.recipes.training import FreezingRule, TrainingRule
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.student.layers import TrainedLayer
from s2p_mobile.quantize.time_path import job_time_path
from s2p_mobile.quantize.training.batches import Batch
from s2p_mobile.quantize.training.freezing import OscillationTracker
from s2p_mobile.quantize.training.guard import Guard
from s2p_mobile.quantize.training.loss import Losses, combined, feature_error, output_error
from s2p_mobile.quantize.training.loss_scale import LossScale
from s2p_mobile.quantize.training.optimizer import make_learner, schedule, units
from s2p_mobile.quantize.training.trainer import Trainer
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.time_tables import time_tables
from s2p_runtime.errors import S2PError
from s2p_runtime.walker import guide


def test_loss_of_known_errors() -> None:
    """Output off by 2 everywhere; one block off by a tenth of its size, one by a fifth."""
    torch.manual_seed(0)
    output, a, b = torch.randn(3, 1, 4, 2, 2), torch.randn(3, 8, 2, 2), torch.randn(3, 5)
    features = feature_error({"a": a * 1.1, "b": b * 0.8}, {"a": a, "b": b}, 3)
    losses = combined(output_error(output + 2, output, 4.0, 0.5), features, torch.ones(3), 3.0)
    assert float(losses.output) == pytest.approx(4.0, rel=1e-5)
    assert float(losses.features) == pytest.approx((0.1**2 + 0.2**2) / 2, rel=1e-4)
    assert float(losses.total) == pytest.approx(4.0 + 3 * 0.025, rel=1e-5)
    assert float(combined(output_error(output + 2, output, 4.0, 0.5), None, torch.ones(3), 0.0).total) == pytest.approx(4.0)


def test_guided_error_is_that_of_the_guided_output() -> None:
    torch.manual_seed(0)
    fp, guidance = torch.randn(2, 2, 4, 3, 3).double(), 4.0
    other = fp + torch.randn_like(fp)
    guided = [guide(pair.numpy(), guidance)[0].astype("float64") for pair in torch.cat([fp, other])]
    expected = [((guided[2 + k] - guided[k]) ** 2).mean() / (4.0**2 + 3.0**2) for k in range(2)]
    assert output_error(other, fp, guidance, 1.0).tolist() == pytest.approx(expected, rel=1e-5)
    # An error that both branches share passes once, an independent one with the sum of the squares of the two factors.
    shared = output_error(fp + 1, fp, guidance, 1.0)
    assert shared.tolist() == pytest.approx([1 / 25, 1 / 25], rel=1e-5)
    assert output_error(fp + 1, fp, guidance, 0.0).tolist() == pytest.approx([1.0, 1.0], rel=1e-5)


def test_loss_of_a_batch_is_the_mean_of_its_samples() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(4, 2, 4, 2, 2), torch.randn(4, 2, 4, 2, 2)
    # Samples of very different size, as block outputs of different calls are.
    fp = torch.randn(4, 2, 6, 3, 3) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None, None, None, None]
    feature = fp + torch.randn_like(fp)
    importance = torch.tensor([0.5, 2.0, 1.0, 0.1])

    def loss(pairs: slice) -> torch.Tensor:
        features = {"a": feature[pairs].flatten(0, 1)}, {"a": fp[pairs].flatten(0, 1)}
        count = len(importance[pairs])
        error = output_error(output[pairs], target[pairs], 4.0, 0.75)
        return combined(error, feature_error(*features, count), importance[pairs], 0.5).total

    single = torch.stack([loss(slice(k, k + 1)) for k in range(4)])
    assert float(loss(slice(0, 4))) == pytest.approx(float(single.mean()), rel=1e-5)


def test_oscillating_weights_are_frozen_where_they_are_most_of_the_time() -> None:
    layer = TrainedLayer(LayerSpec("l", "linear", 4, 1, bias=False), 4, None, freezes=True)
    tracker = OscillationTracker({"l": layer}, FreezingRule(momentum=0.1, start=0.2, end=0.2, every=60))
    for step in range(60):
        with torch.no_grad():
            # Mostly 3 with visits to 2, a steady 5, a single move from 1 to 2 long ago, and a weight below the grid.
            layer.weight.copy_(torch.tensor([[2.4 if step % 3 == 0 else 2.6, 5.2, 1.0 if step < 5 else 2.0, -30.0]]))
        tracker.update(step, 60)
    assert layer.frozen is not None
    assert layer.frozen.tolist() == [[True, False, False, False]]
    assert layer.integers().tolist() == [[3, 5, 2, -8]]
    assert tracker.frozen_share == 0.25
    with torch.no_grad():
        layer.weight.fill_(-4.0)
    assert layer.integers().tolist() == [[3, -4, -4, -4]]
    layer(torch.ones(1, 1, 4), {}).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]
    # A frozen weight still moves with its scale: d(s q)/ds = q, here 3; for the rest it is q - w / s = 0. s is 1.
    assert layer.log_scale.grad is not None
    assert layer.log_scale.grad.tolist() == [3.0]


def test_freezing_threshold_falls_as_a_cosine() -> None:
    layer = TrainedLayer(LayerSpec("l", "linear", 4, 1), 4, None, freezes=True)
    tracker = OscillationTracker({"l": layer}, FreezingRule(start=0.1, end=0.02))
    assert [tracker.threshold(p) for p in (0, 0.5, 1)] == pytest.approx([0.1, 0.06, 0.02])


@pytest.mark.parametrize("moments, tolerance", [("fp32", 1e-6), ("bf16", 0.02)])
def test_learner_against_adam_and_its_averages_by_hand(moments: str, tolerance: float) -> None:
    """Adam as in Kingma and Ba's algorithm 1, in numpy's float64, with an epsilon relative to the root of the second moments'
    mean, on gradients of three magnitudes. bfloat16 rounds a moment by up to 1/512 at each step and forgets it within some tens
    of steps: 2% of the way."""
    rule = TrainingRule(iterations=40, warmup=0, ema=0.9)
    parameter = nn.Parameter(torch.zeros(3))
    learner = make_learner({"layer.bias": parameter}, rule, moments)
    value, first, second, average = (np.zeros(3) for _ in range(4))
    rng = np.random.default_rng(0)
    for k in range(40):
        gradient = (1 + rng.standard_normal(3)) * np.array([1e-3, 1.0, 1e3])
        parameter.grad = torch.from_numpy(gradient).float()
        learner.step(k)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        root = np.sqrt(second / (1 - 0.99 ** (k + 1)))
        step = first / (1 - 0.9 ** (k + 1)) / (root + 1e-6 * np.sqrt(np.mean(root**2)))
        value = value - rule.learning_rates.biases * schedule(k, rule) * step
        decay = min(0.9, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * value
    np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=tolerance)
    assert parameter.grad is None
    state = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    assert set(state) == {f"layer.bias.{kind}" for kind in learner.kinds(40)}
    for other in ("fp32", "bf16"):
        copy_of = nn.Parameter(parameter.detach().clone())
        resumed = make_learner({"layer.bias": copy_of}, rule, other)
        resumed.restore(state, 40)
        resumed.put_average()
        np.testing.assert_allclose(copy_of.detach().numpy(), average, rtol=max(tolerance, 0.004))


def test_compact_state_takes_six_bytes_a_parameter() -> None:
    parameters = {"layer.weight": nn.Parameter(torch.zeros(1000))}
    sizes = {}
    for moments in ("fp32", "bf16"):
        learner = make_learner(parameters, TrainingRule(), moments)
        parameters["layer.weight"].grad = torch.ones(1000)
        learner.step(0)
        sizes[moments] = sum(tensor.nbytes for tensor in learner.tensors().values())
    assert sizes == {"fp32": 12000, "bf16": 6000}


def test_loss_scale_halves_on_overflow_and_grows_back() -> None:
    scale, parameter = LossScale(enabled=True), nn.Parameter(torch.zeros(2))
    assert scale.waits
    scale.start(loss=0.25, outputs=2**20)
    assert not scale.waits and scale.factor == 2.0**16
    parameter.grad = torch.full((2,), 2.0**16)
    scale.remove([parameter])
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert scale.overflowed() and scale.factor == 2.0**15
    for _ in range(200):
        scale.succeeded()
    assert scale.factor == 2.0**16
    plain = LossScale(enabled=False)
    assert plain.factor == 1.0 and not plain.waits and not plain.overflowed()


@pytest.mark.parametrize("outputs, error", [(2**12, 1.0), (2**12, 1e-3), (2**24, 1e-3)])
def test_loss_scale_puts_gradients_in_the_middle_of_half_precision(outputs: int, error: float) -> None:
    """By autograd: gradients of a mean square of so many errors, times the factor, are 2^-4 up to a rounding of the exponent."""
    output = (error * torch.randn(outputs, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = output.square().mean()
    scale = LossScale(enabled=True)
    scale.start(loss.item(), outputs)
    (loss * scale.factor).backward()
    assert output.grad is not None
    typical = float(output.grad.square().mean().sqrt())
    assert 2.0**-4 / math.sqrt(2) <= typical * 1.001 and typical * 0.999 <= 2.0**-4 * math.sqrt(2)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("factor", [2.0**-13, 2.0**20])
def test_updates_do_not_depend_on_the_size_of_gradients(moments: str, factor: float) -> None:
    """Gradients of a typical size (1e-9) and all of them times a factor give the same parameters to 1% of a step. The factors are
    powers of two, so that bfloat16 rounds both alike."""
    moved = []
    for multiple in (1.0, factor):
        parameter = nn.Parameter(torch.zeros(4, 50))
        learner = make_learner({"layer.weight": parameter}, TrainingRule(iterations=20, warmup=0, ema=None), moments)
        generator = torch.Generator().manual_seed(0)
        for k in range(20):
            spread = torch.logspace(-3, 1, 50)
            parameter.grad = multiple * 1e-9 * spread * torch.randn(4, 50, generator=generator)
            learner.step(k)
        moved.append(parameter.detach().clone())
    assert moved[0].abs().max() > 3 * TrainingRule().learning_rates.weights
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=0.01 * TrainingRule().learning_rates.weights)


def test_updates_do_not_depend_on_how_many_weights_there_are() -> None:
    """A layer a hundred times as large, whose gradients under a mean loss are a hundredth each, is moved alike."""
    moved = []
    for copies in (1, 100):
        parameter = nn.Parameter(torch.zeros(copies, 64))
        learner = make_learner({"layer.weight": parameter}, TrainingRule(iterations=20, warmup=0, ema=None), "fp32")
        generator = torch.Generator().manual_seed(1)
        for k in range(20):
            one = 1e-9 * torch.randn(1, 64, generator=generator)
            parameter.grad = (one / copies).expand(copies, 64).clone()
            learner.step(k)
        moved.append(parameter.detach())
    torch.testing.assert_close(moved[0].expand(100, 64), moved[1], rtol=0, atol=0.01 * TrainingRule().learning_rates.weights)


def test_rates_of_floats_are_relative_to_their_size() -> None:
    parameters = {
        "a.gain": nn.Parameter(torch.full((3,), 2.0)),
        "a.shift": nn.Parameter(torch.zeros(3)),
        "b.shift": nn.Parameter(torch.tensor([0.3, -0.4])),
        "c.shift": nn.Parameter(torch.tensor([0.3, 0.4])),
        "d.bias": nn.Parameter(torch.zeros(3)),
        "d.weight": nn.Parameter(torch.full((3,), 7.0)),
        "d.log_scale": nn.Parameter(torch.zeros(3)),
    }
    half = math.sqrt(0.125)
    # A shift of zero takes a tenth of the median shift; biases that are all zero an absolute rate; weights are in steps already.
    expected = {
        "a.gain": 2,
        "a.shift": half / 10,
        "b.shift": half,
        "c.shift": half,
        "d.bias": 1,
        "d.weight": 1,
        "d.log_scale": 1,
    }
    assert units(parameters) == pytest.approx(expected)


def test_multiplying_the_loss_changes_no_update(
    make_job: Callable[..., QuantizationJob], latents: LatentDataset, start: StudentSpec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole trainer, three steps, with the loss as it is and times 1e-4 (a power of two near it: gradients of scales are
    differences of large sums, whose last bits another factor would change)."""
    learned = []
    for factor in (1.0, 2.0**-13):
        run = Trainer(make_job({"freezing": None}), start, latents, tmp_path, Workers("cpu"))
        before = {name: value.detach().clone() for name, value in run.parameters.items()}
        real = run._losses

        def scaled(batch: Batch, real: Callable[[Batch], Losses] = real, factor: float = factor) -> Losses:
            losses = real(batch)
            return Losses(losses.total * factor, losses.output, losses.features)

        monkeypatch.setattr(run, "_losses", scaled)
        for _ in range(3):
            run._step(Guard(run.rule.guard), False, False)
        peaks = run.learner.peaks
        learned.append({name: (value.detach() - before[name]) / peaks[name] for name, value in run.parameters.items()})
    for name, moved in learned[0].items():
        torch.testing.assert_close(moved, learned[1][name], rtol=0, atol=0.01, msg=name)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rule = TrainingRule(iterations=100, warmup=4)
    rates = [schedule(i, rule) for i in range(100)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and rates[4] == 1.0
    assert rates[52] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 95 / 96)))
    assert schedule(0, TrainingRule(iterations=1, warmup=9)) == 1.0


def test_quantized_time_path_against_a_model_with_rounded_weights(make_job: Callable[..., QuantizationJob]) -> None:
    """Float inputs: the tables are those of the same U-Net whose time layers hold rounded weights."""
    job = make_job(recipe={"time": "quantized", "activations": {"bits": None}})
    unet = copy.deepcopy(job.model.unet)
    for name, module in unet.named_modules():
        if "time_embedding.linear" in name or "time_emb_proj" in name:
            scale = weight_scale(module.weight.data, 3)
            module.weight.data = torch.from_numpy(quantize_weight(module.weight.data, scale, 3)).float() * scale[:, None]
    expected = time_tables(unet, job.plan.timesteps)
    found = job_time_path(job).columns
    exact = time_tables(job.model.unet, job.plan.timesteps)
    for name, table in expected.items():
        torch.testing.assert_close(found[name], table, rtol=1e-4, atol=1e-5)  # float32 against float64
        assert (found[name] - exact[name]).norm() > 0.01 * exact[name].norm()


def test_quantized_time_path_nears_the_float_one_with_more_bits(make_job: Callable[..., QuantizationJob]) -> None:
    exact = job_time_path(make_job()).columns
    errors = []
    for bits in (3, 5, 8):
        recipe = {"time": "quantized", "weights": {"bits": bits}, "mixed": None, "activations": {"bits": bits}}
        tables = job_time_path(make_job(recipe=recipe)).columns
        errors.append(sum(float((tables[name] - exact[name]).square().sum()) for name in exact))
    # Two bits more are a quarter of the step, a sixteenth of the squared error of either rounding; half of that is demanded.
    assert errors[0] > 8 * errors[1] and errors[1] > 8 * errors[2] > 0


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(S2PError, match="unknown device 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(S2PError, match="no cuda device"):
            choose_device("cuda:0")
