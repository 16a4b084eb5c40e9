"""What runs a bundle's components on this machine."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Bundle

Array32 = NDArray[np.float32]
Compute = Literal["declared", "float64"]
COMPONENTS = ("text_encoder", "time_table", "unet", "vae_decoder")
"""In the order in which a picture needs them; ``time_table`` is SDXL's."""


def components_of(bundle: Bundle) -> tuple[str, ...]:
    """Those of :data:`COMPONENTS` that a bundle has."""
    return tuple(name for name in COMPONENTS if name != "time_table" or bundle.manifest.conditioning is not None)


class Backend(Protocol):
    """The components of a bundle as functions on arrays. Components are loaded at first use.

    Where a bundle draws several picture sizes, the latents' shape chooses the program.
    """

    def load(self, component: str) -> None:
        """Load one of :data:`COMPONENTS` now."""
        ...

    def describe(self, component: str) -> str:
        """What runs a component, for reports."""
        ...

    def start(self, threads: int | None = None) -> None:
        """Import the engine and let it use so many threads (None: it chooses), before anything is loaded.

        Raises:
            S2PError: the engine is missing, or cannot be told how many threads to use.
        """
        ...

    def encode_text(self, input_ids: NDArray[np.int32]) -> Array32:
        """int32 [1, N] -> float32 [1, N, D]."""
        ...

    def encode_pooled(self, input_ids: NDArray[np.int32], second_input_ids: NDArray[np.int32]) -> tuple[Array32, Array32]:
        """SDXL: token ids [1, N] for each text encoder -> hidden states [1, N, D], pooled text [1, P]."""
        ...

    def time_table(self, pooled: Array32, time_ids: Array32) -> Array32:
        """SDXL: pooled text [B, P], time ids [B, 6] -> time table [B, T, K]."""
        ...

    def predict(self, sample: Array32, step: int, embeddings: Array32, time_table: Array32 | None = None) -> Array32:
        """One U-Net call: scaled states [B, C, H, W], call index, embeddings [B, N, D], and with SDXL the prompt's time table
        [B, T, K] -> raw output [B, C, H, W]."""
        ...

    def decode(self, latents: Array32) -> Array32:
        """Scaled latents [1, C, H, W] -> image [1, 3, 8H, 8W] in [-1, 1]."""
        ...
