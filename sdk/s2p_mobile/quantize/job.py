"""What a quantization method is given, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec, UNetStructure, layer_specs
from s2p_converters.core.grids import GeneralLayer
from s2p_mobile.quantize.bits import quantized_specs
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.sensitivity.result import Sensitivity
from s2p_mobile.quantize.stages import Counted, count_network
from s2p_mobile.sources.model import Model
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Progress, Silent

if TYPE_CHECKING:
    from s2p_mobile.quantize.preparation.likeness import Likeness


@dataclass(frozen=True)
class QuantizationJob:
    """Everything that decides a checkpoint.

    Attributes:
        prompts: calibration prompts; prompt k runs with seed ``seed + k``.
        guidance: classifier-free guidance; at or below 1 the batch is one.
        device: where networks run, see :func:`~s2p_mobile.sources.device.choose_device`.
        work: folder in which a method keeps what an interrupted run need not do again; None keeps nothing.
        resume: go on with the state in ``work``.
        latents: a finished latent data set to use instead of drawing one.
        like: what is taken over from a checkpoint of the same architecture instead of being searched for.
        compute: how networks lie in memory and compute.
        widths: of every quantized layer, to use instead of choosing them, so that methods can be compared under the same ones.
        sensitivity: of every layer, to use instead of measuring it (see :mod:`s2p_mobile.quantize.preparation.given_sensitivity`).
    """

    model: Model
    plan: SamplingPlan
    recipe: Recipe
    prompts: tuple[str, ...]
    guidance: float
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    device: str | torch.device = "auto"
    work: Path | None = None
    resume: bool = False
    latents: Path | None = None
    sensitivity: Sensitivity | None = None
    widths: Mapping[str, int] | None = None
    like: Likeness | None = None
    compute: ComputePlan = field(default_factory=ComputePlan)

    @property
    def structure(self) -> UNetStructure:
        """Of the U-Net that is quantized: the model's, with split shortcuts where the recipe says so."""
        return replace(self.model.structure, split_shortcuts=self.recipe.split_shortcuts)

    @property
    def branches(self) -> int:
        """Samples of a U-Net call: two with guidance."""
        return 2 if self.guidance > 1 else 1

    @property
    def layers(self) -> list[LayerSpec]:
        """The layers that the recipe quantizes, in the order in which they run."""
        return quantized_specs(layer_specs(self.structure), self.recipe)

    @property
    def counted(self) -> Counted:
        """Arithmetic of the U-Net that is quantized."""
        return count_network(self.structure, self.model.conditioner.tokens)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, C, H, W]"""
        return self.model.latent_shape


@dataclass(frozen=True)
class QuantizedUNet:
    """What a method makes.

    Attributes:
        layers: quantized layers with symmetric grids by name, in the order in which they run.
        floats: unquantized tensors that the method changed, by their diffusers name, float32.
        time_tables: ``<resnet>.time`` -> float32 [T, C_out] of the resnets whose rows the method changed.
        general: quantized layers with other grids by name, in the order in which they run.
        softmax_bits: bit-width of attention's softmax; None leaves it in float.
        split_shortcuts: see :class:`UNetStructure`.
    """

    layers: Mapping[str, QuantizedLayer]
    floats: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    time_tables: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    general: Mapping[str, GeneralLayer] = field(default_factory=dict)
    softmax_bits: int | None = None
    split_shortcuts: bool = False
