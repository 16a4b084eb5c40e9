"""Latency, memory, size and fidelity of the integer U-Net against the fp32 program of the same network, side by side.

    python benchmarks/executorch_latency.py CHECKPOINT            the activation schemes of a checkpoint
    python benchmarks/executorch_latency.py --sd14 [--latents 32]  random weights at SD v1-4 width (needs about 10 GB)

Calls are interleaved, one of each program in turn, and medians are printed, so that a busy machine disturbs all alike; processor
time on one thread is printed too, because waiting for the processor does not count in it. Peak memory is measured in a process
of its own per program.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer, open_checkpoint
from s2p_converters.core.graph import Operators, StepTables, StepUNet, UNetStructure, layer_specs, resnet_names
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, Constants, reference_unet
from s2p_converters.targets.executorch.xnnpack.calibration import output_scales
from s2p_converters.targets.executorch.xnnpack.inspection import read_program
from s2p_converters.targets.executorch.xnnpack.program import build_program
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.executorch.xnnpack.unet import UNetProgram, unet_columns, unet_subgraph
from s2p_runtime.bench.probes import Probes
from s2p_runtime.pictures import psnr_db, relative_error
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tensors import read_tensors
from s2p_runtime.walker import denoise, guide

SD14 = {
    "in_channels": 4, "out_channels": 4, "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "attention_head_dim": 8, "cross_attention_dim": 768, "norm_num_groups": 32, "norm_eps": 1e-5,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
Floats = dict[str, np.ndarray]
Call = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


def dequantized(layers: Mapping[str, QuantizedLayer], floats: Mapping[str, np.ndarray]) -> Floats:
    """All parameters in float32."""
    out = {name: np.asarray(value, np.float32) for name, value in floats.items()}
    for name, layer in layers.items():
        out[f"{name}.weight"] = layer.scale.astype(np.float32).reshape(-1, *[1] * (layer.integers.ndim - 1)) * layer.integers
        if layer.bias is not None:
            out[f"{name}.bias"] = layer.bias
    return out


def write_unet(
    path: Path, structure: UNetStructure, layers: Mapping[str, QuantizedLayer], floats: Floats, tables: Floats,
    sample: tuple[int, int, int, int], context: tuple[int, int, int], scheme: Scheme, scales: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """One U-Net program."""
    columns = unet_columns(tables, layers, scheme)
    graph = unet_subgraph(structure, layers, floats, columns, sample, context, scheme, scales)
    inputs = (torch.zeros(sample), torch.zeros(1, dtype=torch.int64), torch.zeros(context))
    path.write_bytes(build_program({"forward": (UNetProgram(columns, graph), inputs)}))


def loaded(path: Path) -> Call:
    """A program as a function."""
    with quiet_import():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method = program.load_method("forward")

    def call(sample: np.ndarray, step: int, context: np.ndarray, _keep: object = program) -> np.ndarray:
        feeds = [torch.from_numpy(sample), torch.tensor([step]), torch.from_numpy(context)]
        return method.execute(feeds)[0].numpy().copy()

    return call


def interleaved(
    calls: Mapping[str, Call], sample: np.ndarray, context: np.ndarray, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of each call by the wall clock, and of processor time; the first round is dropped."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            call(sample, 0, context)
            if index:
                samples[name].append((time.perf_counter() - start) * 1e3)
                processor[name].append((time.process_time() - start_cpu) * 1e3)
    return samples, processor


def peak_bytes(path: Path, sample: tuple[int, ...], context: tuple[int, ...]) -> int:
    """Growth of a fresh process's peak resident memory from before loading to after one call."""
    command = [sys.executable, __file__, "--peak", str(path), *(str(n) for n in (*sample, *context))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _print_peak(arguments: list[str]) -> None:
    sizes = [int(text) for text in arguments[1:]]
    sample, context = np.zeros(sizes[:4], np.float32), np.zeros(sizes[4:], np.float32)
    with quiet_import():
        from executorch.runtime import Runtime

        Runtime.get()
    # Importing torch has its own peak, so the kernel's high-water mark is set back to what is resident now (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    probes = Probes()
    before = probes.peak_bytes()
    loaded(Path(arguments[0]))(sample, 0, context)
    print((probes.peak_bytes() or 0) - (before or 0))


def report(paths: Mapping[str, Path], eager: Call, sample: np.ndarray, context: np.ndarray, rounds: int) -> None:
    """Print the table of latency, memory, size and nodes."""
    calls: dict[str, Call] = {name: loaded(path) for name, path in paths.items()}
    calls["eager torch fp32"] = eager
    times, processor = interleaved(calls, sample, context, rounds)
    # Two programs of gigabytes in memory leave no room for taking one apart.
    calls.clear()
    gc.collect()
    base, base_cpu = (statistics.median(values["fp32"]) for values in (times, processor))
    peaks = {name: peak_bytes(path, sample.shape, context.shape) for name, path in paths.items()}
    print(f"machine: {platform.processor() or platform.machine()}, {rounds} rounds, one thread")
    print(
        "| program | wall ms | faster than fp32 | processor ms | faster than fp32 | peak MB | of fp32 | file MB | delegates | nodes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, values in times.items():
        wall, cpu = statistics.median(values), statistics.median(processor[name])
        row = f"| {name} | {wall:.1f} | {base / wall:.2f} | {cpu:.1f} | {base_cpu / cpu:.2f} |"
        if name in paths:
            summary = read_program(paths[name].read_bytes())
            row += f" {peaks[name] / 1e6:.0f} | {peaks[name] / peaks['fp32']:.2f} | {paths[name].stat().st_size / 1e6:.1f} |"
            row += f" {len(summary.delegates)} | {sum(summary.nodes.values())} |"
        print(row)


@torch.no_grad()
def fidelity(checkpoint: Checkpoint, paths: Mapping[str, Path]) -> None:
    """Print how far each program is from FP: final latents of the golden runs, and single calls against the integer reference."""
    manifest = checkpoint.manifest
    run = manifest.golden[0]
    tensors = read_tensors(checkpoint.folder / run.path)
    context = tensors["text_embeddings"]
    reference = reference_unet(checkpoint)

    def exact(sample: np.ndarray, step: int, context: np.ndarray) -> np.ndarray:
        return (
            reference(torch.from_numpy(sample).double(), torch.tensor([step]), torch.from_numpy(context).double())
            .float()
            .numpy()
        )

    def latents(call: Call, seen: list[tuple[int, np.ndarray, np.ndarray]] | None = None) -> np.ndarray:
        def predict(state: np.ndarray, step: int) -> np.ndarray:
            batch = np.repeat(state, context.shape[0], axis=0)
            out = call(batch, step, context)
            if seen is not None:
                seen.append((step, batch, out))
            return guide(out, manifest.guidance)

        return denoise(manifest.plan, predict, tensors["initial_latents"], run.seed)

    seen: list[tuple[int, np.ndarray, np.ndarray]] = []
    want = latents(exact, seen)
    print("| program | latents to FP dB | latents to integer reference dB | worst call at equal inputs |")
    print("|---|---|---|---|")
    print(f"| integer reference, float64 | {psnr_db(want, tensors['fp_latents']):.1f} | | |")
    for name, path in paths.items():
        call = loaded(path)
        got = latents(call)
        worst = max(relative_error(call(batch, step, context), out) for step, batch, out in seen)
        print(f"| {name} | {psnr_db(got, tensors['fp_latents']):.1f} | {psnr_db(got, want):.1f} | {worst:.1e} |")


def checkpoint_run(folder: Path, rounds: int) -> None:
    """Compare the activation schemes of a checkpoint."""
    checkpoint = open_checkpoint(folder)
    latents, batch = checkpoint.manifest.latents, 2 if checkpoint.manifest.guidance > 1 else 1
    sample = (batch, latents.channels, latents.height, latents.width)
    context = (batch, checkpoint.manifest.tokenizer.max_length, checkpoint.structure.context_dim)
    floats = {name: np.asarray(value, np.float32) for name, value in checkpoint.floats.items()}
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / f"{name}.pte" for name in ("fp32", "pinned", "static", "dynamic")}
        everything = dequantized(checkpoint.layers, checkpoint.floats)
        write_unet(paths["fp32"], checkpoint.structure, {}, everything, checkpoint.time_tables, sample, context, "pinned")
        schemes: tuple[Scheme, ...] = ("pinned", "static", "dynamic")
        for scheme in schemes:
            scales = output_scales(checkpoint) if scheme == "static" else None
            arguments = (
                checkpoint.structure,
                checkpoint.layers,
                floats,
                checkpoint.time_tables,
                sample,
                context,
                scheme,
                scales,
            )
            write_unet(paths[scheme], *arguments)
        plain = Constants(CHECKPOINT_CONSTANTS.stored, CHECKPOINT_CONSTANTS.weight, activations=False)
        eager = eager_call(reference_unet(checkpoint, plain).float())
        rng = np.random.default_rng(0)
        report(paths, eager, rng.normal(size=sample).astype(np.float32), rng.normal(size=context).astype(np.float32), rounds)
        fidelity(checkpoint, paths)


def eager_call(unet: torch.nn.Module) -> Call:
    """The float U-Net in eager torch."""

    @torch.no_grad()
    def call(sample: np.ndarray, step: int, context: np.ndarray) -> np.ndarray:
        return unet(torch.from_numpy(sample), torch.tensor([step]), torch.from_numpy(context)).numpy()

    return call


def sd14_run(size: int, rounds: int) -> None:
    """Random weights at SD v1-4 width: int8 convolutions, int4 linear layers, pinned activations."""
    structure = UNetStructure.from_config(SD14)
    rng = np.random.default_rng(0)
    tables = {f"{name}.time": np.zeros((1, width), np.float32) for name, width in resnet_names(structure).items()}
    sample, context = (2, 4, size, size), (2, 77, 768)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / f"{name}.pte" for name in ("fp32", "pinned")}
        unet = StepUNet(structure, StepTables({name: torch.from_numpy(table) for name, table in tables.items()}), Operators())
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if "norm" in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                else:
                    parameter.normal_(0, 0.02)
        floats = {name: parameter.detach().numpy() for name, parameter in unet.named_parameters()}
        write_unet(paths["fp32"], structure, {}, floats, tables, sample, context, "pinned")
        layers = {}
        for spec in layer_specs(structure)[1:-1]:
            bits = 4 if spec.kind == "linear" else 8
            integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), spec.weight_shape, dtype=np.int8)
            layers[spec.name] = QuantizedLayer(
                spec, bits, 8, integers, np.full(spec.out_channels, 0.01, np.float16),
                floats.get(f"{spec.name}.bias"), np.full(1, 0.05, np.float32),
            )  # fmt: skip
        write_unet(paths["pinned"], structure, layers, floats, tables, sample, context, "pinned")
        layers.clear()
        report(
            paths,
            eager_call(unet),
            rng.normal(size=sample).astype(np.float32),
            rng.normal(size=context).astype(np.float32),
            rounds,
        )


def _one_thread() -> None:
    with quiet_import():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(1)
    torch.set_num_threads(1)


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["--peak"]:
        _print_peak(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--sd14", action="store_true")
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    _one_thread()
    if options.sd14:
        sd14_run(options.latents, options.rounds)
    elif options.checkpoint:
        checkpoint_run(options.checkpoint, options.rounds)
    else:
        parser.error("give a checkpoint folder, or --sd14")


if __name__ == "__main__":
    main()
