"""What one call of a program takes: arithmetic and bytes, counted and not measured."""

from __future__ import annotations

from pydantic import Field

from s2p_runtime.contract import Contract


class Workload(Contract):
    """One program.

    Operations are those of products (convolutions, linear layers, attention); a multiplication and an addition are two.
    """

    program: str = Field(description="component of a bundle, or unet")
    unet: bool = Field(description="whether it is the U-Net, or one of several programs that are")
    batch: int = Field(description="samples that go through in a call")
    integer_operations: int = Field(description="of 8-bit activations with weights that rest as linear integers")
    palette_operations: int = Field(description="of 8-bit activations with weights from a look-up table")
    float_operations: int = Field(description="all others")
    weight_bytes: int = Field(description="of all constants, as stored")
    activation_bytes: int = Field(
        description="read and written by layers with weights, each once; all between them, scores of attention too, stays on the chip"
    )
    runs: int = Field(description="calls a picture")

    @property
    def operations(self) -> int:
        """All of them."""
        return self.integer_operations + self.palette_operations + self.float_operations
