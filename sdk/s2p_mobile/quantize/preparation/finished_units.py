"""Parts of the network whose rounding is learned, kept on disk so that an interrupted run does not learn them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from s2p_mobile.quantize.rounding.layers import AdaRoundWeight
from s2p_mobile.quantize.workers import is_main_process
from s2p_runtime.files import atomic_file

_HEADER = "s2p_rounded_unit"
_GENERATOR = "generator"


class FinishedUnits:
    """One file for each unit: which way every weight goes, a bit each, and where the random numbers go on.

    A file of another job, or a damaged one, counts as missing: its unit is learned again and the file replaced.
    """

    def __init__(self, folder: Path, identity: str, generator: torch.Generator) -> None:
        """
        Args:
            folder: made when the first unit is finished.
            identity: of the job, see :func:`~s2p_mobile.quantize.work.fingerprint`.
            generator: draws the batches of all units, one unit after the other.
        """
        self.folder, self.identity, self.generator = folder, identity, generator

    def restore(self, name: str, unit: nn.Module) -> bool:
        """Give a unit what was learned, if it was."""
        try:
            with safe_open(self._path(name), "pt") as handle:
                if json.loads((handle.metadata() or {})[_HEADER]) != self._header(unit):
                    return False
                found = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            ways = {key: np.unpackbits(found[key].numpy(), count=weight.up.numel()) for key, weight in _weights(unit).items()}
            self.generator.set_state(found[_GENERATOR])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError):
            return False
        for key, weight in _weights(unit).items():
            weight.up = torch.from_numpy(ways[key]).bool().reshape(weight.up.shape).to(weight.up.device)
        return True

    def store(self, name: str, unit: nn.Module) -> None:
        """Keep a unit that is finished.

        Raises:
            S2PError: no space left, no permission.
        """
        if not is_main_process():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            key: torch.from_numpy(np.packbits(weight.up.cpu().numpy().reshape(-1))) for key, weight in _weights(unit).items()
        }
        tensors[_GENERATOR] = self.generator.get_state()
        with atomic_file(self._path(name)) as scratch:
            scratch.write_bytes(save(tensors, metadata={_HEADER: json.dumps(self._header(unit))}))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _header(self, unit: nn.Module) -> dict[str, object]:
        return {"job": self.identity, "weights": {key: [w.bits, *w.up.shape] for key, w in _weights(unit).items()}}


def _weights(unit: nn.Module) -> dict[str, AdaRoundWeight]:
    """By their name in the unit."""
    return {name: module for name, module in unit.named_modules() if isinstance(module, AdaRoundWeight)}
