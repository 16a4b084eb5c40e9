"""``s2p.json``, the manifest of an S2P checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from s2p_converters.core.graph.denoiser import denoiser_of
from s2p_converters.core.graph.operators import LayerSpec
from s2p_converters.core.graph.structure import UNetStructure, layer_specs
from s2p_converters.core.grids import MAX_ACTIVATION_BITS, GeneralLayer, QuantizedLayer
from s2p_converters.core.packing import integer_range
from s2p_runtime.bundle import Conditioning, FileEntry, GoldenRun, LatentSpec, TokenizerSpec
from s2p_runtime.contract import Contract, GrowingContract
from s2p_runtime.plan import SamplingPlan

CHECKPOINT_FORMAT = "s2p-checkpoint"
CHECKPOINT_VERSION = 5
"""Written when shortcuts are split."""
ZERO_POINT_VERSION = 4
"""Written when activations have zero points while weights are symmetric."""
PROMPT_TABLE_VERSION = 3
"""Written for families whose time table belongs to the prompt (SDXL)."""
GENERAL_VERSION = 2
"""Written when there are other grids than symmetric ones."""
SYMMETRIC_VERSION = 1
"""Written when all grids are symmetric, so that older readers open these checkpoints too."""


class LayerEntry(GrowingContract):
    """One layer of the U-Net. ``weight_bits`` null: left in float by the recipe."""

    later_fields: ClassVar[tuple[str, ...]] = ("grid", "split", "quantizes_output", "activation_zero")

    name: str
    kind: Literal["conv", "linear"]
    weight_bits: int | None = Field(default=None, ge=2, le=8)
    activation_bits: int | None = Field(default=None, ge=2, le=8, description="narrowest of the calls; null: float activations")
    grid: Literal["symmetric", "affine", "palette"] = Field(default="symmetric", description="version 2")
    split: int | None = Field(default=None, ge=1, description="version 2: input channels of the first of two parts")
    quantizes_output: bool = Field(default=False, description="version 2: the output is rounded too")
    activation_zero: int = Field(default=0, description="version 4: the integer that stands for 0, on symmetric weight grids")

    @model_validator(mode="after")
    def _consistent(self) -> LayerEntry:
        if self.activation_zero:
            if self.activation_bits is None or self.grid != "symmetric":
                raise ValueError(f"layer {self.name} has a zero point of activations that it does not round on such a grid")
            low, high = integer_range(self.activation_bits)
            if not low <= self.activation_zero <= high:
                raise ValueError(f"layer {self.name} has a zero point outside {self.activation_bits} bits")
        if self.weight_bits is None and (self.activation_bits is not None or self.is_general):
            raise ValueError(f"layer {self.name} quantizes activations but not weights")
        if self.grid == "symmetric" and self.is_general:
            raise ValueError(f"layer {self.name} has a symmetric grid, which is neither split nor of the output")
        return self

    @property
    def is_general(self) -> bool:
        """Whether the layer needs version 2."""
        return self.grid != "symmetric" or self.split is not None or self.quantizes_output


def layer_entry(spec: LayerSpec, layer: QuantizedLayer | GeneralLayer | None) -> LayerEntry:
    """A layer's line in the manifest; None: left in float."""
    if layer is None:
        return LayerEntry(name=spec.name, kind=spec.kind)
    if isinstance(layer, QuantizedLayer):
        widths = (layer.weight_bits, layer.activation_bits)
        zero = layer.activation_zero
        return LayerEntry(
            name=spec.name, kind=spec.kind, weight_bits=widths[0], activation_bits=widths[1], activation_zero=zero
        )
    return LayerEntry(
        name=spec.name,
        kind=spec.kind,
        weight_bits=layer.weight_bits,
        activation_bits=layer.activation_bits,
        grid="palette" if layer.is_palette else "affine",
        split=layer.parts[0].channels if len(layer.parts) == 2 else None,
        quantizes_output=layer.output is not None,
    )


class Source(Contract):
    """Where the weights come from."""

    name: str
    unet_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    unet_fp32_bytes: int = Field(ge=0, description="parameters of the source U-Net at 4 bytes each")


class CheckpointManifest(GrowingContract):
    """``s2p.json``."""

    later_fields: ClassVar[tuple[str, ...]] = ("softmax_bits", "conditioning", "split_shortcuts")

    format: Literal["s2p-checkpoint"] = "s2p-checkpoint"
    version: int = GENERAL_VERSION
    producer: str
    family: str
    source: Source
    method: str
    recipe: dict[str, Any]
    seed: int = Field(ge=0)
    plan: SamplingPlan
    guidance: float
    latents: LatentSpec
    tokenizer: TokenizerSpec
    unet_config: dict[str, Any]
    layers: tuple[LayerEntry, ...] = Field(description="every layer, in the order in which they run")
    golden: tuple[GoldenRun, ...] = Field(
        description="FP runs: the tensors of a bundle's golden run without the quantized ones"
    )
    files: dict[str, FileEntry]
    softmax_bits: int | None = Field(
        default=None, ge=2, le=MAX_ACTIVATION_BITS, description="version 2: attention weights rounded to k / (2^bits - 1)"
    )

    conditioning: Conditioning | None = Field(default=None, description="version 3: families with two text encoders")
    split_shortcuts: bool = Field(default=False, description="version 5: shortcuts of up blocks are two convolutions")

    @model_validator(mode="after")
    def _features_of_the_version(self) -> CheckpointManifest:
        if self.version < 3 and self.conditioning is not None:
            raise ValueError("versions 1 and 2 have no conditioning")
        if self.version < 2 and self.needs_general_grids:
            raise ValueError("version 1 has symmetric grids only")
        if self.version < 4 and any(entry.activation_zero for entry in self.layers):
            raise ValueError("versions 1 to 3 have no zero points on symmetric weight grids")
        if self.version < 5 and self.split_shortcuts:
            raise ValueError("versions 1 to 4 have no split shortcuts")
        return self

    @property
    def structure(self) -> UNetStructure:
        """Of the U-Net.

        Raises:
            S2PError: an unknown kind of network, or a setting that its graph does not build.
        """
        return replace(denoiser_of(self.unet_config).structure(self.unet_config), split_shortcuts=self.split_shortcuts)

    @property
    def needs_general_grids(self) -> bool:
        """Whether the checkpoint holds what version 2 added."""
        return self.softmax_bits is not None or any(entry.is_general for entry in self.layers)

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


def needed_version(
    layers: Sequence[LayerEntry], softmax_bits: int | None, conditioning: Conditioning | None, split: bool
) -> int:
    """The oldest version that can say this, so that older readers open what they can."""
    if split:
        return CHECKPOINT_VERSION
    if any(entry.activation_zero for entry in layers):
        return ZERO_POINT_VERSION
    if conditioning is not None:
        return PROMPT_TABLE_VERSION
    general = softmax_bits is not None or any(entry.is_general for entry in layers)
    return GENERAL_VERSION if general else SYMMETRIC_VERSION
