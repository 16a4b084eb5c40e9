"""What computes inside of a .pte: the delegates that this machine can run, and which executorch a program asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class RunnableDelegate:
    """A delegate that computes on this machine.

    Attributes:
        name: the first word of a component's ``backend``.
        others: largest relative error of a component at equal inputs.
        tolerances: of components that differ.
        of_8_bits: of components whose integer layers give 8 bits.
    """

    name: str
    others: float
    tolerances: Mapping[str, float] = field(default_factory=dict)
    of_8_bits: Mapping[str, float] = field(default_factory=dict)

    def tolerance(self, component: str, rounds_to_8_bits: bool = False) -> float:
        """Largest relative error of a component at equal inputs."""
        narrow = self.of_8_bits.get(component) if rounds_to_8_bits else None
        return self.tolerances.get(component, self.others) if narrow is None else narrow


RUNNABLE = {
    delegate.name: delegate
    for delegate in (
        RunnableDelegate("xnnpack", 1e-4, {"unet": 5e-2}),
        RunnableDelegate("qnn", 2e-2, of_8_bits={"unet": 0.2}),
    )
}
"""By name.

XNNPACK's kernels compute in float32. Float components then differ by summation order (3e-6 measured). In the U-Net a difference of
one unit in the last place flips some roundings of activations and moves the output by whole grid steps: torch itself in float32 is
up to 3.9e-2 away from torch in float64 over the calls of the demo model's golden run, and XNNPACK as far.

Snapdragon's NPU rounds the outputs of integer layers to 16 bits and everything else to float16, whose relative rounding error is
at most 2^-11. The errors of 1000 operators one behind another, independent of each other, add up to 2^-11 sqrt(1000) = 1.5e-2; a
16-bit grid over a range of 30 times the values' root mean square is finer than that. An 8-bit grid over a range of 20 times it rounds
by 20 / (255 sqrt(12)) = 2.3e-2, and sixty such layers one behind another by 0.18."""


_MADE_BY = r"(\w+) executorch ((\d+)\.(\d+)\S*)( .+)?"


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
        built_with: a component's ``backend``, e.g. ``xnnpack executorch 1.4.1``; what else made it may follow.
        bundle: its name, for messages.

    Raises:
        S2PError: one that does not run here, or none is named.
    """
    match = re.fullmatch(_MADE_BY, built_with)
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
    made = built_with.split(" ")[2]
    if installed.split(".")[:2] != made.split(".")[:2]:
        raise S2PError(
            f"{bundle} was made by executorch {made}, installed is {installed}",
            f"run pip install executorch=={made}, or convert again",
        )
