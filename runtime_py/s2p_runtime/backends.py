"""What runs a bundle's components on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]
Compute = Literal["declared", "float64"]


class Backend(Protocol):
    """The components of a bundle as functions on arrays. Components are loaded at first use.

    Where a bundle draws several picture sizes, the latents' shape chooses the program.
    """

    def load(self, component: str) -> None:
        """Load a component now: one of :func:`s2p_runtime.conditioning.components_of`."""
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

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Array32]:
        """One call of a component that encodes prompts: inputs by name -> outputs by name, as the manifest has them."""
        ...

    def predict(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> Array32:
        """One U-Net call.

        Args:
            sample: scaled states [B, C, H, W].
            step: index of the call.
            conditions: :attr:`s2p_runtime.conditioning.Conditions.inputs`, [B, ...] each.

        Returns:
            Raw output [B, C, H, W].
        """
        ...

    def decode(self, latents: Array32) -> Array32:
        """Scaled latents [1, C, H, W] -> image [1, 3, 8H, 8W] in [-1, 1]."""
        ...

    def encode(self, image: Array32) -> Array32:
        """Image [1, 3, 8H, 8W] in [-1, 1] -> moments of its latents [1, 2 C, H, W], means before log variances.

        Raises:
            S2PError: the bundle has no ``vae_encoder``.
        """
        ...
