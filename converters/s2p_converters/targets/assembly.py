"""Puts converted components, tokenizer, golden runs and manifest together into a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import MANIFEST_NAME as CHECKPOINT_MANIFEST
from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.targets.prompt_programs import EncodeText, PromptPrograms, condition_tensors, table_input
from s2p_runtime import __version__
from s2p_runtime.bundle import (
    BUNDLE_VERSION,
    MANIFEST_NAME,
    PLAIN_VERSION,
    BundleManifest,
    GoldenRun,
    LayerSummary,
    PictureSize,
    QuantizationSummary,
    Target,
    TokenizerSpec,
    file_entries,
)
from s2p_runtime.component import Component
from s2p_runtime.contract import write_contract
from s2p_runtime.files import sha256_file
from s2p_runtime.progress import Advance, Progress
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.walker import denoise, guide

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What a target's program computes, for the golden runs.

    Attributes:
        prompt: int32 [1, N] -> float32 [1, N, D]; SDXL's programs where the time table belongs to the prompt.
        reference: the U-Net with the target's constants, float64.
        decode: scaled latents [1, C, H, W] -> image [1, 3, 8H, 8W].
    """

    prompt: EncodeText | PromptPrograms
    reference: StepUNet
    decode: Callable[[Array32], Array32]


@torch.no_grad()
def reference_call(
    unet: StepUNet, sample: Array32, call: int, embeddings: Array32, time_table: Array32 | None = None
) -> Array32:
    """One raw U-Net output of a float64 reference, [B, C, H, W], rounded to float32."""
    inputs = (torch.from_numpy(sample).double(), torch.tensor([call]), torch.from_numpy(embeddings).double())
    output = unet(*inputs, *table_input(time_table))
    return output.float().numpy()


def write_golden(checkpoint: Checkpoint, outcome: Outcome, folder: Path, progress: Progress) -> tuple[GoldenRun, ...]:
    """Complete the checkpoint's FP runs with the quantized ones; the first run records every call, the others four."""
    (folder / "golden").mkdir()
    total = len(checkpoint.manifest.plan.calls)
    runs = []
    for index, run in enumerate(checkpoint.manifest.golden):
        recorded = list(range(total)) if index == 0 else sorted({0, total // 3, 2 * total // 3, total - 1})
        path = f"golden/{run.id}.safetensors"
        with progress.stage(f"golden run {run.id}", total) as advance:
            tensors = _quantized_run(checkpoint, outcome, run, recorded, advance)
        write_tensors(folder / path, tensors)
        runs.append(GoldenRun(id=run.id, prompt=run.prompt, seed=run.seed, path=path))
    return tuple(runs)


def _quantized_run(
    checkpoint: Checkpoint, outcome: Outcome, run: GoldenRun, recorded: list[int], advance: Advance
) -> dict[str, NDArray[Any]]:
    """All tensors of one golden run."""
    manifest = checkpoint.manifest
    fp = read_tensors(checkpoint.folder / run.path)
    conditions = condition_tensors(checkpoint, outcome.prompt, fp["token_ids"])
    embeddings, time_table = conditions["text_embeddings"], conditions.get("time_table")
    outputs: dict[int, Array32] = {}

    def predict(sample: Array32, call: int) -> Array32:
        batch = np.repeat(sample, embeddings.shape[0], axis=0)
        outputs[call] = reference_call(outcome.reference, batch, call, embeddings, time_table)
        advance()
        return guide(outputs[call], manifest.guidance)

    latents = denoise(manifest.plan, predict, fp["initial_latents"], run.seed)
    return {
        **{name: fp[name] for name in ("token_ids", "initial_latents", "fp_latents", "fp_image")},
        **conditions,
        "noise_pred_calls": np.array(recorded, np.int32),
        "noise_pred": np.stack([outputs[call] for call in recorded]),
        "quantized_latents": latents,
        "image": outcome.decode(manifest.latents.decoder_input(latents)),
    }


def copy_tokenizer(checkpoint: Checkpoint, folder: Path, place: str = "tokenizer") -> TokenizerSpec:
    """Copy vocabulary and merges into the folder ``place`` of a bundle; returns the specification that says so.

    The merges end with a line break, without which Apple's reader drops the last one.
    """
    spec = checkpoint.manifest.tokenizer
    (folder / place).mkdir(exist_ok=True)
    vocab, merges = f"{place}/vocab.json", f"{place}/merges.txt"
    shutil.copyfile(checkpoint.folder / spec.vocab, folder / vocab)
    text = (checkpoint.folder / spec.merges).read_bytes()
    (folder / merges).write_bytes(text if text.endswith(b"\n") else text + b"\n")
    return spec.model_copy(update={"vocab": vocab, "merges": merges})


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def split_names(unet: Mapping[str, Component]) -> tuple[str, ...]:
    """``chunks`` of the manifest: names of the U-Net's programs in the order in which they run; empty for a whole one."""
    return tuple(unet) if len(unet) > 1 or "unet" not in unet else ()


def write_manifest(
    checkpoint: Checkpoint,
    folder: Path,
    target: Target,
    components: Mapping[str, Component],
    layers: tuple[LayerSummary, ...],
    golden: tuple[GoldenRun, ...],
    unet_download_bytes: int,
    tokenizer: TokenizerSpec,
    sizes: tuple[PictureSize, ...] = (),
    chunks: tuple[str, ...] = (),
) -> BundleManifest:
    """Write the manifest last: it lists every other file."""
    source = checkpoint.manifest
    manifest = BundleManifest(
        version=BUNDLE_VERSION if chunks or source.conditioning else PLAIN_VERSION,
        name=source.source.name,
        family=source.family,
        target=target,
        producer=f"s2p-mobile {__version__}",
        checkpoint_sha256=sha256_file(checkpoint.folder / CHECKPOINT_MANIFEST),
        components=dict(components),
        plan=source.plan,
        guidance=source.guidance,
        latents=source.latents,
        tokenizer=tokenizer,
        quantization=QuantizationSummary(
            method=source.method,
            recipe=str(source.recipe.get("name", "")),
            average_weight_bits=source.average_weight_bits,
            unet_bytes=sum(folder_bytes(folder / components[name].path) for name in chunks or ("unet",)),
            unet_download_bytes=unet_download_bytes,
            unet_fp32_bytes=source.source.unet_fp32_bytes,
            layers=layers,
        ),
        golden=golden,
        sizes=sizes,
        chunks=chunks,
        conditioning=source.conditioning,
        files=file_entries(folder),
    )
    write_contract(folder / MANIFEST_NAME, manifest)
    return manifest
