"""What the Core ML target can be asked for, and what each choice needs from the operating system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2p_runtime.errors import S2PError

MINIMUM_OS = ("iOS16", "iOS17", "iOS18")
PALETTES = ("per-tensor", "per-channel")
EIGHT_BIT = ("linear", "palette")
ACTIVATIONS = ("int8", "float16")
PRECISIONS = ("fp16", "fp32")
LAYOUTS = ("s2p", "apple")

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


def _choose(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise S2PError(f"unknown {option} {value!r}", f"choose from {', '.join(known)}")


@dataclass(frozen=True)
class CoreMLOptions:
    """Options of the Core ML target.

    Attributes:
        minimum_os: deployment target.
        palette: ``per-tensor``, one look-up table of scaled integers per layer with all real scales in one multiplication
            after it; ``per-channel`` (iOS18), one table per output channel that holds the scaled values.
        eight_bit: how layers of more than 6 bits rest: ``linear`` (int8 and a scale) or ``palette`` (256 entries).
        activations: ``int8`` or ``float16``. On iOS16, which has no quantize operator, int8 activations are rounded to the same
            values in float.
        precision: of the U-Net and the text encoder.
        vae_precision: of the VAE decoder; fp16 makes some VAEs overflow to black pictures.
        layout: names and shapes at the programs' interface and their places: ``s2p``, or ``apple`` as the Swift pipeline of
            apple/ml-stable-diffusion calls them.
        chunks: into how many programs the U-Net is split, for devices that cannot hold the whole.
        sizes: (width, height) in pixels of pictures beside the checkpoint's own; the programs get a function for each (iOS18).
    """

    minimum_os: Literal["iOS16", "iOS17", "iOS18"] = "iOS17"
    palette: Literal["per-tensor", "per-channel"] = "per-tensor"
    eight_bit: Literal["linear", "palette"] = "linear"
    activations: Literal["int8", "float16"] = "int8"
    precision: Literal["fp16", "fp32"] = "fp16"
    vae_precision: Literal["fp16", "fp32"] = "fp32"
    layout: Literal["s2p", "apple"] = "s2p"
    chunks: int = 1
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _choose("minimum OS", self.minimum_os, MINIMUM_OS)
        _choose("palette", self.palette, PALETTES)
        _choose("eight-bit form", self.eight_bit, EIGHT_BIT)
        _choose("activations", self.activations, ACTIVATIONS)
        _choose("precision", self.precision, PRECISIONS)
        _choose("VAE precision", self.vae_precision, PRECISIONS)
        _choose("layout", self.layout, LAYOUTS)
        if self.palette == "per-channel" and self.minimum_os != "iOS18":
            raise S2PError(f"`palette=per-channel` needs iOS18, not {self.minimum_os}", "pass `minimum_os=iOS18`", "palette")
        if self.sizes and self.minimum_os != "iOS18":
            raise S2PError(
                f"`size` needs programs of several functions, which {self.minimum_os} lacks", "pass `minimum_os=iOS18`", "size"
            )
        if self.sizes and self.layout == "apple":
            raise S2PError("Apple's pipeline draws one size", "convert with `layout=s2p`, or leave `size` out", "layout")
        if self.chunks != 1 and self.sizes:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.chunks > 2 and self.layout == "apple":
            raise S2PError(
                "Apple's pipeline runs the U-Net whole or in two", f"pass `chunks=2` in place of {self.chunks}", "chunks"
            )

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations are rounded at all."""
        return self.activations == "int8"

    @property
    def has_quantize_operator(self) -> bool:
        """Whether the target has MIL's quantize and dequantize."""
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
