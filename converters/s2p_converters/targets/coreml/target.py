"""Checkpoint -> Core ML bundle, checked before it is handed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint, require_symmetric
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.graph.splitting import check_count
from s2p_converters.core.reference import streamed_reference_unet, time_network
from s2p_converters.targets.assembly import (
    Array32,
    Outcome,
    copy_tokenizer,
    folder_bytes,
    reference_call,
    split_names,
    write_golden,
    write_manifest,
)
from s2p_converters.targets.coreml.apple import as_the_pipeline_calls
from s2p_converters.targets.coreml.apple_pipeline import pipeline_settings
from s2p_converters.targets.coreml.components import (
    convert_text_encoder,
    convert_time_table,
    convert_unet,
    convert_vae_decoder,
    program_constants,
)
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.split_unet import convert_chunks
from s2p_converters.targets.float_components import decoder_module, text_encoder_module
from s2p_converters.targets.prompt_programs import EncodeText, PromptPrograms, condition_tensors
from s2p_converters.targets.sizes import check_sizes, latent_shapes, picture_sizes, write_size_calls
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.chunks import run_programs, unet_interface
from s2p_runtime.component import Component
from s2p_runtime.errors import CheckFailed
from s2p_runtime.feeds import decoder_feeds, text_feeds, unet_feeds
from s2p_runtime.fingerprint import write_fingerprint
from s2p_runtime.mil import Program, load_program
from s2p_runtime.mil_backend import DEFAULT_FUNCTION, InterpreterBackend
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error
from s2p_runtime.progress import Progress
from s2p_runtime.tensors import read_tensors

_SELF_CHECK_SEED = 2024
UNET_TOLERANCE = 1e-6
"""Program in float64 against the reference in float64: only the rounding of results to float32 (6e-8) remains."""
FLOAT_TOLERANCE = {"fp16": 2e-2, "fp32": 1e-4}
"""Text encoder and VAE decoder, program in float64 against the float32 source model. fp16 weights differ by up to 2^-11
(4.9e-4) each and a dozen layers amplify that; fp32 leaves the source model's own rounding."""


def convert_checkpoint(checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, progress: Progress) -> BundleManifest:
    """Write a bundle into an empty folder.

    Every program is evaluated by the reference interpreter: the U-Net must equal the reference of the same integers, the
    other components must equal the source model within their precision.

    Raises:
        S2PError: grids that programs do not compute, a layer can overflow float16, a conversion fails, or Apple's pipeline cannot
            draw with this model.
        CheckFailed: an emitted program does not compute what it should.
    """
    if options.layout == "apple":
        pipeline_settings(checkpoint)
    require_symmetric(checkpoint)
    check_count(checkpoint.structure, options.chunks)
    sizes = picture_sizes(checkpoint, options.sizes)
    shapes = latent_shapes(sizes, DEFAULT_FUNCTION)
    functions = {shape: function for function, shape in shapes.items()}
    with progress.stage("text encoder", 1) as advance:
        text = convert_text_encoder(checkpoint, options, folder)
        advance()
    with progress.stage("VAE decoder", 1) as advance:
        vae = convert_vae_decoder(checkpoint, options, folder, shapes)
        advance()
    with progress.stage("U-Net", 1) as advance:
        if options.chunks == 1:
            whole = convert_unet(checkpoint, options, folder, shapes)
            unet, layers = {"unet": whole.component}, whole.layers
        else:
            chunks = convert_chunks(checkpoint, options, folder)
            unet, layers = chunks.components, chunks.layers
        advance()
    components = {**unet, "text_encoder": text, "vae_decoder": vae}
    if checkpoint.manifest.conditioning is not None:
        components["time_table"] = convert_time_table(checkpoint, options, folder)
    programs = {name: load_program(folder / component.path) for name, component in components.items()}
    reference = streamed_reference_unet(checkpoint, program_constants(options))
    if options.layout == "apple":
        as_the_pipeline_calls(reference, checkpoint.manifest.plan.timesteps)
    with progress.stage("self-check", 3) as advance:
        _check_unet(checkpoint, unet, programs, reference)
        advance()
        prompt = _prompt_programs(programs, text)
        if isinstance(prompt, PromptPrograms):
            _check_prompt(checkpoint, prompt, options)
        else:
            _check_text_encoder(checkpoint, text, programs["text_encoder"], options)
        advance()
        for shape, function in functions.items():
            _check_decoder(checkpoint, vae, programs["vae_decoder"], options, shape, function)
        advance()
    outcome = Outcome(
        prompt=prompt,
        reference=reference,
        decode=lambda latents: _run(programs["vae_decoder"], decoder_feeds(vae, latents), functions[latents.shape[-2:]]),
    )
    tokenizer = copy_tokenizer(checkpoint, folder, options.tokenizer_folder)
    golden = write_golden(checkpoint, outcome, folder, progress)
    write_size_calls(checkpoint, outcome, sizes, folder, progress)
    write_fingerprint(folder, {name: component.path for name, component in components.items()})
    download = sum(folder_bytes(folder / component.path) for component in unet.values())
    manifest = write_manifest(
        checkpoint, folder, "coreml", components, layers, golden, download, tokenizer, sizes, split_names(unet)
    )
    if len(sizes) > 1:
        bundle = Bundle(folder, manifest)
        check_sizes(bundle, InterpreterBackend(bundle, "float64"))
    return manifest


