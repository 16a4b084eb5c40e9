"""What identifies a latent data set, and its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from pydantic import Field, model_validator

from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.sources.model import Model
from s2p_runtime.bundle import Conditioning, FileEntry, LatentSpec, TokenizerSpec
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan

LATENTS_FORMAT: Final = "s2p-latents"
LATENTS_VERSION: Final = 1
MANIFEST_NAME = "latents.json"
TEXTS_FILE = "unconditional.safetensors"
SHARD_PROMPTS = 8
"""Prompts of a shard. They go through the U-Net together, so the number is part of a set's identity."""


class LatentRequest(Contract):
    """Everything that decides the content of a latent data set.

    Prompt k runs with seed ``seed + k``. With guidance above 1 every call has two samples, unconditional first.
    """

    source: str = Field(description="name of the model, for people")
    unet_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    text_sha256: tuple[str, ...] = Field(description="of weights and configuration of each text encoder")
    embedded_guidance: float | None = Field(description="of a latent consistency model, in its time path; null: none")
    plan: SamplingPlan
    guidance: float
    seed: int = Field(ge=0)
    latents: LatentSpec
    prompts: tuple[str, ...] = Field(min_length=1)
    features: bool = Field(description="the outputs of the down, mid and up blocks are stored as well")
    tokenizer: TokenizerSpec = Field(description="of the (first) text encoder")
    conditioning: Conditioning | None = Field(description="settings of the family's conditioner; null: none")
    conditions: tuple[str, ...] = Field(
        min_length=1, description="tensors that tell the denoiser of a text, in the order in which it takes them"
    )

    @property
    def branches(self) -> int:
        """Samples per call: 2 with guidance, else 1."""
        return 2 if self.guidance > 1 else 1

    @property
    def shards(self) -> int:
        """Number of shard files."""
        return -(-len(self.prompts) // SHARD_PROMPTS)

    def difference(self, wanted: LatentRequest) -> str | None:
        """In what this set differs from the wanted one, in words; None when it serves. Stored features never hurt."""
        if self.unet_sha256 != wanted.unet_sha256:
            return f"another model ({self.source}, not {wanted.source}, or other weights)"
        if self.text_sha256 != wanted.text_sha256:
            return f"other weights of a text encoder ({self.source}, here {wanted.source})"
        if self.embedded_guidance != wanted.embedded_guidance:
            return f"another guidance in the time path ({self.embedded_guidance}, not {wanted.embedded_guidance})"
        if self.plan != wanted.plan:
            ours, theirs = self.plan, wanted.plan
            return f"another sampling plan ({ours.scheduler} {ours.steps} steps, not {theirs.scheduler} {theirs.steps} steps)"
        if self.latents != wanted.latents:
            return f"another latent size ({self.latents.height}x{self.latents.width})"
        if self.tokenizer != wanted.tokenizer:
            return "another tokenizer, or other added tokens"
        if self.conditioning != wanted.conditioning or self.conditions != wanted.conditions:
            return "other time ids, another second tokenizer or another unconditional text"
        if self.guidance != wanted.guidance:
            return f"another guidance ({self.guidance:g}, not {wanted.guidance:g})"
        if self.seed != wanted.seed:
            return f"another seed ({self.seed}, not {wanted.seed})"
        if self.prompts != wanted.prompts:
            pairs = enumerate(zip(self.prompts, wanted.prompts, strict=False))
            first = next((k + 1 for k, (a, b) in pairs if a != b), None)
            if first is None:
                return f"other prompts ({len(self.prompts)}, not {len(wanted.prompts)})"
            return f"other prompts (the first to differ is prompt {first})"
        if wanted.features and not self.features:
            return "no stored features"
        return None


class Shard(Contract):
    """One file of consecutive prompts."""

    file: str
    prompts: int = Field(ge=1)
    entry: FileEntry


class LatentManifest(Contract):
    """``latents.json``."""

    format: Literal["s2p-latents"] = LATENTS_FORMAT
    version: Literal[1] = LATENTS_VERSION
    producer: str = Field(description="program and version that wrote the set")
    request: LatentRequest
    unconditional: FileEntry | None = Field(description="of unconditional.safetensors; null without guidance")
    shards: tuple[Shard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _all_prompts_are_there(self) -> LatentManifest:
        if sum(shard.prompts for shard in self.shards) != len(self.request.prompts):
            raise ValueError("the shards do not hold as many prompts as are listed")
        if (self.unconditional is None) != (self.request.branches == 1):
            raise ValueError("the unconditional text and the guidance disagree")
        return self


@dataclass(frozen=True)
class LatentJob:
    """A latent data set to be made.

    Attributes:
        prompts: prompt k runs with seed ``seed + k``.
        guidance: classifier-free guidance; at or below 1 only the conditional branch is run.
        features: store the block outputs too (float16; several times the size of the rest).
        compute: how the network computes; no part of the set's identity.
    """

    model: Model
    plan: SamplingPlan
    prompts: tuple[str, ...]
    guidance: float
    seed: int = 0
    features: bool = False
    compute: ComputePlan = field(default_factory=ComputePlan)

    @cached_property
    def request(self) -> LatentRequest:
        """The identity of the set.

        Raises:
            S2PError: no prompts.
        """
        if not self.prompts:
            raise S2PError("there are no prompts", "give a prompt file with at least one line")
        return LatentRequest(
            source=self.model.name,
            unet_sha256=self.model.unet_sha256,
            text_sha256=self.model.text_sha256,
            embedded_guidance=self.model.embedded_guidance,
            plan=self.plan,
            guidance=self.guidance,
            seed=self.seed,
            latents=self.model.latents,
            prompts=self.prompts,
            features=self.features,
            tokenizer=self.model.conditioner.tokenizer_spec,
            conditioning=self.model.conditioner.settings,
            conditions=tuple(spec.name for spec in self.model.conditioner.conditions),
        )


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.safetensors"
