"""Weights pass through one at a time: memory is bounded by layers, not by the network."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.reference import reference_unet, streamed_reference_unet
from s2p_converters.targets.coreml.components import unet_module
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_runtime.noise import gaussian


def _peak(action: Callable[[], object]) -> int:
    """Traced allocations (arrays of numpy, bytes of Python) at their highest while ``action`` runs, over what was there before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = action()
        peak = tracemalloc.get_traced_memory()[1] - before
        del result
        return peak
    finally:
        tracemalloc.stop()


def test_opening_and_walking_holds_a_layer_at_a_time() -> None:
    with default_checkpoint(open_model(None)) as folder:
        opened = open_checkpoint(folder)
        sizes = [layer.spec.weights for layer in opened.layers.values()]
        assert sum(sizes) > 10 * max(sizes)
        # Float tensors, scales and the manifest stay; all integers at a byte each would be more than the bound.
        assert _peak(lambda: open_checkpoint(folder)) < sum(sizes)
        # Of one layer: its packed form at half a byte, what comes of it at one, one nibble of all while it is unpacked.
        walk = _peak(lambda: [layer.integers.max() for layer in opened.layers.values()])
        assert max(sizes) <= walk < 3 * max(sizes)


def test_a_layer_is_read_from_the_file_at_every_use(checkpoint: Checkpoint) -> None:
    layer = next(iter(checkpoint.layers.values()))
    first = layer.integers
    first[...] = 1
    assert not np.array_equal(layer.integers, first)


def test_the_exported_module_has_no_weights(checkpoint: Checkpoint) -> None:
    unet = unet_module(checkpoint, CoreMLOptions())
    parameters = dict(unet.named_parameters())
    stored = {name: parameters[f"{name}.weight"].untyped_storage().nbytes() for name in checkpoint.layers}
    assert set(stored.values()) == {4}
    # Every layer of this form is a convolution.
    assert all(
        tuple(parameters[f"{name}.weight"].shape) == layer.spec.as_convolution().weight_shape
        for name, layer in checkpoint.layers.items()
    )
    # Equal constants of equal shape would be merged into one.
    assert len({float(parameters[f"{name}.weight"].flatten()[0]) for name in stored}) == len(stored)


def test_the_streamed_reference_is_the_reference(checkpoint: Checkpoint) -> None:
    whole, streamed = reference_unet(checkpoint), streamed_reference_unet(checkpoint)
    latents, manifest = checkpoint.manifest.latents, checkpoint.manifest
    sample = torch.from_numpy(gaussian(0, (2, latents.channels, latents.height, latents.width))).double()
    text = torch.from_numpy(gaussian(1, (2, manifest.tokenizer.max_length, checkpoint.structure.context_dim))).double()
    step = torch.tensor([len(manifest.plan.calls) - 1])
    assert torch.equal(whole(sample, step, text), streamed(sample, step, text))
    held = sum(value.nbytes for value in streamed.state_dict().values())
    # Scales, tables, norms and the layers left in float; eight bytes for every quantized weight are not there.
    weights = sum(layer.spec.weights for layer in checkpoint.layers.values())
    assert held == sum(value.nbytes for value in whole.state_dict().values()) - 8 * weights
    single = whole.float()(sample.float(), step, text.float())
    assert single.dtype == torch.float32 and torch.equal(single, streamed.float()(sample.float(), step, text.float()))
