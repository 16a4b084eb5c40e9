"""Input statistics of every layer at every call, recorded on the FP trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts, Parts
from s2p_mobile.quantize.histogram import Histogram, halved
from s2p_mobile.quantize.recipes import ActivationRule
from s2p_mobile.quantize.stages import LayerWork, Passes, Piece, Stage
from s2p_mobile.quantize.stages.stage import Run
from s2p_mobile.quantize.zero_points import SignedHistogram, merge_signed, range_scale, zero_point
from s2p_mobile.sources.trajectory import Prompt, draw_latents
from s2p_runtime.plan import SamplingPlan

BINS = 1024
RECORDING_STAGE = "recording activations"
SEARCH_STAGE = "searching activation scales"


@dataclass(frozen=True)
class ActivationStatistics:
    """Histograms of the layers' inputs. Every value counts: a subset would miss the rare large ones, and a
    search for the least error would then clip them.

    Attributes:
        names: layers, L of them.
        largest: float32 [2, T, L], largest magnitude of the negative values and of the others.
        counts: float32 [2, T, L, BINS], how many of them lie in each bin of [0, reach].
        reach: float32 [T, L], upper end of the last bin.
    """

    names: list[str]
    largest: Tensor
    counts: Tensor
    reach: Tensor

    def grids(
        self,
        bits: int,
        rule: ActivationRule,
        advance: Callable[[], None] = lambda: None,
        known_zeros: Mapping[str, int] | None = None,
    ) -> tuple[Tensor, dict[str, int]]:
        """Activation table, float32 [T, L], and the zero point of each layer; without ``per_step`` every call gets the scale of all
        calls together. ``advance`` is called after each layer; zero points that are known are not searched for."""
        steps = self.reach.shape[0]
        table, zeros = torch.ones(steps, len(self.names)), dict.fromkeys(self.names, 0)
        for column, name in enumerate(self.names):
            histograms = [self._histogram(step, column) for step in range(steps)]
            if not rule.per_step:
                histograms = [merge_signed(histograms)]
            if known_zeros is not None:
                zeros[name] = known_zeros[name]
            elif rule.zero_points:
                zeros[name] = zero_point(histograms, bits, rule.search, rule.percentile)
            scales = [range_scale(histogram, zeros[name], bits, rule.search, rule.percentile) for histogram in histograms]
            table[:, column] = torch.stack(scales)
            advance()
        return table, zeros

    def _histogram(self, step: int, column: int) -> SignedHistogram:
        reach = float(self.reach[step, column])
        negative, positive = (
            Histogram(self.counts[side, step, column], reach, float(self.largest[side, step, column])) for side in range(2)
        )
        return SignedHistogram(negative, positive)


class _Recorder:
    """Collects layer inputs of one call after another."""

    def __init__(self, names: Sequence[str], steps: int) -> None:
        self.names = list(names)
        self.largest = torch.zeros(2, steps, len(self.names))
        self.counts = torch.zeros(2, steps, len(self.names), BINS)
        self.reach = torch.zeros(steps, len(self.names))
        self.call = 0
        self.handles: list[RemovableHandle] = []

    def watch(self, unet: StepUNet) -> None:
        """See the inputs of a graph's layers from now on. None is kept: those of a large network are gigabytes."""

        def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.call = int(inputs[1][0])

        def hook(column: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda module, inputs: self.store(column, inputs[0])

        modules = dict(unet.named_modules())
        self.handles = [unet.register_forward_pre_hook(begin)]
        self.handles += [modules[name].register_forward_pre_hook(hook(k)) for k, name in enumerate(self.names)]

    def store(self, column: int, x: Tensor) -> None:
        """Add a layer's input at the present call to what is known of it."""
        call, values = self.call, x.reshape(-1).float()
        lowest, highest = values.aminmax()
        ends = torch.stack([-lowest, highest]).clamp(min=0.0)
        largest = float(ends.max())
        reach = float(self.reach[call, column])
        if reach == 0.0:
            reach = largest or 1.0
        while reach < largest:
            for side in self.counts:
                side[call, column] = halved(side[call, column])
            reach *= 2
        self.reach[call, column] = reach
        self.largest[:, call, column] = torch.maximum(self.largest[:, call, column], ends.to(self.largest))
        # Values outside of the bins, here the negative ones, count nowhere.
        positive = torch.histc(values, BINS, 0.0, reach).to(self.counts)
        both = torch.histc(values.abs(), BINS, 0.0, reach).to(self.counts)
        self.counts[:, call, column] += torch.stack([both - positive, positive])

    def so_far(self, prompts: int) -> Parts:
        """The statistics of so many prompts."""
        found = {"largest": self.largest, "counts": self.counts, "reach": self.reach}
        return {**found, "prompts": torch.tensor(prompts)}

    def take_over(self, found: Parts | None) -> int:
        """Go on from kept statistics; gives the prompts that are in them."""
        if found is None or found["counts"].shape != self.counts.shape:
            return 0
        self.largest, self.counts, self.reach = found["largest"], found["counts"], found["reach"]
        return int(found["prompts"])

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def record_activations(
    unet: StepUNet,
    plan: SamplingPlan,
    prompts: Sequence[Prompt],
    guidance: float,
    shape: tuple[int, ...],
    names: Sequence[str],
    on_prompt: Callable[[int], None] | None = None,
    kept: FinishedParts = NOTHING_KEPT,
) -> ActivationStatistics:
    """Run the FP model on every prompt and record the inputs of the named layers at every call.

    Args:
        on_prompt: called after each prompt.
        kept: where the statistics of the prompts so far are kept.
    """
    recorder = _Recorder(names, len(plan.calls))
    done = recorder.take_over(kept.load(RECORDING_STAGE, "so-far"))
    recorder.watch(unet)
    try:
        for index, prompt in enumerate(prompts):
            if index >= done:
                draw_latents(unet, plan, prompt, guidance, shape)
                kept.save(RECORDING_STAGE, "so-far", recorder.so_far(index + 1))
            if on_prompt is not None:
                on_prompt(index)
    finally:
        recorder.close()
    return ActivationStatistics(recorder.names, recorder.largest, recorder.counts, recorder.reach)


def statistics_bytes(calls: int, layers: int) -> int:
    """Of :class:`ActivationStatistics`."""
    return 4 * 2 * calls * layers * BINS


def calibration_stages(
    layers: Sequence[LayerWork], calls: int, prompts: int, branches: int, bits: int, rule: ActivationRule
) -> list[Stage]:
    """What it takes to record activations on FP runs and to find their grids.

    Args:
        layers: whose inputs are recorded.
        calls: T.
        branches: samples of a call.
    """
    runs = prompts * calls
    histograms = [
        Piece("activation histograms", layer.values, runs, layer.values * branches, _histogram(layer.values * branches))
        for layer in layers
    ]
    search = Piece(
        f"activation scale search, {calls} calls", "layer", len(layers), calls, _search(calls, bits, rule), on_host=True
    )
    return [
        Stage(RECORDING_STAGE, prompts, (Passes(runs * branches, runs),), histograms),
        Stage(SEARCH_STAGE, len(layers), work=(search,)),
    ]


def _histogram(values: int) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        recorder = _Recorder(["layer"], 1)
        x = torch.randn(values, device=device)

        return lambda: recorder.store(0, x)

    return prepare


def _search(calls: int, bits: int, rule: ActivationRule) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        counts = torch.rand(2, calls, 1, BINS)
        statistics = ActivationStatistics(["layer"], torch.ones(2, calls, 1), counts, torch.ones(calls, 1))
        return lambda: statistics.grids(bits, rule)

    return prepare
