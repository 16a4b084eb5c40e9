"""Output ranges for the static scheme, from the checkpoint's own golden runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepRow
from s2p_converters.core.reference import ReferenceLayer, checkpoint_unet
from s2p_runtime.tensors import read_tensors
from s2p_runtime.walker import denoise, guide


@torch.no_grad()
def output_scales(checkpoint: Checkpoint) -> dict[str, float]:
    """Scale of each integer layer's output over the step's input scale: largest ``|y - b| / s_t`` of the golden runs, over 127.

    Runs the reference in float32 along the golden trajectories, every call.
    """
    unet = checkpoint_unet(checkpoint).float()
    peaks: dict[str, float] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, StepRow], output: Tensor) -> None:
        assert isinstance(module, ReferenceLayer)
        spec, row = module.spec, inputs[1]
        centred = output if module.bias is None else output - spec.per_channel(module.bias)
        # The reference's column holds 2^7 s_t.
        scale = float(row[f"{spec.name}.scale"]) / 2**7
        peaks[spec.name] = max(peaks.get(spec.name, 0.0), float(centred.abs().max()) / scale)

    for module in unet.modules():
        if isinstance(module, ReferenceLayer) and module.bits is not None:
            module.register_forward_hook(watch)
    for run in checkpoint.manifest.golden:
        tensors = read_tensors(checkpoint.folder / run.path)
        context = torch.from_numpy(tensors["text_embeddings"])
        pooled = tensors.get("pooled_text")
        of_prompt = () if pooled is None else (torch.from_numpy(pooled),)

        def predict(
            sample: np.ndarray, call: int, context: Tensor = context, of_prompt: tuple[Tensor, ...] = of_prompt
        ) -> np.ndarray:
            batch = torch.from_numpy(np.repeat(sample, context.shape[0], axis=0))
            return guide(unet(batch, torch.tensor([call]), context, *of_prompt).numpy(), checkpoint.manifest.guidance)

        denoise(checkpoint.manifest.plan, predict, tensors["initial_latents"], run.seed)
    return {name: peak / 127 for name, peak in peaks.items()}
