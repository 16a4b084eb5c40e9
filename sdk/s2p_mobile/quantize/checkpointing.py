"""Writes what a method produced as an S2P checkpoint."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import MANIFEST_NAME, open_checkpoint, write_checkpoint_tensors
from s2p_converters.core.checkpoint_manifest import CheckpointManifest, Source, layer_entry
from s2p_converters.core.graph import NetworkRows, StepTables, layer_specs, split_shortcuts
from s2p_converters.core.grids import GeneralLayer, QuantizedLayer
from s2p_converters.core.resources import checkpoint_bytes
from s2p_mobile.quantize.golden import golden_stage, record_golden
from s2p_mobile.quantize.holdings import holding, weights_of
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.stages import Piece, Stage, on_host
from s2p_mobile.quantize.stages.stage import Run
from s2p_mobile.quantize.time_path import job_time_path
from s2p_runtime import __version__
from s2p_runtime.bundle import file_entries
from s2p_runtime.contract import write_contract

WRITING_STAGE = "writing the checkpoint"
_CHUNK = 1 << 23


def write_checkpoint(job: QuantizationJob, method: str, unet: QuantizedUNet, folder: Path) -> CheckpointManifest:
    """Write tensors, golden runs, the model's other components and the manifest into an existing folder."""
    model = job.model
    structure = replace(model.structure, split_shortcuts=unet.split_shortcuts)
    specs = layer_specs(structure)
    layers: dict[str, QuantizedLayer | GeneralLayer] = {**unet.layers, **unet.general}
    in_layers = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    floats = {
        name: value.numpy().astype(np.float32)
        for name, value in split_shortcuts(model.unet.state_dict(), structure).items()
        if name not in in_layers and not model.denoiser.is_time_path(name)
    }
    time = job_time_path(job)
    tables = {name: table.numpy() for name, table in time.columns.items()}
    tables |= dict(unet.time_tables)
    with job.progress.stage(WRITING_STAGE, 1) as advance:
        write_checkpoint_tensors(folder, unet.layers, floats | dict(unet.floats), tables, unet.general, _time_network(time))
        for name in model.family.folders:
            shutil.copytree(model.folder / name, folder / name, copy_function=shutil.copyfile)
        for table in model.conditioner.tables:
            table.write(folder)
        advance()
    manifest = CheckpointManifest(
        producer=f"s2p-mobile {__version__}",
        family=model.family.name,
        source=Source(
            name=model.name,
            unet_sha256=model.unet_sha256,
            text_sha256=model.text_sha256,
            embedded_guidance=model.embedded_guidance,
            unet_fp32_bytes=model.unet_fp32_bytes,
        ),
        method=method,
        recipe=job.recipe.model_dump(mode="json"),
        seed=job.seed,
        plan=job.plan,
        guidance=job.guidance,
        latents=model.latents,
        tokenizer=model.conditioner.tokenizer_spec,
        conditioning=model.conditioner.settings,
        unet_config=dict(model.unet_config),
        split_shortcuts=unet.split_shortcuts,
        softmax_bits=unet.softmax_bits,
        layers=tuple(layer_entry(spec, layers.get(spec.name)) for spec in specs),
        golden=(),
        files=file_entries(folder, MANIFEST_NAME),
    )
    # The quantized golden runs are those of the very files: they are read back for it.
    write_contract(folder / MANIFEST_NAME, manifest)
    golden = record_golden(job, open_checkpoint(folder), folder)
    manifest = manifest.model_copy(update={"golden": golden, "files": file_entries(folder, MANIFEST_NAME)})
    write_contract(folder / MANIFEST_NAME, manifest)
    return manifest


def _time_network(time: StepTables) -> dict[str, NDArray[np.float32]]:
    """What makes a prompt's part of the time table; empty where all prompts share a table."""
    if not isinstance(time.of_prompt, NetworkRows):
        return {}
    return {name: value.numpy() for name, value in time.of_prompt.network.state_dict().items() if name != "rows"}


def checkpoint_stages(job: QuantizationJob) -> list[Stage]:
    """What :func:`write_checkpoint` announces and does."""
    chunks = checkpoint_bytes(job.model.folder, job.model.family.folders) / _CHUNK
    writing = Piece("writing files", "chunk", chunks, _CHUNK, _write_a_chunk, on_host=True)
    memory = holding(job, host={"integers": weights_of(job)}, fp_network=False)
    return [*on_host([Stage(WRITING_STAGE, 1, work=(writing,), memory=memory)]), golden_stage(job)]


def _write_a_chunk(device: torch.device) -> Run:
    content = bytes(_CHUNK)

    def run() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
        hashlib.sha256(content).digest()

    return run