def _run(program: Program, feeds: dict[str, NDArray[Any]], function: str = DEFAULT_FUNCTION) -> Array32:
    return next(iter(program.run(feeds, compute="float64", function=function).values())).astype(np.float32)


def _prompt_programs(programs: Mapping[str, Program], text: Component) -> EncodeText | PromptPrograms:
    """The programs around the U-Net as functions on arrays."""
    if "time_table" not in programs:
        return lambda ids: _run(programs["text_encoder"], text_feeds(text, ids))

    def encode(input_ids: NDArray[np.int32], second_input_ids: NDArray[np.int32]) -> tuple[Array32, Array32]:
        feeds = {"input_ids": input_ids, "second_input_ids": second_input_ids}
        found = programs["text_encoder"].run(feeds, compute="float64")
        return found["hidden_states"].astype(np.float32), found["pooled_text"].astype(np.float32)

    def time_table(pooled: Array32, time_ids: Array32) -> Array32:
        return _run(programs["time_table"], {"pooled_text": pooled, "time_ids": time_ids})

    return PromptPrograms(encode, time_table)


@torch.no_grad()
def _check_prompt(checkpoint: Checkpoint, prompt: PromptPrograms, options: CoreMLOptions) -> None:
    """SDXL: the text encoders against what the source model made of a golden prompt, the time table against the float64 network."""
    fp = read_tensors(checkpoint.folder / checkpoint.manifest.golden[0].path)
    found = condition_tensors(checkpoint, prompt, fp["token_ids"])
    for name in ("text_embeddings", "pooled_text"):
        _demand("text encoder", relative_error(found[name], fp[name]), FLOAT_TOLERANCE[options.precision])
    inputs = (torch.from_numpy(found[name]).double() for name in ("pooled_text", "time_ids"))
    expected = time_network(checkpoint)(*inputs).float().numpy()
    _demand("time table", relative_error(found["time_table"], expected), UNET_TOLERANCE)


def _demand(component: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise CheckFailed(
            f"the emitted {component} differs from its reference (relative error {error:.2e}, allowed {tolerance:.0e})",
            "please report the model and the options",
        )


def _check_unet(
    checkpoint: Checkpoint, unet: Mapping[str, Component], programs: Mapping[str, Program], reference: StepUNet
) -> None:
    component = unet_interface(unet)
    sample = gaussian(_SELF_CHECK_SEED, component.inputs[0].shape)
    tokens = checkpoint.manifest.tokenizer.max_length
    embeddings = gaussian(_SELF_CHECK_SEED, (sample.shape[0], tokens, checkpoint.structure.context_dim), stream=1)
    call = len(checkpoint.manifest.plan.calls) // 2
    feeds = unet_feeds(component, checkpoint.manifest.plan, sample, call, embeddings)
    ports = {port.name: port for port in component.inputs}
    table = gaussian(_SELF_CHECK_SEED, ports["time_table"].shape, stream=2) if "time_table" in ports else None
    feeds |= {} if table is None else {"time_table": table}
    found = run_programs(unet, feeds, lambda name, given: programs[name].run(given, compute="float64")).astype(np.float32)
    _demand("U-Net", relative_error(found, reference_call(reference, sample, call, embeddings, table)), UNET_TOLERANCE)


@torch.no_grad()
def _torch_output(module: nn.Module, value: NDArray[Any]) -> Array32:
    output: Array32 = module(torch.from_numpy(value)).float().numpy()
    return output


def _check_text_encoder(checkpoint: Checkpoint, component: Component, program: Program, options: CoreMLOptions) -> None:
    spec = checkpoint.manifest.tokenizer
    ids = np.full((1, spec.max_length), spec.pad_id, np.int32)
    ids[0, 0] = spec.bos_id
    ids[0, 1 : spec.max_length - 1] = np.arange(spec.max_length - 2) * 37 % min(spec.bos_id, spec.eos_id)
    ids[0, -1] = spec.eos_id
    expected = _torch_output(text_encoder_module(checkpoint), ids)
    error = relative_error(_run(program, text_feeds(component, ids)), expected)
    _demand("text encoder", error, FLOAT_TOLERANCE[options.precision])


def _check_decoder(
    checkpoint: Checkpoint,
    component: Component,
    program: Program,
    options: CoreMLOptions,
    shape: tuple[int, int],
    function: str,
) -> None:
    latents = checkpoint.manifest.latents
    value = latents.decoder_input(gaussian(_SELF_CHECK_SEED, (1, latents.channels, *shape)))
    found = _run(program, decoder_feeds(component, value), function)
    error = relative_error(found, _torch_output(decoder_module(checkpoint), value))
    _demand("VAE decoder", error, FLOAT_TOLERANCE[options.vae_precision])
