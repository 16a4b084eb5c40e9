"""Checkpoint -> ExecuTorch bundle, checked before it is handed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint, require_symmetric
from s2p_converters.core.graph.splitting import check_count
from s2p_converters.core.reference import streamed_reference_unet, time_network
from s2p_converters.targets.assembly import Outcome, copy_tokenizer, split_names, write_golden, write_manifest
from s2p_converters.targets.executorch.archive import packed_bytes
from s2p_converters.targets.executorch.components import (
    ComponentInfo,
    convert_text_encoder,
    convert_time_table,
    convert_unet,
    convert_vae_decoder,
    eager_component,
    program_constants,
)
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.split_unet import convert_chunks
from s2p_converters.targets.float_components import decoder_module, text_encoder_module, text_encoders_module
from s2p_converters.targets.prompt_programs import Array32, EncodeText, PromptPrograms
from s2p_converters.targets.sizes import check_sizes, latent_shapes, picture_sizes, write_size_calls
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.errors import CheckFailed
from s2p_runtime.executorch import DEFAULT_METHOD, ExecuTorchBackend
from s2p_runtime.pictures import relative_error
from s2p_runtime.progress import Progress
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tensors import read_tensors

FLOAT_TOLERANCE = 1e-4
"""Text encoder and VAE decoder against the float32 source model: the same arithmetic in another order (measured 3e-7, 4e-6)."""


def convert_checkpoint(checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, progress: Progress) -> BundleManifest:
    """Write a bundle into an empty folder.

    Raises:
        S2PError: grids that programs do not compute; a component cannot be lowered.
        CheckFailed: an emitted program does not hold or compute what it should.
    """
    require_symmetric(checkpoint)
    check_count(checkpoint.structure, options.chunks)
    sizes = picture_sizes(checkpoint, options.sizes)
    shapes = latent_shapes(sizes, DEFAULT_METHOD)
    steps: dict[str, Callable[[Path], ComponentInfo]] = {
        "text_encoder": lambda path: convert_text_encoder(checkpoint, path, options),
        "vae_decoder": lambda path: convert_vae_decoder(checkpoint, path, options, shapes),
    }
    if checkpoint.manifest.conditioning is not None:
        steps["time_table"] = lambda path: convert_time_table(checkpoint, path, options)
    converted: dict[str, ComponentInfo] = {}
    for name, convert in steps.items():
        with progress.stage(name.replace("_", " "), 1) as advance:
            converted[name] = convert(folder / f"{name}.pte")
            advance()
    with progress.stage("unet", 1) as advance:
        if options.chunks == 1:
            info = convert_unet(checkpoint, folder / "unet.pte", options, shapes)
            unet, layers = {"unet": info.component}, info.layers
        else:
            chunks = convert_chunks(checkpoint, folder, options)
            unet, layers = chunks.components, chunks.layers
        advance()
    outcome = Outcome(
        prompt=_prompt_programs(checkpoint),
        reference=streamed_reference_unet(checkpoint, program_constants(options)),
        decode=eager_component(decoder_module(checkpoint)),
    )
    if options.backend == "xnnpack":
        _check_floats(checkpoint, outcome, folder)
    tokenizer = copy_tokenizer(checkpoint, folder)
    golden = write_golden(checkpoint, outcome, folder, progress)
    write_size_calls(checkpoint, outcome, sizes, folder, progress)
    components = {name: info.component for name, info in converted.items()} | unet
    download = sum(packed_bytes((folder / component.path).read_bytes(), layers) for component in unet.values())
    manifest = write_manifest(
        checkpoint, folder, "executorch", components, layers, golden, download, tokenizer, sizes, split_names(unet)
    )
    if len(sizes) > 1:
        bundle = Bundle(folder, manifest)
        check_sizes(bundle, ExecuTorchBackend(bundle))
    return manifest


@torch.no_grad()
def _prompt_programs(checkpoint: Checkpoint) -> EncodeText | PromptPrograms:
    """The programs around the U-Net in eager torch."""
    if checkpoint.manifest.conditioning is None:
        return eager_component(text_encoder_module(checkpoint))
    encoders, network = text_encoders_module(checkpoint), time_network(checkpoint).float()

    def encode(*token_ids: NDArray[np.int32]) -> tuple[Array32, Array32]:
        with torch.no_grad():
            hidden, pooled = encoders(*map(torch.from_numpy, token_ids))
        return hidden.numpy(), pooled.numpy()

    def time_table(pooled: Array32, time_ids: Array32) -> Array32:
        with torch.no_grad():
            table: Array32 = network(torch.from_numpy(pooled), torch.from_numpy(time_ids)).numpy()
        return table

    return PromptPrograms(encode, time_table)


def _check_floats(checkpoint: Checkpoint, outcome: Outcome, folder: Path) -> None:
    with quiet_import():
        from executorch.runtime import Runtime

    fp = read_tensors(checkpoint.folder / checkpoint.manifest.golden[0].path)
    latents = checkpoint.manifest.latents.decoder_input(fp["fp_latents"])
    ids = fp["token_ids"][-1:]
    conditioning = checkpoint.manifest.conditioning
    cases: list[tuple[str, list[NDArray[Any]], list[Array32]]] = [("vae_decoder", [latents], [outcome.decode(latents)])]
    if not isinstance(outcome.prompt, PromptPrograms):
        cases.append(("text_encoder", [ids], [outcome.prompt(ids)]))
    elif conditioning is not None:
        both = [ids, conditioning.second_token_ids(ids, checkpoint.manifest.tokenizer.eos_id)]
        # What the source model itself made of the prompt, not these modules.
        cases.append(("text_encoder", both, [fp["text_embeddings"][-1:], fp["pooled_text"][-1:]]))
        given = [fp["pooled_text"], np.tile(np.array([conditioning.time_ids], np.float32), (len(fp["pooled_text"]), 1))]
        exact = time_network(checkpoint)(*(torch.from_numpy(value).double() for value in given)).numpy()
        cases.append(("time_table", given, [exact]))
    for name, inputs, expected in cases:
        with quiet_import():
            program = Runtime.get().load_program((folder / f"{name}.pte").read_bytes())
            outputs = program.load_method("forward").execute([torch.from_numpy(value) for value in inputs])
            got = [output.numpy().copy() for output in outputs]
        error = max(relative_error(found, wanted) for found, wanted in zip(got, expected, strict=True))
        if not error <= FLOAT_TOLERANCE:
            raise CheckFailed(f"the emitted {name} differs from its source (relative error {error:.2e})", "report the model")
