"""FP pictures and states on disk: drawn once per model, plan, guidance, prompt and seed.

Below ``<folder>/<run>/<shard>/``: ``drawings.safetensors`` (``pictures``, ``states``) and ``shard.json`` with its SHA-256.
``run`` names the model's weights, the plan, the guidance and the torch that computed; ``shard`` its prompts and seeds.
A shard appears whole or not at all, so an interrupted evaluation goes on where it stopped, and a longer one reuses a shorter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from s2p_mobile.judge.evaluation.drawing import Drawings
from s2p_mobile.sources.cache_folder import cache_folder
from s2p_mobile.sources.model import Model
from s2p_runtime.contract import Contract, read_contract, write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_folder, sha256_file
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.tensors import write_tensors

SHARD_PROMPTS = 16
_FORMAT: Final = "s2p-fp-pictures"
_VERSION: Final = 1
_TENSORS, _MANIFEST = "drawings.safetensors", "shard.json"


class _Shard(Contract):
    format: Literal["s2p-fp-pictures"] = _FORMAT
    version: Literal[1] = _VERSION
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def default_cache_folder() -> Path:
    """``fp`` of the user's cache folder, see :func:`~s2p_mobile.sources.cache_folder.cache_folder`."""
    return cache_folder("fp")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _weights(folder: Path) -> list[str]:
    return [sha256_file(path) for path in sorted(folder.glob("*.safetensors"))]


class PictureCache:
    """The shards of one FP model under one plan and guidance."""

    def __init__(
        self, folder: Path, model: Model, plan: SamplingPlan, guidance: float, device: str | torch.device = "cpu"
    ) -> None:
        """
        Args:
            folder: of the cache; made when the first shard is written.
            device: where the U-Net runs; another device rounds differently.
        """
        identity = {
            "version": _VERSION,
            "unet": model.unet_sha256,
            "vae": _weights(model.folder / "vae"),
            "texts": model.text_sha256,
            "configurations": [model.unet_config, model.vae_config],
            "plan": plan.model_dump(mode="json"),
            "guidance": guidance,
            "torch": str(torch.__version__),
            "device": str(device),
            "latents": model.latents.model_dump(mode="json"),
            "embedded_guidance": model.embedded_guidance,
        }
        identity |= model.conditioner.identity
        self.folder = folder / _digest(identity)

    def get(self, prompts: Sequence[str], seeds: Sequence[int], draw: Callable[[], Drawings]) -> Drawings:
        """The drawings of one shard, read when they are here and undamaged, otherwise drawn and kept.

        Raises:
            S2PError: the cache cannot be written.
        """
        folder = self.folder / _digest([list(prompts), list(seeds)])
        found = _read(folder, prompts, seeds)
        if found is not None:
            return found
        drawings = draw()
        with atomic_folder(folder, force=True) as scratch:
            write_tensors(scratch / _TENSORS, {"pictures": drawings.pictures, "states": drawings.states})
            checksum = sha256_file(scratch / _TENSORS)
            write_contract(scratch / _MANIFEST, _Shard(prompts=tuple(prompts), seeds=tuple(seeds), sha256=checksum))
        return drawings


def _read(folder: Path, prompts: Sequence[str], seeds: Sequence[int]) -> Drawings | None:
    """A shard, or None when it is absent or damaged: a cache heals by drawing again."""
    try:
        shard = read_contract(folder / _MANIFEST, _Shard, _FORMAT, _VERSION)
        if shard.prompts != tuple(prompts) or shard.seeds != tuple(seeds) or sha256_file(folder / _TENSORS) != shard.sha256:
            return None
        # Memory-mapped: a tensor is copied when it is asked for.
        with safe_open(folder / _TENSORS, framework="numpy") as tensors:
            return Drawings(tensors.get_tensor("pictures"), tensors.get_tensor("states"))
    except (S2PError, SafetensorError, OSError):
        return None
