"""One checkpoint on every engine: how far each call is from the exact result.

    python benchmarks/engines.py coreml.s2pmobile coreai.s2pmobile executorch.s2pmobile qnn.s2pmobile

Bundles of one checkpoint, in float32 where a target has a choice (``convert --precision fp32``). At the first, the middle and the
last call of the first golden run, at the recorded state, the relative error of the U-Net's output to the reference in float64; torch
is the same reference in float32. Roundings of activations flip in every float32 evaluation, each engine's own. A bundle whose layers
take activations of 16 bits or float is held to the reference that leaves activations as they are.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, reference_unet
from s2p_converters.targets.golden import reference_call
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.engines import open_backend
from s2p_runtime.pictures import relative_error
from s2p_runtime.verify import read_golden, recorded_states, spread


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, help="that they were made of (default: the built-in model's)")
    options = parser.parse_args()
    with nullcontext(options.checkpoint) if options.checkpoint else default_checkpoint(open_model(None)) as folder:
        checkpoint = open_checkpoint(folder)
    exact, single = reference_unet(checkpoint), reference_unet(checkpoint).float()
    unrounded = reference_unet(checkpoint, replace(CHECKPOINT_CONSTANTS, activations=False))
    bundles = [open_bundle(folder) for folder in options.bundles]
    run, tensors = bundles[0].manifest.golden[0], read_golden(bundles[0], bundles[0].manifest.golden[0])
    manifest = bundles[0].manifest
    calls = spread([int(call) for call in tensors["noise_pred_calls"]])
    conditions = conditioner_of(manifest).conditions(tensors)
    states = recorded_states(manifest.plan, manifest.guidance, run.seed, tensors, calls)
    rows: dict[str, list[float]] = {}
    backends = {title(bundle): open_backend(bundle) for bundle in bundles}
    for call in calls:
        sample = np.repeat(states[call], conditions.branches, axis=0)
        want = reference_call(exact, sample, call, conditions.inputs)
        want_unrounded = reference_call(unrounded, sample, call, conditions.inputs)
        with torch.no_grad():
            told = (torch.from_numpy(value) for value in conditions.inputs.values())
            found = single(torch.from_numpy(sample), torch.tensor([call]), *told).numpy()
        rows.setdefault("torch, float32", []).append(relative_error(found, want))
        for bundle, (name, backend) in zip(bundles, backends.items(), strict=True):
            own = want if rounds_to_8_bits(bundle) else want_unrounded
            rows.setdefault(name, []).append(relative_error(backend.predict(sample, call, conditions.inputs), own))
    print(f"| engine | {' | '.join(f'call {call}' for call in calls)} |\n|---|{'---|' * len(calls)}")
    for name, errors in rows.items():
        print(f"| {name} | {' | '.join(f'{error:.1e}' for error in errors)} |")


def rounds_to_8_bits(bundle: Bundle) -> bool:
    """Whether the program rounds inputs of layers as the checkpoint does."""
    return any(
        layer.activation_bits is not None and layer.activation_bits <= 8 for layer in bundle.manifest.quantization.layers
    )


def title(bundle: Bundle) -> str:
    """The target and what runs it here."""
    return f"{bundle.manifest.target}: {open_backend(bundle).describe('unet')}"


if __name__ == "__main__":
    main()
