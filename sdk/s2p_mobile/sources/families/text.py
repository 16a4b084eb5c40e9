"""One CLIP text encoder: Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from s2p_converters.core.graph import StepTables, UNetStructure
from s2p_mobile.sources.families.conditioner import Array32, Conditioner, ConditionSpec
from s2p_mobile.sources.modules import load_module, read_json
from s2p_mobile.sources.origin import title
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.time_tables import time_tables
from s2p_mobile.sources.tokenizer_files import TokenizerTable, read_tokenizer, require_words
from s2p_runtime.conditioning.tokens import FIRST_IDS, TokenIds
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


def tokenizer_of(folder: Path, index: Mapping[str, Any], encoder: str = "text_encoder") -> TokenizerTable:
    """The tokenizer of a text encoder, at most as long as that has positions.

    Args:
        index: content of ``model_index.json``.
        encoder: folder of the encoder.

    Raises:
        S2PError: as :func:`read_tokenizer`; ids that the encoder has no embedding of.
    """
    name = encoder.replace("text_encoder", "tokenizer")
    config = read_json(folder / encoder / "config.json")
    positions, words = config.get("max_position_embeddings", 77), config.get("vocab_size", 49408)  # as CLIPTextConfig has them
    if not (isinstance(positions, int) and isinstance(words, int)):
        problem = f"{encoder}/config.json of {title(folder)} has no number of positions or words"
        raise S2PError(problem, "export the model again with diffusers")
    table = read_tokenizer(folder / name, positions, index.get(name))
    require_words(table, encoder, words)
    return table


class TextConditioner(Conditioner):
    """Tells the denoiser the text encoder's last hidden states. One time table serves all prompts."""

    @classmethod
    def of_model(cls, folder: Path, index: Mapping[str, Any], structure: UNetStructure, size: PixelSize) -> Self:
        table = tokenizer_of(folder, index)
        if read_json(folder / "text_encoder" / "config.json").get("use_attention_mask"):
            raise S2PError(
                f"text_encoder/config.json of {title(folder)} says use_attention_mask: the encoder is not to see what fills a text, "
                "which no program here keeps from it",
                "give a model whose text encoder sees all tokens, as those of Stable Diffusion do",
            )
        return cls(folder, table.spec, structure, tables=(table,))

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
    def embed(self, token_ids: TokenIds) -> tuple[Array32, ...]:
        return (self.text_encoder(torch.from_numpy(token_ids[FIRST_IDS]).long())[0].numpy(),)

    def step_tables(self, unet: nn.Module, timesteps: Sequence[float]) -> StepTables:
        return StepTables(time_tables(unet, timesteps))

    def load(self) -> None:
        assert self.text_encoder
