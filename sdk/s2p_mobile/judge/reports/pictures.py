"""Pictures of golden runs: those that harnesses drew, and those of the bundle."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s2p_mobile.judge.reports.entries import Entry
from s2p_runtime.bundle import BUNDLE_FORMAT, BUNDLE_VERSION, MANIFEST_NAME, Bundle, BundleManifest, check_files
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.pictures import to_picture
from s2p_runtime.report import picture_path
from s2p_runtime.verify import read_golden

_PNG = b"\x89PNG\r\n\x1a\n"
_GOLDEN_ID = r"[a-z0-9-]+"
"""As in manifests. A report could name something else, which must not become a path."""
_LARGEST_PICTURE = 16 << 20
"""Bytes of a picture that is embedded."""


@dataclass(frozen=True)
class GoldenPictures:
    """A golden run of the bundle, as data URIs of PNG pictures."""

    prompt: str
    seed: int
    floating_point: str
    quantized: str


def data_uri(png: bytes) -> str:
    """A picture inside of the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def drawn_picture(entry: Entry, golden_id: str) -> str | None:
    """What the harness drew of a golden run, from the PNG beside its report; None when there is none."""
    if re.fullmatch(_GOLDEN_ID, golden_id) is None:
        return None
    try:
        with picture_path(entry.path, golden_id).open("rb") as handle:
            content = handle.read(_LARGEST_PICTURE + 1)
    except OSError:
        return None
    return data_uri(content) if content.startswith(_PNG) and len(content) <= _LARGEST_PICTURE else None


def find_golden_pictures(entries: Sequence[Entry], folders: Sequence[Path]) -> dict[tuple[str, str], GoldenPictures]:
    """Pictures of the golden runs that the reports name, by (bundle's SHA-256, golden id).

    Looks into the bundles given and into those that lie beside the reports.

    Raises:
        S2PError: a bundle given is damaged, or none of the reports is about it.
    """
    wanted = {(entry.report.bundle_sha256, one.golden_id) for entry in entries for one in entry.report.fidelity}
    digests = {entry.report.bundle_sha256 for entry in entries}
    found: dict[tuple[str, str], GoldenPictures] = {}
    for folder in folders:
        if not (folder / MANIFEST_NAME).is_file():
            raise S2PError(f"{folder} is no bundle", "give the folder that was measured with `bundles`", "bundles")
        if sha256_file(folder / MANIFEST_NAME) not in digests:
            raise S2PError(
                f"none of the reports is about {folder}", "give the bundle that was measured, or leave `bundles` out", "bundles"
            )
    beside = sorted({path.parent for entry in entries for path in entry.path.absolute().parent.glob(f"*/{MANIFEST_NAME}")})
    for folder in (*folders, *beside):
        digest = sha256_file(folder / MANIFEST_NAME)
        missing = {golden for sha, golden in wanted if sha == digest and (sha, golden) not in found}
        if not missing:
            continue
        manifest = read_contract(folder / MANIFEST_NAME, BundleManifest, BUNDLE_FORMAT, BUNDLE_VERSION)
        for run in manifest.golden:
            if run.id in missing:
                # Only this file is read, so only this file is checked: bundles can be large.
                check_files(folder, {run.path: manifest.files[run.path]})
                tensors = read_golden(Bundle(folder, manifest), run)
                pictures = [data_uri(_png(np.ascontiguousarray(to_picture(tensors[name])))) for name in ("fp_image", "image")]
                found[digest, run.id] = GoldenPictures(run.prompt, run.seed, *pictures)
    return found
