"""The components around a U-Net, which stay in float: what each takes and gives, and the network that its program must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import prompt_columns
from s2p_converters.core.graph.structure import TIME_IDS
from s2p_converters.core.reference import time_network
from s2p_converters.targets.float_modules import (
    decoder_module,
    encoder_module,
    image_shape,
    text_encoder_module,
    text_encoders_module,
)
from s2p_converters.targets.ports import branches, own_latents, tensor
from s2p_runtime.bundle import Conditioning, TokenizerSpec
from s2p_runtime.component import TensorSpec
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.conditioning.pooled_text import PooledTextConditioner
from s2p_runtime.conditioning.text import TextConditioner
from s2p_runtime.noise import gaussian

Array = NDArray[Any]
Array32 = NDArray[np.float32]
CHECK_SEED = 2024
"""Of the noise that programs are checked on when they are made."""


@dataclass(frozen=True)
class FloatComponent:
    """A network for a program of its own.

    Attributes:
        name: of the component in the manifest.
        title: for people.
        inputs, outputs: ports in the order of the network's arguments and results.
        load: makes the network in float32.
        check_inputs: makes inputs by name to compare program and network on.
        sources: folders of the checkpoint that hold all that the network is made of; none: it is made of the U-Net too.
        latents: height and width of the latents of a part of the VAE, whose precision is an option of its own; None: it is none.
        needs_float32: whether it loses its meaning in less, whatever the precision of other components is. Such a network is small,
            and compared in float64.
    """

    name: str
    title: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    load: Callable[[], nn.Module]
    check_inputs: Callable[[], dict[str, Array]]
    sources: tuple[str, ...] = ()
    latents: tuple[int, int] | None = None
    needs_float32: bool = False

    def call(self, module: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array32]:
        """Outputs of the network by name, rounded to float32; floats enter in the network's own precision."""
        dtype = next((p.dtype for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.float32)
        given = [torch.from_numpy(inputs[port.name]) for port in self.inputs]
        with torch.no_grad():
            results = module(*(value.to(dtype) if value.is_floating_point() else value for value in given))
        results = results if isinstance(results, tuple) else (results,)
        return {port.name: result.float().numpy() for port, result in zip(self.outputs, results, strict=True)}


class SourceNetworks:
    """The float components of a checkpoint in eager torch. Networks are made at first use."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        own = own_latents(checkpoint)
        parts = (*prompt_components(checkpoint), decoder_component(checkpoint, own), encoder_component(checkpoint, own))
        self._components = {component.name: component for component in parts}
        self._modules: dict[str, nn.Module] = {}

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, Array32]:
        """As :meth:`s2p_runtime.backends.Backend.run`, also of ``vae_decoder``."""
        part = self._components[component]
        if component not in self._modules:
            self._modules[component] = part.load()
        return part.call(self._modules[component], inputs)

    def decode(self, latents: Array32) -> Array32:
        """As :meth:`s2p_runtime.backends.Backend.decode`."""
        return self.run("vae_decoder", {"latents": latents})["image"]

    def encode(self, image: Array32) -> Array32:
        """As :meth:`s2p_runtime.backends.Backend.encode`."""
        return self.run("vae_encoder", {"image": image})["moments"]


def prompt_components(checkpoint: Checkpoint) -> tuple[FloatComponent, ...]:
    """What encodes prompts, in the order in which a prompt needs it; see :attr:`s2p_runtime.conditioning.Conditioner.components`."""
    return _PROMPT_COMPONENTS[conditioner_of(checkpoint.manifest).kind](checkpoint)


def decoder_component(checkpoint: Checkpoint, latents: tuple[int, int]) -> FloatComponent:
    """The VAE decoder for latents of a height and width: ``latents`` [1, C, h, w] -> ``image`` [1, 3, H, W]."""
    spec = checkpoint.manifest.latents
    shape = (1, spec.channels, *latents)
    return FloatComponent(
        "vae_decoder",
        "VAE decoder",
        (tensor("latents", shape),),
        (tensor("image", image_shape(checkpoint, latents)),),
        lambda: decoder_module(checkpoint),
        lambda: {"latents": spec.decoder_input(gaussian(CHECK_SEED, shape))},
        ("vae",),
        latents=latents,
    )


def encoder_component(checkpoint: Checkpoint, latents: tuple[int, int]) -> FloatComponent:
    """The VAE encoder for latents of a height and width: ``image`` [1, 3, H, W] -> ``moments`` [1, 2 C, h, w]."""
    shape = image_shape(checkpoint, latents)
    return FloatComponent(
        "vae_encoder",
        "VAE encoder",
        (tensor("image", shape),),
        (tensor("moments", (1, 2 * checkpoint.manifest.latents.channels, *latents)),),
        lambda: encoder_module(checkpoint),
        lambda: {"image": np.clip(gaussian(CHECK_SEED, shape) / 2, -1, 1).astype(np.float32)},
        ("vae",),
        latents=latents,
    )


_VAE_MAKERS = {"vae_decoder": decoder_component, "vae_encoder": encoder_component}
VAE_PARTS = tuple(_VAE_MAKERS)
"""Components that are parts of the VAE."""


def vae_part(checkpoint: Checkpoint, name: str, latents: tuple[int, int]) -> FloatComponent:
    """The part of the VAE of a name, for latents of a height and width."""
    return _VAE_MAKERS[name](checkpoint, latents)


def _text(checkpoint: Checkpoint) -> tuple[FloatComponent, ...]:
    """``input_ids`` int32 [1, N] -> ``last_hidden_state`` [1, N, D]."""
    spec = checkpoint.manifest.tokenizer
    tokens = spec.max_length
    encoder = FloatComponent(
        "text_encoder",
        "text encoder",
        (tensor("input_ids", (1, tokens), "int32"),),
        (tensor("last_hidden_state", (1, tokens, checkpoint.structure.context_dim)),),
        lambda: text_encoder_module(checkpoint),
        lambda: {"input_ids": _check_ids(spec)},
        ("text_encoder",),
    )
    return (encoder,)


def _pooled_text(checkpoint: Checkpoint) -> tuple[FloatComponent, ...]:
    """Both text encoders as one program, and the network of the prompt's time table. See :class:`PooledTextConditioner`."""
    manifest, structure = checkpoint.manifest, checkpoint.structure
    spec, conditioning = manifest.tokenizer, manifest.conditioning
    assert structure.text_time is not None and conditioning is not None
    tokens, pooled, batch = spec.max_length, structure.text_time.pooled_dim, branches(checkpoint)
    encoders = FloatComponent(
        "text_encoder",
        "text encoder",
        tuple(tensor(name, (1, tokens), "int32") for name in ("input_ids", "second_input_ids")),
        (tensor("hidden_states", (1, tokens, structure.context_dim)), tensor("pooled_text", (1, pooled))),
        lambda: text_encoders_module(checkpoint),
        lambda: _check_id_pair(spec, conditioning),
        ("text_encoder", "text_encoder_2"),
    )
    table = FloatComponent(
        "time_table",
        "time table",
        (tensor("pooled_text", (batch, pooled)), tensor("time_ids", (batch, TIME_IDS))),
        (tensor("time_table", (batch, len(manifest.plan.calls), sum(prompt_columns(structure).values()))),),
        # A time id of 1024 times a frequency is an angle whose float16 neighbours are 1 apart (0.06 at 100): its sine would be noise.
        lambda: time_network(checkpoint).float(),
        lambda: {
            "pooled_text": gaussian(CHECK_SEED, (batch, pooled)),
            "time_ids": np.tile(np.array([conditioning.time_ids], np.float32), (batch, 1)),
        },
        needs_float32=True,
    )
    return encoders, table


_PROMPT_COMPONENTS: Mapping[str, Callable[[Checkpoint], tuple[FloatComponent, ...]]] = {
    TextConditioner.kind: _text,
    PooledTextConditioner.kind: _pooled_text,
}
"""By the kind of conditioning."""


def _check_ids(spec: TokenizerSpec) -> NDArray[np.int32]:
    """A framed text of many different tokens, int32 [1, N]."""
    ids = np.full((1, spec.max_length), spec.pad_id, np.int32)
    ids[0, 0] = spec.bos_id
    ids[0, 1 : spec.max_length - 1] = np.arange(spec.max_length - 2) * 37 % min(spec.bos_id, spec.eos_id)
    ids[0, -1] = spec.eos_id
    return ids


def _check_id_pair(spec: TokenizerSpec, conditioning: Conditioning) -> dict[str, Array]:
    return {"input_ids": _check_ids(spec), "second_input_ids": _check_ids(conditioning.second_tokenizer)}
