"""Time, memory and size of every stage at the true size of a model, with random weights.

    python benchmarks/full_size.py --model sd1                      SD v1-4's U-Net, 859.5M parameters
    python benchmarks/full_size.py --model sdxl                     Stable Diffusion XL's, 2.57B
    python benchmarks/full_size.py --model sd1 --scale 0.4 0.6 1    how both grow: three widths of the same network
    python benchmarks/full_size.py --stages --report docs/results-full-size.md --note "what else ran on the machine"

Every stage runs in a process of its own and leaves a JSON file in --work, so that an interrupted run goes on where it stopped:

make         a diffusers folder: random fp16 weights drawn tensor by tensor, the demo model's tokenizer, a small VAE and text encoder
quantize     ``s2p-mobile quantize --method rtn --recipe w4a8``; pictures of 64x64 pixels and 1 step, so that the runs of the float
             network, whose time is that of the network and not of the quantizer, stay short
random-integers  in place of quantize where the float32 network does not fit: a checkpoint of the same form
coreml       checkpoint -> U-Net package
coreai       checkpoint -> U-Net .aimodel, all weights, scales and tables read back by Apple's bindings; only where its packages are
executorch   checkpoint -> U-Net .pte, every integer layer run alone and read back; after that, and not in its time and memory, the
             size of the program in the download form (``convert --archive``), where the 4-bit convolutions are packed
qnn          checkpoint -> U-Net .pte of four programs for one Snapdragon's NPU, a layer of each kind alone in the emulator; only
             where Qualcomm's packages are. ``compiler_peak_bytes`` is the compiler's own peak
fingerprint  moments of every constant of the package, which are written at conversion and compared by ``verify``
verify-*     one U-Net call of the written file against torch on the same integers: the interpreter in float64, ExecuTorch's runtime

Peak memory is VmHWM of the stage's process: mapped files are in it, and unlike ru_maxrss it begins anew with the program, so that the
parent's memory is not. Processor time is the process's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from full_size_model import CONFIGS, Figures, make, random_integers
from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.reference import Constants, streamed_reference_unet
from s2p_converters.targets.manifest import folder_bytes
from s2p_runtime.allocator import give_back_large_blocks
from s2p_runtime.bench.probes import Probes
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error
from s2p_runtime.quiet import quiet_import

GIB = 2**30
QNN_CHUNKS = 4


# The stages after the model is made, each in a process of its own


def quantize(model: Path, out: Path) -> Figures:
    """``s2p-mobile quantize --method rtn``, in this process."""
    from s2p_mobile.cli.app import app

    arguments = [
        "quantize", str(model), "--method", "rtn", "--recipe", "w4a8", "--steps", "1", "--size", "64x64", "--count", "1",
        "--out", str(out), "--json", str(out.with_suffix(".json")), "--force",
    ]  # fmt: skip
    app(arguments, standalone_mode=False)
    return {"bytes": folder_bytes(out), "unet_bytes": (out / "unet.safetensors").stat().st_size}


def at_latents(folder: Path, side: int) -> Checkpoint:
    """A checkpoint with latents of this height and width."""
    return with_latents(open_checkpoint(folder), side)


def with_latents(checkpoint: Checkpoint, side: int) -> Checkpoint:
    """The same with other latents: nothing else in it depends on the size."""
    latents = checkpoint.manifest.latents.model_copy(update={"height": side, "width": side})
    manifest = checkpoint.manifest.model_copy(update={"latents": latents})
    return replace(checkpoint, manifest=manifest, structure=replace(checkpoint.structure, sample_size=(side, side)))


def coreml(checkpoint: Checkpoint, out: Path) -> Figures:
    """The U-Net of ``s2p-mobile convert --target coreml``."""
    from s2p_converters.targets.coreml.components import convert_unet
    from s2p_converters.targets.coreml.options import CoreMLOptions

    out.mkdir()
    convert_unet(checkpoint, CoreMLOptions(), out)
    return {"bytes": folder_bytes(out)}


def coreai(checkpoint: Checkpoint, out: Path) -> Figures:
    """The U-Net of ``s2p-mobile convert --target coreai``, in this process."""
    from s2p_converters.targets.coreai.options import CoreAIOptions
    from s2p_converters.targets.coreai.unet import write_unet
    from s2p_converters.targets.ports import own_latents

    out.mkdir()
    write_unet(checkpoint, CoreAIOptions(), out / "unet.aimodel", {"main": own_latents(checkpoint)})
    return {"bytes": folder_bytes(out)}


def executorch(checkpoint: Checkpoint, out: Path) -> Figures:
    """The U-Net of ``s2p-mobile convert --target executorch``."""
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.executorch.xnnpack.lowering import convert_unet

    out.mkdir()
    convert_unet(checkpoint, ExecuTorchOptions(), out)
    return {"bytes": folder_bytes(out)}


def qnn(checkpoint: Checkpoint, out: Path) -> Figures:
    """The U-Net of ``s2p-mobile convert --target executorch --backend qnn --chunks 4``, for one chip: grids from one call on noise at
    small latents, since such a checkpoint has no golden runs, then one layer of each kind alone."""
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.executorch.qnn.layer_check import check_layers, kinds
    from s2p_converters.targets.executorch.qnn.lowering import compile_unet, form_of
    from s2p_converters.targets.executorch.qnn.ranges import Call, ranges_over
    from s2p_runtime.hosts.executorch.qnn.socs import soc_named

    options = ExecuTorchOptions(backend="qnn", chunks=QNN_CHUNKS)
    small = with_latents(checkpoint, 16)
    sample, _, *told = call_inputs(small).values()
    form = form_of(checkpoint, options, ranges_over(small, [Call(sample, 0, tuple(told))]))
    middle = time.perf_counter()
    check_layers(checkpoint, form, soc_named(options.socs[0]))
    alone = time.perf_counter() - middle
    out.mkdir()
    middle = time.perf_counter()
    compile_unet(checkpoint, options, out, form)
    compiled = time.perf_counter() - middle
    return {
        "bytes": folder_bytes(out), "compile_seconds": compiled, "layers_alone": len(kinds(checkpoint.layers, form)),
        "layers_seconds": alone, "compiler_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10,
    }  # fmt: skip


def download(checkpoint: Checkpoint, out: Path) -> Figures:
    """Size of the program in the download form, how long packing takes, and the process's peak by then."""
    from s2p_converters.targets.executorch.archive import packed_bytes
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.executorch.xnnpack.inspection import read_program
    from s2p_converters.targets.executorch.xnnpack.lowering import layer_summaries

    start = time.perf_counter()
    data = (out / "unet.pte").read_bytes()
    names = [spec.name for spec in checkpoint.specs]
    layers = layer_summaries(checkpoint, read_program(data).layers, names, ExecuTorchOptions())
    size = packed_bytes(data, layers)
    return {
        "download_bytes": size, "download_seconds": time.perf_counter() - start, "download_peak_bytes": Probes().peak_bytes(),
    }  # fmt: skip


