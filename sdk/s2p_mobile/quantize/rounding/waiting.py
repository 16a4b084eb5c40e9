"""Tensors of many samples that wait for their turn: in the machine's memory as long as it lasts, in files beyond.

A thousand samples of SD v1-4 at the entrance of a block are 40 GiB. Files are read and written row by row and never mapped, so that
they do not count as the process's memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Tensors of n samples.

    Attributes:
        count: n.
    """

    count: int

    def put(self, first: int, values: Tensor) -> None:
        """Keep some rows [k, ...], from ``first`` on."""
        ...

    def get(self, chosen: slice | Tensor) -> Tensor:
        """Some rows on the device where they are used, float32 [k, ...].

        Args:
            chosen: a range, or int64 [k] on the processor.
        """
        ...

    def free(self) -> None:
        """Let go of them."""
        ...


class RowsInMemory:
    """Rows in one tensor, see :class:`Rows`."""

    def __init__(self, values: Tensor, device: torch.device, room: WaitingRoom | None = None) -> None:
        """
        Args:
            values: [n, ...] on the processor, or on the device itself.
            room: gets its memory back when the rows are freed.
        """
        self.count, self._device, self._room = len(values), device, room
        self._values: Tensor | None = values

    def put(self, first: int, values: Tensor) -> None:
        """See :class:`Rows`."""
        assert self._values is not None
        self._values[first : first + len(values)] = values

    def get(self, chosen: slice | Tensor) -> Tensor:
        """See :class:`Rows`."""
        assert self._values is not None
        return self._values[chosen].to(self._device).float()

    def free(self) -> None:
        """See :class:`Rows`."""
        if self._values is not None and self._room is not None:
            self._room.left += self._values.nbytes
        self._values = None


class RowsInFile:
    """Rows in a file without a name, see :class:`Rows`."""

    def __init__(self, folder: Path | None, count: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        self.count, self._shape, self._dtype, self._device = count, shape, dtype, device
        self._row = torch.empty((), dtype=dtype).itemsize * shape.numel()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed when it is freed

    def put(self, first: int, values: Tensor) -> None:
        """See :class:`Rows`."""
        content = values.detach().to("cpu", self._dtype).contiguous().view(torch.uint8).numpy()
        left, place = memoryview(content.tobytes()), first * self._row
        while left:
            written = os.pwrite(self._file.fileno(), left, place)
            left, place = left[written:], place + written

    def get(self, chosen: slice | Tensor) -> Tensor:
        """See :class:`Rows`."""
        rows = range(self.count)[chosen] if isinstance(chosen, slice) else chosen.tolist()
        content = np.empty((len(rows), self._row), np.uint8)
        for place, row in enumerate(rows):
            self._read(memoryview(content[place]), row * self._row)
        values = torch.from_numpy(content).view(self._dtype).reshape(len(rows), *self._shape)
        return values.to(self._device).float()

    def _read(self, into: memoryview, place: int) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], place)
            if count == 0:
                raise EOFError("rows that were never written")
            into, place = into[count:], place + count

    def free(self) -> None:
        """See :class:`Rows`."""
        self._file.close()


class WaitingRoom:
    """Gives rows memory, or a file when there is no more.

    Attributes:
        left: bytes of memory.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, memory: int, folder: Path | None = None) -> None:
        """
        Args:
            device: where rows are used.
            dtype: in which they wait.
            memory: bytes.
            folder: of the files; the system's place for temporary files when None.
        """
        self.device, self.dtype, self.left, self.folder = device, dtype, memory, folder

    def rows(self, count: int, shape: torch.Size) -> Rows:
        """Room for ``count`` tensors of a shape."""
        size = count * shape.numel() * torch.empty((), dtype=self.dtype).itemsize
        if size > self.left:
            return RowsInFile(self.folder, count, shape, self.dtype, self.device)
        self.left -= size
        return RowsInMemory(torch.empty(count, *shape, dtype=self.dtype), self.device, self)

    def of(self, values: Tensor) -> Rows:
        """Room for all samples of a tensor [n, ...], with them in it."""
        rows = self.rows(len(values), values.shape[1:])
        rows.put(0, values)
        return rows


@contextlib.contextmanager
def waiting_room(device: torch.device, dtype: torch.dtype, memory: int, work: Path | None) -> Iterator[WaitingRoom]:
    """A room whose files lie in a folder of their own below the work folder, for the time of the ``with``."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="waiting-", dir=work, ignore_cleanup_errors=True) as folder:
        yield WaitingRoom(device, dtype, memory, Path(folder))
