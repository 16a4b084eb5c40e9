"""What a user should know of a conversion to Core ML before it runs: where its options and the engine's rules part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from s2p_converters.targets.coreml.options import CoreMLOptions

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint

ENGINE_ROW = 32
"""float16 numbers in 64 bytes, to which the Neural Engine pads the last axis (apple/coreai-models, rules for authors)."""
_MOST_PADDING = 2


def advice(checkpoint: Checkpoint, options: CoreMLOptions) -> tuple[str, ...]:
    """Lines for people."""
    return tuple(_lines(checkpoint, options))


def _lines(checkpoint: Checkpoint, options: CoreMLOptions) -> Iterator[str]:
    if options.rounding_brings_no_speed:
        if options.quantizes_activations:
            yield f"the Neural Engine of {options.chip} multiplies int8 as it does float16: rounded activations bring no speed there"
        else:
            yield f"activations stay in float16: the Neural Engine of {options.chip} multiplies int8 no faster"
    elif options.quantizes_activations:
        yield from _about_integers(checkpoint, options)
    if options.form == "channels-first":
        yield from _about_padding(checkpoint, options)


def _about_integers(checkpoint: Checkpoint, options: CoreMLOptions) -> Iterator[str]:
    """Apple documents int8 by int8 for constant int8 weights, or tables of int8 entries, beside quantize and dequantize."""
    if not options.has_quantize_operator:
        yield f"{options.minimum_os} has no quantize operator; activations are rounded to the same 8-bit values in float"
    elif options.minimum_os == "iOS17":
        tables = sum(layer.weight_bits <= 6 or options.eight_bit == "palette" for layer in checkpoint.layers.values())
        if tables:
            yield (
                f"{tables} of {len(checkpoint.layers)} layers compute in float16: iOS17 has no look-up tables of int8, "
                "with which A17 Pro, M4 and later multiply int8 by int8; `minimum_os=iOS18` has"
            )


def _about_padding(checkpoint: Checkpoint, options: CoreMLOptions) -> Iterator[str]:
    """Sequences that the engine would pad beyond twice their length."""
    from s2p_converters.targets.sizes import picture_sizes

    for size in picture_sizes(checkpoint, options.size):
        for name, tokens in attention_lengths(checkpoint, (size.latent_height, size.latent_width)).items():
            padded = -(-tokens // ENGINE_ROW) * ENGINE_ROW
            if padded > _MOST_PADDING * tokens:
                yield (
                    f"at {size.width}x{size.height} the Neural Engine pads the {tokens} positions of {name} to {padded}: "
                    "draw larger pictures, or convert with `compute_unit=gpu`"
                )
                break


def attention_lengths(checkpoint: Checkpoint, latents: tuple[int, int]) -> dict[str, int]:
    """Positions that the transformers of each block see, for latents of a height and width."""
    height, width = latents
    found = {}
    structure = checkpoint.structure
    for block in structure.down:
        if block.attention_layers:
            found[block.name] = height * width
        if block.resample:
            height, width = -(-height // 2), -(-width // 2)
    if structure.mid is not None and structure.mid.attention_layers:
        found[structure.mid.name] = height * width
    return found
