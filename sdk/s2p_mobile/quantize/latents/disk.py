"""Bytes of a latent set that does not exist yet."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from s2p_converters.core.graph import UNetStructure
from s2p_mobile.quantize.latents.manifest import (
    MANIFEST_NAME,
    SHARD_PROMPTS,
    LatentManifest,
    LatentRequest,
    Shard,
    shard_name,
)
from s2p_mobile.sources.families import ConditionSpec
from s2p_runtime import __version__
from s2p_runtime.bundle import FileEntry
from s2p_runtime.conditioning import tokenizer_specs
from s2p_runtime.contract import write_contract

TensorShape = tuple[str, tuple[int, ...]]
"""(``F32``, ``I32`` or ``F16``; shape)"""
_ITEM = {"F32": 4, "I32": 4, "F16": 2}
_CODES = {"float32": "F32", "int32": "I32", "float16": "F16"}


def safetensors_bytes(tensors: Mapping[str, TensorShape]) -> int:
    """Size of a safetensors file: 8 bytes of length, the JSON header filled up to a multiple of 8, the data.

    The library orders tensors by type (F32, I32, F16), then by name; offsets are part of the header.
    """
    order = list(_ITEM)
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        begin, end = end, end + _ITEM[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8 + end


def latent_set_bytes(
    request: LatentRequest, conditions: Sequence[ConditionSpec], features: Mapping[str, tuple[int, ...]]
) -> int:
    """Size of all files of a finished latent set.

    Args:
        conditions: what the denoiser is told about it.
        features: shape [B, C, H, W] of each stored block output.
    """
    latents, calls, branches = request.latents, len(request.plan.calls), request.branches
    image = (latents.channels, latents.height, latents.width)

    def text(count: int) -> dict[str, TensorShape]:
        told = {spec.name: (_CODES[spec.dtype], (count, *spec.shape)) for spec in conditions}
        ids = tokenizer_specs(request.tokenizer, request.conditioning)
        return {name: ("I32", (count, spec.max_length)) for name, spec in ids.items()} | told

    def shard(count: int) -> int:
        tensors: dict[str, TensorShape] = {
            "states": ("F32", (count, calls, *image)),
            "outputs": ("F32", (count, calls, branches, *image)),
            "final": ("F32", (count, *image)),
            "text_index": ("I32", (count, branches)),
            **text(count),
            **{f"feature.{name}": ("F16", (count, calls, *shape)) for name, shape in features.items()},
        }
        return safetensors_bytes(tensors)

    counts = [min(SHARD_PROMPTS, len(request.prompts) - first) for first in range(0, len(request.prompts), SHARD_PROMPTS)]
    sizes = {count: shard(count) for count in set(counts)}
    shards = tuple(
        Shard(file=shard_name(index), prompts=count, entry=FileEntry(sha256="0" * 64, bytes=sizes[count]))
        for index, count in enumerate(counts)
    )
    empty = FileEntry(sha256="0" * 64, bytes=safetensors_bytes(text(1))) if branches == 2 else None
    manifest = LatentManifest(
        producer=f"s2p-mobile {__version__}",
        request=request,
        unconditional=empty,
        shards=shards,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MANIFEST_NAME
        write_contract(path, manifest)
        described = path.stat().st_size
    return described + sum(sizes[count] for count in counts) + (0 if empty is None else empty.bytes)


def block_shapes(structure: UNetStructure, branches: int) -> dict[str, tuple[int, ...]]:
    """[B, C, H, W] of each block's output.

    Args:
        branches: B.
    """
    height, width = structure.sample_size
    shapes: dict[str, tuple[int, ...]] = {}
    for block in (*structure.down, *([structure.mid] if structure.mid else []), *structure.up):
        if block.resample and block.name.startswith("down"):
            height, width = (height + 1) // 2, (width + 1) // 2
        if block.resample and block.name.startswith("up"):
            height, width = height * 2, width * 2
        shapes[block.name] = (branches, block.resnets[-1][1], height, width)
    return shapes
