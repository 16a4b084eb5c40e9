"""Golden runs of a bundle: what its programs must compute, recorded from their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_runtime.bundle import GoldenRun, PictureSize
from s2p_runtime.conditioning import Conditioner, conditioner_of
from s2p_runtime.noise import gaussian
from s2p_runtime.progress import Advance, Progress
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.walker import denoise, guide

Array = NDArray[Any]
Array32 = NDArray[np.float32]
_SIZE_SEED = 2025
_FP_TENSORS = ("initial_latents", "fp_latents", "fp_image")
"""Taken over from the checkpoint's FP runs, beside the token ids."""


class FloatPrograms(Protocol):
    """What computes the components around the U-Net, see :class:`s2p_runtime.backends.Backend`."""

    def run(self, component: str, inputs: Mapping[str, Array]) -> Mapping[str, Array32]: ...

    def decode(self, latents: Array32) -> Array32: ...


@torch.no_grad()
def reference_call(unet: StepUNet, sample: Array32, call: int, conditions: Mapping[str, Array32]) -> Array32:
    """One raw U-Net output of a float64 reference, [B, C, H, W], rounded to float32.

    Args:
        conditions: :attr:`s2p_runtime.conditioning.Conditions.inputs`.
    """
    told = (torch.from_numpy(value).double() for value in conditions.values())
    output: Array32 = unet(torch.from_numpy(sample).double(), torch.tensor([call]), *told).float().numpy()
    return output


@dataclass(frozen=True)
class Recorder:
    """Records runs of one bundle.

    Attributes:
        reference: the U-Net with the target's constants, float64.
        floats: the components around it.
        folder: of the bundle.
    """

    checkpoint: Checkpoint
    reference: StepUNet
    floats: FloatPrograms
    folder: Path
    progress: Progress

    @property
    def conditioner(self) -> Conditioner:
        """How prompts are encoded."""
        return conditioner_of(self.checkpoint.manifest)

    def golden_runs(self) -> tuple[GoldenRun, ...]:
        """Complete the checkpoint's FP runs with the quantized ones; the first run records every call, the others four."""
        (self.folder / "golden").mkdir()
        total = len(self.checkpoint.manifest.plan.calls)
        runs = []
        for index, run in enumerate(self.checkpoint.manifest.golden):
            recorded = list(range(total)) if index == 0 else sorted({0, total // 3, 2 * total // 3, total - 1})
            path = f"golden/{run.id}.safetensors"
            with self.progress.stage(f"golden run {run.id}", total) as advance:
                tensors = self._quantized_run(run, recorded, advance)
            write_tensors(self.folder / path, tensors)
            runs.append(GoldenRun(id=run.id, prompt=run.prompt, seed=run.seed, path=path))
        return tuple(runs)

    def _quantized_run(self, run: GoldenRun, recorded: list[int], advance: Advance) -> dict[str, Array]:
        """All tensors of one golden run."""
        manifest = self.checkpoint.manifest
        fp = read_tensors(self.checkpoint.folder / run.path)
        encoded = self.conditioner.encode(self.floats.run, fp)
        conditions = self.conditioner.conditions(encoded)
        outputs: dict[int, Array32] = {}

        def predict(sample: Array32, call: int) -> Array32:
            batch = np.repeat(sample, conditions.branches, axis=0)
            outputs[call] = reference_call(self.reference, batch, call, conditions.inputs)
            advance()
            return guide(outputs[call], manifest.guidance)

        latents = denoise(manifest.plan, predict, fp["initial_latents"], run.seed)
        return {
            **{name: fp[name] for name in (*self.conditioner.token_inputs.values(), *_FP_TENSORS)},
            **encoded,
            "noise_pred_calls": np.array(recorded, np.int32),
            "noise_pred": np.stack([outputs[call] for call in recorded]),
            "quantized_latents": latents,
            "image": self.floats.decode(manifest.latents.decoder_input(latents)),
        }

    def size_calls(self, sizes: Sequence[PictureSize]) -> None:
        """Record calls of the reference at every size but the own, which is first: the first call and one halfway, on noise."""
        manifest = self.checkpoint.manifest
        calls = sorted({0, len(manifest.plan.calls) // 2})
        for size in sizes[1:]:
            assert size.check is not None
            fp = read_tensors(self.checkpoint.folder / manifest.golden[0].path)
            encoded = self.conditioner.encode(self.floats.run, fp, size)
            conditions = self.conditioner.conditions(encoded)
            noise = gaussian(_SIZE_SEED, (1, manifest.latents.channels, size.latent_height, size.latent_width))
            sample, latents = np.repeat(noise, conditions.branches, axis=0), manifest.latents.decoder_input(noise)
            outputs = []
            with self.progress.stage(f"reference at {size.title}", len(calls)) as advance:
                for call in calls:
                    outputs.append(reference_call(self.reference, sample, call, conditions.inputs))
                    advance()
            tensors: dict[str, Array] = {
                **{name: encoded[name] for name in self.conditioner.size_tensors},
                "sample": sample,
                "noise_pred_calls": np.array(calls, np.int32),
                "noise_pred": np.stack(outputs),
                "latents": latents,
                "image": self.floats.decode(latents),
            }
            write_tensors(self.folder / size.check, tensors)
