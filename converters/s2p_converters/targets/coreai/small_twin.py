"""Networks too large to be run here at their own size: the same layers, written for small latents, run once against the reference.

Apple's runtime multiplies some 4 10^9 numbers a second on one core here; one call of Stable Diffusion's U-Net at 512x512 are 7 10^11,
its VAE decoder's 12 10^11.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.float_modules import vae_work
from s2p_converters.targets.interface import unet_inputs
from s2p_converters.targets.ports import branches, own_latents
from s2p_converters.targets.self_check import require_near
from s2p_runtime.hosts.coreai.engine import Array, Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

LARGEST_WORK = 2e11
"""Weights times positions of a call that is run as a matter of course; the demo model has 10^10, Stable Diffusion 7 10^12."""
_SEED = 2026


def is_large(checkpoint: Checkpoint) -> bool:
    """Whether one call takes minutes here."""
    height, width = own_latents(checkpoint)
    return branches(checkpoint) * height * width * sum(spec.weights for spec in checkpoint.specs) > LARGEST_WORK


def is_large_vae(checkpoint: Checkpoint) -> bool:
    """Whether one picture takes its networks minutes here."""
    return vae_work(checkpoint, own_latents(checkpoint)) > LARGEST_WORK


def small_latents(checkpoint: Checkpoint) -> tuple[int, int]:
    """The smallest that the U-Net halves as often as it does, twice."""
    side = 2 << sum(block.resample for block in checkpoint.structure.down)
    height, width = own_latents(checkpoint)
    return min(side, height), min(side, width)


def check_twin(checkpoint: Checkpoint, reference: StepUNet, program: Path, precision: str, tolerance: float) -> None:
    """Run the twin at ``program`` once.

    Raises:
        CheckFailed: it computes something else than the reference.
        S2PError: it cannot run.
    """
    latents = small_latents(checkpoint)
    feeds: dict[str, Array] = {
        port.name: np.array([len(checkpoint.manifest.plan.calls) // 2], np.int32)
        if port.name == "step"
        else gaussian(_SEED, port.shape, stream=place)
        for place, port in enumerate(unet_inputs(checkpoint, "int32", latents))
    }
    (found,) = _run_once("U-Net", program, precision, feeds).values()
    with torch.no_grad():
        given = [torch.from_numpy(value) for value in feeds.values()]
        wanted = reference(*(value.double() if value.is_floating_point() else value.long() for value in given)).float().numpy()
    require_near("U-Net", relative_error(found.astype(np.float32), wanted), tolerance)


def check_part(part: FloatComponent, program: Path, precision: str, tolerance: float) -> None:
    """Run the twin of a float component at ``program`` once.

    Args:
        part: at the twin's latents.

    Raises:
        CheckFailed: it computes something else than its network.
        S2PError: it cannot run.
    """
    feeds = part.check_inputs()
    found = _run_once(part.title, program, precision, feeds)
    for name, wanted in part.call(part.load(), feeds).items():
        require_near(part.title, relative_error(found[name].astype(np.float32), wanted), tolerance)


def _run_once(title: str, program: Path, precision: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    engine = Engine()
    try:
        engine.load(title, program, "main", precision == "fp16")
        return engine.run(title, "main", feeds)
    finally:
        engine.close()
