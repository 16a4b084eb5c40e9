"""The state of a training run: one safetensors file with a JSON header, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s2p_runtime.contract import check_version
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file

_HEADER = "s2p_training_state"
_VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """
    Attributes:
        iteration: optimizer steps done.
        weight_bits: layer -> width, in the order in which they run.
        tensors: everything that changes or was searched for, by name.
    """

    iteration: int
    weight_bits: dict[str, int]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix/``, without it."""
        return {name.removeprefix(f"{prefix}/"): value for name, value in self.tensors.items() if name.startswith(f"{prefix}/")}


def save_state(path: Path, state: TrainingState, identity: str) -> None:
    """Write a state atomically.

    Raises:
        S2PError: no space left, no permission.
    """
    header: dict[str, Any] = {
        "version": _VERSION, "fingerprint": identity, "iteration": state.iteration, "weight_bits": state.weight_bits
    }  # fmt: skip
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
    with atomic_file(path) as scratch:
        # Not save_file: that reports a full disk as a SafetensorError without an errno.
        scratch.write_bytes(save(tensors, metadata={_HEADER: json.dumps(header)}))


def load_state(path: Path, identity: str) -> TrainingState:
    """Read a state.

    Raises:
        S2PError: damaged, of a newer version, or of a run with other settings.
    """
    try:
        with safe_open(path, "pt") as handle:
            header = json.loads((handle.metadata() or {})[_HEADER])
            check_version(header["version"], str(path), _VERSION)
            tensors: dict[str, Tensor] = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        found, iteration, bits = header["fingerprint"], int(header["iteration"]), dict(header["weight_bits"])
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"{path} is not a training state ({reason})", "delete it to begin again") from error
    if found != identity:
        raise S2PError(
            f"{path} is of another model, plan, recipe, prompts, guidance or seed",
            "repeat those, or begin again with `force`",
            "force",
        )
    return TrainingState(iteration, bits, tensors)


def restore(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors over the live ones of the same names.

    Raises:
        S2PError: a tensor is missing or has another shape.
    """
    with torch.no_grad():
        for name, target in targets.items():
            if name not in saved or saved[name].shape != target.shape:
                raise S2PError(f"{path} lacks a valid {name}", "delete it to begin again")
            target.copy_(saved[name])
