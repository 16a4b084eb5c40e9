"""Parts of the network whose rounding is learned, kept on disk so that an interrupted run does not learn them again."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.finished import FinishedParts
from s2p_mobile.quantize.rounding.layers import AdaRoundWeight
from s2p_mobile.quantize.rounding.learned import WEIGHTS_STAGE, HalfWay

SAVE_SECONDS = 120.0
"""Between two times that learning on a unit is kept."""
_GENERATOR = "generator"


class FinishedUnits:
    """Integers and grids of every finished unit, and where the random numbers go on; of the unit that is learned, how far it is."""

    def __init__(self, parts: FinishedParts, generator: torch.Generator) -> None:
        """
        Args:
            generator: draws the batches of all units, one unit after the other.
        """
        self.parts, self.generator = parts, generator

    def restore(self, name: str, unit: nn.Module) -> bool:
        """Give a unit what was learned, if it was."""
        found, weights = self.parts.load(WEIGHTS_STAGE, name), _weights(unit)
        if found is None:
            return False
        kept = {key: _below(found, key) for key in weights}
        if any(kept[key].get("integers", torch.empty(0)).shape != weight.source.shape for key, weight in weights.items()):
            return False
        self.generator.set_state(found[_GENERATOR])
        for key, weight in weights.items():
            weight.take(kept[key])
        return True

    def half_way(self, name: str) -> HalfWay:
        """Where learning on a unit is kept before it is finished."""
        return _HalfWay(self.parts, name)

    def store(self, name: str, unit: nn.Module) -> None:
        """Keep a unit that is finished.

        Raises:
            S2PError: no space left, no permission.
        """
        tensors = {
            f"{key}/{part}": value for key, weight in _weights(unit).items() for part, value in weight.finished().items()
        }
        self.parts.save(WEIGHTS_STAGE, name, {**tensors, _GENERATOR: self.generator.get_state()})
        self.parts.drop(WEIGHTS_STAGE, _unfinished(name))


class _HalfWay:
    """One unit, see :class:`~s2p_mobile.quantize.rounding.learned.HalfWay`."""

    def __init__(self, parts: FinishedParts, name: str) -> None:
        self.parts, self.name, self.saved = parts, _unfinished(name), time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """See :class:`HalfWay`."""
        return self.parts.load(WEIGHTS_STAGE, self.name)

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """See :class:`HalfWay`."""
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self.parts.save(WEIGHTS_STAGE, self.name, tensors())
            self.saved = time.monotonic()


def _unfinished(name: str) -> str:
    return f"{name}.unfinished"


def _below(found: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{key}/"): value for name, value in found.items() if name.startswith(f"{key}/")}


def _weights(unit: nn.Module) -> dict[str, AdaRoundWeight]:
    """By their name in the unit."""
    return {name: module for name, module in unit.named_modules() if isinstance(module, AdaRoundWeight)}
