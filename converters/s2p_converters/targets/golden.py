"""Golden runs of a bundle: those of its checkpoint, and one call that its programs must compute exactly."""

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
from s2p_runtime.pictures import from_picture, to_picture
from s2p_runtime.plan import ImageStart
from s2p_runtime.progress import Progress
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.verify import recorded_states

Array = NDArray[Any]
Array32 = NDArray[np.float32]
_SIZE_SEED = 2025
_RECORDED = ("initial_latents", "fp_latents", "fp_image", "noise_pred_calls", "noise_pred", "quantized_latents", "image")
"""Taken over from the checkpoint, beside the token ids."""


class FloatPrograms(Protocol):
    """What computes the components around the U-Net, see :class:`s2p_runtime.backends.Backend`."""

    def run(self, component: str, inputs: Mapping[str, Array]) -> Mapping[str, Array32]: ...

    def decode(self, latents: Array32) -> Array32: ...

    def encode(self, image: Array32) -> Array32: ...


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
        starts: of runs from a picture, where the bundle has a VAE encoder.
    """

    checkpoint: Checkpoint
    reference: StepUNet
    floats: FloatPrograms
    folder: Path
    progress: Progress
    starts: tuple[ImageStart, ...] | None = None

    @property
    def conditioner(self) -> Conditioner:
        """How prompts are encoded."""
        return conditioner_of(self.checkpoint.manifest)

    def golden_runs(self) -> tuple[GoldenRun, ...]:
        """Take over the checkpoint's golden runs, encode their prompts again, and compute one call exactly.

        The exact call is the middle one of the first run: the reference in float64, with the constants that the target stores, at the
        recorded state. Of the first run the picture is decoded again too.
        """
        (self.folder / "golden").mkdir()
        manifest = self.checkpoint.manifest
        runs = []
        with self.progress.stage("golden runs", len(manifest.golden)) as advance:
            for index, run in enumerate(manifest.golden):
                path = f"golden/{run.id}.safetensors"
                write_tensors(self.folder / path, self._tensors(run, exact=index == 0))
                runs.append(GoldenRun(id=run.id, prompt=run.prompt, seed=run.seed, path=path))
                advance()
        return tuple(runs)

    def _tensors(self, run: GoldenRun, exact: bool) -> dict[str, Array]:
        """All tensors of one golden run."""
        recorded = read_tensors(self.checkpoint.folder / run.path)
        encoded = self.conditioner.encode(self.floats.run, recorded)
        tensors = {name: recorded[name] for name in (*self.conditioner.token_inputs.values(), *_RECORDED)} | dict(encoded)
        if not exact:
            return tensors
        manifest = self.checkpoint.manifest
        call = len(manifest.plan.calls) // 2
        scaled = recorded_states(manifest.plan, manifest.guidance, run.seed, recorded, [call])[call]
        last = {name: value[-1:] for name, value in self.conditioner.conditions(encoded).inputs.items()}
        image = self.floats.decode(manifest.latents.decoder_input(recorded["quantized_latents"]))
        return tensors | {
            "image": image,
            "exact_calls": np.array([call], np.int32),
            "exact_noise_pred": reference_call(self.reference, scaled, call, last)[None],
            **self._from_picture(run, recorded, image),
        }

    def _from_picture(self, run: GoldenRun, recorded: Mapping[str, Array], image: Array32) -> dict[str, Array]:
        """The run's own picture encoded, and where the recorded outputs lead from it when the first half of the steps is left out;
        nothing where the bundle has no encoder."""
        if self.starts is None:
            return {}
        manifest = self.checkpoint.manifest
        step, total = manifest.plan.steps // 2, len(manifest.plan.calls)
        moments = self.floats.encode(from_picture(to_picture(image)))
        begun = self.starts[step], manifest.latents.encoded(moments)
        end = recorded_states(manifest.plan, manifest.guidance, run.seed, recorded, [total], begun)[total]
        return {"moments": moments, "from_picture_step": np.array([step], np.int32), "from_picture_latents": end}

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
