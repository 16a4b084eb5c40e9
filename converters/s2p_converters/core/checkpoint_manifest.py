"""``s2p.json``, the manifest of an S2P checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from s2p_converters.core.graph.denoiser import denoiser_of
from s2p_converters.core.graph.operators import LayerSpec
from s2p_converters.core.graph.structure import UNetStructure, layer_specs
from s2p_converters.core.grids import MAX_ACTIVATION_BITS, GeneralLayer, QuantizedLayer
from s2p_converters.core.packing import integer_range
from s2p_runtime.bundle import Conditioning, FileEntry, GoldenRun, LatentSpec, TokenizerSpec
from s2p_runtime.contract import Contract
from s2p_runtime.plan import SamplingPlan

CHECKPOINT_FORMAT: Final = "s2p-checkpoint"
CHECKPOINT_VERSION: Final = 1


class LayerEntry(Contract):
    """One layer of the U-Net. ``weight_bits`` null: left in float by the recipe."""

    name: str
    kind: Literal["conv", "linear"]
    weight_bits: int | None = Field(ge=2, le=8, description="null: float")
    activation_bits: int | None = Field(ge=2, le=8, description="narrowest of the calls; null: float activations")
    grid: Literal["symmetric", "affine", "palette"] | None = Field(description="of the weights; null: float")
    split: int | None = Field(ge=1, description="input channels of the first of two parts; null: one part")
    quantizes_output: bool = Field(description="the output is rounded too")
    activation_zero: int = Field(
        description="the integer that stands for 0 in the activations of a symmetric layer, the same at all calls; else 0"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LayerEntry:
        if (self.grid is None) != (self.weight_bits is None):
            raise ValueError(f"layer {self.name} has a grid without weight bits, or weight bits without a grid")
        if self.activation_zero:
            if self.activation_bits is None or self.grid != "symmetric":
                raise ValueError(f"layer {self.name} has a zero point of activations that it does not round on such a grid")
            low, high = integer_range(self.activation_bits)
            if not low <= self.activation_zero <= high:
                raise ValueError(f"layer {self.name} has a zero point outside {self.activation_bits} bits")
        if self.grid is None and (self.activation_bits is not None or self.split is not None or self.quantizes_output):
            raise ValueError(f"layer {self.name} quantizes activations but not weights")
        if self.grid == "symmetric" and self.is_general:
            raise ValueError(f"layer {self.name} has a symmetric grid, which is neither split nor of the output")
        return self

    @property
    def is_general(self) -> bool:
        """Whether the layer's grids are other than symmetric: a :class:`GeneralLayer`."""
        return self.grid in ("affine", "palette") or self.split is not None or self.quantizes_output


def layer_entry(spec: LayerSpec, layer: QuantizedLayer | GeneralLayer | None) -> LayerEntry:
    """A layer's line in the manifest; None: left in float."""
    entry = LayerEntry(
        name=spec.name,
        kind=spec.kind,
        weight_bits=None,
        activation_bits=None,
        grid=None,
        split=None,
        quantizes_output=False,
        activation_zero=0,
    )
    if layer is None:
        return entry
    changes: dict[str, Any] = {"weight_bits": layer.weight_bits, "activation_bits": layer.activation_bits}
    if isinstance(layer, QuantizedLayer):
        changes |= {"grid": "symmetric", "activation_zero": layer.activation_zero}
    else:
        changes |= {
            "grid": "palette" if layer.is_palette else "affine",
            "split": layer.parts[0].channels if len(layer.parts) == 2 else None,
            "quantizes_output": layer.output is not None,
        }
    return LayerEntry.model_validate(entry.model_dump() | changes)


class Source(Contract):
    """Where the weights come from."""

    name: str
    unet_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the source U-Net's weights")
    text_sha256: tuple[str, ...] = Field(description="of weights and configuration of each text encoder")
    embedded_guidance: float | None = Field(description="of a latent consistency model, in its time path; null: none")
    unet_fp32_bytes: int = Field(ge=0, description="parameters of the source U-Net at 4 bytes each")


class CheckpointManifest(Contract):
    """``s2p.json``."""

    format: Literal["s2p-checkpoint"] = CHECKPOINT_FORMAT
    version: Literal[1] = CHECKPOINT_VERSION
    producer: str = Field(description="program and version that wrote the checkpoint")
    family: str
    source: Source
    method: str
    recipe: dict[str, Any] = Field(description="every setting of the recipe, in the form of recipe files")
    seed: int = Field(ge=0)
    plan: SamplingPlan
    guidance: float = Field(description="1.0 or less: no classifier-free guidance")
    latents: LatentSpec
    tokenizer: TokenizerSpec
    conditioning: Conditioning | None = Field(description="null: one time table serves all prompts")
    unet_config: dict[str, Any] = Field(description="configuration of the source U-Net in diffusers' form")
    split_shortcuts: bool = Field(description="shortcuts of up blocks are two convolutions, on the state and on the skip")
    softmax_bits: int | None = Field(
        ge=2, le=MAX_ACTIVATION_BITS, description="attention weights are rounded to k / (2^bits - 1); null: they are not"
    )
    layers: tuple[LayerEntry, ...] = Field(description="every layer, in the order in which they run")
    golden: tuple[GoldenRun, ...] = Field(
        description="FP runs: the tensors of a bundle's golden run without the quantized ones"
    )
    files: dict[str, FileEntry] = Field(description="every file of the checkpoint but s2p.json, by relative path")

    @property
    def structure(self) -> UNetStructure:
        """Of the U-Net.

        Raises:
            S2PError: an unknown kind of network, or a setting that its graph does not build.
        """
        return replace(denoiser_of(self.unet_config).structure(self.unet_config), split_shortcuts=self.split_shortcuts)

    @property
    def title(self) -> str:
        """Model, method and recipe in a few words."""
        return f"{self.source.name} ({self.method}, {self.recipe.get('name', 'own recipe')})"

    @property
    def layer_counts(self) -> dict[str, int]:
        """Number of layers per weight width, ``float`` for the unquantized; 4 and 8 are always there."""
        counts = {"4": 0, "8": 0, "float": 0}
        for entry in self.layers:
            key = "float" if entry.weight_bits is None else str(entry.weight_bits)
            counts[key] = counts.get(key, 0) + 1
        return counts

    @property
    def average_weight_bits(self) -> float:
        """Bits per weight over the quantized layers."""
        specs = {spec.name: spec for spec in layer_specs(self.structure)}
        quantized = [(entry.weight_bits, specs[entry.name].weights) for entry in self.layers if entry.weight_bits is not None]
        total = sum(weights for _, weights in quantized)
        return sum(bits * weights for bits, weights in quantized) / total if total else 0.0
