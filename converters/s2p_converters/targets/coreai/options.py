"""What the Core AI target can be asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from s2p_converters.targets.options import TargetOptions
from s2p_runtime.errors import S2PError

FOLDER = "Resources"
"""Folder of a bundle that an app hands to the Swift package of apple/coreai-models."""
FILES = {"text_encoder": "TextEncoder.aimodel", "unet": "Unet.aimodel", "vae_decoder": "VAEDecoder.aimodel"}
"""What that package calls the programs."""


class CoreAIOptions(TargetOptions):
    """Options of the Core AI target. ``layout``: ``coreai-models`` names files and ports as the Swift package of apple/coreai-models
    looks for them, and takes the GPU's form unless a compute unit is given."""

    precision: Literal["fp16", "fp32"] = Field("fp16", description="of U-Net and text encoder")
    vae_precision: Literal["fp16", "fp32"] = Field(
        "fp32", title="VAE precision", description="of the VAE; fp16 makes some overflow to black pictures"
    )
    compute_unit: Literal["neural-engine", "gpu", "all"] = Field(
        "neural-engine",
        title="compute unit",
        description="where the programs are meant to run, beside the CPU; gpu where the layout is coreai-models",
    )
    weights: Literal["auto", "palette", "integers"] = Field(
        "auto",
        title="form of weights",
        description="look-up tables or packed integers; auto takes the smaller for each layer",
        json_schema_extra={"unet_only": True},
    )
    activations: Literal["int8", "float"] = Field(
        "int8", description="inputs of quantized layers", json_schema_extra={"unet_only": True}
    )
    layout: Literal["s2p", "coreai-models"] = Field(
        "s2p", description="names and shapes; coreai-models is for apps on the Swift package of apple/coreai-models"
    )

    @model_validator(mode="before")
    @classmethod
    def _unit_of_layout(cls, given: Any) -> Any:
        # CoreAIDiffusionModelFunction.swift of that package loads every program for the GPU.
        if isinstance(given, dict) and given.get("layout") == "coreai-models":
            return {"compute_unit": "gpu", **given}
        return given

    @model_validator(mode="after")
    def _go_together(self) -> CoreAIOptions:
        if self.chunks != 1 and self.size:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.layout == "coreai-models" and (self.size or self.chunks != 1):
            raise S2PError(
                "the Swift package of apple/coreai-models runs one U-Net at one size",
                "convert with `layout=s2p`, or leave `size` and `chunks` out",
                "layout",
            )
        if self.layout == "coreai-models" and self.image_to_image:
            raise S2PError(
                "the Swift package of apple/coreai-models draws from noise only",
                "convert with `layout=s2p`, or leave `image_to_image` out",
                "image_to_image",
            )
        return self

    @property
    def half(self) -> bool:
        """Whether the U-Net computes in float16."""
        return self.precision == "fp16"

    @property
    def form(self) -> Literal["channels-first", "tokens"]:
        """How the states of the transformers lie: [B, C, 1, N] with split attention for the Neural Engine, [B, N, C] for the GPU."""
        return "tokens" if self.compute_unit == "gpu" else "channels-first"

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations are rounded."""
        return self.activations == "int8"
