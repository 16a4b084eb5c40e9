"""Reading an ``.mlpackage`` folder: manifest, model message, blob files."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.files import inside
from s2p_runtime.hosts.coreml.mil.blob import BlobFile
from s2p_runtime.hosts.coreml.mil.graph import Function, read_function
from s2p_runtime.hosts.coreml.mil.schema import new_model
from s2p_runtime.hosts.coreml.mil.types import ElementType

_MODEL_PATH = "@model_path/"


def read_package(path: Path) -> dict[str, Function]:
    """All functions of the ML program in an ``.mlpackage``, by name. Weights stay in their memory-mapped files.

    Raises:
        S2PError: no package, no ML program, a damaged message, or paths that leave the package.
    """
    specification = _model_file(path)
    model = new_model()
    try:
        model.ParseFromString(specification.read_bytes())
    except OSError as error:
        raise S2PError(f"cannot read {specification}: {error.strerror}", "convert or copy the package again") from error
    except Exception as error:  # DecodeError's module differs between protobuf implementations
        raise S2PError(f"{specification} is not a Core ML model ({error})", "convert or copy the package again") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise S2PError(f"{path} holds no ML program", "convert the model with a target of iOS 16 or newer")
    blobs = _Blobs(specification.parent)
    functions = model.mlProgram.functions
    try:
        return {name: read_function(name, functions[name], blobs.read) for name in sorted(functions)}
    except (ValueError, OverflowError, TypeError) as error:
        raise S2PError(f"{path} is damaged ({error})", "convert or copy the package again") from error


def _model_file(path: Path) -> Path:
    """The model message's file: the manifest's root item."""
    if not path.is_dir():
        raise S2PError(f"{path} is not a folder", "give the path of an .mlpackage")
    manifest = path / "Manifest.json"
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        relative = entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise S2PError(
            f"{manifest} is missing or damaged", "give the path of an .mlpackage folder, or convert it again"
        ) from error
    return inside(path, str(PurePosixPath("Data") / str(relative)))


class _Blobs:
    """Blob files of a model, opened when first read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BlobFile] = {}

    def read(self, name: str, offset: int, element: ElementType, count: int) -> NDArray[Any]:
        if name not in self._open:
            if not name.startswith(_MODEL_PATH):
                raise S2PError(f"the program refers to weights at {name!r}, outside its package", "convert it again")
            self._open[name] = BlobFile(inside(self._folder, name.removeprefix(_MODEL_PATH)))
        return self._open[name].read(offset, element, count)
