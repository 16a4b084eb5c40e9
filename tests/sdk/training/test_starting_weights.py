"""Weights whose rounding errors make up for each other, the moments behind them, and the influence of a call."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn

from s2p_converters.core.graph import StepUNet, layer_specs
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import quantize_weight, weight_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.moments import WeightedCalls, block_columns, input_moments
from s2p_mobile.quantize.preparation import influence
from s2p_mobile.quantize.preparation.influence import Networks, call_influence, call_weights
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.prepare import prepare
from s2p_mobile.quantize.rounding.gptq import compensated
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.walker import denoise

MakeJob = Callable[..., QuantizationJob]
PROMPTS = tuple(f"a {thing} on a {colour} background" for thing in ("cat", "fox") for colour in ("red", "blue"))
"""Those of ``make_job``."""


def obq_integers(
    weight: NDArray[np.float64], scale: NDArray[np.float64], bits: int, moments: NDArray[np.float64], damping: float
) -> NDArray[np.float64]:
    """Optimal brain quantization in a fixed order, by solving for the best remaining weights anew after every column."""
    low, high = integer_range(bits)
    matrix = moments + damping * np.diag(moments).mean() * np.eye(len(moments))
    order = np.argsort(-np.diag(moments), kind="stable")
    steps, integers = weight / scale[:, None], np.zeros_like(weight)
    for position in range(len(order)):
        done, rest = order[:position], order[position:]
        error = integers[:, done] - steps[:, done]
        best = steps[:, rest] - error @ np.linalg.solve(matrix[np.ix_(rest, rest)], matrix[np.ix_(rest, done)]).T
        integers[:, order[position]] = np.clip(np.round(best[:, 0]), low, high)
    return integers


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("columns", [10, 150], ids=["one lazy update", "several"])
def test_integers_are_those_of_optimal_brain_quantization(bits: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    inputs = rng.standard_normal((columns, columns)) @ rng.standard_normal((columns, 4 * columns))
    moments = inputs @ inputs.T
    weight = torch.from_numpy(rng.standard_normal((6, columns))).float()
    scale = weight_scale(weight, bits)
    moved = compensated(weight, scale, bits, torch.from_numpy(moments)[None])
    integers = quantize_weight(moved, scale, bits)
    expected = obq_integers(weight.double().numpy(), scale.double().numpy(), bits, moments, 0.01)
    # The compensated weights are float32 sums: one that lies within their rounding of a half may go the other way, and takes
    # later ones of its row with it. Rows without such a case are equal.
    assert (integers == expected).all(axis=1).mean() >= 5 / 6
    assert (moved - torch.from_numpy(integers) * scale[:, None]).abs().max() <= 0.5001 * scale.max()


def test_output_error_of_correlated_inputs_is_less_than_half() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((150, 20)) @ rng.standard_normal((20, 600)) + 0.1 * rng.standard_normal((150, 600))
    weight = torch.from_numpy(rng.standard_normal((6, 150))).float()
    scale = weight_scale(weight, 4)
    moved = compensated(weight, scale, 4, torch.from_numpy(inputs @ inputs.T)[None])

    def error(candidate: torch.Tensor) -> float:
        difference = quantize_weight(candidate, scale, 4) * scale.numpy()[:, None] - weight.numpy()
        return float(np.square(difference @ inputs).sum())

    assert error(moved) < 0.5 * error(weight)


def test_blocks_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(3, 8), torch.randn(8, 100)
    scale = weight_scale(weight, 3)
    moments = torch.stack([inputs[:4] @ inputs[:4].T, inputs[4:] @ inputs[4:].T])
    together = compensated(weight, scale, 3, moments)
    apart = [compensated(weight[:, part], scale, 3, moments[k : k + 1]) for k, part in enumerate((slice(0, 4), slice(4, 8)))]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_layer_without_inputs_is_rounded_to_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4)
    scale = weight_scale(weight, 4)
    moved = compensated(weight, scale, 4, torch.zeros(1, 4, 4))
    np.testing.assert_array_equal(quantize_weight(moved, scale, 4), quantize_weight(weight, scale, 4))


def test_moments_give_the_energy_of_the_output(tiny_model: Model, tiny_plan: SamplingPlan, latents: LatentDataset) -> None:
    """``w^T M w`` is the weighted energy of what torch's own convolution or product makes of the inputs, for any w."""
    unet = float_unet(tiny_model, tiny_plan)
    specs = layer_specs(tiny_model.structure)
    calls, weights = torch.tensor([0, 3]), torch.tensor([0.5, 2.0])
    batch = WeightedCalls(
        torch.from_numpy(latents.states([0, 1], [0, 3])), calls, (latents.conditions([0, 1])[0][:, 1],), weights
    )
    asked = 0

    def batches() -> Iterator[WeightedCalls]:
        nonlocal asked
        asked += 1
        yield batch

    seen = _inputs(unet, batch)
    generator = torch.Generator().manual_seed(1)
    for spec, moments in input_moments(unet, specs, batches):
        weight = torch.randn(spec.weight_shape, generator=generator, dtype=torch.float64)
        x = seen[spec.name].double()
        made = F.linear(x, weight) if spec.kind == "linear" else F.conv2d(x, weight, None, spec.stride, spec.padding)
        energy = (made.square().flatten(1).sum(dim=1) * weights).sum()
        rows = weight.flatten(1)
        # The moments are float32 sums of at most 64 positions of two samples.
        assert float((rows @ moments[0].double() * rows).sum()) == pytest.approx(float(energy), rel=1e-4)
    assert asked == 1


