"""Counts what networks really do, stage by stage."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from s2p_converters.core.graph import LayerSpec


@dataclass
class LayerCounts:
    """Of one layer in one stage."""

    samples: int = 0
    passes: int = 0
    backward_samples: int = 0
    backward_passes: int = 0


@dataclass
class UNetCounter:
    """Listens to progress and to every layer of every graph.

    Attributes:
        stages: announced title -> announced parts, parts that were advanced.
        layers: title -> layer -> counts; the title is empty between stages.
    """

    stages: dict[str, list[int]] = field(default_factory=dict)
    layers: dict[str, dict[str, LayerCounts]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(LayerCounts)))
    present: str = ""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """As :class:`s2p_runtime.progress.Progress`."""
        assert title not in self.stages, "each stage has a title of its own"
        assert not self.present, "one stage after another"
        self.stages[title], self.present = [total, 0], title

        def advance(detail: str = "") -> None:
            self.stages[title][1] += 1

        yield advance
        self.present = ""

    def see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook of all modules."""
        spec = getattr(module, "spec", None)
        if not isinstance(spec, LayerSpec) or not isinstance(output, torch.Tensor):
            return
        counts = self.layers[self.present][spec.name]
        counts.samples += output.shape[0]
        counts.passes += 1
        if output.requires_grad:

            def back(gradient: torch.Tensor) -> None:
                counts.backward_samples += gradient.shape[0]
                counts.backward_passes += 1

            output.register_hook(back)


@pytest.fixture
def counter() -> Iterator[UNetCounter]:
    """Counts from now on."""
    found = UNetCounter()
    handle = register_module_forward_hook(found.see)
    yield found
    handle.remove()
