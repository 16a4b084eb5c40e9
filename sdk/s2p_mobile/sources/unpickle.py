"""Pickled weights (``.ckpt``, ``.pt``, ``.pth``, ``.bin``): refused by default, since a pickle can run any code when it is opened.

torch's weights-only reader builds tensors and plain containers, and refuses everything else. As a program,
``python -m s2p_mobile.sources.unpickle MODEL`` reads so and writes ``.safetensors`` files beside the pickles.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from s2p_converters.core.variants import variant_of, weights_variant
from s2p_runtime.errors import S2PError, S2PWarning
from s2p_runtime.files import atomic_file

_MODULE = "s2p_mobile.sources.unpickle"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_SAFE = ".safetensors"
_SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that drawing does not need."""


def conversion(path: Path) -> str:
    """What to do with a pickle: the command that writes its weights as ``.safetensors``."""
    return f"write safetensors with: {shlex.quote(sys.executable)} -m {_MODULE} {shlex.quote(str(path))} (reads weights only)"


def refuse_pickle(path: Path, problem: str) -> S2PError:
    """The error for pickled weights, with the command that converts them.

    Args:
        path: file or model folder to convert.
        problem: what is wrong.
    """
    return S2PError(
        f"{problem}, and a pickle can run any code when it is opened",
        f"{conversion(path)}, or allow that reading here with `allow_pickle`",
        "allow_pickle",
    )


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, read by torch's weights-only reader.

    What is nested under ``state_dict`` is the model, as diffusers has it; beside it lie leftovers of training. An entry that is no
    tensor is given as an empty one, so that its name is accounted for.

    Raises:
        S2PError: damaged, or something else than weights in it (named).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    # Damage shows as whatever torch, zipfile or pickle make of it.
    except Exception as error:
        raise S2PError(f"{path} cannot be read as weights ({_reason(error)})", "get the model as .safetensors") from error
    while isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):
        # A textual inversion as its first programs wrote it: one word, whose name is not its own.
        words = content["string_to_param"]
        content = dict(zip(["emb_params"], words.values(), strict=True)) if len(words) == 1 else words
    if not isinstance(content, dict):
        raise S2PError(f"{path} holds a {type(content).__name__}, no weights by name", "get the model as .safetensors")
    return {str(name): value.detach() if isinstance(value, torch.Tensor) else torch.empty(0) for name, value in content.items()}


def _reason(error: Exception) -> str:
    """torch explains at length; what it would not build is what matters."""
    text = str(error)
    if found := re.search(r"(?:Unsupported (?:global: GLOBAL|class)|unsupported GLOBAL) ([\w.]+)", text):
        return f"it wants {found[1]}, which is no weight"
    lines = text.rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


def tell_of_pickle(path: Path) -> None:
    """Warn that a pickle is read, weights only."""
    warnings.warn(f"{path} is a pickle; only its weights were read (torch's weights-only reader)", S2PWarning, stacklevel=2)


def pickled_components(folder: Path) -> list[Path]:
    """Components of a model folder with pickled weights that have no safe twin, where these would be loaded."""
    return [part for part in sorted(folder.iterdir()) if part.is_dir() and part.name not in _SKIPPED and _is_pickled(part)]


def _is_pickled(part: Path) -> bool:
    safe = {file.name for file in part.glob(f"*{_SAFE}")}
    twins = {_safe_name(file.name) for file in _pickles(part)}
    # Safe files of other names are the component's own weights; some of these twins alone are what an interrupted conversion left.
    return bool(twins) and twins != safe and safe <= twins


def _pickles(part: Path) -> list[Path]:
    """The pickled weights of a component that would be loaded."""
    variant = weights_variant(part, ".bin")
    return [file for file in sorted(part.glob("*.bin")) if variant_of(file.name) == (variant or "")]


def write_unpickled(folder: Path, target: Path) -> None:
    """A copy of a model folder with safe weights in place of pickled ones; all else are links.

    Args:
        target: exists and is empty.

    Raises:
        S2PError: as :func:`read_pickle`.
    """
    pickled = pickled_components(folder)
    for entry in sorted(folder.iterdir()):
        if entry not in pickled:
            (target / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
            continue
        (target / entry.name).mkdir()
        for file in sorted(entry.iterdir()):
            if file.suffix != ".bin" and ".bin.index." not in file.name:
                (target / entry.name / file.name).symlink_to(file.resolve())
        for _ in _convert_component(entry, target / entry.name):
            pass


def _convert_component(folder: Path, target: Path) -> Iterator[Path]:
    """Write the weights that would be loaded, and the index of their shards, under the names of safe ones."""
    # The index first: a conversion that is interrupted leaves shards missing, and then goes on.
    for index in sorted(folder.glob("*.bin.index*.json")):
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            content["weight_map"] = {key: _safe_name(name) for key, name in content["weight_map"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise S2PError(f"{index} is no index of shards", "get the model again") from error
        with atomic_file(target / _safe_name(index.name), force=True) as scratch:
            scratch.write_text(json.dumps(content), encoding="utf-8")
    for file in _pickles(folder):
        if not (target / _safe_name(file.name)).exists():
            yield _convert_file(file, target / _safe_name(file.name))


def _safe_name(name: str) -> str:
    return re.sub(r"^pytorch_model", "model", name).replace(".bin", _SAFE)


def _convert_file(file: Path, target: Path) -> Path:
    if target.exists():
        raise S2PError(f"{target} is there already", "use it, or move it away first")
    with atomic_file(target) as scratch:
        save_file(_separate(read_pickle(file)), scratch, metadata={"format": "pt"})
    return target


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors takes only whole tensors of their own."""
    seen: set[int] = set()
    separate = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes and place not in seen
        seen.add(place)
        separate[name] = value if whole else value.clone(memory_format=torch.contiguous_format)
    return separate


def convert(path: Path) -> list[Path]:
    """Write ``.safetensors`` beside pickles: of a file, or of each component of a model folder.

    Returns:
        The files written.

    Raises:
        S2PError: nothing to convert, a file that exists already, and as :func:`read_pickle`.
    """
    if path.is_file():
        return [_convert_file(path, path.with_suffix(_SAFE))]
    found = pickled_components(path) if path.is_dir() else []
    if not found:
        raise S2PError(f"{path} has no pickled weights to convert", "give a .ckpt, .pt, .pth or .bin file, or a model folder")
    return [file for part in found for file in _convert_component(part, part)]


def main(arguments: list[str] | None = None) -> int:
    """The program: one path; prints what was written. Exit status 2 with one line on stderr when it cannot."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if len(given) != 1:
            raise S2PError("one path is needed", f"python -m {_MODULE} MODEL")
        for file in convert(Path(given[0])):
            print(f"wrote {file}")
    except S2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