def _inputs(unet: StepUNet, batch: WeightedCalls) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    modules = dict(unet.named_modules())
    for spec in layer_specs(unet.structure):
        modules[spec.name].register_forward_pre_hook(lambda _, inputs, name=spec.name: seen.__setitem__(name, inputs[0]))
    with torch.no_grad():
        unet(batch.samples, batch.calls, *batch.conditions)
    for module in modules.values():
        module._forward_pre_hooks.clear()
    return seen


def test_wide_layers_get_blocks_of_whole_channels(tiny_model: Model) -> None:
    conv = next(spec for spec in layer_specs(tiny_model.structure) if spec.kernel == 3)
    assert block_columns(replace(conv, in_channels=256)) == 2304
    assert block_columns(replace(conv, in_channels=320)) == 1440
    assert block_columns(replace(conv, in_channels=1280)) == 1280 * 9 // 5
    assert block_columns(replace(conv, in_channels=2304, kernel=1)) == 2304


def test_influence_of_a_call_where_it_is_known(tiny_model: Model, make_job: MakeJob, tmp_path: Path) -> None:
    """A network whose output does not depend on its input hands an error on through the sampler's rows alone."""
    shutil.copytree(tiny_model.folder, tmp_path / "constant")
    file = tmp_path / "constant" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"conv_out.weight": torch.zeros_like(tensors["conv_out.weight"])}, file, {"format": "pt"})
    model, job = Model(tmp_path / "constant"), make_job()
    latents = write_latents(LatentJob(model, job.plan, job.prompts, job.guidance, job.seed), tmp_path / "set")
    teacher, student = float_unet(model, job.plan), float_unet(model, job.plan)
    # A parameter of its own: FP graphs share the model's.
    student.conv_out.bias = torch.nn.Parameter(student.conv_out.bias.detach() + 0.1, requires_grad=False)
    gains = call_influence(Networks(teacher, student), latents, [0, 1])
    shape = (1, 4, 8, 8)
    for call, gain in enumerate(gains):
        impulse = denoise(
            job.plan, lambda _, k, at=call: np.full(shape, float(k == at), np.float32), np.zeros(shape, np.float32), seed=0
        )
        # States are rounded to float32 after every call, at values of about 1, and the change is 0.1.
        assert gain == pytest.approx(float(impulse.mean()) ** 2, rel=1e-3)
    assert float(call_weights(gains).mean()) == pytest.approx(1.0, rel=1e-6)
    assert call_weights(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_influence_is_the_geometric_mean_of_the_prompts(latents: LatentDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in two groups; one without an error at a call says nothing about it."""
    changes, errors = np.array([4.0, 9.0, 0.5, 2.0]), np.array([1.0, 0.1, 5.0, 0.0])

    def change(networks: Networks, latents: LatentDataset, prompts: list[int], call: int) -> list[float]:
        return [*changes[prompts] * (call + 1), *errors[prompts]]

    monkeypatch.setattr(influence, "_change", change)
    network = nn.Module()
    gains = call_influence(Networks(network, network, samples=2 * latents.branches), latents, [0, 1, 2, 3])  # type: ignore[arg-type]
    expected = stats.gmean(changes[:3] / errors[:3])
    assert gains == pytest.approx(expected * (1 + np.arange(latents.calls)))


def test_method_gptq_is_nearer_to_fp_than_nearest_rounding(make_job: MakeJob, latents: LatentDataset) -> None:
    job = make_job({"start": {"calls": 10}, "loss": {"calls": "uniform"}}, latents=latents.folder)
    layers = run_method("gptq", job).layers
    spec = prepare(job, latents, torch.device("cpu"))
    assert spec.call_weights is None
    nearest = run_method("rtn", job).layers
    unet = float_unet(job.model, job.plan, job.structure)
    prompts, calls = [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 2]
    batch = WeightedCalls(
        torch.from_numpy(latents.states(prompts, calls)), torch.tensor(calls),
        (latents.conditions(prompts)[0][:, 1],), torch.ones(6),
    )  # fmt: skip
    modules, better = dict(unet.named_modules()), 0
    for name, x in _inputs(unet, batch).items():
        if name not in layers:
            continue
        original = modules[name].weight.double()

        def error(layer: object, x: torch.Tensor = x, original: torch.Tensor = original) -> float:
            scale = torch.from_numpy(layer.scale.astype(np.float64)).reshape(-1, *[1] * (original.dim() - 1))
            difference = torch.from_numpy(layer.integers.astype(np.float64)) * scale - original
            return float(layer.spec.apply(x.double(), difference).square().sum())

        better += error(layers[name]) < error(nearest[name])
    # Other calls than those GPTQ saw (and the layer at 8 bits may go either way): nearly all layers gain.
    assert better >= 0.9 * len(layers)


MOMENTS = importlib.import_module("s2p_mobile.quantize.moments")


def test_groups_of_layers_are_rounded_as_all_together(
    make_job: MakeJob, latents: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments that do not fit into the memory at once: the calls run once for each group, and the weights are the same."""
    job = make_job({"start": {"calls": 6}, "loss": {"calls": "uniform"}}, latents=latents.folder)
    together = prepare(job, latents, torch.device("cpu")).weights
    layers = job.layers
    limit = sum(MOMENTS.moment_bytes(layer) for layer in layers) // 3
    monkeypatch.setattr(MOMENTS, "MEMORY_BYTES", limit)
    assert len(list(MOMENTS.layer_groups(layers))) >= 3
    apart = prepare(job, latents, torch.device("cpu")).weights
    assert list(apart) == list(together) and all(torch.equal(apart[name], together[name]) for name in together)


def test_prompts_are_used_again_with_other_seeds(make_job: MakeJob, latents: LatentDataset, tmp_path: Path) -> None:
    drawn = job_latents(make_job({"prompts": 6}), tmp_path, Workers("cpu"))
    request = drawn.manifest.request
    assert request.prompts == PROMPTS + PROMPTS[:2]
    # The same prompts and seeds in a set of their own are the same trajectories; the repeated ones start from other noise.
    np.testing.assert_array_equal(drawn.states([0, 3], [0, 4]), latents.states([0, 3], [0, 4]))
    assert not np.array_equal(drawn.states([0], [0]), drawn.states([4], [0]))
    assert job_latents(make_job({"prompts": 6}, latents=latents.folder), tmp_path, Workers("cpu")).prompts == 4
    assert job_latents(make_job({"prompts": 6}), tmp_path / "few", Workers("cpu"), most=2).prompts == 2
