"""Parts of the work before training that are done, kept on disk so that an interrupted run does not do them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s2p_mobile.quantize.workers import is_main_process
from s2p_runtime.files import atomic_file

_IDENTITY = "s2p_job"

Parts = dict[str, Tensor]
"""What is kept of one part, by name."""


def numbers(values: object) -> Tensor:
    """Numbers to keep, nested lists of them as they may be, to the last bit."""
    return torch.tensor(values, dtype=torch.float64)


class FinishedParts:
    """One file for each part of each stage.

    A file of another job, or a damaged one, counts as missing: its part is done again and the file replaced.
    """

    def __init__(self, folder: Path | None, identity: str = "") -> None:
        """
        Args:
            folder: made with the first part; None keeps nothing.
            identity: of the job.
        """
        self.folder, self.identity = folder, identity

    def load(self, stage: str, part: str) -> Parts | None:
        """What was kept, if it was."""
        if self.folder is None:
            return None
        try:
            with safe_open(self._path(stage, part), "pt") as handle:
                if (handle.metadata() or {}).get(_IDENTITY) != self.identity:
                    return None
                return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            return None

    def save(self, stage: str, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a part.

        Raises:
            S2PError: no space left, no permission.
        """
        if self.folder is None or not is_main_process():
            return
        flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_file(self._path(stage, part)) as scratch:
            scratch.write_bytes(save(flat, metadata={_IDENTITY: self.identity}))

    def drop(self, stage: str, part: str) -> None:
        """Forget a part, if it is there."""
        if self.folder is not None and is_main_process():
            self._path(stage, part).unlink(missing_ok=True)

    def once(self, stage: str, part: str, make: Callable[[], Parts]) -> Parts:
        """A part, made only if it was not kept."""
        found = self.load(stage, part)
        if found is None:
            found = make()
            self.save(stage, part, found)
        return found

    def numbers(self, stage: str, part: str, make: Callable[[], list[float]]) -> list[float]:
        """:meth:`once` of some numbers, to the last bit."""
        return self.once(stage, part, lambda: {"numbers": numbers(make())})["numbers"].tolist()

    def _path(self, stage: str, part: str) -> Path:
        assert self.folder is not None
        return self.folder / stage / f"{part}.safetensors"


NOTHING_KEPT = FinishedParts(None)
