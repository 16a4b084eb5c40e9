"""One checkpoint on every engine: how far each call is from the exact result.

    python benchmarks/engines.py coreml.s2pmobile coreai.s2pmobile executorch.s2pmobile qnn.s2pmobile

Bundles of one checkpoint, in float32 where a target has a choice (``convert --precision fp32``). At the first, the middle and the
last call of the first golden run, at the recorded state, the relative error of the U-Net's output to the reference in float64; torch
is the same reference in float32. Roundings of activations flip in every float32 evaluation, each engine's own, so a single one may
flip few by chance: the yardstick is the worst of torch's at the state and at ``--nearby`` others, changed by the plain noise of
float32. A bundle whose layers take activations of 16 bits or float has two rows: to the reference that leaves activations as they
are, which it computes, and to the one with the checkpoint's own roundings, which the others compute. The last column is processor
time, of the process that holds the engine too: other programs of the machine do not enter it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, reference_unet
from s2p_converters.targets.golden import reference_call
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.engines import open_backend
from s2p_runtime.pictures import relative_error
from s2p_runtime.verify import read_golden, recorded_states, spread

LAYERS_IN_A_ROW = 60
"""What a rounding in the middle of the U-Net has before it."""
NOISE = LAYERS_IN_A_ROW * 4 * 2.0**-24
"""Relative: a few roundings of float32 for each of them."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, help="that they were made of (default: the built-in model's)")
    parser.add_argument("--nearby", type=int, default=8, help="nearby states of the yardstick (default: %(default)s)")
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
    spent: dict[str, list[float]] = {}
    single_name, worst_name = "torch, float32", f"torch, float32, the worst of {1 + options.nearby} nearby states"
    backends = {title(bundle): open_backend(bundle) for bundle in bundles}
    for backend in backends.values():
        # Compilation is not the call's.
        backend.predict(np.repeat(states[calls[0]], conditions.branches, axis=0), calls[0], conditions.inputs)
    for call in calls:
        sample = np.repeat(states[call], conditions.branches, axis=0)
        want = reference_call(exact, sample, call, conditions.inputs)
        want_unrounded = reference_call(unrounded, sample, call, conditions.inputs)

        @torch.no_grad()
        def by_torch(sample: Array32, call: int = call) -> Array32:
            told = (torch.from_numpy(value) for value in conditions.inputs.values())
            found: Array32 = single(torch.from_numpy(sample), torch.tensor([call]), *told).numpy()
            return found

        found, seconds = measured(lambda: by_torch(sample), None)  # noqa: B023  (called at once)
        rows.setdefault(single_name, []).append(relative_error(found, want))
        spent.setdefault(single_name, []).append(seconds)
        random = np.random.default_rng(call)
        nearby = (sample * (1 + NOISE * random.uniform(-1, 1, sample.shape)) for _ in range(options.nearby))
        others = [relative_error(by_torch(state.astype(np.float32)), want) for state in nearby]
        rows.setdefault(worst_name, []).append(max([rows[single_name][-1], *others]))
        for bundle, (name, backend) in zip(bundles, backends.items(), strict=True):
            found, seconds = measured(lambda: backend.predict(sample, call, conditions.inputs), backend)  # noqa: B023
            if rounds_to_8_bits(bundle):
                wanted = {name: want}
            else:
                wanted = {
                    f"{name}: to activations as they are": want_unrounded,
                    f"{name}: to the checkpoint's own roundings": want,
                }
            for row, reference in wanted.items():
                rows.setdefault(row, []).append(relative_error(found, reference))
                spent.setdefault(row, []).append(seconds)
    print(
        f"| engine | {' | '.join(f'call {call}' for call in calls)} | processor seconds a call |\n|---|{'---|' * (len(calls) + 1)}"
    )
    for name, errors in rows.items():
        seconds_of = f"{median(spent[name]):.2f}" if name in spent else ""
        print(f"| {name} | {' | '.join(f'{error:.1e}' for error in errors)} | {seconds_of} |")
    for name in list(rows)[2:]:
        shares = (found / worst for found, worst in zip(rows[name], rows[worst_name], strict=True))
        print(f"{name}: {', '.join(f'{share:.2f}' for share in shares)} times the yardstick")


def measured(call: Callable[[], Array32], backend: Backend | None) -> tuple[Array32, float]:
    """What a call gives, and its processor time in seconds: of this process and of the one that holds the engine."""
    before = _processor_time(backend)
    found = call()
    return found, _processor_time(backend) - before


def _processor_time(backend: Backend | None) -> float:
    process = getattr(backend, "process_id", None)
    other = 0.0 if process is None else sum(psutil.Process(process).cpu_times()[:2])
    return time.process_time() + other


def rounds_to_8_bits(bundle: Bundle) -> bool:
    """Whether the program rounds inputs of layers as the checkpoint does."""
    return any(
        layer.activation_bits is not None and layer.activation_bits <= 8 for layer in bundle.manifest.quantization.layers
    )


def title(bundle: Bundle) -> str:
    """The target and what runs it here."""
    return f"{bundle.folder.stem}, {bundle.manifest.target}: {open_backend(bundle).describe('unet')}"


if __name__ == "__main__":
    main()
