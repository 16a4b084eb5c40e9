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

from s2p_converters.core.checkpoint import MANIFEST_NAME, write_checkpoint_tensors
from s2p_converters.core.checkpoint_manifest import CheckpointManifest, Source, layer_entry, needed_version
from s2p_converters.core.graph import layer_specs, split_shortcuts
from s2p_converters.core.grids import GeneralLayer, QuantizedLayer
from s2p_converters.core.resources import checkpoint_bytes
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.stages import Passes, Piece, Stage, on_host
from s2p_mobile.quantize.stages.stage import Run
from s2p_mobile.quantize.time_path import TimePath, job_time_path
from s2p_mobile.sources.components import COMPONENT_FOLDERS, SECOND_FOLDERS
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime import __version__
from s2p_runtime.bundle import GoldenRun, file_entries
from s2p_runtime.contract import write_contract
from s2p_runtime.plan import initial_latents
from s2p_runtime.tensors import write_tensors

_DEMO_GOLDEN = ("a red apple on a blue background", "a panda on a yellow background")
_GOLDEN = ("a photograph of an astronaut riding a horse", "a bowl of fruit on a wooden table, oil painting")


WRITING_STAGE = "writing the checkpoint"
GOLDEN_STAGE = "recording golden runs"
_CHUNK = 1 << 23


def golden_prompts(model: Model) -> tuple[str, ...]:
    """Prompts recorded in every checkpoint of a model."""
    return _DEMO_GOLDEN if model.name == "demo" else _GOLDEN


def write_checkpoint(job: QuantizationJob, method: str, unet: QuantizedUNet, folder: Path) -> CheckpointManifest:
    """Write tensors, golden FP runs, the model's other components and the manifest into an existing folder."""
    model = job.model
    structure = replace(model.structure, split_shortcuts=unet.split_shortcuts)
    specs = layer_specs(structure)
    layers: dict[str, QuantizedLayer | GeneralLayer] = {**unet.layers, **unet.general}
    in_layers = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    floats = {
        name: value.numpy().astype(np.float32)
        for name, value in split_shortcuts(model.unet.state_dict(), structure).items()
        if name not in in_layers and not _is_time_path(name)
    }
    path = job_time_path(job)
    tables = {name: table.numpy() for name, table in path.tables.items()}
    tables |= dict(unet.time_tables)
    with job.progress.stage(WRITING_STAGE, 1) as advance:
        write_checkpoint_tensors(folder, unet.layers, floats | dict(unet.floats), tables, unet.general, _time_network(path))
        for name in COMPONENT_FOLDERS if model.conditioning is None else (*COMPONENT_FOLDERS, *SECOND_FOLDERS):
            shutil.copytree(model.folder / name, folder / name, copy_function=shutil.copyfile)
        advance()
    golden = _write_golden(job, folder)
    entries = tuple(layer_entry(spec, layers.get(spec.name)) for spec in specs)
    manifest = CheckpointManifest(
        version=needed_version(entries, unet.softmax_bits, model.conditioning, unet.split_shortcuts),
        producer=f"s2p-mobile {__version__}",
        family=model.family.name,
        source=Source(name=model.name, unet_sha256=model.unet_sha256, unet_fp32_bytes=model.unet_fp32_bytes),
        method=method,
        recipe=job.recipe.model_dump(mode="json"),
        seed=job.seed,
        plan=job.plan,
        guidance=job.guidance,
        latents=model.latents,
        tokenizer=model.tokenizer_spec,
        unet_config=dict(model.unet_config),
        layers=entries,
        golden=golden,
        files=file_entries(folder, MANIFEST_NAME),
        softmax_bits=unet.softmax_bits,
        conditioning=model.conditioning,
        split_shortcuts=unet.split_shortcuts,
    )
    write_contract(folder / MANIFEST_NAME, manifest)
    return manifest


def _is_time_path(name: str) -> bool:
    return name.startswith(("time_embedding.", "time_proj.", "add_embedding.")) or ".time_emb_proj." in name


def _time_network(path: TimePath) -> dict[str, NDArray[np.float32]]:
    """What makes an SDXL prompt's table, but the rows that all prompts share; empty in other families."""
    state = {} if path.of_prompt is None else path.of_prompt.network.state_dict()
    return {name: value.numpy() for name, value in state.items() if name != "rows"}


def _write_golden(job: QuantizationJob, folder: Path) -> tuple[GoldenRun, ...]:
    (folder / "golden").mkdir()
    unet = float_unet(job.model, job.plan)
    prompts = golden_prompts(job.model)
    runs = []
    with job.progress.stage(GOLDEN_STAGE, len(prompts)) as advance:
        for index, text in enumerate(prompts):
            prompt = encode_prompt(job.model, text, job.seed + index + 1, job.guidance)
            latents = draw_latents(unet, job.plan, prompt, job.guidance, job.latent_shape)
            path = f"golden/{index + 1}.safetensors"
            write_tensors(
                folder / path,
                {
                    "token_ids": prompt.token_ids,
                    "text_embeddings": prompt.embeddings,
                    "initial_latents": initial_latents(job.plan, prompt.seed, job.latent_shape),
                    "fp_latents": latents,
                    "fp_image": job.model.decode(latents),
                }
                | ({} if prompt.pooled is None else {"pooled_text": prompt.pooled}),
            )
            runs.append(GoldenRun(id=str(index + 1), prompt=text, seed=prompt.seed, path=path))
            advance()
    return tuple(runs)


def checkpoint_stages(job: QuantizationJob) -> list[Stage]:
    """What :func:`write_checkpoint` announces and does."""
    prompts, calls = len(golden_prompts(job.model)), len(job.plan.calls)
    chunks = checkpoint_bytes(job.model.folder, job.model.family.folders) / _CHUNK
    writing = Piece("writing files", "chunk", chunks, _CHUNK, _write_a_chunk, on_host=True)
    golden = Passes(prompts * calls * job.branches, prompts * calls)
    return on_host([Stage(WRITING_STAGE, 1, work=(writing,)), Stage(GOLDEN_STAGE, prompts, (golden,))])


def _write_a_chunk(device: torch.device) -> Run:
    content = bytes(_CHUNK)

    def run() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
        hashlib.sha256(content).digest()

    return run
