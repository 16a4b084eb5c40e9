"""One CLIP text encoder: Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import StepTables, UNetStructure
from s2p_mobile.sources.families.conditioner import Array32, Conditioner, ConditionSpec
from s2p_mobile.sources.modules import load_module, read_json
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.time_tables import time_tables
from s2p_mobile.sources.tokenizer_files import require_words, tokenizer_spec
from s2p_runtime.bundle import TokenizerSpec
from s2p_runtime.quiet import quiet_import


def first_tokenizer(folder: Path) -> TokenizerSpec:
    """Settings of ``tokenizer``, as long as ``text_encoder`` has positions.

    Raises:
        S2PError: as :func:`tokenizer_spec`.
    """
    positions = read_json(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
    return tokenizer_spec(folder / "tokenizer", positions)


class TextConditioner(Conditioner):
    """Tells the denoiser the text encoder's last hidden states. One time table serves all prompts."""

    @classmethod
    def of_model(cls, folder: Path, index: Mapping[str, Any], structure: UNetStructure, size: PixelSize) -> Self:
        spec = first_tokenizer(folder)
        require_words(folder, "text_encoder")
        return cls(folder, spec, structure)

    @cached_property
    def text_encoder(self) -> Any:
        """transformers CLIPTextModel, float32."""
        with quiet_import():
            from transformers import CLIPTextModel
        return load_module(CLIPTextModel, self.folder / "text_encoder")

    @property
    def conditions(self) -> tuple[ConditionSpec, ...]:
        return (ConditionSpec("embeddings", "text_embeddings", (self.tokens, self.structure.context_dim)),)

    @torch.no_grad()
    def embed(self, token_ids: NDArray[np.int32]) -> tuple[Array32, ...]:
        return (self.text_encoder(torch.from_numpy(token_ids).long())[0].numpy(),)

    def step_tables(self, unet: nn.Module, timesteps: Sequence[float]) -> StepTables:
        return StepTables(time_tables(unet, timesteps))

    def load(self) -> None:
        assert self.text_encoder
