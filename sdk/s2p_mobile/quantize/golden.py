"""Golden runs of a checkpoint: a few prompts drawn by the FP model and by what was made of it, where the job's networks run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.reference import checkpoint_unet
from s2p_mobile.quantize.finished import Parts
from s2p_mobile.quantize.holdings import FLOAT32, holding, pass_bytes, unet_bytes, weights_of
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.quantize.work import finished_parts
from s2p_mobile.sources.default_prompts import golden_prompts
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.torch_artist import TorchArtist, model_artist
from s2p_runtime.artist import final_states
from s2p_runtime.bundle import GoldenRun
from s2p_runtime.tensors import write_tensors
from s2p_runtime.walker import initial_latents

GOLDEN_STAGE = "recording golden runs"

Array32 = NDArray[np.float32]


def record_golden(job: QuantizationJob, checkpoint: Checkpoint, folder: Path) -> tuple[GoldenRun, ...]:
    """Draw the model's golden prompts twice and write what is seen into ``golden/``; finished runs are kept in the work folder.

    Everything is computed in float32 on the job's device, so that no later command has to.

    Args:
        checkpoint: without golden runs.
        folder: of the checkpoint.
    """
    (folder / "golden").mkdir()
    prompts, kept = golden_prompts(job.model), finished_parts(job)
    conditioner, device = job.model.conditioner, choose_device(job.device)
    encoded = [conditioner.encode(text, guided=job.guidance > 1) for text in prompts]
    seeds = [job.seed + index + 1 for index in range(len(prompts))]
    drawn: list[dict[str, Array32]] = [{} for _ in prompts]
    with job.progress.stage(GOLDEN_STAGE, 2 * len(prompts)) as advance:
        for kind in ("fp", "quantized"):
            artist: TorchArtist | None = None
            for index, seed in enumerate(seeds):
                found = kept.load(GOLDEN_STAGE, f"{kind}-{index}")
                if found is None:
                    artist = artist or _artist(job, checkpoint, kind, device)
                    found = _run(artist, encoded[index].conditions, seed, kind)
                    kept.save(GOLDEN_STAGE, f"{kind}-{index}", found)
                drawn[index] |= {name: value.numpy() for name, value in found.items()}
                advance()
            del artist  # one network at a time
    names = [spec.golden for spec in conditioner.conditions]
    runs = []
    for index, text in enumerate(prompts):
        path = f"golden/{index + 1}.safetensors"
        recorded = {
            **encoded[index].token_ids,
            "initial_latents": initial_latents(job.plan, seeds[index], job.latent_shape),
            **drawn[index],
            **dict(zip(names, encoded[index].conditions, strict=True)),
        }
        write_tensors(folder / path, recorded)
        runs.append(GoldenRun(id=str(index + 1), prompt=text, seed=seeds[index], path=path))
    return tuple(runs)


def _artist(job: QuantizationJob, checkpoint: Checkpoint, kind: str, device: torch.device) -> TorchArtist:
    if kind == "fp":
        return model_artist(job.model, job.plan, job.guidance, device)
    unet = checkpoint_unet(checkpoint).float()
    return TorchArtist(job.model.name, job.model, unet, job.plan, job.guidance, device)


def _run(artist: TorchArtist, conditions: Sequence[Array32], seed: int, kind: str) -> Parts:
    """One run's tensors: of the quantized network its output at every call too."""
    outputs: list[Array32] = []
    latents = final_states(artist, conditions, [seed], partial(_keep, outputs))
    image = artist.decode(latents)
    if kind == "fp":
        return {"fp_latents": torch.from_numpy(latents), "fp_image": torch.from_numpy(image)}
    return {
        "noise_pred_calls": torch.arange(len(outputs), dtype=torch.int32),
        "noise_pred": torch.from_numpy(np.stack(outputs)),
        "quantized_latents": torch.from_numpy(latents),
        "image": torch.from_numpy(image),
    }


def _keep(outputs: list[Array32], call: int, scaled: Array32, runs: Array32) -> None:
    outputs.append(runs[0])


def golden_stage(job: QuantizationJob) -> Stage:
    """What :func:`record_golden` announces and does."""
    prompts, calls = len(golden_prompts(job.model)), len(job.plan.calls)
    passes = Passes(2 * prompts * calls * job.branches, 2 * prompts * calls)
    device = {"golden network": unet_bytes(job), "passes": pass_bytes(job, job.branches, "fp32")}
    host = {"integers": weights_of(job), "a layer in float64": 2 * FLOAT32 * max(layer.weights for layer in job.layers)}
    memory = holding(job, device, host, fp_network=False)
    return Stage(GOLDEN_STAGE, 2 * prompts, (passes,), memory=memory)
