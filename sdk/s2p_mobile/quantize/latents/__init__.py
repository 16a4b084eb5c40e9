"""FP trajectories of a set of prompts under one plan: made once, read in any order, publishable on their own.

Example:
    >>> job = LatentJob(model, plan, prompts, guidance=7.5, seed=0)
    >>> dataset = write_latents(job, Path("latents"), resume=True)
    >>> dataset.states([3, 0], [24, 7]).shape
    (2, 4, 64, 64)
"""

from s2p_mobile.quantize.latents.dataset import LatentDataset, open_latents
from s2p_mobile.quantize.latents.manifest import LatentJob, LatentManifest, LatentRequest
from s2p_mobile.quantize.latents.writer import partial_folder, write_latents

__all__ = [
    "LatentDataset",
    "LatentJob",
    "LatentManifest",
    "LatentRequest",
    "open_latents",
    "partial_folder",
    "write_latents",
]
