"""Models in GGUF, as stable-diffusion.cpp writes them: numbers as diffusers dequantizes them.

A GGUF file is a single file in other clothes: its keys are the original ones. It is read so that a model that exists in no other
form can be used; its rounding is part of the picture, as it is in stable-diffusion.cpp.
"""

from __future__ import annotations

from pathlib import Path

import torch

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


def read_gguf(path: Path) -> dict[str, torch.Tensor]:
    """All tensors: float32 and float16 as they are, quantized ones as float16 or float32, whatever their scales have.

    Raises:
        S2PError: the package ``gguf`` is not installed, a damaged file, a quantization that diffusers does not know.
    """
    try:
        with quiet_import():
            import gguf  # noqa: F401  (diffusers uses it)
    except ImportError as error:
        raise S2PError(
            f"{path} is a GGUF file, and the package that reads those is not installed",
            "pip install 's2p-mobile[gguf]', or give the .safetensors file that it was made from",
        ) from error
    try:
        with quiet_import():
            from diffusers.models.model_loading_utils import load_gguf_checkpoint
            from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

            found = load_gguf_checkpoint(str(path))
            return {name: dequantize_gguf_tensor(tensor).detach() for name, tensor in found.items()}
    # The reader trusts the numbers in the file's head; damage shows as whatever numpy makes of them.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise S2PError(f"{path} cannot be read as GGUF ({reason})", "get the file again") from error
