"""Weights in eight-bit floating point, plain or with a scale, as the numbers that they stand for.

Spellings of ComfyUI: ``<layer>.scale_weight`` with a tensor ``scaled_fp8`` in the file, later ``<layer>.weight_scale`` with
``<layer>.comfy_quant``. The weight is the product. ``scale_input`` and ``input_scale`` only serve multiplications in eight bits.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from s2p_runtime.errors import S2PError

_SCALES = (".scale_weight", ".weight_scale")
_OF_INPUTS = (".scale_input", ".input_scale")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def plain_numbers(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights without scales: products as float32, plain eight-bit ones as float16, which holds each of them exactly.

    Args:
        path: of the file, for messages.
        tensors: of any shapes; what has to do with scales is left out of the result.

    Raises:
        S2PError: a scale of another shape than one number or one an output channel, or a format other than eight-bit floats.
    """
    plain: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if key.endswith(".comfy_quant"):
            _require_fp8(path, key, value)
        elif key.endswith(_SCALES) and _layer(key) in tensors:
            continue
        elif not (key.endswith(_OF_INPUTS) or key.rpartition(".")[2] == "scaled_fp8"):
            plain[key] = value.half() if value.dtype in _FP8 else value
    for key, scale in tensors.items():
        if key.endswith(_SCALES) and (layer := _layer(key)) in tensors:
            weight = tensors[layer].float()
            if scale.numel() not in (1, len(weight)):
                raise S2PError(f"{path} has {key} of shape {list(scale.shape)} for {list(weight.shape)}", "get the file again")
            plain[layer] = weight * scale.float().reshape(-1, *[1] * (weight.dim() - 1))
    return plain


def _layer(key: str) -> str:
    return f"{key.rpartition('.')[0]}.weight"


def _require_fp8(path: Path, key: str, value: torch.Tensor) -> None:
    """The tensor holds JSON, a byte a number."""
    try:
        found = json.loads(bytes(value.to(torch.uint8).flatten().tolist()))["format"]
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise S2PError(f"{path} has {key}, which is not readable ({error})", "get the file again") from error
    if not str(found).startswith("float8_"):
        raise S2PError(f"{path} is quantized to {found} ({key})", "get it in float16, bfloat16, float32 or eight-bit floats")
