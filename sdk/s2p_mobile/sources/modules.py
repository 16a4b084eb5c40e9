"""One component of a diffusers folder: its configuration, its weights, and whether they can be used."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from s2p_converters.core.json_object import MAX_CONFIG_BYTES, json_text
from s2p_converters.core.variants import weights_variant
from s2p_mobile.sources.origin import file_title, title
from s2p_mobile.sources.unused_keys import is_unused
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_AGAIN = "export the model again with diffusers"


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        limit: bytes; a larger file is refused.

    Raises:
        S2PError: missing, unreadable, too large, not an object.
    """
    try:
        value = json.loads(json_text(path, file_title(path), limit, _AGAIN))
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{file_title(path)} is not readable JSON ({error})", _AGAIN) from error
    if not isinstance(value, dict):
        raise S2PError(f"{file_title(path)} is not a JSON object", _AGAIN)
    return value


def load_module(kind: Any, folder: Path) -> Any:
    """Load a diffusers or transformers module offline in float32.

    Raises:
        S2PError: files damaged or of another model, a key that the module does not take, a weight of another shape than the
            configuration makes (both are given), or one that is infinite or not a number (its name is given).
    """
    shown = title(folder)
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
                # Both libraries then say which, transformers says it in no other way; it is refused below.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        text = str(error).strip().replace(str(folder), shown)
        reason = text.split(". ")[0].splitlines()[0] if text else type(error).__name__
        raise S2PError(f"{shown} cannot be loaded ({reason})", _AGAIN) from error
    if others := sorted((name, list(found), list(own)) for name, found, own in report["mismatched_keys"]):
        name, found, own = others[0]
        more = f", and {len(others) - 1} more weights of other shapes" if len(others) > 1 else ""
        raise S2PError(f"{shown} has {name} as {found}, where its config.json makes it {own}{more}", _AGAIN)
    # transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise S2PError(f"{shown} lacks the weight {missing[0]}", _AGAIN)
    # Both libraries drop what a module does not take and only warn; the picture would be another model's.
    if left := sorted(key for key in report["unexpected_keys"] if not is_unused(key)):
        more = f" and {len(left) - 1} more weights" if len(left) > 1 else ""
        raise S2PError(
            f"{shown} has {left[0]}{more}, which a {kind.__name__} of its config.json does not take",
            _AGAIN,
        )
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "an infinity"
            raise S2PError(f"{shown} has {what} in {name}", "get the weights in float32, where they did not overflow")
    return module.eval().requires_grad_(False)
