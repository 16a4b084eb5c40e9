"""One U-Net call in the interpreter of Core ML programs beside eager torch in the same precision: time, ratio and peak memory.

    python benchmarks/interpreter_speed.py --scale 0.4     142M parameters: seconds a call
    python benchmarks/interpreter_speed.py                 SD v1-4's U-Net, 859.5M parameters: a minute a call, 10 GiB for torch

What --work lacks is made first: a random model, its integers and its package by benchmarks/full_size.py, the package in fp32 here.
Every measurement is a process of its own, after the other. The interpreter decompresses every weight within the call and lets most of
them go; torch has all of them in memory before its call begins, so that its time is that of the arithmetic alone.

float64  the fp16 package evaluated in float64, against torch in float64
float32  the fp32 package as it declares itself, against torch in float32
float16  the fp16 package as it declares itself: computed in float32, every value rounded to float16; against torch in float32

Ratios are of processor seconds, which other programs on the machine disturb least. Rounding of activations is chaotic, so only
results in float64 are comparable; their relative error is shown. Peak memory is the whole process's, libraries and mapped files
included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from full_size import GIB, at_latents, call_inputs, machine
from full_size_model import CONFIGS
from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.reference import reference_unet
from s2p_converters.targets.coreml.components import convert_unet, program_constants
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.allocator import give_back_large_blocks
from s2p_runtime.bench.probes import Probes
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.pictures import relative_error

Engine = Literal["interpreter", "torch"]
ENGINES: tuple[Engine, ...] = ("interpreter", "torch")
ARITHMETICS = ("float64", "float32", "float16")


def options_of(arithmetic: str) -> CoreMLOptions:
    """The package that is evaluated in this arithmetic."""
    return CoreMLOptions(precision="fp32" if arithmetic == "float32" else "fp16")


def interpreter_call(package: Path, arithmetic: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """One call, from opening the package on."""
    program = load_program(package / "unet.mlpackage")
    return program.run(feeds, compute="float64" if arithmetic == "float64" else "declared")["noise_pred"]


def torch_unet(checkpoint: Checkpoint, arithmetic: str) -> torch.nn.Module:
    """The same network with all its weights in memory."""
    dtype = torch.float64 if arithmetic == "float64" else torch.float32
    return reference_unet(checkpoint, program_constants(options_of(arithmetic))).to(dtype)


@torch.no_grad()
def torch_call(unet: torch.nn.Module, arithmetic: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """One call."""
    dtype = torch.float64 if arithmetic == "float64" else torch.float32
    values = [torch.from_numpy(value) for value in feeds.values()]
    result: np.ndarray = unet(*(value.to(dtype) if value.is_floating_point() else value.long() for value in values)).numpy()
    return result


def measure(place: Path, engine: str, arithmetic: str, latents: int) -> None:
    """Measure one call in this process; leaves its result and its figures in ``place``."""
    give_back_large_blocks()  # as the commands convert and verify do
    checkpoint = at_latents(place / "checkpoint", latents)
    feeds = call_inputs(checkpoint)
    unet = torch_unet(checkpoint, arithmetic) if engine == "torch" else None
    package = package_path(place, arithmetic, latents)
    start, start_cpu = time.perf_counter(), time.process_time()
    found = interpreter_call(package, arithmetic, feeds) if unet is None else torch_call(unet, arithmetic, feeds)
    figures = {
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu,
        "peak_bytes": Probes().peak_bytes(),
    }  # fmt: skip
    out = result_path(place, engine, arithmetic)
    np.save(out, found)
    out.with_suffix(".json").write_text(json.dumps(figures) + "\n")


def package_path(place: Path, arithmetic: str, latents: int) -> Path:
    """Where the package for this arithmetic stands; ``full_size`` names that in fp16."""
    if arithmetic == "float32":
        return place / f"coreml-fp32@{latents}"
    own = latents == CONFIGS[place.name.split("-")[0]]["sample_size"]
    return place / ("coreml" if own else f"coreml@{latents}")


def result_path(place: Path, engine: str, arithmetic: str) -> Path:
    """Where a call's result is left."""
    return place / f"speed-{engine}-{arithmetic}.npy"


def make_packages(options: argparse.Namespace, place: Path) -> None:
    """Make what is missing."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("full_size.py")),
        "--model",
        options.model,
        "--work",
        str(options.work),
    ]
    command += ["--scale", str(options.scale), "--latents", str(options.latents)]
    subprocess.run([*command, "--stages", "make", "random-integers", "coreml"], check=True, stdout=subprocess.DEVNULL)
    single = package_path(place, "float32", options.latents)
    if not single.is_dir():
        single.mkdir()
        convert_unet(at_latents(place / "checkpoint", options.latents), options_of("float32"), single)


def row(place: Path, arithmetic: str) -> list[str]:
    """One line of the table."""
    paths = [result_path(place, engine, arithmetic) for engine in ENGINES]
    ours, theirs = (json.loads(path.with_suffix(".json").read_text()) for path in paths)
    cells: list[Any] = [arithmetic]
    for figures in (ours, theirs):
        cells += [f"{figures['seconds']:.1f}", f"{figures['cpu_seconds']:.1f}", f"{figures['peak_bytes'] / GIB:.2f}"]
    error = f"{relative_error(*(np.load(path) for path in paths)):.1e}" if arithmetic == "float64" else ""
    return [*cells, f"{ours['cpu_seconds'] / theirs['cpu_seconds']:.2f}", error]


HEADINGS = [
    "arithmetic", "interpreter, seconds", "processor seconds", "peak GiB", "torch, seconds", "processor seconds", "peak GiB",
    "ratio", "relative error",
]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(CONFIGS), default="sd1")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--latents", type=int, help="height and width of the latents; the model's own when left out")
    parser.add_argument("--arithmetics", nargs="+", choices=ARITHMETICS, default=list(ARITHMETICS))
    parser.add_argument("--work", type=Path, default=Path("/tmp/s2p-full-size"))
    parser.add_argument("--here", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.latents = options.latents or CONFIGS[options.model]["sample_size"]
    place = options.work / f"{options.model}-{options.scale:g}"
    if options.here:
        measure(place, options.here, options.arithmetics[0], options.latents)
        return
    make_packages(options, place)
    for arithmetic in options.arithmetics:
        for engine in ENGINES:
            command = [sys.executable, __file__, "--here", engine, "--arithmetics", arithmetic, "--model", options.model]
            command += ["--scale", str(options.scale), "--latents", str(options.latents), "--work", str(options.work)]
            subprocess.run(command, check=True)
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(row(place, arithmetic) for arithmetic in options.arithmetics)]
    print(f"{machine()}, {torch.get_num_threads()} threads\n")
    print("\n".join(f"| {' | '.join(line)} |" for line in rows))


if __name__ == "__main__":
    main()