def fingerprint(out: Path) -> Figures:
    """Moments of the package's constants."""
    from s2p_runtime.hosts.coreml.fingerprint import constant_moments

    return {"constants": len(constant_moments(out, {"unet": "unet.mlpackage"}))}


def call_inputs(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Noise for one U-Net call: the state, the text and, of SDXL, the time table."""
    from s2p_converters.targets.interface import unet_inputs

    ports = unet_inputs(checkpoint, "int32")
    return {
        port.name: np.zeros(1, np.int32) if port.name == "step" else gaussian(1, port.shape, stream=place)
        for place, port in enumerate(ports)
    }


@torch.no_grad()
def torch_output(
    checkpoint: Checkpoint, constants: Constants, feeds: dict[str, np.ndarray], dtype: torch.dtype = torch.float64
) -> np.ndarray:
    """The same call in torch, from the checkpoint's integers."""
    values = [torch.from_numpy(value) for value in feeds.values()]
    reference = streamed_reference_unet(checkpoint, constants).to(dtype)
    return reference(*(value.to(dtype) if value.is_floating_point() else value.long() for value in values)).numpy()


def verify_coreml(checkpoint: Checkpoint, out: Path) -> Figures:
    """One call of the package in the interpreter, in float64."""
    from s2p_converters.targets.coreml.components import program_constants
    from s2p_converters.targets.coreml.options import CoreMLOptions
    from s2p_runtime.hosts.coreml.mil import load_program

    feeds = call_inputs(checkpoint)
    found = load_program(out / "unet.mlpackage").run(feeds, compute="float64")["noise_pred"]
    middle = time.perf_counter(), time.process_time()
    wanted = torch_output(checkpoint, program_constants(CoreMLOptions()), feeds)
    return {
        "relative_error": relative_error(found, wanted), "reference_seconds": time.perf_counter() - middle[0],
        "reference_cpu_seconds": time.process_time() - middle[1],
    }  # fmt: skip


def verify_executorch(checkpoint: Checkpoint, out: Path) -> Figures:
    """One call of the .pte in ExecuTorch's runtime."""
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.executorch.target import TARGET

    with quiet_import():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(out / "unet.pte").load_method("forward")
    feeds = call_inputs(checkpoint)
    inputs = [torch.from_numpy(value if name != "step" else value.astype(np.int64)) for name, value in feeds.items()]
    start = time.perf_counter()
    found = method.execute(inputs)[0].numpy().copy()
    call = time.perf_counter() - start
    del method
    constants = TARGET.constants(ExecuTorchOptions())
    wanted = torch_output(checkpoint, constants, feeds)
    # Rounding is chaotic: what torch itself loses in float32 is the measure of what a right program may lose.
    single = torch_output(checkpoint, constants, feeds, torch.float32)
    return {
        "relative_error": relative_error(found, wanted), "torch_relative_error": relative_error(single, wanted),
        "call_seconds": call,
    }  # fmt: skip


# Running the stages

STAGES = (
    "make",
    "quantize",
    "random-integers",
    "coreml",
    "coreai",
    "executorch",
    "qnn",
    "fingerprint",
    "verify-coreml",
    "verify-executorch",
)


MAKE_STAGES = STAGES[:3]
"""What does not depend on the programs' latents."""


def figures_path(place: Path, stage: str, model: str, latents: int) -> Path:
    """Where a stage's figures stand: beside those of other latents than the model's own."""
    own = stage in MAKE_STAGES or latents == CONFIGS[model]["sample_size"]
    return place / (f"{stage}.json" if own else f"{stage}@{latents}.json")


def run_stage(stage: str, place: Path, model: str, scale: float, latents: int) -> None:
    """Run one stage in this process and write its figures."""
    place.mkdir(parents=True, exist_ok=True)
    folder, checkpoint = place / "model", place / "checkpoint"
    package, program = (figures_path(place, name, model, latents).with_suffix("") for name in ("coreml", "executorch"))
    hexagon = figures_path(place, "qnn", model, latents).with_suffix("")
    apples = figures_path(place, "coreai", model, latents).with_suffix("")
    steps: dict[str, Callable[[], Figures]] = {
        "make": lambda: make(folder, model, scale),
        "quantize": lambda: quantize(folder, checkpoint),
        "random-integers": lambda: random_integers(folder, checkpoint),
        "coreml": lambda: coreml(at_latents(checkpoint, latents), package),
        "coreai": lambda: coreai(at_latents(checkpoint, latents), apples),
        "executorch": lambda: executorch(at_latents(checkpoint, latents), program),
        "qnn": lambda: qnn(at_latents(checkpoint, latents), hexagon),
        "fingerprint": lambda: fingerprint(package),
        "verify-coreml": lambda: verify_coreml(at_latents(checkpoint, latents), package),
        "verify-executorch": lambda: verify_executorch(at_latents(checkpoint, latents), program),
    }
    for out in {
        "make": [folder],
        "quantize": [checkpoint],
        "random-integers": [checkpoint],
        "coreml": [package],
        "coreai": [apples],
        "executorch": [program],
        "qnn": [hexagon],
    }.get(stage, []):
        shutil.rmtree(out, ignore_errors=True)
    if stage not in MAKE_STAGES:
        give_back_large_blocks()  # as the commands convert and verify do
    start, start_cpu = time.perf_counter(), time.process_time()
    found = steps[stage]()
    figures = {
        "model": model, "scale": scale, "latents": latents, "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu, "peak_bytes": Probes().peak_bytes(), **found,
    }  # fmt: skip
    if stage == "executorch":
        figures |= download(at_latents(checkpoint, latents), program)
    figures_path(place, stage, model, latents).write_text(json.dumps(figures, indent=1) + "\n")


def rows(work: Path) -> list[list[str]]:
    """The table's rows: every stage that has figures."""
    found = []
    for place in sorted(work.glob("*-*")):
        paths = [path for stage in STAGES for path in (*place.glob(f"{stage}.json"), *sorted(place.glob(f"{stage}@*.json")))]
        figures = [(path.stem.split("@")[0], json.loads(path.read_text())) for path in paths]
        parameters = next((each["parameters"] for stage, each in figures if stage == "make"), 0)
        for stage, each in figures:
            size = f"{each['bytes'] / 1e6:,.0f}" if "bytes" in each else ""
            packed = f"{each['download_bytes'] / 1e6:,.0f}" if "download_bytes" in each else ""
            error = f"{each['relative_error']:.1e}" if "relative_error" in each else ""
            if "torch_relative_error" in each:
                error += f" (torch in float32: {each['torch_relative_error']:.1e})"
            latents = f"{each['latents']}x{each['latents']}" if stage not in MAKE_STAGES else ""
            found.append([
                each["model"], f"{parameters / 1e6:,.1f}", stage, latents, f"{each['seconds']:.0f}", f"{each['cpu_seconds']:.0f}",
                f"{each['peak_bytes'] / GIB:.2f}", size, packed, error,
            ])  # fmt: skip
    return found


COSTS = [
    (stage, key, unit)
    for stage in ("quantize", "coreml", "executorch")
    for key, unit in (("cpu_seconds", 1), ("peak_bytes", GIB))
]
"""What grows with a network, and in which unit it is shown."""


def growth(work: Path, model: str) -> str:
    """Processor time and memory of one architecture at several widths, and the straight lines through them, as a Markdown table."""
    found: list[tuple[int, list[float]]] = []
    for place in work.glob(f"{model}-*"):
        paths = [place / f"{stage}.json" for stage, _, _ in COSTS]
        if all(path.is_file() for path in paths):
            parameters = json.loads((place / "make.json").read_text())["parameters"]
            values = [json.loads(path.read_text())[key] / unit for path, (_, key, unit) in zip(paths, COSTS, strict=True)]
            found.append((parameters, values))
    if len(found) < 3:
        return ""
    found.sort()
    x = np.array([parameters for parameters, _ in found]) / 1e9
    lines, spans = ["line"], ["largest distance from it"]
    for values in np.array([values for _, values in found]).T:
        slope, base = np.polyfit(x, values, 1)
        lines.append(f"{base:.1f} + {slope:.1f} P")
        spans.append(f"{np.abs(base + slope * x - values).max():.2f}")
    titles = [f"{stage}, {'processor seconds' if unit == 1 else 'peak GiB'}" for stage, _, unit in COSTS]
    body = [[f"{parameters / 1e6:,.1f}", *(f"{value:.2f}" for value in values)] for parameters, values in found]
    table = [["million parameters", *titles], ["---"] * 7, *body, lines, spans]
    return "\n## Growth\n\nP: 10^9 parameters.\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table) + "\n"


FIGURES = "<!-- figures: written by benchmarks/full_size.py -->"
HEADINGS = [
    "model", "million parameters", "stage", "latents", "seconds", "processor seconds", "peak GiB", "MB", "download MB",
    "relative error",
]  # fmt: skip


def table(work: Path) -> str:
    """All figures as a Markdown table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows(work)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def machine() -> str:
    """Processor, cores and memory."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(CONFIGS), default="sd1")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0])
    parser.add_argument("--latents", type=int, help="height and width of the programs' latents; the model's own when left out")
    parser.add_argument(
        "--stages",
        nargs="*",
        choices=STAGES,
        default=[name for name in STAGES if name not in ("random-integers", "coreai", "qnn")],
    )
    parser.add_argument(
        "--report", type=Path, help="page whose part below the line of figures is replaced by all that --work holds"
    )
    parser.add_argument("--note", default="", help="what else ran on the machine, for --report")
    parser.add_argument("--work", type=Path, default=Path("/tmp/s2p-full-size"))
    parser.add_argument("--again", action="store_true", help="run stages that have figures already")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    latents = options.latents or CONFIGS[options.model]["sample_size"]
    for scale in options.scale:
        place = options.work / f"{options.model}-{scale:g}"
        for stage in options.stages:
            if options.here:
                run_stage(stage, place, options.model, scale, latents)
            elif options.again or not figures_path(place, stage, options.model, latents).is_file():
                command = [sys.executable, __file__, "--here", "--model", options.model, "--scale", str(scale)]
                command += ["--latents", str(latents), "--stages", stage, "--work", str(options.work)]
                ended = subprocess.run(command, check=False).returncode
                if ended:
                    # A stage that failed has said why; one that was killed has not.
                    raise SystemExit(ended if ended > 0 else f"stage {stage} of {place.name} was ended by signal {-ended}")
    if options.here:
        return
    figures = f"Machine: {machine()}. {options.note}\n\n{table(options.work)}{growth(options.work, 'sd1')}"
    print(figures)
    if options.report is not None:
        above = options.report.read_text(encoding="utf-8").split(FIGURES)[0] if options.report.is_file() else ""
        options.report.write_text(f"{above}{FIGURES}\n\n{figures}", encoding="utf-8")


if __name__ == "__main__":
    main()
