"""S2P training steps per second and peak memory, batches of 1 to 8, on whichever device is there.

    python benchmarks/full_size.py --model sd1 --stages make            SD v1-4's U-Net with random weights
    python benchmarks/training_speed.py /tmp/s2p-full-size/sd1-1/model
    python benchmarks/training_speed.py --batches 1 2 --device cpu

One step is that of ``s2p-mobile quantize``: student and teacher on a mini-batch of (prompt, call) pairs with both branches of the
guidance, distillation, backward pass, Adam, averages and freezing; half precision, moments of bf16 and gradient checkpointing
unless --fp32 or --keep-activations is given. Bits are 4 everywhere and scales are fixed numbers: neither changes the work. Each
batch size has a process of its own; the first steps warm up and are not counted. Peak memory is CUDA's, or on the CPU the process's
(VmHWM).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from s2p_converters.core.graph import layer_specs
from s2p_mobile.quantize.bits import quantized_specs
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.latents.dataset import open_latents
from s2p_mobile.quantize.planning import room_of
from s2p_mobile.quantize.stages.stage import Precision
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.training import Trainer
from s2p_mobile.quantize.training.guard import Guard
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.device import choose_device
from s2p_runtime.bench.probes import Probes

STEPS = 2
"""Calls of the sampling plan: enough for batches of mixed calls; a step's work does not depend on it."""


def speed_job(options: argparse.Namespace, batch: int) -> QuantizationJob:
    """The job with its training's batch and memory switches."""
    job = make_job(options.model, steps=STEPS, device=options.device)
    changes: dict[str, Any] = {
        "batch": batch, "iterations": 1000, "warmup": 0, "offload_activations": options.offload, "prompts": max(options.batches),
        "learn": options.learn,
    }  # fmt: skip
    recipe = job.recipe.model_copy(update={"training": job.recipe.training.model_copy(update=changes)})
    device = choose_device(options.device)
    room = room_of(device)
    half: Precision = "bf16" if room.bf16 else "fp16"
    compute = ComputePlan(
        device=room.kind,
        graph="fp32" if options.fp32 or room.kind == "cpu" else "fp16",
        training="fp32" if options.fp32 else half,
        moments="fp32" if options.fp32 else "bf16",
        recompute=not options.keep_activations,
    )
    return replace(job, recipe=recipe, compute=compute)


def speed_latents(options: argparse.Namespace, job: QuantizationJob) -> LatentDataset:
    """Trajectories for the largest batch, drawn once."""
    folder = options.work / "latents"
    if folder.is_dir():
        return open_latents(folder)
    prompts = job.prompts[: max(options.batches)]
    return write_latents(
        LatentJob(job.model, job.plan, prompts, job.guidance, job.seed, compute=job.compute),
        folder,
        workers=Workers(options.device),
    )


def measure(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Seconds of a step and peak memory, in this process."""
    job = speed_job(options, batch)
    job.model.load()
    latents = speed_latents(options, job)
    workers = Workers(options.device)
    names = [spec.name for spec in quantized_specs(layer_specs(job.structure), job.recipe)]
    spec = StudentSpec(dict.fromkeys(names, 4), torch.full((len(job.plan.calls), len(names)), 2.0**-5))
    trainer = Trainer(job, spec, latents, options.work, workers)
    guard = Guard(job.recipe.training.guard, [])
    cuda = workers.device.type == "cuda"
    seconds = []
    for _ in range(options.warm_up + options.steps):
        start = time.perf_counter()
        trainer._step(guard, False, False)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    resident = Probes().peak_bytes()
    timed = sorted(seconds[options.warm_up :])
    return {
        "batch": batch, "seconds": timed[len(timed) // 2], "peak_bytes": torch.cuda.max_memory_allocated() if cuda else resident,
        "parameters": sum(spec.weights for spec in layer_specs(job.structure)),
    }  # fmt: skip


def device_title(device: torch.device) -> str:
    """Its name, and how many threads a CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    return f"{cpu}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="diffusers folder; the demo model when left out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=5, help="measured; the median counts")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--learn", choices=("weights", "scales"), default="weights")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--offload", action="store_true", help="activations wait in the machine's memory (CUDA)")
    parser.add_argument("--work", type=Path, help="keeps the trajectories; a temporary folder when left out")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        print(json.dumps(measure(options, options.here)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        print(f"{device_title(choose_device(options.device))}, torch {torch.__version__}\n")
        print("| batch (pairs) | steps per second | samples per second | peak GiB |\n| --- | --- | --- | --- |")
        for batch in options.batches:
            command = [sys.executable, __file__, *sys.argv[1:], "--work", str(work), "--here", str(batch)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["killed; out of memory?"])[-1]
                print(f"| {batch} | {reason} | | |", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            each = found["seconds"]
            print(f"| {batch} | {1 / each:.3g} | {2 * batch / each:.3g} | {found['peak_bytes'] / 2**30:.2f} |", flush=True)


if __name__ == "__main__":
    main()
