"""How texts become what a family's denoiser is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import StepTables, UNetStructure
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.tokenizer_files import TokenizerTable
from s2p_runtime.bundle import Conditioning, TokenizerSpec
from s2p_runtime.conditioning import TokenIds, load_tokenizers, token_ids, tokenizer_specs, tokens_dropped
from s2p_runtime.tokenizer import ClipTokenizer

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class ConditionSpec:
    """One tensor that a denoiser is told about a text.

    Attributes:
        name: in latent sets.
        golden: in golden runs.
        shape: of one branch.
        dtype: as numpy names it.
    """

    name: str
    golden: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt as the denoiser is told it.

    Attributes:
        token_ids: of B texts; the unconditional branch first where there is guidance (B = 2).
        conditions: float32 [B, ...] each, in the order of :attr:`Conditioner.conditions`.
    """

    token_ids: TokenIds
    conditions: tuple[Array32, ...]


class Conditioner(ABC):
    """What a family loads to read texts, and what it tells its denoiser about them.

    The denoiser's step graph is called with (sample, call indices, conditions): the first condition is for its blocks, the others are
    for its step tables. Weights are loaded at first use, in float32.

    Attributes:
        folder: of a model or a checkpoint, in diffusers layout.
        tokenizer_spec: of the first tokenizer.
        structure: of the denoiser.
        tables: tokenizers of a model as transformers reads them, in the order of the text encoders; empty for a checkpoint, which has
            files.
        settings: what else a checkpoint and a bundle record of the conditioning; None where a family has nothing to say.
        shares_time_table: whether one time table serves all prompts; else each prompt has its own.
    """

    shares_time_table = True

    def __init__(
        self,
        folder: Path,
        tokenizer_spec: TokenizerSpec,
        structure: UNetStructure,
        settings: Conditioning | None = None,
        tables: Sequence[TokenizerTable] = (),
    ) -> None:
        self.folder, self.tokenizer_spec, self.structure, self.settings = folder, tokenizer_spec, structure, settings
        self.tables = tuple(tables)

    @classmethod
    @abstractmethod
    def of_model(cls, folder: Path, index: Mapping[str, Any], structure: UNetStructure, size: PixelSize) -> Self:
        """The conditioner of a source model; reads no weights.

        Args:
            index: content of ``model_index.json``.
            size: of the pictures, which some denoisers are told.

        Raises:
            S2PError: tokenizers or text encoders that do not go together.
        """

    @property
    @abstractmethod
    def conditions(self) -> tuple[ConditionSpec, ...]:
        """What the denoiser is told, in the order in which it takes it."""

    @abstractmethod
    def embed(self, token_ids: TokenIds) -> tuple[Array32, ...]:
        """The conditions of K texts: their token ids, int32 [K, N] a tokenizer -> float32 [K, ...] each."""

    @abstractmethod
    def step_tables(self, unet: nn.Module, timesteps: Sequence[float]) -> StepTables:
        """Time rows of every timestep that all prompts share, in float32, and what a prompt adds to them.

        Args:
            unet: the diffusers module; it is not changed.
            timesteps: one per call, T of them.
        """

    @abstractmethod
    def load(self) -> None:
        """Load every text encoder now.

        Raises:
            S2PError: weights that are damaged or do not belong to their configuration.
        """

    @property
    def zeroes_empty_prompt(self) -> bool:
        """Whether the unconditional branch is zeros where there is no negative prompt, and not the encoded empty text."""
        return False

    @cached_property
    def tokenizers(self) -> Mapping[str, ClipTokenizer]:
        """The runtime's own CLIP tokenizers, as every harness uses them, by the name of their ids."""
        specs = tokenizer_specs(self.tokenizer_spec, self.settings)
        if self.tables:
            return {name: table.tokenizer for name, table in zip(specs, self.tables, strict=True)}
        return load_tokenizers(self.folder, specs)

    @property
    def identity(self) -> dict[str, Any]:
        """What changes its conditions beside weights, texts and the size of the latents; JSON values."""
        told: dict[str, Any] = {"tokenizer": self.tokenizer_spec.model_dump(mode="json")}
        return told if self.settings is None else told | {"conditioning": self.settings.model_dump(mode="json")}

    @property
    def tokens(self) -> int:
        """N, tokens of a text."""
        return self.tokenizer_spec.max_length

    def token_ids(self, texts: Sequence[str]) -> TokenIds:
        """Token ids of K texts, int32 [K, N] a tokenizer."""
        return token_ids(self.tokenizers, texts)

    def tokens_dropped(self, text: str) -> int:
        """How many tokens of a text its encoders do not see; 0 when it fits."""
        return tokens_dropped(self.tokenizers, text)

    def encode(self, text: str, negative_prompt: str | None = None, *, guided: bool) -> EncodedPrompt:
        """What the denoiser is told about a text.

        Args:
            negative_prompt: what the unconditional branch is told; None: the empty text, or zeros (:attr:`zeroes_empty_prompt`).
            guided: with an unconditional branch, which comes first.
        """
        ids = self.token_ids([negative_prompt or "", text] if guided else [text])
        conditions = self.embed(ids)
        if guided and negative_prompt is None and self.zeroes_empty_prompt:
            for condition in conditions:
                condition[0] = 0
        return EncodedPrompt(ids, conditions)
