"""What computes inside of a .pte: the delegates that this machine can run, and which executorch a program asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class RunnableDelegate:
    """A delegate of ExecuTorch's Python package.

    Attributes:
        others: largest relative error of a component at equal inputs.
        tolerances: of components that differ.
    """

    others: float
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def tolerance(self, component: str) -> float:
        """Largest relative error of a component at equal inputs."""
        return self.tolerances.get(component, self.others)


RUNNABLE = {"xnnpack": RunnableDelegate(1e-4, {"unet": 5e-2})}
"""By the first word of a component's ``backend``.

XNNPACK's kernels compute in float32. Float components then differ by summation order (3e-6 measured). In the U-Net a difference of
one unit in the last place flips some roundings of activations and moves the output by whole grid steps: torch itself in float32 is
up to 3.9e-2 away from torch in float64 over the calls of the demo model's golden run, and XNNPACK as far."""


def installed_version() -> str:
    """Version of the installed executorch.

    Raises:
        S2PError: it is not installed.
    """
    try:
        return version("executorch")
    except PackageNotFoundError:
        raise S2PError(
            "this bundle needs executorch, which is not installed", "run pip install 's2p-runtime[executorch]'"
        ) from None


def delegate_of(built_with: str, bundle: str) -> RunnableDelegate:
    """The delegate that a component was lowered to.

    Args:
        built_with: a component's ``backend``, e.g. ``xnnpack executorch 1.4.1``.
        bundle: its name, for messages.

    Raises:
        S2PError: one that does not run here, or none is named.
    """
    match = re.fullmatch(r"(\w+) executorch (\d+)\.(\d+)\S*", built_with)
    if match is None:
        raise S2PError(f"{bundle} does not say which executorch made it ({built_with!r})", "convert the checkpoint again")
    if match[1] not in RUNNABLE:
        raise S2PError(
            f"{bundle} is built for the {match[1]} backend, which does not run here",
            f"convert with `backend={' or '.join(RUNNABLE)}`",
            "backend",
        )
    return RUNNABLE[match[1]]


def check_version(built_with: str, installed: str, bundle: str) -> None:
    """Refuse programs of another minor version: ExecuTorch promises no compatibility of delegates across them.

    Args:
        built_with, bundle: see :func:`delegate_of`.

    Raises:
        S2PError: built by another version, or for a delegate that cannot run here.
    """
    delegate_of(built_with, bundle)
    made = built_with.rsplit(" ", 1)[1]
    if installed.split(".")[:2] != made.split(".")[:2]:
        raise S2PError(
            f"{bundle} was made by executorch {made}, installed is {installed}",
            f"run pip install executorch=={made}, or convert again",
        )
