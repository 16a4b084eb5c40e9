"""Before anything is loaded: whether a model folder's weight files are there, are what they say, and lie in the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from s2p_mobile.sources.modules import read_json
from s2p_mobile.sources.origin import title
from s2p_mobile.sources.unpickle import PICKLES, refuse_pickle
from s2p_runtime.errors import S2PError

_AGAIN = "get the model again"
_INDEX_BYTES = 32 << 20
"""Of an index of shards; SDXL's has 0.2 MB."""


def check_weights(folder: Path) -> None:
    """Check a component's ``.safetensors`` files by their heads; no weight is read.

    Raises:
        S2PError: there is none, a head that is not true (sizes, places, overlaps), an index that leads out of the folder, or a
            configuration that says that the weights are quantized.
    """
    _refuse_quantized(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if any(folder.glob("*.bin")):
            raise refuse_pickle(folder.parent, f"{title(folder)} has pickled weights only")
        if other := [path.name for ending in PICKLES for path in folder.glob(f"*{ending}")]:
            raise S2PError(
                f"{title(folder)} has {other[0]}, under which neither diffusers nor transformers look for weights",
                "save the model with diffusers, as .safetensors",
            )
        raise S2PError(f"{title(folder)} has no .safetensors file", "export the model again with diffusers")
    for file in files:
        try:
            # The library holds every length and place against the file's size.
            with safe_open(file, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise S2PError(f"{file.name} of {title(folder)} cannot be read as safetensors ({error})", _AGAIN) from error
    for index in sorted(folder.glob("*.index*.json")):
        _check_index(folder, index)


def _refuse_quantized(folder: Path) -> None:
    """diffusers and transformers would look for the package that quantized, and draw with its kernels."""
    if not (folder / "config.json").is_file():
        return
    if told := read_json(folder / "config.json").get("quantization_config"):
        method = told.get("quant_method") if isinstance(told, dict) else None
        raise S2PError(
            f"{title(folder)} is quantized by {method or 'something that it does not name'} (quantization_config in config.json)",
            "give the model as it was before, in float16, bfloat16 or float32",
        )


def _check_index(folder: Path, index: Path) -> None:
    if index.stat().st_size > _INDEX_BYTES:
        raise S2PError(f"{index.name} of {title(folder)} is larger than {_INDEX_BYTES >> 20} MiB", _AGAIN)
    try:
        shards = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise S2PError(f"{index.name} of {title(folder)} is no index of shards", _AGAIN) from error
    for name in sorted(shards):
        if Path(name).name != name or "\\" in name or ":" in name:
            raise S2PError(f"{index.name} of {title(folder)} leads out of the folder ({name})", _AGAIN)
        if (
            index.name.startswith(("model.safetensors", "diffusion_pytorch_model.safetensors"))
            and not (folder / name).is_file()
        ):
            raise S2PError(f"{title(folder)} lacks {name}, which {index.name} names", _AGAIN)


def check_entries(folder: Path) -> None:
    """Refuse what is neither a file nor a folder, and links that lead out of a model's folder: what is read, and copied into
    checkpoints, is the model's own. To read a pipe would wait for ever.

    A snapshot in the Hugging Face cache is made of links into ``blobs`` beside it; these are the model's own too.

    Raises:
        S2PError: as described.
    """
    root = folder.resolve()
    homes = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    # os.walk does not follow links to folders; they are judged like all others.
    for place, folders, files in os.walk(folder):
        for entry in (Path(place) / name for name in (*folders, *files)):
            if entry.is_symlink():
                _check_link(entry, homes)
            if entry.exists() and not (entry.is_file() or entry.is_dir()):
                raise S2PError(f"{entry} is neither a file nor a folder", "put the file itself there")


def _check_link(entry: Path, homes: list[Path]) -> None:
    try:
        target = entry.resolve()
    except (OSError, RuntimeError) as error:  # a loop, as Python up to 3.12 tells it
        raise S2PError(f"{entry} is a link that leads nowhere ({error})", _AGAIN) from error
    if not any(target.is_relative_to(home) for home in homes):
        raise S2PError(f"{entry} is a link that leads out of the model's folder, to {target}", "put the file itself there")
