"""Draws FP trajectories and stores them, shard by shard."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.interruption import Interrupted, StopFlag, stop_on_interrupt
from s2p_mobile.quantize.latents.dataset import LatentDataset, open_latents
from s2p_mobile.quantize.latents.manifest import (
    MANIFEST_NAME,
    SHARD_PROMPTS,
    TEXTS_FILE,
    LatentJob,
    LatentManifest,
    LatentRequest,
    Shard,
    shard_name,
)
from s2p_mobile.quantize.stages import Memory, Passes, Stage
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.predictor import Predictor
from s2p_mobile.sources.trajectory import Prompt, encode_prompt, float_unet, stacked_conditions
from s2p_runtime import __version__
from s2p_runtime.bundle import FileEntry
from s2p_runtime.contract import write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file, refuse_existing, sha256_file
from s2p_runtime.progress import Progress, Silent
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.walker import Walker, guide_runs

_REQUEST_NAME = "request.json"
DRAWING_STAGE = "drawing FP trajectories"


def partial_folder(out: Path) -> Path:
    """Where an unfinished set lies: beside ``out``, under a name that ``resume`` finds again."""
    out = Path(os.path.abspath(out))
    return out.parent / f".{out.name}.latents-partial"


def write_latents(
    job: LatentJob,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> LatentDataset:
    """Draw every prompt with the FP model and store the trajectories in the folder ``out``.

    Shards are written whole or not at all, so an interrupted run goes on with the first missing one and ends in the same bytes.
    The folder appears under its name when it is complete. Each process of ``workers`` makes its own shards.

    Args:
        resume: go on with an unfinished set of the same job; a finished one is opened as it is.
        force: replace an existing set and forget an unfinished one.

    Raises:
        S2PError: ``out`` exists, an unfinished set is there without ``resume``, the set there is of another job (the message
            says in what), no space left.
        Interrupted: Ctrl-C; the finished shards are kept.
    """
    workers = workers or Workers("cpu")
    progress = progress or Silent()
    if resume and (out / MANIFEST_NAME).is_file():
        dataset = open_latents(out)
        dataset.require(job)
        return dataset
    scratch = partial_folder(out)
    problem: S2PError | None = None
    if workers.main:
        try:
            _prepare(job.request, out, scratch, resume, force)
        except S2PError as error:
            problem = error
    workers.check(problem)
    stopped = False
    try:
        stopped = _write_shards(job, scratch, progress, workers)
    except S2PError as error:
        problem = error
    workers.check(problem)
    if workers.smallest(int(not stopped)) == 0:
        raise Interrupted(
            "stopped", f"the finished shards are kept, go on with `resume` (unfinished set in {scratch})", "resume"
        )
    if workers.main:
        _finish(job.request, out, scratch, force)
    workers.wait()
    return open_latents(out)


def _prepare(request: LatentRequest, out: Path, scratch: Path, resume: bool, force: bool) -> None:
    """Make the scratch folder, or find it and check that it is of the same job."""
    refuse_existing(out, force)
    if scratch.exists() and not resume and not force:
        raise S2PError(
            f"an unfinished latent set lies in {scratch}", "pass `resume` to go on or `force` to begin again", "resume"
        )
    if scratch.exists() and not resume:
        shutil.rmtree(scratch)
    path = scratch / _REQUEST_NAME
    if not path.is_file():
        with atomic_file(path) as whole:
            write_contract(whole, request)
        return
    try:
        difference = LatentRequest.model_validate_json(path.read_text(encoding="utf-8")).difference(request)
    except (OSError, ValueError) as error:
        raise S2PError(f"{path} is damaged ({type(error).__name__})", "pass `force` to begin again", "force") from error
    if difference is not None:
        raise S2PError(
            f"the unfinished latent set in {scratch} has {difference}",
            "repeat its settings, or begin again with `force`",
            "force",
        )


def _write_shards(job: LatentJob, scratch: Path, progress: Progress, workers: Workers) -> bool:
    """Write the missing shards of this process; true when the user asked to stop before the end."""
    request = job.request
    mine = range(workers.rank, request.shards, workers.count)
    missing = [index for index in mine if not (scratch / shard_name(index)).is_file()]
    prompts = {index: request.prompts[index * SHARD_PROMPTS : (index + 1) * SHARD_PROMPTS] for index in mine}
    if workers.main and request.branches == 2 and not (scratch / TEXTS_FILE).is_file():
        empty = job.model.conditioner.encode("", guided=True)
        tensors = {name: ids[:1] for name, ids in empty.token_ids.items()} | _named(
            request, [value[:1] for value in empty.conditions]
        )
        with atomic_file(scratch / TEXTS_FILE) as path:
            write_tensors(path, tensors)
    unet = job.compute.place(float_unet(job.model, job.plan), workers.device) if missing else None
    with stop_on_interrupt() as stop, progress.stage(DRAWING_STAGE, sum(map(len, prompts.values()))) as advance:
        for index in mine:
            if index in missing:
                assert unet is not None
                drawn = _draw(job, unet, index * SHARD_PROMPTS, prompts[index], scratch, stop)
                if drawn is None:
                    return True
                with atomic_file(scratch / shard_name(index)) as path:
                    write_tensors(path, drawn)
                for group in _groups(job, prompts[index]):
                    _group_file(scratch, index * SHARD_PROMPTS + group.start).unlink(missing_ok=True)
            for _ in prompts[index]:
                advance()
            if stop.requested:
                return True
    return False


def _named(request: LatentRequest, values: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Conditions under the names of the set."""
    return dict(zip(request.conditions, values, strict=True))


