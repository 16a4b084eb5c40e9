"""Graphics processors that are not here: their peaks, and what of them is reached."""

from __future__ import annotations

from dataclasses import dataclass

UTILISATION = 0.3
"""Share of its peak that a GPU reaches in training a U-Net with fake quantization; diffusion training reaches 0.3 to 0.5 without."""
LAUNCH_SECONDS = 1e-5
"""What an operation takes on a GPU at least, however small: python, dispatch and the kernel's launch. It decides for small models."""


@dataclass(frozen=True)
class Gpu:
    """A device and its peak in floating-point operations a second, dense, as its maker states them."""

    name: str
    fp32: float
    bf16: float | None
    memory: int

    def peak(self, precision: str) -> float:
        """Of an arithmetic; fp32's where it has no other."""
        return self.bf16 if precision == "bf16" and self.bf16 is not None else self.fp32


GIB = 2**30
GPUS = (
    Gpu("NVIDIA T4 16 GB", 8.1e12, None, 16 * GIB),
    Gpu("NVIDIA RTX 3090 24 GB", 35.6e12, 71e12, 24 * GIB),
    Gpu("NVIDIA RTX 4090 24 GB", 82.6e12, 165e12, 24 * GIB),
    Gpu("NVIDIA A100 40 GB", 19.5e12, 312e12, 40 * GIB),
    Gpu("NVIDIA H100 SXM 80 GB", 67e12, 989e12, 80 * GIB),
)
"""Peaks of the vendor's data sheets: fp32 outside of tensor cores, bf16 on tensor cores without sparsity."""
