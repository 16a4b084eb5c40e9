"""Times pieces of work on this machine: a few seconds, spent on those that matter most."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from s2p_mobile.quantize.stages import Piece
from s2p_mobile.quantize.stages.stage import Run

PROBE_SECONDS = 5.0
"""What all timing takes, nearly."""
_ENOUGH = 0.01
"""Share of the whole time that may rest on pieces that were not timed themselves."""
_REPEATED_SECONDS = 0.03
"""A piece is repeated for so long."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Place:
    """Pieces of one kind on one device: the time of one tells that of another by its size."""

    device: torch.device
    kind: str


_Key = tuple[_Place, object]


class Stopwatch:
    """How long pieces take on a device of this machine.

    What was not timed itself takes as long as its size says: a fixed time and one in proportion, as of the timed pieces of its kind.
    With one thread the time of this process alone is counted, so that other programs do not disturb.
    """

    def __init__(self, device: torch.device, seconds: float = PROBE_SECONDS) -> None:
        """
        Args:
            device: of pieces that are not on the host.
            seconds: to spend.
        """
        self.device, self.left = device, seconds
        self._sizes: dict[_Key, float] = {}
        self._times: dict[_Key, float] = {}
        self._paces: dict[_Place, tuple[float, float]] = {}
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock: Callable[[], float] = time.process_time if alone else time.perf_counter

    @property
    def counts_process_time(self) -> bool:
        """Whether other programs' share of the processor is left out."""
        return self._clock is time.process_time

    def look_at(self, pieces: Sequence[tuple[Piece, bool]]) -> None:
        """Time pieces until the budget is spent, or nearly all of their time is known.

        Args:
            pieces: each with whether it is on the processor in any case.
        """
        distinct: dict[_Key, Piece] = {}
        counts: dict[_Key, float] = {}
        for piece, on_host in pieces:
            key = self._key(piece, on_host)
            distinct.setdefault(key, piece)
            counts[key] = counts.get(key, 0.0) + piece.count
            self._sizes[key] = piece.size
        # The smallest of each kind first; its pace then says which of the others matter.
        for place in dict.fromkeys(key[0] for key in distinct):
            if place not in self._paces:
                self._time(min((key for key in distinct if key[0] == place), key=lambda key: distinct[key].size), distinct)
        while self.left > 0:
            unknown = {key: counts[key] * self._seconds(key) for key in distinct if key not in self._times}
            known = sum(counts[key] * self._times[key] for key in distinct if key in self._times)
            if sum(unknown.values()) <= _ENOUGH * (known + sum(unknown.values())):
                return
            chosen = self._next(unknown)
            if chosen is None:
                return
            self._time(chosen, distinct)

    def _next(self, unknown: dict[_Key, float]) -> _Key | None:
        """What matters most of what can still be paid.

        A single small piece makes its kind look slower than it is, so that nothing seems to be within the means: then the next
        smallest of the kind that matters most.
        """
        affordable = [key for key in unknown if 2 * self._seconds(key) <= self.left]
        if affordable:
            return max(affordable, key=lambda key: unknown[key])
        timed = [key[0] for key in self._times]
        vague = [key for key in unknown if timed.count(key[0]) == 1]
        if not vague:
            return None
        place = max(vague, key=lambda key: unknown[key])[0]
        return min((key for key in vague if key[0] == place), key=lambda key: self._sizes[key])

    def seconds(self, pieces: Sequence[Piece], on_host: bool = False) -> float:
        """Time of pieces that were looked at, counts included."""
        return sum(piece.count * self._seconds(self._key(piece, on_host)) for piece in pieces)

    def _key(self, piece: Piece, on_host: bool) -> _Key:
        return _Place(_CPU if on_host or piece.on_host else self.device, piece.kind), piece.key

    def _seconds(self, key: _Key) -> float:
        """Of one piece: as timed, or by its size."""
        if key in self._times:
            return self._times[key]
        fixed, pace = self._paces[key[0]]
        return fixed + pace * self._sizes[key]

    def _learn_pace(self, place: _Place) -> None:
        """The straight line through the times of a kind that comes nearest to each of them in proportion."""
        alike = [key for key in self._times if key[0] == place]
        sizes, times = (np.array([values[key] for key in alike]) for values in (self._sizes, self._times))
        fixed, pace = np.linalg.lstsq(np.stack([1 / times, sizes / times], axis=1), np.ones(len(alike)))[0]
        if len(alike) < 2 or fixed < 0 or pace < 0:
            fixed, pace = 0.0, times.sum() / sizes.sum()
        self._paces[place] = float(fixed), float(pace)

    def _time(self, key: _Key, pieces: dict[_Key, Piece]) -> None:
        began = self._clock()
        device = key[0].device
        run = pieces[key].prepare(device)
        run()  # warms up
        self._times[key] = self._mean(run, device)
        self._learn_pace(key[0])
        self.left -= self._clock() - began

    def _mean(self, run: Run, device: torch.device) -> float:
        _synchronize(device)
        began, runs = self._clock(), 0
        while runs == 0 or self._clock() - began < _REPEATED_SECONDS:
            run()
            _synchronize(device)
            runs += 1
        return (self._clock() - began) / runs


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
