"""What cannot become a program for Snapdragon's NPU, refused before anything is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch.qnn.components import LARGEST_ID
from s2p_converters.targets.executorch.qnn.layers import WIDE
from s2p_converters.targets.ports import branches, own_latents
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.engine import require_engine
from s2p_runtime.hosts.executorch.qnn.socs import soc_named

if TYPE_CHECKING:
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

ADDRESS_SPACE = 2 << 30
"""Bytes of weights of one program at most: contexts live in an address space of 32 bits with everything else that they need."""
LARGEST_WORK = 2e11
"""Weights times positions of a call that the emulator is asked for as a matter of course; the demo model has 10^10."""
_XNNPACK = "use `backend=xnnpack`, which computes it"


def check_conversion(checkpoint: Checkpoint, options: ExecuTorchOptions) -> None:
    """Refuse a conversion.

    Raises:
        S2PError: Qualcomm's packages are missing or do not exist for this machine, an unknown chip, a grid that the chip cannot
            hold, no 8-bit activations where they are asked for, time ids out of reach, or a program beyond the chip's address space.
    """
    require_engine()
    for name in options.socs:
        soc_named(name)
    for name, layer in checkpoint.layers.items():
        if layer.weight_bits > WIDE:
            raise S2PError(
                f"layer {name} has {layer.weight_bits}-bit weights, and the chip multiplies 4 or 8", _XNNPACK, "backend"
            )
    if options.activations == "uint8" and not any(
        layer.activation_scale is not None and layer.activation_bits == 8 for layer in checkpoint.layers.values()
    ):
        raise S2PError("`activations=uint8`: this checkpoint has no 8-bit activations", "leave it out", "activations")
    conditioning = checkpoint.manifest.conditioning
    if conditioning is not None and any(not 0 <= each <= LARGEST_ID or each % 1 for each in conditioning.time_ids):
        raise S2PError(
            f"time ids {', '.join(f'{each:g}' for each in conditioning.time_ids)} do not fit the chip's float16",
            f"quantize for a picture size of up to {LARGEST_ID} pixels", "size",
        )  # fmt: skip
    size = sum(layer.spec.weights * (4 if layer.weight_bits <= 4 else 8) // 8 for layer in checkpoint.layers.values())
    if size > options.chunks * ADDRESS_SPACE:
        raise S2PError(
            f"the U-Net's {size / 2**30:.1f} GiB do not fit the chip's address space in {options.chunks} programs",
            f"pass `chunks={math.ceil(size / ADDRESS_SPACE) + 1}`", "chunks",
        )  # fmt: skip


def is_large(checkpoint: Checkpoint, component: str) -> bool:
    """Whether one call takes the emulator many minutes: of the U-Net by its weights and positions, of the VAE by its pixels."""
    height, width = own_latents(checkpoint)
    if component == "unet":
        return branches(checkpoint) * height * width * sum(spec.weights for spec in checkpoint.specs) > LARGEST_WORK
    return component in ("vae_decoder", "vae_encoder") and height * width > 32 * 32
