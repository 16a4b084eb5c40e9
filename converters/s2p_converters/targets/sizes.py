"""Picture sizes of a bundle: the checkpoint's own and those asked for, and recorded calls that prove the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.assembly import Outcome, reference_call
from s2p_converters.targets.prompt_programs import condition_tensors
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.progress import Progress
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.verify import TOLERANCE, size_errors

_SEED = 2025
LARGEST_PIXELS = 4096
"""Of one side. Attention over the latents of larger pictures does not fit a phone, and its conversion no workstation."""


def vae_factor(checkpoint: Checkpoint) -> int:
    """Pixels to one latent, along each axis: the VAE halves once less than it has blocks.

    Raises:
        S2PError: the VAE's configuration is unreadable.
    """
    path = checkpoint.folder / "vae" / "config.json"
    try:
        blocks = json.loads(path.read_text(encoding="utf-8"))["block_out_channels"]
        return 1 << (len(blocks) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise S2PError(f"{path} does not say how many blocks the VAE has ({error})", "make the checkpoint again") from error


def picture_sizes(checkpoint: Checkpoint, asked: Sequence[tuple[int, int]]) -> tuple[PictureSize, ...]:
    """The checkpoint's own size, which has the programs' default method, then the others asked for, each once.

    Args:
        asked: (width, height) in pixels.

    Raises:
        S2PError: a size that the U-Net cannot halve as often as it does, or one that is too large.
    """
    latents, factor = checkpoint.manifest.latents, vae_factor(checkpoint)
    halvings = sum(block.resample for block in checkpoint.structure.down)
    step = factor << halvings
    own = (latents.width * factor, latents.height * factor)
    sizes = []
    for width, height in dict.fromkeys([own, *asked]):
        is_own = (width, height) == own
        if not is_own and (width % step or height % step):
            fitting = "x".join(str(max(step, round(side / step) * step)) for side in (width, height))
            raise S2PError(
                f"`size={width}x{height}` does not fit {checkpoint.manifest.source.name}, whose sides are multiples of {step}",
                f"try {fitting}",
                "size",
            )
        if max(width, height) > LARGEST_PIXELS:
            raise S2PError(f"`size={width}x{height}` is too large", f"give at most {LARGEST_PIXELS} pixels a side", "size")
        sizes.append(
            PictureSize(
                width=width,
                height=height,
                latent_width=width // factor,
                latent_height=height // factor,
                method=None if is_own else f"size_{width}x{height}",
                check=None if is_own else f"golden/size-{width}x{height}.safetensors",
            )
        )
    return tuple(sizes)


def latent_shapes(sizes: Sequence[PictureSize], default_method: str) -> dict[str, tuple[int, int]]:
    """Latent height and width by method name, the checkpoint's own first."""
    return {size.method or default_method: (size.latent_height, size.latent_width) for size in sizes}


def write_size_calls(
    checkpoint: Checkpoint, outcome: Outcome, sizes: Sequence[PictureSize], folder: Path, progress: Progress
) -> None:
    """Record calls of the reference at every size but the own: the first call and one halfway, on noise."""
    manifest = checkpoint.manifest
    for size in sizes[1:]:
        assert size.check is not None
        fp = read_tensors(checkpoint.folder / manifest.golden[0].path)
        conditions = condition_tensors(checkpoint, outcome.prompt, fp["token_ids"], size)
        embeddings, time_table = conditions["text_embeddings"], conditions.get("time_table")
        noise: NDArray[np.float32] = gaussian(_SEED, (1, manifest.latents.channels, size.latent_height, size.latent_width))
        sample = np.repeat(noise, embeddings.shape[0], axis=0)
        latents = manifest.latents.decoder_input(noise)
        calls = sorted({0, len(manifest.plan.calls) // 2})
        with progress.stage(f"reference at {size.title}", len(calls)) as advance:
            outputs = []
            for call in calls:
                outputs.append(reference_call(outcome.reference, sample, call, embeddings, time_table))
                advance()
        write_tensors(
            folder / size.check,
            {
                **{name: conditions[name] for name in ("text_embeddings", "time_table") if name in conditions},
                "sample": sample,
                "noise_pred_calls": np.array(calls, np.int32),
                "noise_pred": np.stack(outputs),
                "latents": latents,
                "image": outcome.decode(latents),
            },
        )


def check_sizes(bundle: Bundle, backend: Backend) -> None:
    """Run the recorded calls of every size but the own.

    Raises:
        CheckFailed: a program computes something else at a size.
    """
    tolerances = TOLERANCE[bundle.manifest.target]
    for size in bundle.manifest.sizes[1:]:
        for component, error in size_errors(bundle, backend, size).items():
            if not error <= tolerances[component]:
                raise CheckFailed(
                    f"the emitted {component} differs from its reference at {size.title} (relative error {error:.2e}, "
                    f"allowed {tolerances[component]:.0e})",
                    "report the model and the options",
                )
