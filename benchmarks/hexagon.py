"""What Snapdragon's NPU computes coarsely, and how near a checkpoint's U-Net comes, in Qualcomm's emulator.

    python benchmarks/hexagon.py operators                 each operator alone, in float16 and between 16- and 8-bit grids
    python benchmarks/hexagon.py calls uint16 uint8        first, middle and last call of the first golden run, operators, bytes
    python benchmarks/hexagon.py loop uint16 uint8         the whole run: final latents to the float model's

Of the built-in model's checkpoint unless --checkpoint names another; for SM8650 unless --soc does. What is compared with is torch in
float64.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, reference_unet
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.qnn.lowering import unet_form
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid, OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.executorch.qnn.unet import UNetWriter
from s2p_converters.targets.golden import reference_call
from s2p_converters.targets.ports import tensor
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine
from s2p_runtime.hosts.executorch.qnn.socs import Soc, soc_named
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import psnr_db, relative_error
from s2p_runtime.tensors import read_tensors
from s2p_runtime.verify import recorded_states
from s2p_runtime.walker import denoise, guide

Array = NDArray[np.float32]
IMAGE, TOKENS, SCORES, LEFT, RIGHT = (2, 64, 16, 16), (2, 256, 64), (2, 4, 256, 256), (2, 4, 256, 24), (2, 4, 24, 256)
GROUPS, EPSILON = 16, 1e-5


def _norm(kind: str, **attributes: Any) -> Callable[..., Symbol]:
    def write(x: Symbol) -> Symbol:
        size = x.shape[1] if kind == "GroupNormalization" else x.shape[-1]
        gain, shift = (x.graph.constant(np.full(size, value, np.float32)) for value in (1, 0))
        return x.apply(kind, gain, shift, epsilon=EPSILON, **attributes)

    return write


OPERATORS: Mapping[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Symbol], Callable[..., torch.Tensor]]] = {
    "sigmoid": ((IMAGE,), lambda x: x.apply("Sigmoid"), torch.sigmoid),
    "GELU": ((IMAGE,), lambda x: x.apply("Gelu"), F.gelu),
    "softmax": ((SCORES,), lambda x: x.apply("Softmax", axis=-1), lambda x: torch.softmax(x, -1)),
    "GroupNorm": (
        (IMAGE,), _norm("GroupNormalization", num_groups=GROUPS), lambda x: F.group_norm(x, GROUPS, eps=EPSILON),
    ),
    "LayerNorm": ((TOKENS,), _norm("LayerNormalization", axis=-1), lambda x: F.layer_norm(x, TOKENS[-1:], eps=EPSILON)),
    "sum": ((IMAGE, IMAGE), lambda x, y: x + y, torch.add),
    "product": ((IMAGE, IMAGE), lambda x, y: x * y, torch.mul),
    "matrix product": ((LEFT, RIGHT), lambda x, y: x.apply("MatMul", y.value, shape=SCORES), torch.matmul),
}  # fmt: skip
"""Shapes of the inputs, what writes it, what torch computes."""


def operators(soc: Soc) -> None:
    """Signal to noise of each operator alone, in dB."""
    print("| operator | float16 | 16-bit grids | 8-bit grids |\n|---|---|---|---|")
    for name, (shapes, write, exact) in OPERATORS.items():
        inputs = [gaussian(7, shape, stream=place) * np.float32(1.5) for place, shape in enumerate(shapes)]
        wanted = exact(*(torch.from_numpy(x).double() for x in inputs)).numpy()
        cells = [_alone(write, inputs, wanted, bits, soc) for bits in (None, 16, 8)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _alone(write: Callable[..., Symbol], inputs: list[Array], wanted: NDArray[np.float64], bits: int | None, soc: Soc) -> str:
    ports = [tensor(f"x{place}", x.shape) for place, x in enumerate(inputs)]
    engine = QnnEngine()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model, context = Path(scratch) / "m.onnx", Path(scratch) / "m.qnn"
            with OnnxGraph(model) as graph:
                given = [Symbol(graph, graph.input(port), port.shape) for port in ports]
                if bits is not None:
                    given = [x.rounded(_grid(values, bits)) for x, values in zip(given, inputs, strict=True)]
                made = write(*given)
                outputs = [tensor("y", wanted.shape)]
                graph.output(outputs[0], made.value if bits is None else made.rounded(_grid(wanted, bits)).value)
            compiled = engine.compile("it", model, context, soc, ports)
            engine.load("it", context, compiled.graph, soc, ports, outputs)
            (found,) = engine.run("it", {port.name: x for port, x in zip(ports, inputs, strict=True)}).values()
    except S2PError:
        return "not taken"
    finally:
        engine.close()
    return f"{-20 * np.log10(relative_error(found, wanted)):.1f}"


def _grid(values: NDArray[np.floating], bits: int) -> Grid:
    return Grid.of_range(float(values.min()), float(values.max()), bits)


class _Emulated:
    """A checkpoint's U-Net in the emulator."""

    def __init__(self, checkpoint: Checkpoint, activations: str, soc: Soc) -> None:
        self.engine = QnnEngine()
        with tempfile.TemporaryDirectory() as scratch:
            model, context = Path(scratch) / "unet.onnx", Path(scratch) / "unet.qnn"
            form = unet_form(checkpoint, ExecuTorchOptions(backend="qnn", activations=activations))
            self.inputs, output = UNetWriter(checkpoint, form).whole(model)
            self.compiled = self.engine.compile("the U-Net", model, context, soc, self.inputs)
            self.bytes = context.stat().st_size
            self.engine.load("unet", context, self.compiled.graph, soc, self.inputs, [output])

    def __call__(self, sample: Array, call: int, conditions: Mapping[str, Array]) -> Array:
        told = {"sample": sample.astype(np.float32), "step": np.array([call], np.int32), **conditions}
        return self.engine.run("unet", told)["noise_pred"]


