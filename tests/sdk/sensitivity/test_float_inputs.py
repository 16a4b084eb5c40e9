"""Layers whose inputs stay in float: how they are measured and chosen, and that checkpoints keep to it (targets:
tests/sdk/baselines/test_float_inputs_in_bundles.py)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.api.description import describe
from s2p_mobile.quantize.sensitivity import CallSample
from s2p_mobile.quantize.sensitivity.activations import activation_errors, float_inputs
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.plan import SamplingPlan

LAYERS = (
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.1.resnets.0.conv2",
)
PROBES = 300


def coarse(name: str, call: int, x: torch.Tensor) -> torch.Tensor:
    """A grid of steps of 2^-8 of the largest value."""
    step = x.abs().max() * 2**-8
    return (x / step).round() * step


def test_errors_are_those_of_rounding_one_input_alone(tiny_model: Model, tiny_plan: SamplingPlan) -> None:
    """Against the network itself, one input rounded at a time; the mean of n squares of normal numbers is off by sqrt(2 / n)."""
    unet = float_unet(tiny_model, tiny_plan)
    names = [name for name in LAYERS if name in dict(unet.named_modules())]
    assert len(names) >= 2
    generator = torch.Generator().manual_seed(3)
    structure = tiny_model.structure
    state = torch.randn(1, structure.in_channels, *structure.sample_size, generator=generator).repeat(2, 1, 1, 1)
    text = torch.randn(2, tiny_model.conditioner.tokens, structure.context_dim, generator=generator)
    sample = CallSample(2, state, (text,), guidance=4.0)
    errors = activation_errors(unet, [sample] * PROBES, names, coarse, seed=0)
    with torch.no_grad():
        exact = sample.observe(unet)
        for name in names:
            module = unet.get_submodule(name)
            handle = module.register_forward_pre_hook(lambda m, args: (coarse("", 0, args[0]), *args[1:]))
            change = float((sample.observe(unet) - exact).square().sum())
            handle.remove()
            assert errors[name] == pytest.approx(change, rel=3 * (2 / PROBES) ** 0.5 + 0.05), name
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_an_input_shared_by_layers_counts_for_each_alone() -> None:
    class Two(nn.Module):
        """``3 x + x``, by two layers that see one tensor."""

        device, dtype = torch.device("cpu"), torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.a.weight.data.fill_(3.0)
            self.b.weight.data.fill_(1.0)

        def forward(self, sample: torch.Tensor, step: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.a(sample) + self.b(sample)

    sample = CallSample(0, torch.full((1, 1), 0.75), (torch.zeros(1, 1),), guidance=1.0)
    errors = activation_errors(Two().requires_grad_(False), [sample] * 5, ["a", "b"], lambda *args: args[2].round(), seed=0)
    assert errors["a"] == pytest.approx(9 * errors["b"], rel=1e-5)


def test_choice_is_the_best_of_all_subsets() -> None:
    rng = np.random.default_rng(0)
    errors = {f"l{k}": float(value) for k, value in enumerate(rng.exponential(1.0, 10))}
    operations = {name: int(value) for name, value in zip(errors, rng.integers(1, 100, 10), strict=True)}
    budget = int(0.3 * sum(operations.values()))
    best = min(
        sum(value for name, value in errors.items() if name not in chosen)
        for size in range(11)
        for chosen in itertools.combinations(errors, size)
        if sum(operations[name] for name in chosen) <= budget
    )
    found = float_inputs(errors, operations, 0.3)
    assert sum(operations[name] for name in found) <= budget
    assert sum(value for name, value in errors.items() if name not in found) == pytest.approx(best)


def test_checkpoint_and_inspect_name_what_is_left(float_inputs_checkpoint: Path, tiny_model: Model) -> None:
    checkpoint = open_checkpoint(float_inputs_checkpoint)
    floats = {name for name, layer in checkpoint.layers.items() if layer.activation_bits is None}
    assert floats and len(floats) < len(checkpoint.layers)
    # Multiplications by hand: positions times weights; every resolution is a stride away from the first.
    macs: dict[str, int] = {}
    unet = float_unet(tiny_model, checkpoint.manifest.plan)
    for name, module in unet.named_modules():
        if hasattr(module, "spec"):
            module.register_forward_hook(
                lambda m, args, out, name=name: macs.update(
                    {name: m.spec.weights * (out.numel() // out.shape[-1 if m.spec.kind == "linear" else 1]) // out.shape[0]}
                )
            )
    structure = tiny_model.structure
    with torch.no_grad():
        unet(
            torch.zeros(1, structure.in_channels, *structure.sample_size),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, tiny_model.conditioner.tokens, structure.context_dim),
        )
    whole = {
        name: sum(value for key, value in macs.items() if key == name or name.startswith(f"{key}."))
        for name in checkpoint.layers
    }
    sizes = {name: layer.spec.weights for name, layer in checkpoint.layers.items()}
    for name in whole:  # the halves of a split shortcut share what the whole one has
        parent = name if name in macs else name.rsplit(".", 1)[0]
        whole[name] = macs[parent] * sizes[name] // dict(unet.named_modules())[parent].spec.weights
    assert sum(whole[name] for name in floats) <= 0.2 * sum(whole.values())
    edges = sum(macs[name] for name in ("conv_in", "conv_out"))
    share = sum(value for name, value in whole.items() if name not in floats) / (sum(whole.values()) + edges)
    facts = describe(float_inputs_checkpoint).facts
    assert facts["arithmetic"] == f"W4A8, {share:.0%} of the MACs"
