"""The processes of one job: a single one, or several started by ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from s2p_mobile.sources.device import choose_device
from s2p_runtime.errors import S2PError

_PATIENCE = timedelta(days=1)


class Workers:
    """This process among its equals. One process needs no library and pays nothing."""

    rank = 0
    count = 1

    def __init__(self, device: str | torch.device = "auto") -> None:
        self.device = choose_device(device)

    @property
    def main(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        return value

    def smallest(self, value: int) -> int:
        """The least of all processes' values."""
        return value

    def from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""

    def from_rank(self, tensors: Iterable[Tensor], rank: int) -> None:
        """Overwrite tensors with those of the process ``rank``."""

    def wait(self) -> None:
        """Return when every process is here."""

    def check(self, error: S2PError | None) -> None:
        """Raise an error that any process has in every process, so that none waits for one that gave up."""
        if error is not None:
            raise error

    def check_main(self, error: S2PError | None) -> None:
        """:meth:`check` after work that the main process did alone, however long it took."""
        self.check(error)


class _LaunchedWorkers(Workers):
    """Processes that accelerate started; gradients are averaged by us, so a step is the same code for any number."""

    def __init__(self, device: str | torch.device) -> None:
        chosen = choose_device(device)
        if chosen.index is not None:
            raise S2PError(
                f"several processes cannot share the device {chosen}", "leave its number out, each takes its own", "device"
            )
        from accelerate import PartialState

        for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
            if os.environ.get(variable, "").lower() in ("1", "true"):
                raise S2PError(
                    f"training does not run under {name}, see docs/several-processes.md",
                    "launch with configs/accelerate/gpu.yaml and set training.shard_optimizer in the recipe",
                )
        self._state: Any = PartialState(cpu=chosen.type == "cpu")
        self.device = self._state.device
        self.rank = self._state.process_index
        self.count = self._state.num_processes

    def mean(self, value: Tensor) -> Tensor:
        torch.distributed.all_reduce(value)
        return value.div_(self.count)

    def smallest(self, value: int) -> int:
        tensor = torch.tensor(value, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
        return int(tensor)

    def from_main(self, tensors: Iterable[Tensor]) -> None:
        self.from_rank(tensors, 0)

    def from_rank(self, tensors: Iterable[Tensor], rank: int) -> None:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, rank)

    def wait(self) -> None:
        self._state.wait_for_everyone()

    def check(self, error: S2PError | None) -> None:
        self._raise(error, self.smallest(0 if error is not None else 1))

    def check_main(self, error: S2PError | None) -> None:
        # A group of its own: collectives on a GPU give up after minutes.
        group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        fine = torch.tensor(0 if error is not None else 1)
        torch.distributed.all_reduce(fine, torch.distributed.ReduceOp.MIN, group)
        self._raise(error, int(fine))

    def _raise(self, error: S2PError | None, fine: int) -> None:
        if fine:
            return
        raise error if error is not None else S2PError("another process of this job failed", "its message says why")


def join_workers(device: str | torch.device = "auto") -> Workers:
    """The workers of this job: those of ``accelerate launch`` when it started more than one process, else this process alone.

    Args:
        device: as :func:`~s2p_mobile.sources.device.choose_device`; several processes take no number, each has its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _LaunchedWorkers(device)
    return Workers(device)


def is_main_process() -> bool:
    """Whether this process writes what several launched ones share; known without joining them."""
    return int(os.environ.get("RANK", "0")) == 0