def drawing_stage(prompts: int, calls: int, branches: int, together: int, memory: Memory) -> Stage:
    """What it takes to draw a set in one process: a shard's prompts walk side by side, a few samples in a pass.

    Args:
        calls: T.
        branches: samples of a call.
        together: samples that go through the network at a time.
        memory: of the stage.
    """
    group = max(1, together // branches)
    shards = [min(SHARD_PROMPTS, prompts - first) for first in range(0, prompts, SHARD_PROMPTS)]
    passes = calls * sum(-(-shard // group) for shard in shards)
    return Stage(DRAWING_STAGE, prompts, (Passes(prompts * calls * branches, passes),), memory=memory)


_SAVE_SECONDS = 120.0
"""Between two times that a group's calls so far are kept."""


def _groups(job: LatentJob, texts: Sequence[str]) -> list[slice]:
    """A shard's prompts, as many at a time as go through the network together."""
    size = max(1, job.compute.samples // job.request.branches)
    return [slice(begin, min(begin + size, len(texts))) for begin in range(0, len(texts), size)]


def _group_file(scratch: Path, first: int) -> Path:
    return scratch / f".calls-of-{first}.safetensors"


def _draw(
    job: LatentJob, unet: StepUNet, first: int, texts: Sequence[str], scratch: Path, stop: StopFlag
) -> dict[str, NDArray[Any]] | None:
    """The tensors of one shard, whose prompts walk through the plan in groups; None when the user asked to stop."""
    walks = []
    for group in _groups(job, texts):
        prompts = [
            encode_prompt(job.model, texts[k], job.seed + first + k, job.guidance) for k in range(group.start, group.stop)
        ]
        walk = _Walk(job, unet, prompts, _group_file(scratch, first + group.start))
        if not walk.run(stop):
            return None
        walks.append(walk)
    prompts = [prompt for walk in walks for prompt in walk.prompts]
    own = [np.stack(column) for column in zip(*([value[-1] for value in p.conditions] for p in prompts), strict=True)]
    return {
        "states": np.concatenate([np.stack(walk.states, axis=1) for walk in walks]),
        "outputs": np.concatenate([np.stack(walk.outputs, axis=1) for walk in walks]),
        "final": np.concatenate([walk.final for walk in walks]),
        **{name: np.stack([prompt.token_ids[name][-1] for prompt in prompts]) for name in prompts[0].token_ids},
        "text_index": np.array(
            [[0, first + k + 1] if job.request.branches == 2 else [first + k + 1] for k in range(len(texts))], np.int32
        ),
        **_named(job.request, own),
        **{
            f"feature.{name}": np.concatenate([np.stack(walk.features[name], axis=1) for walk in walks])
            for name in walks[0].features
        },
    }


class _Walk:
    """Some prompts on their way through the plan. What the network said so far is kept in a file, and a walk that goes on from there
    takes the very same states."""

    def __init__(self, job: LatentJob, unet: StepUNet, prompts: Sequence[Prompt], file: Path) -> None:
        self.job, self.prompts, self.file = job, prompts, file
        self.walker = Walker.from_seeds(job.plan, [prompt.seed for prompt in prompts], job.model.latent_shape)
        self.predictor = Predictor(unet, stacked_conditions(prompts))
        self.states: list[NDArray[np.float32]] = []
        self.outputs: list[NDArray[np.float32]] = []
        self.features: dict[str, list[NDArray[np.float16]]] = {}
        self.final = np.zeros(0, np.float32)

    def run(self, stop: StopFlag) -> bool:
        """To the end; false when the user asked to stop before it."""
        known, saved = self._known(), time.monotonic()
        for call in range(len(self.job.plan.calls)):
            scaled = self.walker.scaled
            if call < len(known):
                output = known[call]
            elif self.job.features:
                output, blocks = self.predictor.with_features(scaled, call)
                for name, value in blocks.items():
                    self.features.setdefault(name, []).append(value.half().cpu().numpy())
            else:
                output = self.predictor(scaled, call)
            self.states.append(scaled)
            self.outputs.append(output)
            self.walker.advance(guide_runs(output, self.job.guidance))
            if stop.requested or time.monotonic() - saved > _SAVE_SECONDS:
                self._keep()
                saved = time.monotonic()
            if stop.requested:
                return False
        self.final = self.walker.state
        self._keep()
        return True

    def _known(self) -> list[NDArray[np.float32]]:
        """Outputs of the calls that were made before; block outputs are not kept."""
        if self.job.features or not self.file.is_file():
            return []
        try:
            return list(read_tensors(self.file)["outputs"])
        except (S2PError, KeyError):
            return []

    def _keep(self) -> None:
        if not self.job.features:
            with atomic_file(self.file) as path:
                write_tensors(path, {"outputs": np.stack(self.outputs)})


def _finish(request: LatentRequest, out: Path, scratch: Path, force: bool) -> None:
    """Write the manifest and give the folder its name."""

    def entry(name: str) -> FileEntry:
        path = scratch / name
        return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)

    shards = [
        Shard(file=name, prompts=read_tensors(scratch / name)["final"].shape[0], entry=entry(name))
        for name in map(shard_name, range(request.shards))
    ]
    manifest = LatentManifest(
        producer=f"s2p-mobile {__version__}",
        request=request,
        unconditional=entry(TEXTS_FILE) if request.branches == 2 else None,
        shards=tuple(shards),
    )
    with atomic_file(scratch / MANIFEST_NAME) as path:
        write_contract(path, manifest)
    (scratch / _REQUEST_NAME).unlink()
    refuse_existing(out, force)
    if out.is_dir():
        shutil.rmtree(out)
    scratch.rename(out)
