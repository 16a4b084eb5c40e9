"""What the Core ML target can be asked for, and what each choice needs from the operating system."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from s2p_converters.targets.options import TargetOptions
from s2p_runtime.errors import S2PError

RESOURCES = "Resources"
"""Folder of a bundle that an app hands to Apple's pipeline, once its packages are compiled."""
_PACKAGES = {
    "s2p": {name: f"{name}.mlpackage" for name in ("text_encoder", "time_table", "unet", "vae_decoder")},
    "apple": {
        "text_encoder": f"{RESOURCES}/TextEncoder.mlpackage",
        "unet": f"{RESOURCES}/Unet.mlpackage",
        "vae_decoder": f"{RESOURCES}/VAEDecoder.mlpackage",
    },
}


class CoreMLOptions(TargetOptions):
    """Options of the Core ML target.

    ``palette``: ``per-tensor`` is one look-up table of scaled integers per layer with all real scales in one multiplication after it;
    ``per-channel`` (iOS18) one table per output channel that holds the scaled values. On iOS16, which has no quantize operator, int8
    activations are rounded to the same values in float. ``layout``: ``apple`` names ports and files as the Swift pipeline of
    apple/ml-stable-diffusion looks for them.
    """

    minimum_os: Literal["iOS16", "iOS17", "iOS18"] = Field(
        "iOS17", title="minimum OS", description="oldest system that runs it"
    )
    palette: Literal["per-tensor", "per-channel"] = Field(
        "per-tensor", description="look-up tables of weights; per-channel needs iOS18"
    )
    eight_bit: Literal["linear", "palette"] = Field(
        "linear", title="eight-bit form", description="how layers of more than 6 bits rest"
    )
    activations: Literal["int8", "float16"] = Field("int8", description="inputs of quantized layers")
    precision: Literal["fp16", "fp32"] = Field("fp16", description="of U-Net and text encoder")
    vae_precision: Literal["fp16", "fp32"] = Field(
        "fp32", title="VAE precision", description="of the VAE decoder; fp16 makes some overflow to black pictures"
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
        if self.chunks > 2 and self.layout == "apple":
            raise S2PError(
                "Apple's pipeline runs the U-Net whole or in two", f"pass `chunks=2` in place of {self.chunks}", "chunks"
            )
        return self

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations are rounded at all."""
        return self.activations == "int8"

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
