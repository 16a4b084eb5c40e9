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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, ReferenceLayer, reference_unet
from s2p_mobile.demo import HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation.drawing import Drawings, draw
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_mobile.sources.torch_artist import TorchArtist
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.backends import Array32
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.walker import guide


class WindowArtist(TorchArtist):
    """Quantized in the calls from ``begin`` to before ``end``, the FP model in the others."""

    def __init__(self, model: Model, fp: StepUNet, quantized: StepUNet, checkpoint: Checkpoint, begin: int, end: int) -> None:
        super().__init__("window", model, fp, checkpoint.manifest.plan, checkpoint.manifest.guidance)
        self._inside = TorchArtist("inside", model, quantized, self.plan, self.guidance)
        self._calls = range(begin, end)

    def predict(self, sample: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        predict = self._inside.predict if call in self._calls else super().predict
        return predict(sample, call, *conditions)


def errors(drawn: Drawings, original: Drawings) -> np.ndarray:
    """Mean squared error of each picture, in units of the full range."""
    difference = (drawn.pictures.astype(np.float64) - original.pictures) / 255
    return np.square(difference).mean(axis=(1, 2, 3))


def decibels(mean_square: float) -> str:
    """PSNR of a mean square."""
    return "-" if mean_square == 0 else f"{-10 * math.log10(mean_square):.1f}"


def row(name: str, part: np.ndarray) -> str:
    """A table's row of pictures' errors."""
    return f"| {name} | {decibels(float(np.median(part)))} | {decibels(float(part.max()))} |"


def picture_tables(
    fp: StepUNet, quantized: StepUNet, model: Model, checkpoint: Checkpoint, count: int, windows: int
) -> Iterator[list[str]]:
    """Rows of the first table, then of the second."""
    prompts, seeds = read_prompts(HELD_OUT_PROMPTS)[:count], list(range(count))
    total = len(checkpoint.manifest.plan.calls)
    original = draw(WindowArtist(model, fp, fp, checkpoint, 0, 0), prompts, seeds)

    def found(unet: StepUNet, begin: int = 0, end: int = total) -> np.ndarray:
        return errors(draw(WindowArtist(model, fp, unet, checkpoint, begin, end), prompts, seeds), original)

    whole = found(quantized)
    spans = list(itertools.pairwise(total * k // windows for k in range(windows + 1)))
    parts = [found(quantized, begin, end) for begin, end in spans]
    yield [
        "| calls quantized | median PSNR | worst |",
        "|---|---|---|",
        *(row(f"{begin} to {end - 1}", part) for (begin, end), part in zip(spans, parts, strict=True)),
        row(f"0 to {total - 1}", whole),
        "",
        f"windows' mean squares together: {decibels(float(np.median(np.sum(parts, axis=0))))} dB",
    ]
    rounded = reference_unet(checkpoint, replace(CHECKPOINT_CONSTANTS, activations=False))
    yield [
        "| rounded | median PSNR | worst |",
        "|---|---|---|",
        row("weights and activations", whole),
        row("weights", found(rounded)),
    ]


@dataclass(frozen=True, eq=False)
class TrajectoryCall:
    """One U-Net call of N prompts, with B texts each.

    Attributes:
        inputs: scaled states [N B, C, H, W], call index [1], embeddings [N B, S, D].
        original: guided outputs of the FP model, [N, C, H, W].
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    original: Array32
    guidance: float

    @torch.no_grad()
    def error(self, unet: StepUNet) -> float:
        """Mean squared error of a U-Net's guided outputs."""
        outputs = np.split(unet(*self.inputs).numpy(), len(self.original))
        return float(np.square(np.concatenate([guide(output, self.guidance) for output in outputs]) - self.original).mean())


def fp_calls(
    fp: StepUNet, model: Model, plan: SamplingPlan, guidance: float, calls: Sequence[int], count: int
) -> list[TrajectoryCall]:
    """Some calls of the FP trajectories of the first held-out captions."""
    texts = read_prompts(HELD_OUT_PROMPTS)[:count]
    prompts = [encode_prompt(model, caption, seed, guidance) for seed, caption in enumerate(texts)]
    told = torch.from_numpy(np.concatenate([prompt.conditions[0] for prompt in prompts]))
    seen: dict[int, list[tuple[Array32, Array32]]] = {call: [] for call in calls}

    def keep(call: int, sample: Array32, output: Array32) -> None:
        if call in seen:
            seen[call].append((np.repeat(sample, len(output), axis=0), guide(output, guidance)))

    for prompt in prompts:
        draw_latents(fp, plan, prompt, guidance, model.latent_shape, keep)
    found = []
    for call, pairs in seen.items():
        samples, originals = (np.concatenate(part) for part in zip(*pairs, strict=True))
        found.append(TrajectoryCall((torch.from_numpy(samples), torch.tensor([call]), told), originals, guidance))
    return found


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
    trajectories = fp_calls(fp, model, manifest.plan, manifest.guidance, calls, prompts)
    shares: dict[str, list[float]] = {}
    with rounding_only(layers, None):
        weights = [call.error(quantized) for call in trajectories]
    for name in layers:
        with rounding_only(layers, name):
            shares[name] = [call.error(quantized) - alone for call, alone in zip(trajectories, weights, strict=True)]
    totals = np.sum(list(shares.values()), axis=0)
    order = sorted(shares, key=lambda name: -float(np.mean(np.array(shares[name]) / totals)))[:most]
    head = [f"| layer | {' | '.join(f'call {call}' for call in calls)} |", f"|---|{'---|' * len(calls)}"]
    return head + [
        f"| {name} | {' | '.join(f'{100 * v / t:.1f}%' for v, t in zip(shares[name], totals, strict=True))} |" for name in order
    ]


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
    for lines in picture_tables(fp, quantized, model, checkpoint, options.count, options.windows):
        print(*lines, "", sep="\n", flush=True)
    print(*layer_table(fp, quantized, model, checkpoint, options.layers), sep="\n")


if __name__ == "__main__":
    main()
