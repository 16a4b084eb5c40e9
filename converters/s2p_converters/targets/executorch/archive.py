"""Writes the download form of an ExecuTorch bundle: one ``.s2pmobile.zip`` in which 4-bit integers take 4 bits.

XNNPACK has no 4-bit convolution, so such weights rest in the .pte one to a byte. The archive stores these stretches two to
a byte; :mod:`s2p_runtime.archive` puts them back and arrives at the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2p_converters.core.packing import integer_range, pack_nibbles
from s2p_converters.targets.archives import LEVEL, write_members
from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.xnnpack.inspection import read_program
from s2p_converters.targets.executorch.xnnpack.operators import FOUR_BITS
from s2p_runtime.archive import NIBBLES_SUFFIX, REST_SUFFIX
from s2p_runtime.bundle import Bundle, LayerSummary
from s2p_runtime.files import list_files


@dataclass(frozen=True)
class SplitProgram:
    """A .pte taken apart.

    Attributes:
        regions: (offset, length) in the program of the stretches that are packed, ascending, not overlapping.
        rest: the program without them.
        nibbles: the stretches, each packed on its own.
    """

    regions: tuple[tuple[int, int], ...]
    rest: bytes
    nibbles: bytes


def split_program(data: bytes, layers: Iterable[LayerSummary]) -> SplitProgram:
    """Find the int8 filters of layers of at most four bits and pack them."""
    names = [layer.name for layer in layers]
    narrow = {layer.name for layer in layers if layer.weight_bits <= FOUR_BITS}
    low, high = integer_range(FOUR_BITS)
    regions: dict[int, int] = {}
    for node in read_program(data).layers:
        if not node.place or names[node.place - 1] not in narrow or node.datatypes[1] != "qcint8":
            continue
        integers = np.frombuffer(node.filter_bytes, np.int8)
        offset = data.find(node.filter_bytes)
        if offset >= 0 and integers.min() >= low and integers.max() <= high:
            regions[offset] = len(node.filter_bytes)
    rest, nibbles, position, kept = [], [], 0, []
    for offset, length in sorted(regions.items()):
        if offset < position:  # the same bytes inside of a longer stretch
            continue
        rest.append(data[position:offset])
        nibbles.append(pack_nibbles(np.frombuffer(data, np.int8, length, offset)).tobytes())
        kept.append((offset, length))
        position = offset + length
    rest.append(data[position:])
    return SplitProgram(tuple(kept), b"".join(rest), b"".join(nibbles))


def packed_bytes(data: bytes, layers: Iterable[LayerSummary]) -> int:
    """Bytes of a U-Net program in the download form."""
    split = split_program(data, tuple(layers))
    return len(zlib.compress(split.rest, LEVEL)) + len(zlib.compress(split.nibbles, LEVEL))


def write_archive(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the download form of a bundle.

    Raises:
        S2PError: ``path`` exists and ``force`` is false.
    """
    packing = {name for name, delegate in DELEGATES.items() if delegate.packs}
    unet = bundle.manifest.unet_programs.values()
    programs = [part.path for part in unet if part.backend.split(" ")[0] in packing]
    packed: dict[str, list[tuple[int, int]]] = {}
    members: dict[str, bytes] = {}
    for name in list_files(bundle.folder):
        data = (bundle.folder / name).read_bytes()
        if name in programs:
            split = split_program(data, bundle.manifest.quantization.layers)
            packed[name] = list(split.regions)
            members[name + REST_SUFFIX], members[name + NIBBLES_SUFFIX] = split.rest, split.nibbles
        else:
            members[name] = data
    write_members(path, sorted(members.items()), packed, deflated=True, force=force)
