"""What the plan takes on GPUs that are not here, computed: ``python -m midsize.estimate --work DIR`` prints README.md's tables.

Operations are counted by the FLOP counter of PyTorch and by the stages that the product's methods declare. A GPU is taken to reach
the share of its peak, and an operation to take the launch, that ``s2p-mobile quantize --dry-run`` counts with; what the processor
does is timed here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from demo_training.clip import new_clip
from demo_training.diffusion import new_diffusion, new_unet
from demo_training.pipeline import write_pipeline
from demo_training.state import Clock
from demo_training.vae import new_autoencoder
from midsize.counts import TOKENS, Counts, add_arguments, counts_of
from midsize.journal import Journal
from midsize.teacher import Teacher
from one_start import Settings, recipe_of
from result_tables import markdown_table
from s2p_mobile.quantize.forecast.gpus import GPUS, LAUNCH_SECONDS, UTILISATION, Gpu
from s2p_mobile.quantize.forecast.timing import Timing
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.planning import best_plan, stages_of
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.quantize.stages.parts import float_network
from s2p_mobile.quantize.training.stages import TRAINING_STAGE
from s2p_runtime.files import atomic_folder

SHOWN = ("NVIDIA H100 SXM 80 GB", "NVIDIA RTX 4090 24 GB")
COMPILING = 60.0
"""Seconds that are set aside for it."""
_FP, _ROWS = "pictures of the FP model", "pictures of a row"


def flops_of(build: Callable[[], Any], *inputs: Callable[[], Tensor]) -> int:
    """Floating-point operations of a forward pass of one sample; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build()(*(make() for make in inputs))
    return counter.get_total_flops()


@dataclass(frozen=True)
class Training:
    """One of the teacher's trainings: operations of a step, and how long it may last."""

    name: str
    step_flops: float
    batch: int
    steps: int
    seconds: float
    half: bool

    def steps_on(self, gpu: Gpu) -> int:
        """That the seconds allow."""
        pace = self.step_flops / (UTILISATION * gpu.peak("bf16" if self.half else "fp32"))
        return min(self.steps, int(self.seconds / pace))


