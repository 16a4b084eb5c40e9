"""The manifest of a bundle that is being made, and the tokenizer in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2p_converters.core.checkpoint import MANIFEST_NAME as CHECKPOINT_MANIFEST
from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.protocol import ConvertedUNet
from s2p_runtime import __version__
from s2p_runtime.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    Conditioning,
    FileEntry,
    PictureSize,
    QuantizationSummary,
    TokenizerSpec,
)
from s2p_runtime.component import Component
from s2p_runtime.contract import write_contract
from s2p_runtime.files import list_files, sha256_file
from s2p_runtime.plan import ImageStart


def copy_tokenizers(checkpoint: Checkpoint, folder: Path, place: str) -> tuple[TokenizerSpec, Conditioning | None]:
    """Copy vocabulary and merges into the folder ``place`` of a bundle; returns the specifications that say so.

    The files of a second tokenizer lie in ``<place>_2``, unless they are those of the first.
    """
    manifest = checkpoint.manifest
    first = _copy_words(checkpoint, manifest.tokenizer, folder, place)
    if manifest.conditioning is None:
        return first, None
    second = _copy_words(checkpoint, manifest.conditioning.second_tokenizer, folder, f"{place}_2")
    if all(
        (folder / own).read_bytes() == (folder / other).read_bytes()
        for own, other in zip(_words(first), _words(second), strict=True)
    ):
        shutil.rmtree(folder / f"{place}_2")
        second = second.model_copy(update={"vocab": first.vocab, "merges": first.merges})
    return first, manifest.conditioning.model_copy(update={"second_tokenizer": second})


def _words(spec: TokenizerSpec) -> tuple[str, str]:
    return spec.vocab, spec.merges


def _copy_words(checkpoint: Checkpoint, spec: TokenizerSpec, folder: Path, place: str) -> TokenizerSpec:
    """Copy one tokenizer's files. The merges end with a line break, without which Apple's reader drops the last one."""
    (folder / place).mkdir(exist_ok=True)
    vocab, merges = f"{place}/vocab.json", f"{place}/merges.txt"
    shutil.copyfile(checkpoint.folder / spec.vocab, folder / vocab)
    text = (checkpoint.folder / spec.merges).read_bytes()
    (folder / merges).write_bytes(text if text.endswith(b"\n") else text + b"\n")
    return spec.model_copy(update={"vocab": vocab, "merges": merges})


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def draft_manifest(
    checkpoint: Checkpoint,
    target: str,
    folder: Path,
    unet: ConvertedUNet,
    others: Mapping[str, Component],
    sizes: tuple[PictureSize, ...],
    tokenizers: tuple[TokenizerSpec, Conditioning | None],
    download_bytes: int,
    starts: tuple[ImageStart, ...] | None,
) -> BundleManifest:
    """The manifest of a bundle without golden runs: enough for a host to run its programs, and not valid yet.

    Args:
        others: components besides the U-Net.
        tokenizers: what :func:`copy_tokenizers` returned.
        download_bytes: of the U-Net in the download form.
        starts: of runs from a picture, where the bundle has a VAE encoder.
    """
    source, chunks = checkpoint.manifest, tuple(unet.components) if tuple(unet.components) != ("unet",) else ()
    unet_bytes = sum(folder_bytes(folder / component.path) for component in unet.components.values())
    fields: dict[str, Any] = {
        "name": source.source.name,
        "family": source.family,
        "target": target,
        "producer": f"s2p-mobile {__version__}",
        "checkpoint_sha256": sha256_file(checkpoint.folder / CHECKPOINT_MANIFEST),
        "components": {**unet.components, **others},
        "chunks": chunks,
        "plan": source.plan,
        "image_starts": starts,
        "guidance": source.guidance,
        "latents": source.latents,
        "sizes": sizes,
        "tokenizer": tokenizers[0],
        "conditioning": tokenizers[1],
        "quantization": QuantizationSummary(
            method=source.method,
            recipe=str(source.recipe.get("name", "")),
            average_weight_bits=source.average_weight_bits,
            unet_bytes=unet_bytes,
            unet_download_bytes=download_bytes,
            unet_fp32_bytes=source.source.unet_fp32_bytes,
            layers=unet.layers,
        ),
        "golden": (),
        "files": _entries(folder, {}),
    }
    return BundleManifest.model_construct(**fields)


def write_manifest(draft: BundleManifest, folder: Path, **fields: Any) -> BundleManifest:
    """Complete a draft and write it, last of all: it lists every other file. Files that the draft lists have not changed since."""
    known = {name: getattr(draft, name) for name in BundleManifest.model_fields}
    manifest = BundleManifest(**{**known, **fields, "files": _entries(folder, draft.files)})
    write_contract(folder / MANIFEST_NAME, manifest)
    return manifest


def _entries(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Checksums of every file below a folder; reading the large ones again would take as long as writing them."""
    return {
        name: known.get(name) or FileEntry(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in list_files(folder)
    }