def calls(checkpoint: Checkpoint, soc: Soc, chosen: list[str]) -> None:
    """Relative errors to the weights with activations as they are, and to the checkpoint with its own roundings."""
    manifest = checkpoint.manifest
    run = manifest.golden[0]
    tensors = read_tensors(checkpoint.folder / run.path)
    conditions = conditioner_of(manifest).conditions(tensors)
    total = len(manifest.plan.calls)
    states = recorded_states(manifest.plan, manifest.guidance, run.seed, tensors, [0, total // 2, total - 1])
    exact = {rounds: reference_unet(checkpoint, replace(CHECKPOINT_CONSTANTS, activations=rounds)) for rounds in (False, True)}
    titles = ["activations", "operators", "bytes", "call", "to float activations", "to the checkpoint's own", "seconds"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for activations in chosen:
        emulated = _Emulated(checkpoint, activations, soc)
        count = sum(emulated.compiled.operators.values())
        for call, state in states.items():
            sample, start = np.repeat(state, conditions.branches, axis=0), time.perf_counter()
            found = emulated(sample, call, conditions.inputs)
            seconds = time.perf_counter() - start
            errors = [relative_error(found, reference_call(exact[rounds], sample, call, conditions.inputs)) for rounds in exact]
            first = [activations, f"{count:,}", f"{emulated.bytes:,}", str(call)]
            print(f"| {' | '.join([*first, *(f'{error:.1e}' for error in errors), f'{seconds:.0f}'])} |", flush=True)


def loop(checkpoint: Checkpoint, soc: Soc, chosen: list[str]) -> None:
    """PSNR of the final latents of the first golden run, to the float model and to torch with the same weights and the activations
    that the program denotes: as they are, or rounded as the checkpoint does."""
    manifest = checkpoint.manifest
    run = manifest.golden[0]
    tensors = read_tensors(checkpoint.folder / run.path)
    conditions = conditioner_of(manifest).conditions(tensors)
    told = [torch.from_numpy(value) for value in conditions.inputs.values()]

    def drawn(predict: Callable[[Array, int], Array]) -> Array:
        def step(sample: Array, call: int) -> Array:
            return guide(predict(np.repeat(sample, conditions.branches, axis=0), call), manifest.guidance)

        return denoise(manifest.plan, step, tensors["initial_latents"], run.seed)

    for activations in chosen:
        rounds = activations == "uint8"
        unet = reference_unet(checkpoint, replace(CHECKPOINT_CONSTANTS, activations=rounds)).float()
        emulated = _Emulated(checkpoint, activations, soc)
        start = time.perf_counter()
        by_chip = drawn(_chip(emulated, conditions.inputs))
        seconds = time.perf_counter() - start
        with torch.no_grad():
            by_torch = drawn(_torch(unet, told))
        denoted = "the checkpoint's own 8-bit" if rounds else "float"
        print(f"{activations}: emulated in {seconds:.0f} s; final latents, dB:")
        print(f"  emulator to the float model {psnr_db(by_chip, tensors['fp_latents']):.1f}")
        print(f"  torch with the same weights and {denoted} activations to it {psnr_db(by_torch, tensors['fp_latents']):.1f}")
        print(f"  emulator to that {psnr_db(by_chip, by_torch):.1f}", flush=True)


def _chip(emulated: _Emulated, conditions: Mapping[str, Array]) -> Callable[[Array, int], Array]:
    return lambda sample, call: emulated(sample, call, conditions)


def _torch(unet: torch.nn.Module, told: list[torch.Tensor]) -> Callable[[Array, int], Array]:
    return lambda sample, call: unet(torch.from_numpy(sample).float(), torch.tensor([call]), *told).numpy()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["operators", "calls", "loop"])
    parser.add_argument("activations", nargs="*", default=["uint16"])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--soc", default="SM8650")
    options = parser.parse_args()
    soc = soc_named(options.soc)
    if options.what == "operators":
        return operators(soc)
    with nullcontext(options.checkpoint) if options.checkpoint else default_checkpoint(open_model(None)) as folder:
        checkpoint = open_checkpoint(folder)
        if options.what == "calls":
            calls(checkpoint, soc, options.activations)
        else:
            loop(checkpoint, soc, options.activations)


if __name__ == "__main__":
    main()
