"""One component of a diffusers folder: its configuration, its weights, and whether they can be used."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        S2PError: missing, unreadable, not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise S2PError(f"{path} is not readable JSON ({error})", "export the model again with diffusers") from error
    if not isinstance(value, dict):
        raise S2PError(f"{path} is not a JSON object", "export the model again with diffusers")
    return value


def check_weights(folder: Path) -> None:
    """Raise :class:`S2PError` when a component has no ``.safetensors`` file."""
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise S2PError(
            f"{folder} has pickled weights only, which are never read", "save the model with safe_serialization=True first"
        )
    raise S2PError(f"{folder} has no .safetensors file", "export the model again with diffusers")


def weights_variant(folder: Path) -> str | None:
    """``fp16`` where a folder holds weights under that variant only, as downloads with ``variant="fp16"`` do."""
    names = [path.name for path in folder.glob("*.safetensors")]
    half = [name for name in names if ".fp16." in name or ".fp16-" in name]
    return "fp16" if half and len(half) == len(names) else None


def load_module(kind: Any, folder: Path) -> Any:
    """Load a diffusers or transformers module offline in float32.

    Raises:
        S2PError: files damaged or of another model, or a weight that is infinite or not a number (its name is given).
    """
    try:
        # Progress bars write to the stream object, which need not be descriptor 2.
        with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
            module, report = kind.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                variant=weights_variant(folder),
                output_loading_info=True,
            )
    except Exception as error:
        reason = str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
        raise S2PError(f"{folder} cannot be loaded ({reason})", "export the model again with diffusers") from error
    # transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise S2PError(f"{folder} lacks the weight {missing[0]}", "export the model again with diffusers")
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "an infinity"
            raise S2PError(f"{folder} has {what} in {name}", "get the weights in float32, where they did not overflow")
    return module.eval().requires_grad_(False)
