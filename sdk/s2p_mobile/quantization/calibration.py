"""Input statistics of every layer at every call, recorded on the FP trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2p_converters.unet import StepUNet
from s2p_mobile.quantization.histogram import Histogram, activation_scale, halved, merge
from s2p_mobile.trajectory import Prompt, draw_latents
from s2p_runtime.plan import SamplingPlan

BINS = 1024


@dataclass(frozen=True)
class ActivationStatistics:
    """Histograms of the magnitudes at the layers' inputs. Every value counts: a subset would miss the rare large ones, and a
    search for the least error would then clip them.

    Attributes:
        names: layers, L of them.
        largest: float32 [T, L], largest magnitude.
        counts: float32 [T, L, BINS], how many magnitudes lie in each bin of [0, reach].
        reach: float32 [T, L], upper end of the last bin.
    """

    names: list[str]
    largest: Tensor
    counts: Tensor
    reach: Tensor

    def scales(self, bits: dict[str, int], search: str, percentile: float, per_step: bool) -> Tensor:
        """Activation table, float32 [T, L]; without ``per_step`` every call gets the scale of all calls together."""
        steps = self.largest.shape[0]
        table = torch.ones(steps, len(self.names))
        for column, name in enumerate(self.names):
            histograms = [
                Histogram(self.counts[step, column], float(self.reach[step, column]), float(self.largest[step, column]))
                for step in range(steps)
            ]
            if not per_step:
                histograms = [merge(histograms)] * steps
            scales = [activation_scale(histogram, bits[name], search, percentile) for histogram in dict.fromkeys(histograms)]
            table[:, column] = torch.stack(scales)
        return table


class _Recorder:
    """Collects layer inputs of one call after another."""

    def __init__(self, unet: StepUNet, names: Sequence[str], steps: int) -> None:
        self.names = list(names)
        self.largest = torch.zeros(steps, len(self.names))
        self.counts = torch.zeros(steps, len(self.names), BINS)
        self.reach = torch.zeros(steps, len(self.names))
        self.seen: dict[str, Tensor] = {}
        modules = dict(unet.named_modules())
        self.handles = [modules[name].register_forward_pre_hook(self._keep(name)) for name in self.names]

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[name] = inputs[0]

        return hook

    def store(self, call: int) -> None:
        """Reduce what the last U-Net call left in ``seen``."""
        for column, name in enumerate(self.names):
            magnitudes = self.seen[name].reshape(-1).abs().float()
            largest = float(magnitudes.max())
            reach = float(self.reach[call, column])
            if reach == 0.0:
                reach = largest or 1.0
            while reach < largest:
                self.counts[call, column] = halved(self.counts[call, column])
                reach *= 2
            self.reach[call, column] = reach
            self.largest[call, column] = max(largest, float(self.largest[call, column]))
            self.counts[call, column] += torch.histc(magnitudes, BINS, 0.0, reach).to(self.counts)
        self.seen.clear()

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
) -> ActivationStatistics:
    """Run the FP model on every prompt and record the inputs of the named layers at every call."""
    recorder = _Recorder(unet, names, len(plan.calls))
    try:
        for index, prompt in enumerate(prompts):
            draw_latents(unet, plan, prompt, guidance, shape, lambda call, *_: recorder.store(call))
            if on_prompt is not None:
                on_prompt(index)
    finally:
        recorder.close()
    return ActivationStatistics(recorder.names, recorder.largest, recorder.counts, recorder.reach)
