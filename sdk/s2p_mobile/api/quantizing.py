"""From a model to a checkpoint, and what that will take."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_mobile.api.notes import note
from s2p_mobile.api.progress import ProgressLike, listener

if TYPE_CHECKING:
    import torch

    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_mobile.quantize.forecast import Forecast
    from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
    from s2p_mobile.quantize.latents import LatentDataset
    from s2p_mobile.quantize.recipes import Recipe
    from s2p_mobile.quantize.sensitivity import Sensitivity
    from s2p_mobile.sources.default_prompts import Prompts
    from s2p_mobile.sources.model import Model
    from s2p_mobile.sources.pixel_size import SizeLike


# The function quantize takes the name of the package s2p_mobile.quantize. Loading a package binds its name, so that is done before;
# imports of its modules find it all the same.
importlib.import_module("s2p_mobile.quantize")


def load(
    source: str | Path | None = None,
    *,
    lora: Sequence[str | Path] | str | Path = (),
    embedding: Sequence[str | Path] | str | Path = (),
    allow_pickle: bool = False,
    size: SizeLike | None = None,
    progress: ProgressLike = None,
) -> Model:
    """Open a floating-point model and compare it with diffusers' own pipeline, unless that was done before with these very files.

    Args:
        source: diffusers folder, single file, or the hub id of a model that was downloaded before; None is the built-in model.
        lora: ``FILE`` or ``FILE:scale`` each, fused into the weights in their order.
        embedding: textual inversions, ``FILE`` or ``FILE:word`` each: words that prompts may then use.
        size: width and height of the pictures in pixels, (512, 768) or ``512x768``; the model's own when None.
        allow_pickle: read pickled weights too (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), by torch's reader that builds weights only,
            and say so in a note; they are refused otherwise.
        progress: of the comparison, see :class:`ProgressEvent`.

    Raises:
        S2PError: no model, an unknown family, pickled weights, a LoRA or an embedding of another model, a size that the U-Net
            cannot draw, too little disk for a fused or unpacked copy, or a difference from diffusers.

    Example:
        >>> model = s2p_mobile.load("path/to/model", lora=["style.safetensors:0.8"], size=(512, 512))
    """
    from s2p_mobile.sources.opening import open_model
    from s2p_mobile.sources.pixel_size import PixelSize
    from s2p_mobile.sources.reference import require_same

    model = open_model(source, PixelSize.of(size), lora, embedding, allow_pickle)
    require_same(model, listener(progress))
    return model


def quantize(
    model: Model | str | Path | None = None,
    *,
    out: str | Path,
    recipe: Recipe | str | Path | None = None,
    method: str = "s2p",
    pipeline: str | None = None,
    prompts: Prompts | None = None,
    count: int | None = None,
    subset_seed: int | None = None,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    memory: str | int = "auto",
    seed: int = 0,
    latents: LatentDataset | str | Path | None = None,
    sensitivity: Sensitivity | str | Path | None = None,
    like: Checkpoint | str | Path | None = None,
    budget: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: ProgressLike = None,
) -> Checkpoint:
    """Quantize a model into an S2P checkpoint.

    A trained method keeps its log, loss plot and state in the folder ``OUT.training``, so that ``resume`` goes on after an
    interruption. Started by ``accelerate launch``, all processes work on the one checkpoint and each gets it.

    Args:
        model: opened, diffusers folder or ``.safetensors`` file; None is the built-in model.
        out: folder of the checkpoint. It appears when it is complete.
        recipe: a built-in one by name, a ``.yaml`` file or a :class:`Recipe`; the family's when None.
        method: by name; ``s2p`` trains, ``adaround`` and ``gptq`` stop before that, ``rtn`` rounds to nearest.
        pipeline: ``s2p``, ``serial`` or ``parallel`` training; the recipe's when None.
        prompts: calibration prompts, a file or texts; the model's own when None. Prompt k is drawn from ``seed + k``.
        count, subset_seed: only so many of the prompts: the first, or those that the seed picks.
        size, lora, embedding, allow_pickle: of a model that is not open yet, see :func:`load`.
        scheduler: a sampler by name; the model's own when None.
        steps: denoising steps, 1 to 1000; the model's own number when None.
        guidance: 0 to 100; the model's own when None. Classifier-free; of a latent consistency model, built into its time path.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        memory: of the device that the run may take, in bytes or as ``12GiB``; ``auto``: what is free. How the networks lie in memory
            follows from it, see docs/method.md.
        seed: of the first prompt's noise, and of all random numbers of a method.
        latents: a finished data set of :func:`latents`, of the same settings.
        sensitivity: a result of :func:`sensitivity`, of the same settings, to rank layers by.
        like: a finished checkpoint of the same architecture, such as that of the model that this one was fine-tuned from: bit-widths,
            zero points and which way weights are rounded are taken over instead of being searched for.
        budget: time that the run may take on its device, such as ``45min``: counts of the recipe are lowered until it fits.
        resume: go on with an interrupted run of a method that keeps its work.
        force: replace what lies at ``out``.
        progress: see :class:`ProgressEvent`.

    Returns:
        The checkpoint, read back from ``out``.

    Raises:
        S2PError: bad input, too little memory or disk, or ``out`` exists.
        Interrupted: Ctrl-C; finished work is kept for ``resume``.

    Example:
        >>> checkpoint = s2p_mobile.quantize(model, recipe="w4a8-mixed", prompts="prompts.txt", out="checkpoint", progress=True)
    """
    from s2p_converters.core.resources import checkpoint_bytes, require_disk
    from s2p_mobile.quantize.jobs import make_job
    from s2p_mobile.quantize.memory_limits import chosen_plan, keep_plan, memory_bytes, within_memory
    from s2p_mobile.quantize.methods import METHODS, run_method
    from s2p_mobile.quantize.work import work_folder
    from s2p_mobile.sources.prompts import long_prompts
    from s2p_mobile.sources.reference import require_same
    from s2p_runtime.allocator import give_back_large_blocks
    from s2p_runtime.files import refuse_existing

    give_back_large_blocks()
    keeps_work = METHODS.get(method).keeps_work
    most = memory_bytes(memory)
    folder = Path(out)
    refuse_existing(folder, force)
    work = work_folder(folder) if keeps_work else None
    job = make_job(
        model, recipe=recipe, method=method, pipeline=pipeline, prompts=prompts, count=count, subset_seed=subset_seed, size=size,
        lora=lora, embedding=embedding, allow_pickle=allow_pickle, scheduler=scheduler, steps=steps, guidance=guidance,
        device=device, seed=seed, work=work,
        resume=resume, latents=_folder(latents), sensitivity=sensitivity, like=like, progress=listener(progress),
    )  # fmt: skip
    if unused := _unused_offload(job):
        note(unused)
    job, words = chosen_plan(job, method, most, budget)
    space = checkpoint_bytes(job.model.folder, job.model.family.folders)
    require_disk(folder, space, "the checkpoint", "free some, or give another `out`")
    if prompts is not None:
        for warning in long_prompts(job.prompts, job.model.conditioner.tokenizers):
            note(warning)
    job.model.load()
    require_same(job.model, listener(progress))
    for line in words:
        note(line)
    if work is not None and force and not resume:
        shutil.rmtree(work, ignore_errors=True)
    keep_plan(job)
    with within_memory(job) as watched:
        return _write(watched, method, run_method(method, watched), folder, force)


def forecast(
    model: Model | str | Path | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    method: str = "s2p",
    pipeline: str | None = None,
    prompts: Prompts | None = None,
    count: int | None = None,
    subset_seed: int | None = None,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    memory: str | int = "auto",
    seed: int = 0,
    latents: LatentDataset | str | Path | None = None,
    sensitivity: Sensitivity | str | Path | None = None,
    like: Checkpoint | str | Path | None = None,
    budget: str | None = None,
) -> Forecast:
    """What :func:`quantize` with the same arguments will take: layers by width, disk, memory, time by device. Loads no weights.

    Args:
        model: as for :func:`quantize`, like everything else.

    Returns:
        Bytes, hours, and floating-point operations of each stage.

    Raises:
        S2PError: bad input.

    Example:
        >>> s2p_mobile.forecast(model, recipe="w4a8-quick").memory_bytes
    """
    begun = time.process_time()
    from s2p_mobile.quantize.forecast import make_forecast
    from s2p_mobile.quantize.jobs import make_job
    from s2p_mobile.quantize.memory_limits import chosen_plan, memory_bytes

    job = make_job(
        model, recipe=recipe, method=method, pipeline=pipeline, prompts=prompts, count=count, subset_seed=subset_seed, size=size,
        lora=lora, embedding=embedding, allow_pickle=allow_pickle, scheduler=scheduler, steps=steps, guidance=guidance,
        device=device, seed=seed,
        latents=_folder(latents), sensitivity=sensitivity, like=like,
    )  # fmt: skip
    if unused := _unused_offload(job):
        note(unused)
    # Libraries are loaded and the model is found by then, as in the run that is foreseen.
    job.model.import_classes()
    job, words = chosen_plan(job, method, memory_bytes(memory), budget) if budget is not None else (job, [])
    for line in words:
        note(line)
    return make_forecast(job, method, start_seconds=time.process_time() - begun, memory=memory_bytes(memory))


def _folder(latents: LatentDataset | str | Path | None) -> Path | None:
    if latents is None:
        return None
    return Path(latents) if isinstance(latents, str | Path) else latents.folder


def _unused_offload(job: QuantizationJob) -> str | None:
    from s2p_mobile.quantize.training.offload import saved_elsewhere
    from s2p_mobile.sources.device import choose_device

    if not job.recipe.training.offload_activations or saved_elsewhere(choose_device(job.device)):
        return None
    return "training.offload_activations has no effect on this device, whose memory is the machine's own"


def _write(job: QuantizationJob, method: str, unet: QuantizedUNet, out: Path, force: bool) -> Checkpoint:
    """The main process of a job writes the checkpoint; every process reads it."""
    from s2p_converters.core.checkpoint import open_checkpoint
    from s2p_mobile.quantize.checkpointing import write_checkpoint
    from s2p_mobile.quantize.work import forget_unfinished
    from s2p_mobile.quantize.workers import join_workers
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_folder

    workers = join_workers(job.device)
    problem: S2PError | None = None
    if workers.main:
        try:
            with atomic_folder(out, force=force) as folder:
                write_checkpoint(job, method, unet, folder)
            if job.work is not None:
                forget_unfinished(job.work)
        except S2PError as error:
            problem = error
    workers.check_main(problem)
    return open_checkpoint(out)
