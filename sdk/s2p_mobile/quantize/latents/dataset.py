"""Reading a latent data set, a few samples at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s2p_mobile.quantize.latents.manifest import (
    LATENTS_FORMAT,
    LATENTS_VERSION,
    MANIFEST_NAME,
    SHARD_PROMPTS,
    TEXTS_FILE,
    LatentJob,
    LatentManifest,
)
from s2p_runtime.bundle import check_files
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import inside
from s2p_runtime.tensors import read_tensors

Array32 = NDArray[np.float32]

_OPEN_SHARDS = 32
"""Shards kept mapped at a time; a mapping costs a file descriptor, and its pages belong to the page cache."""


class LatentDataset:
    """FP trajectories of P prompts at T calls, read from mapped files: memory does not grow with P.

    Attributes:
        manifest: what the set is.
        prompts, calls, branches: P, T and B (2 with guidance, unconditional first).
    """

    def __init__(self, folder: Path, manifest: LatentManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.prompts = len(manifest.request.prompts)
        self.calls = len(manifest.request.plan.calls)
        self.branches = manifest.request.branches
        self._handles: OrderedDict[int, Any] = OrderedDict()
        self._empty: dict[str, Array32] = {}
        if manifest.unconditional is not None:
            self._empty = {name: value[0] for name, value in read_tensors(folder / TEXTS_FILE).items()}

    @property
    def block_names(self) -> list[str]:
        """Blocks whose outputs are stored, in the order of their names."""
        with safe_open(self.folder / self.manifest.shards[0].file, framework="numpy") as handle:
            return sorted(name.removeprefix("feature.") for name in handle.keys() if name.startswith("feature."))  # noqa: SIM118

    def require(self, job: LatentJob) -> None:
        """Raise :class:`S2PError` when the set is of another model, plan, guidance, seed or prompts (says which)."""
        difference = self.manifest.request.difference(job.request)
        if difference is not None:
            raise S2PError(f"the latent set {self.folder} has {difference}", "make it again with s2p-mobile latents")

    def states(self, prompts: Sequence[int], calls: Sequence[int]) -> Array32:
        """Scaled states of the pairs (prompts[j], calls[j]): float32 [n, C, H, W]."""
        return self._pairs("states", prompts, calls)

    def outputs(self, prompts: Sequence[int], calls: Sequence[int]) -> Array32:
        """Raw FP outputs of the pairs: float32 [n, B, C, H, W]."""
        return self._pairs("outputs", prompts, calls)

    def features(self, block: str, prompts: Sequence[int], calls: Sequence[int]) -> NDArray[np.float16]:
        """FP outputs of a block for the pairs: float16 [n, B, ...]; only when the set has features."""
        return self._pairs(f"feature.{block}", prompts, calls)

    def final(self, prompts: Sequence[int]) -> Array32:
        """Final states, float32 [n, C, H, W]."""
        return np.stack([self._slice(p, "final")[p % SHARD_PROMPTS] for p in prompts])

    def conditions(self, prompts: Sequence[int]) -> tuple[Tensor, ...]:
        """What the denoiser is told about every branch, float32 [n, B, ...] each, in its order."""
        return tuple(torch.from_numpy(self._branches(name, prompts)) for name in self.manifest.request.conditions)

    def _branches(self, name: str, prompts: Sequence[int]) -> Array32:
        """What texts are encoded to: the empty one's where there is guidance, then the prompt's."""
        own = np.stack([self._slice(p, name)[p % SHARD_PROMPTS] for p in prompts])[:, None]
        if name not in self._empty:
            return own
        empty = np.broadcast_to(self._empty[name], own.shape)
        return np.concatenate([empty, own], axis=1)

    def _pairs(self, name: str, prompts: Sequence[int], calls: Sequence[int]) -> NDArray[Any]:
        return np.stack([self._slice(p, name)[p % SHARD_PROMPTS, c] for p, c in zip(prompts, calls, strict=True)])

    def _slice(self, prompt: int, name: str) -> Any:
        index = prompt // SHARD_PROMPTS
        if index in self._handles:
            self._handles.move_to_end(index)
        else:
            path = self.folder / self.manifest.shards[index].file
            try:
                self._handles[index] = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise S2PError(f"cannot read {path} ({error})", "make the latent set again") from error
            if len(self._handles) > _OPEN_SHARDS:
                self._handles.popitem(last=False)
        try:
            return self._handles[index].get_slice(name)
        except SafetensorError as error:
            raise S2PError(f"shard {index} of {self.folder} has no {name}", "make the latent set again") from error


def open_latents(folder: Path) -> LatentDataset:
    """Open a finished set after checking its manifest and every checksum.

    Raises:
        S2PError: no latent set, unfinished, file missing or altered.
    """
    manifest = read_contract(folder / MANIFEST_NAME, LatentManifest, LATENTS_FORMAT, LATENTS_VERSION)
    files = {shard.file: shard.entry for shard in manifest.shards}
    if manifest.unconditional is not None:
        files[TEXTS_FILE] = manifest.unconditional
    for name in files:
        inside(folder, name)
    check_files(folder, files)
    return LatentDataset(folder, manifest)
