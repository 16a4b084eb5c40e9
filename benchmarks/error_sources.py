"""Where a checkpoint's pictures part from the FP model's: which calls, weights or activations, which layers.

    python benchmarks/error_sources.py CHECKPOINT [--count 24] [--windows 5] [--layers 12]

Three tables on held-out captions of the demo model:

- calls: only the calls of one window are quantized, the others are the FP model's. Errors that did not add to each other would sum up
  (as mean squares) to that of all calls; the line below says what they do sum up to.
- rounding: all calls with weights alone rounded, against weights and activations.
- layers: share of each layer's activation rounding in the guided output's error, that layer alone rounding its input, at calls of
  the beginning, the middle and the end of FP trajectories.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from s2p_converters.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.reference import CHECKPOINT_CONSTANTS, ReferenceLayer, reference_unet
from s2p_converters.unet import StepUNet
from s2p_mobile.demo import held_out_captions
from s2p_mobile.evaluation.drawing import Drawings, draw
from s2p_mobile.evaluation.makers import TorchMaker
from s2p_mobile.models import Model, open_model
from s2p_mobile.trajectory import encode_prompt, float_unet
from s2p_runtime.backends import Array32
from s2p_runtime.plan import denoise, guide, initial_latents


class WindowMaker(TorchMaker):
    """Quantized in the calls from ``begin`` to before ``end``, the FP model in the others."""

    def __init__(self, model: Model, fp: StepUNet, quantized: StepUNet, checkpoint: Checkpoint, begin: int, end: int) -> None:
        super().__init__("window", model, fp, checkpoint.manifest.plan, checkpoint.manifest.guidance)
        self._inside = TorchMaker("inside", model, quantized, self.plan, self.guidance)
        self._calls = range(begin, end)

    def predict(self, sample: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return (self._inside if call in self._calls else super()).predict(sample, call, *conditions)


def errors(drawn: Drawings, original: Drawings) -> np.ndarray:
    """Mean squared error of each picture, in units of the full range."""
    difference = (drawn.pictures.astype(np.float64) - original.pictures) / 255
    return np.square(difference).mean(axis=(1, 2, 3))


def decibels(mean_square: float) -> str:
    """PSNR of a mean square."""
    return "-" if mean_square == 0 else f"{-10 * math.log10(mean_square):.1f}"


def call_table(fp: StepUNet, quantized: StepUNet, model: Model, checkpoint: Checkpoint, count: int, windows: int) -> list[str]:
    """Rows of the first table."""
    prompts, seeds = held_out_captions()[:count], list(range(count))
    total = len(checkpoint.manifest.plan.calls)
    edges = [total * k // windows for k in range(windows + 1)]
    original = draw(WindowMaker(model, fp, quantized, checkpoint, 0, 0), prompts, seeds)
    lines, parts = ["| calls quantized | median PSNR | worst |", "|---|---|---|"], np.zeros(count)
    for begin, end in [*itertools.pairwise(edges), (0, total)]:
        found = errors(draw(WindowMaker(model, fp, quantized, checkpoint, begin, end), prompts, seeds), original)
        lines.append(f"| {begin} to {end - 1} | {decibels(float(np.median(found)))} | {decibels(float(found.max()))} |")
        parts += found if end - begin < total else 0.0
    return [*lines, "", f"windows' mean squares together: {decibels(float(np.median(parts)))} dB"]


def rounding_table(fp: StepUNet, model: Model, checkpoint: Checkpoint, count: int) -> list[str]:
    """Rows of the second table."""
    prompts, seeds = held_out_captions()[:count], list(range(count))
    total = len(checkpoint.manifest.plan.calls)
    lines = ["| rounded | median PSNR | worst |", "|---|---|---|"]
    original = draw(WindowMaker(model, fp, fp, checkpoint, 0, 0), prompts, seeds)
    for name, activations in (("weights and activations", True), ("weights", False)):
        unet = reference_unet(checkpoint, replace(CHECKPOINT_CONSTANTS, activations=activations))
        found = errors(draw(WindowMaker(model, fp, unet, checkpoint, 0, total), prompts, seeds), original)
        lines.append(f"| {name} | {decibels(float(np.median(found)))} | {decibels(float(found.max()))} |")
    return lines


@contextmanager
def rounding_only(layers: dict[str, ReferenceLayer], name: str | None) -> Iterator[None]:
    """No layer but ``name`` rounds its input."""
    bits = {key: layer.bits for key, layer in layers.items()}
    for key, layer in layers.items():
        layer.bits = bits[key] if key == name else None
    try:
        yield
    finally:
        for key, layer in layers.items():
            layer.bits = bits[key]


def layer_table(
    fp: StepUNet, quantized: StepUNet, model: Model, checkpoint: Checkpoint, most: int, prompts: int = 8
) -> list[str]:
    """Rows of the third table."""
    manifest = checkpoint.manifest
    calls = [len(manifest.plan.calls) * k // 10 for k in (1, 5, 9)]
    layers = {name: module for name, module in quantized.named_modules() if isinstance(module, ReferenceLayer)}
    noise = {call: _noise(fp, quantized, model, checkpoint, call, prompts) for call in calls}
    shares: dict[str, list[float]] = {}
    with rounding_only(layers, None):
        weights = {call: measure() for call, measure in noise.items()}
    for name in layers:
        with rounding_only(layers, name):
            shares[name] = [measure() - weights[call] for call, measure in noise.items()]
    totals = np.sum(list(shares.values()), axis=0)
    order = sorted(shares, key=lambda name: -float(np.mean(np.array(shares[name]) / totals)))[:most]
    head = [f"| layer | {' | '.join(f'call {call}' for call in calls)} |", f"|---|{'---|' * len(calls)}"]
    return head + [
        f"| {name} | {' | '.join(f'{100 * v / t:.1f}%' for v, t in zip(shares[name], totals, strict=True))} |" for name in order
    ]


def _noise(fp: StepUNet, unet: StepUNet, model: Model, checkpoint: Checkpoint, call: int, count: int) -> Callable[[], float]:
    """Measures the mean squared error of guided outputs at a call of FP trajectories."""
    manifest = checkpoint.manifest
    samples, texts = [], []
    for seed, caption in enumerate(held_out_captions()[:count]):
        prompt = encode_prompt(model, caption, seed, manifest.guidance)
        start = initial_latents(manifest.plan, seed, model.latent_shape)
        batch = torch.from_numpy(prompt.embeddings)

        def predict(sample: Array32, at: int, batch: torch.Tensor = batch) -> Array32:
            if at == call:
                samples.append(torch.from_numpy(sample))
            with torch.no_grad():
                output = fp(torch.from_numpy(np.repeat(sample, len(batch), axis=0)), torch.tensor([at]), batch)
            return guide(output.numpy(), manifest.guidance)

        denoise(manifest.plan, predict, start, seed)
        texts.append(batch)
    inputs = (torch.cat(samples).repeat_interleave(len(texts[0]), dim=0), torch.tensor([call]), torch.cat(texts))

    @torch.no_grad()
    def guided(network: StepUNet) -> Array32:
        output = network(*inputs).unflatten(0, (count, -1)).numpy()
        return np.concatenate([guide(pair, manifest.guidance) for pair in output])

    original = guided(fp)
    return lambda: float(np.square(guided(unet) - original).mean())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of the demo model, symmetric grids")
    parser.add_argument("--count", type=int, default=24, help="pictures")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12, help="rows of the last table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint, model = open_checkpoint(options.checkpoint), open_model(None)
    fp = float_unet(model, checkpoint.manifest.plan)
    quantized = reference_unet(checkpoint).float().eval()
    print(*call_table(fp, quantized, model, checkpoint, options.count, options.windows), "", sep="\n", flush=True)
    print(*rounding_table(fp, model, checkpoint, options.count), "", sep="\n", flush=True)
    print(*layer_table(fp, quantized, model, checkpoint, options.layers), sep="\n")


if __name__ == "__main__":
    main()
