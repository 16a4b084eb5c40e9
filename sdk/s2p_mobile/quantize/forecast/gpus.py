"""Graphics processors that are not here: their peaks, and what of them is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2p_mobile.quantize.planning import Room
from s2p_mobile.quantize.stages.stage import Precision

UTILISATION = 0.3
"""Share of its peak that a GPU reaches in training a U-Net with fake quantization; diffusion training reaches 0.3 to 0.5 without."""
LAUNCH_SECONDS = 1e-5
"""What an operation takes on a GPU at least, however small: python, dispatch and the kernel's launch. It decides for small models."""


@dataclass(frozen=True)
class Gpu:
    """A device and its peak in floating-point operations a second, dense, as its maker states them.

    Attributes:
        half: of its half precisions.
        memory: bytes, as software sees them.
        bf16: one of its half precisions is bfloat16.
    """

    name: str
    fp32: float
    half: float
    memory: int
    kind: Literal["cuda", "mps"] = "cuda"
    bf16: bool = True

    def peak(self, precision: Precision) -> float:
        """Of an arithmetic."""
        return self.fp32 if precision == "fp32" else self.half

    @property
    def room(self) -> Room:
        """What of its memory is free; of a computer's own memory a quarter belongs to everything else."""
        return Room(self.kind, round(self.memory * (0.94 if self.kind == "cuda" else 0.75)), None, self.bf16)


GIB = 2**30
GPUS = (
    Gpu("NVIDIA T4 16 GB", 8.1e12, 65e12, 15 * GIB, bf16=False),
    Gpu("NVIDIA RTX 3090 24 GB", 35.6e12, 71e12, 24 * GIB),
    Gpu("NVIDIA RTX 4090 24 GB", 82.6e12, 165e12, 24 * GIB),
    Gpu("NVIDIA A100 40 GB", 19.5e12, 312e12, 40 * GIB),
    Gpu("NVIDIA H100 SXM 80 GB", 67e12, 989e12, 80 * GIB),
    Gpu("Apple M1 16 GB", 2.6e12, 2.6e12, 16 * GIB, "mps", bf16=False),
    Gpu("Apple M1 Max 32 GB", 10.4e12, 10.4e12, 32 * GIB, "mps", bf16=False),
)
"""Peaks that the makers state: NVIDIA's data sheets for fp32 outside of tensor cores and for half precisions on tensor cores without
sparsity; Apple's announcements of M1 and M1 Max, whose halves are counted as no faster."""
