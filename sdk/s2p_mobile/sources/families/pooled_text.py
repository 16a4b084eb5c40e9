"""Two CLIP text encoders, and a pooled text and the picture's size in the time path: Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from s2p_converters.core.graph import NetworkRows, StepTables, UNetStructure
from s2p_mobile.sources.families.conditioner import Array32, ConditionSpec
from s2p_mobile.sources.families.text import TextConditioner, tokenizer_of
from s2p_mobile.sources.modules import load_module
from s2p_mobile.sources.origin import title
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.time_tables import time_network
from s2p_runtime.bundle import Conditioning, size_ids
from s2p_runtime.conditioning.tokens import FIRST_IDS, SECOND_IDS, TokenIds
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


class PooledTextConditioner(TextConditioner):
    """As ``encode_prompt`` of diffusers' StableDiffusionXLPipeline: the denoiser's blocks are told the penultimate hidden states of
    both encoders side by side, its time path the second's projected end-of-text state and the size of the picture."""

    shares_time_table = False

    @classmethod
    def of_model(cls, folder: Path, index: Mapping[str, Any], structure: UNetStructure, size: PixelSize) -> Self:
        first, second = (tokenizer_of(folder, index, encoder) for encoder in ("text_encoder", "text_encoder_2"))
        if first.spec.max_length != second.spec.max_length:
            lengths = f"{first.spec.max_length} and {second.spec.max_length}"
            raise S2PError(
                f"the tokenizers of {title(folder)} give texts of {lengths} tokens, which cannot stand side by side",
                "correct model_max_length of tokenizer_config.json in one of them",
            )
        settings = Conditioning(
            second_tokenizer=second.spec,
            zero_unconditional=bool(index.get("force_zeros_for_empty_prompt", True)),
            time_ids=size_ids(size.width, size.height),
        )
        return cls(folder, first.spec, structure, settings, tables=(first, second))

    @property
    def recorded(self) -> Conditioning:
        """Its settings, which every model and checkpoint of such a family has."""
        assert self.settings is not None
        return self.settings

    @cached_property
    def text_encoder_2(self) -> Any:
        """transformers CLIPTextModelWithProjection, float32."""
        with quiet_import():
            from transformers import CLIPTextModelWithProjection
        return load_module(CLIPTextModelWithProjection, self.folder / "text_encoder_2")

    @property
    def conditions(self) -> tuple[ConditionSpec, ...]:
        assert self.structure.text_time is not None
        return (*super().conditions, ConditionSpec("pooled", "pooled_text", (self.structure.text_time.pooled_dim,)))

    @property
    def zeroes_empty_prompt(self) -> bool:
        return self.recorded.zero_unconditional

    @torch.no_grad()
    def embed(self, token_ids: TokenIds) -> tuple[Array32, ...]:
        first, second = (
            encoder(torch.from_numpy(token_ids[name]).long(), output_hidden_states=True)
            for encoder, name in ((self.text_encoder, FIRST_IDS), (self.text_encoder_2, SECOND_IDS))
        )
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2)
        return hidden.numpy(), second.text_embeds.numpy()

    def step_tables(self, unet: nn.Module, timesteps: Sequence[float]) -> StepTables:
        network = time_network(unet, timesteps).float()
        shared = dict(zip(network.names, network.rows.split(network.widths, dim=1), strict=True))
        return StepTables(shared, NetworkRows(network, torch.tensor([self.recorded.time_ids])))

    def load(self) -> None:
        super().load()
        assert self.text_encoder_2
