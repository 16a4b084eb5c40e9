"""What the Core ML target can be asked for, and what each choice needs from the operating system."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from s2p_converters.targets.options import TargetOptions
from s2p_runtime.errors import S2PError

RESOURCES = "Resources"
"""Folder of a bundle that an app hands to Apple's pipeline, once its packages are compiled."""
_PACKAGES = {
    "s2p": {name: f"{name}.mlpackage" for name in ("text_encoder", "time_table", "unet", "vae_decoder", "vae_encoder")},
    "apple": {
        "text_encoder": f"{RESOURCES}/TextEncoder.mlpackage",
        "unet": f"{RESOURCES}/Unet.mlpackage",
        "vae_decoder": f"{RESOURCES}/VAEDecoder.mlpackage",
        "vae_encoder": f"{RESOURCES}/VAEEncoder.mlpackage",
    },
}


_INT8_IS_NO_FASTER = ("A14", "A15", "A16", "M1", "M2", "M3")
"""Their Neural Engines compute in float16. Apple names A17 Pro and M4 as the first to multiply int8 by int8: coremltools' guide,
"What's New", iOS 17."""


class CoreMLOptions(TargetOptions):
    """Options of the Core ML target.

    ``palette``: ``per-tensor`` is one look-up table of scaled integers per layer with all real scales in one multiplication after it;
    ``per-channel`` (iOS18) one table per output channel that holds the scaled values. On iOS16, which has no quantize operator, int8
    activations are rounded to the same values in float. ``layout``: ``apple`` names ports and files as the Swift pipeline of
    apple/ml-stable-diffusion looks for them.
    """

    minimum_os: Literal["iOS16", "iOS17", "iOS18"] = Field(
        "iOS18", title="minimum OS", description="oldest system that runs it"
    )
    palette: Literal["per-tensor", "per-channel"] = Field(
        "per-tensor",
        description="look-up tables of weights; per-channel needs iOS18",
        json_schema_extra={"unet_only": True},
    )
    eight_bit: Literal["linear", "palette"] = Field(
        "linear",
        title="eight-bit form",
        description="how layers of more than 6 bits rest",
        json_schema_extra={"unet_only": True},
    )
    activations: Literal["auto", "int8", "float16"] = Field(
        "auto",
        description="inputs of quantized layers; auto is int8 but for a `chip` that int8 does not speed up",
        json_schema_extra={"unet_only": True},
    )
    precision: Literal["fp16", "fp32"] = Field("fp16", description="of U-Net and text encoder")
    vae_precision: Literal["fp16", "fp32"] = Field(
        "fp32", title="VAE precision", description="of the VAE; fp16 makes some overflow to black pictures"
    )
    compute_unit: Literal["neural-engine", "gpu", "all"] = Field(
        "neural-engine", title="compute unit", description="where the programs are meant to run, beside the CPU"
    )
    attention: Literal["auto", "split", "split-chunked", "whole"] = Field(
        "auto",
        description="of the U-Net; split is for the Neural Engine, whole for the GPU",
        json_schema_extra={"unet_only": True},
    )
    chip: Literal["any", "A14", "A15", "A16", "A17Pro", "A18", "A19", "M1", "M2", "M3", "M4", "M5"] = Field(
        "any", description="the one kind of device that the bundle is for"
    )
    layout: Literal["s2p", "apple"] = Field(
        "s2p", description="names and shapes; apple is for apps on apple/ml-stable-diffusion's Swift pipeline"
    )

    @model_validator(mode="after")
    def _go_together(self) -> CoreMLOptions:
        if self.palette == "per-channel" and self.minimum_os != "iOS18":
            raise S2PError(f"`palette=per-channel` needs iOS18, not {self.minimum_os}", "pass `minimum_os=iOS18`", "palette")
        if self.size and self.minimum_os != "iOS18":
            raise S2PError(
                f"`size` needs programs of several functions, which {self.minimum_os} lacks", "pass `minimum_os=iOS18`", "size"
            )
        if self.size and self.layout == "apple":
            raise S2PError("Apple's pipeline draws one size", "convert with `layout=s2p`, or leave `size` out", "layout")
        if self.chunks != 1 and self.size:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.compute_unit == "neural-engine" and self.attention == "whole":
            raise S2PError(
                "`attention=whole` is not for the Neural Engine, which would leave it to other units",
                "pass `compute_unit=gpu` or `compute_unit=all` with it, or leave it out",
                "attention",
            )
        if self.chunks > 2 and self.layout == "apple":
            raise S2PError(
                "Apple's pipeline runs the U-Net whole or in two", f"pass `chunks=2` in place of {self.chunks}", "chunks"
            )
        return self

    @property
    def attention_form(self) -> Literal["split", "split-chunked", "whole"]:
        """The U-Net's attention: head by head, in chunks of queries too, or all heads at once."""
        if self.attention != "auto":
            return self.attention
        return "whole" if self.compute_unit == "gpu" else "split-chunked"

    @property
    def form(self) -> Literal["channels-first", "tokens"]:
        """How the states of the transformers lie: [B, C, 1, N] with split attention, [B, N, C] with whole."""
        return "tokens" if self.attention_form == "whole" else "channels-first"

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations are rounded at all."""
        return self.activation_form == "int8"

    @property
    def activation_form(self) -> Literal["int8", "float16"]:
        """What the inputs of quantized layers are: int8 unless one asks otherwise, or the chip multiplies int8 no faster."""
        if self.activations != "auto":
            return self.activations
        return "float16" if self.chip in _INT8_IS_NO_FASTER else "int8"

    @property
    def rounding_brings_no_speed(self) -> bool:
        """Whether the chip is known to multiply int8 as it does float16."""
        return self.chip in _INT8_IS_NO_FASTER

    @property
    def has_quantize_operator(self) -> bool:
        """Whether the system has MIL's quantize and dequantize."""
        return self.minimum_os != "iOS16"

    @property
    def packages(self) -> dict[str, str]:
        """Place of each component's .mlpackage in the bundle."""
        return dict(_PACKAGES[self.layout])

    def chunk_package(self, number: int) -> str:
        """Place of the U-Net's program ``number``, counted from 1, where there are several."""
        return f"unet_{number}.mlpackage" if self.layout == "s2p" else f"{RESOURCES}/UnetChunk{number}.mlpackage"

    @property
    def tokenizer_folder(self) -> str:
        """Place of vocabulary and merges in the bundle."""
        return "tokenizer" if self.layout == "s2p" else RESOURCES

    @property
    def per_channel(self) -> bool:
        """Whether weights carry their channel scale."""
        return self.palette == "per-channel"

    @property
    def half(self) -> bool:
        """Whether the U-Net computes in float16."""
        return self.precision == "fp16"
