"""Declarations: a stage, the passes it makes through a network, and pieces of work that can be timed one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch

from s2p_mobile.quantize.stages.memory import Memory

Precision = Literal["fp32", "bf16", "fp16"]
Run = Callable[[], object]
"""Does a piece of work once."""


@dataclass(frozen=True)
class Piece:
    """Work that a stage does many times, small enough to be timed alone.

    Attributes:
        kind: pieces of one kind are alike but for their size, so that the time of one tells that of another.
        key: pieces of a kind with equal keys take the same time.
        count: how often the stage does it; a fraction where the whole work is so many times what is timed.
        size: operations of one, roughly, in a unit common to its kind.
        prepare: makes what it needs on a device, and gives what does it once.
        on_host: the processor does it wherever the networks run.
    """

    kind: str
    key: Hashable
    count: float
    size: float
    prepare: Callable[[torch.device], Run]
    on_host: bool = False


class Network(Protocol):
    """A kind of network that a stage runs, as far as its time is concerned.

    Attributes:
        precision: of its arithmetic.
    """

    @property
    def precision(self) -> Precision: ...

    def launches(self, passes: Passes) -> int:
        """Kernels that a GPU starts at least for the passes, whatever their size."""
        ...

    def pieces(self, passes: Passes) -> Sequence[Piece]:
        """The passes as pieces to be timed."""
        ...


@dataclass(frozen=True)
class Passes:
    """Passes through a U-Net, or through a part of it.

    Attributes:
        samples: that go forward in all passes together; with guidance a call has two.
        count: forward passes.
        backward: a backward pass follows each of them.
        network: how a pass is timed; None: as one of the FP graph.
        part: the module that runs; None: the whole network.
    """

    samples: int
    count: int
    backward: bool = False
    network: Network | None = None
    part: str | None = None

    @property
    def batch(self) -> int:
        """Samples of a pass, on average and rounded up."""
        return -(-self.samples // max(1, self.count))


@dataclass(frozen=True)
class Stage:
    """One stretch of a method's work, as its progress announces it.

    Attributes:
        name: the title under which progress announces it; no other stage of the method has it.
        parts: how many parts the progress has.
        passes: through U-Nets.
        work: everything else that takes time.
        on_host: the networks run on the processor, whatever the job's device.
        memory: what it holds at its worst moment, but for libraries.
    """

    name: str
    parts: int
    passes: Sequence[Passes] = ()
    work: Sequence[Piece] = ()
    on_host: bool = False
    memory: Memory = field(default_factory=Memory)

    @property
    def samples(self) -> int:
        """Samples that go forward through a whole network."""
        return sum(passes.samples for passes in self.passes if passes.part is None)

    @property
    def backward_passes(self) -> int:
        """Backward passes through a whole network."""
        return sum(passes.count for passes in self.passes if passes.part is None and passes.backward)


def on_host(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages on the processor."""
    return [replace(stage, on_host=True) for stage in stages]