def trainings(counts: Counts) -> list[Training]:
    """All of them, in their order; a backward pass is two forward ones."""
    config, size, latent = counts.training, counts.size, counts.latent_size
    vae = (
        flops_of(lambda: new_autoencoder(config.vae, size).encoder, lambda: torch.empty(1, 3, size, size)),
        flops_of(lambda: new_autoencoder(config.vae, size).decoder, lambda: torch.empty(1, 4, latent, latent)),
    )
    unet = flops_of(
        lambda: new_unet(config.diffusion, latent),
        lambda: torch.empty(1, 4, latent, latent),
        lambda: torch.zeros(1, dtype=torch.int64),
        lambda: torch.empty(1, TOKENS, counts.text_width),
    )
    # Both towers are mostly their linear layers: two operations a weight and place, 12 weights a squared width and layer.
    places = (size // config.clip.patch) ** 2 * counts.judge_layers + TOKENS * config.clip.text_layers
    judge = 2 * 12 * counts.judge_width**2 * places
    frozen = vae[0] + 3 * vae[1]
    return [
        Training("autoencoder", 3.0 * sum(vae) * counts.vae_batch, counts.vae_batch, counts.vae_steps, counts.vae_seconds, False),
        Training(
            "its decoder alone", 1.0 * frozen * counts.vae_batch, counts.vae_batch, counts.decoder_steps, counts.decoder_seconds,
            False,
        ),
        Training("U-Net", 3.0 * unet * counts.batch, counts.batch, counts.unet_steps, counts.unet_seconds - COMPILING, True),
        Training("judge", 3.0 * judge * counts.judge_batch, counts.judge_batch, counts.judge_steps, counts.judge_seconds, False),
    ]  # fmt: skip


def saved_bytes(counts: Counts) -> int:
    """Tensors that a step of the U-Net keeps for its backward pass for one picture, in bf16, nothing compiled."""
    unet = new_unet(counts.training.diffusion, counts.latent_size)
    # Parameters and what views the same memory count once, and parameters not at all.
    seen = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    total = 0

    def keep(value: Tensor) -> Tensor:
        nonlocal total
        place = value.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            total += value.untyped_storage().nbytes()
            alive.append(value)
        return value

    alive: list[Tensor] = []
    latents = torch.randn(1, 4, counts.latent_size, counts.latent_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), torch.autocast("cpu", torch.bfloat16):
        unet(latents, torch.zeros(1, dtype=torch.int64), torch.randn(1, TOKENS, counts.text_width))
    # Copies of weights in bf16 do not grow with the batch.
    return total - 2 * sum(parameter.numel() for parameter in unet.parameters() if parameter.dim() > 1)


def untrained_model(folder: Path, counts: Counts) -> Path:
    """A pipeline of the teacher's size whose weights mean nothing."""
    teacher = Teacher(counts, folder, torch.device("cpu"), Clock(), Journal(folder))
    if not teacher.model.exists():
        config = counts.training
        networks = new_diffusion(config, teacher.tokenizer, torch.device("cpu"), counts.latent_size).modules
        networks |= {
            "vae": new_autoencoder(config.vae, counts.size),
            "clip": new_clip(config.clip, teacher.tokenizer, counts.size),
        }
        with atomic_folder(teacher.model) as scratch:
            write_pipeline(scratch, networks, folder / "tokenizer")
            teacher.write_prompts(scratch)
    return teacher.model


@dataclass(frozen=True)
class Table:
    """The comparison's stages on one GPU."""

    model: Path
    counts: Counts
    gpu: Gpu

    def job(self, method: str) -> QuantizationJob:
        """A row's job as it would be planned there."""
        counts = self.counts
        settings = Settings(
            Path(), counts.iterations, counts.accumulate, counts.count, counts.seeds, samples=counts.samples,
            rounding_iterations=counts.rounding, factor=counts.factor, batch=counts.pairs,
        )  # fmt: skip
        job = make_job(self.model, recipe=recipe_of(settings, "top5"), method=method, steps=counts.calls, device="cpu")
        job = replace(job, prompts=job.prompts[: counts.prompts])
        planned = best_plan(job, method, self.gpu.room)
        return replace(planned, compute=planned.compute.model_copy(update={"samples": job.branches * counts.together}))

    @cached_property
    def drawing(self) -> list[Stage]:
        """Pictures of all seed sets."""
        counts = self.counts
        pictures = counts.count * counts.seeds
        passes = Passes(2 * pictures * counts.calls, -(-pictures // counts.together) * counts.calls)
        return [Stage(_FP, pictures, (passes,)), Stage(_ROWS, pictures, (passes,))]

    def seconds(self) -> list[tuple[str, int, float, int]]:
        """Stage, how often, seconds of one, and bytes that it holds on the GPU at its worst moment."""
        found = []
        own, theirs = self.job("s2p"), self.job("q-diffusion")
        shared = {stage.name for stage in stages_of(own, "s2p")}
        for job, stages in (
            (own, stages_of(own, "s2p")),
            (
                theirs,
                [stage for stage in stages_of(theirs, "q-diffusion") if stage.name not in shared or "round" in stage.name],
            ),
            (own, self.drawing),
        ):
            fp = float_network(job.structure, job.model.conditioner.tokens)
            for stage in stages:
                timing = Timing([stage], job.counted, fp, torch.device("cpu"))
                times = {TRAINING_STAGE: 3, _ROWS: 5}.get(stage.name, 1)
                name = f"q-diffusion: {stage.name}" if job is theirs else stage.name
                found.append((name, times, sum(timing.gpu_seconds(self.gpu, job.compute)), self.gpu.room.taken(stage)))
                print(f"{self.gpu.name}: {name}", file=sys.stderr, flush=True)
        return found


def teacher_table(counts: Counts, gpus: Sequence[Gpu]) -> str:
    """Steps of each training in its seconds."""
    rows = []
    for training in trainings(counts):
        steps = [training.steps_on(gpu) for gpu in gpus]
        cells = [f"{count:,} steps, {count * training.batch:,} pictures" for count in steps]
        rows.append([training.name, f"{training.step_flops / 1e12:.2f} TFLOP", f"{training.seconds:.0f}", *cells])
    return markdown_table(["training", "a step", "seconds", *(gpu.name for gpu in gpus)], rows)


def comparison_table(model: Path, counts: Counts, gpus: Sequence[Gpu]) -> str:
    """Seconds of each stage of the comparison."""
    columns = [Table(model, counts, gpu).seconds() for gpu in gpus]
    rows = []
    for each in zip(*columns, strict=True):
        name, times = each[0][:2]
        title = f"{name}, {times} times" if times > 1 else name
        rows.append([title, *(f"{times * seconds:.0f} s, {held / 2**30:.1f} GiB" for _, _, seconds, held in each)])
    sums = [sum(times * seconds for _, times, seconds, _ in column) for column in columns]
    rows.append(["together", *(f"{total:.0f} s" for total in sums)])
    return markdown_table(["stage", *(gpu.name for gpu in gpus)], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m midsize.estimate", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for a model of the teacher's size, untrained")
    add_arguments(parser)
    options = parser.parse_args()
    counts = counts_of(options)
    gpus = [gpu for name in SHOWN for gpu in GPUS if gpu.name == name]
    print(f"{UTILISATION:g} of the peak, {1e6 * LAUNCH_SECONDS:g} us an operation; {COMPILING:.0f} s to compile\n")
    print(teacher_table(counts, gpus))
    kept = saved_bytes(counts)
    step = kept * counts.batch / 2**30
    print(f"\nkept for a backward pass: {kept / 2**20:.0f} MiB a picture, {step:.1f} GiB a step of {counts.batch}\n")
    print(comparison_table(untrained_model(options.work, counts), counts, gpus))


if __name__ == "__main__":
    main()
