"""What runs the bundles of one target on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.component import Component


class Host(ABC):
    """One target's engine here. A host is made without its engine; only :meth:`open` and what it opens need that.

    Attributes:
        target: name of the target, as manifests have it.
        title: for people.
        default_method: method (or function) of a program that has but one, and of the own picture size where there are several.
        exact: whether ``open(bundle, "float64")`` evaluates the programs in double. Such a backend stays on a recorded trajectory,
            so whole loops may be compared, and what it computes is what a bundle's golden runs record of text encoders and decoder.
    """

    target: ClassVar[str]
    title: ClassVar[str]
    default_method: ClassVar[str]
    exact: ClassVar[bool] = False

    @abstractmethod
    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """A backend for a bundle of this target.

        Args:
            compute: ``float64`` for an exact evaluation where the host has one; others compute as the programs do.
            release_chunks: where the U-Net is several programs, load each for every call and let go of it.

        Raises:
            S2PError: this engine cannot run the bundle.
        """

    @abstractmethod
    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """Largest relative error of a component at equal inputs, computed as by ``open(bundle, "float64")``, for ``verify``."""

    def record_constants(self, folder: Path, components: Mapping[str, Component]) -> None:  # noqa: B027  (nothing is a valid record)
        """Write into a bundle that is being made what :meth:`altered_constants` will compare with; by default nothing."""

    def altered_constants(self, bundle: Bundle) -> tuple[str, ...]:
        """Names of constants that are not those that the bundle was made with; by default nothing is known of them.

        Raises:
            S2PError: the record in the bundle is unreadable.
        """
        return ()
