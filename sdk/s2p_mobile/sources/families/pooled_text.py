"""Two CLIP text encoders, and a pooled text and the picture's size in the time path: Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import NetworkRows, StepTables, UNetStructure
from s2p_mobile.sources.families.conditioner import Array32, ConditionSpec
from s2p_mobile.sources.families.text import TextConditioner, first_tokenizer
from s2p_mobile.sources.modules import load_module
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.time_tables import time_network
from s2p_mobile.sources.tokenizer_files import require_words, tokenizer_spec
from s2p_runtime.bundle import Conditioning, size_ids
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


class PooledTextConditioner(TextConditioner):
    """As ``encode_prompt`` of diffusers' StableDiffusionXLPipeline: the denoiser's blocks are told the penultimate hidden states of
    both encoders side by side, its time path the second's projected end-of-text state and the size of the picture."""

    shares_time_table = False

    @classmethod
    def of_model(cls, folder: Path, index: Mapping[str, Any], structure: UNetStructure, size: PixelSize) -> Self:
        spec = first_tokenizer(folder)
        other = tokenizer_spec(folder / "tokenizer_2", spec.max_length)
        names = ("vocab.json", "merges.txt")
        same_files = all(
            (folder / "tokenizer_2" / name).read_bytes() == (folder / "tokenizer" / name).read_bytes() for name in names
        )
        if not same_files or other.model_copy(update={"pad_id": spec.pad_id}) != spec:
            raise S2PError(
                f"the tokenizers of {folder} differ in more than their padding",
                "give a model whose tokenizer_2 has the vocabulary, the length and the special tokens of tokenizer",
            )
        for encoder in ("text_encoder", "text_encoder_2"):
            require_words(folder, encoder)
        settings = Conditioning(
            second_pad_id=other.pad_id,
            zero_unconditional=bool(index.get("force_zeros_for_empty_prompt", True)),
            time_ids=size_ids(size.width, size.height),
        )
        return cls(folder, spec, structure, settings)

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
    def embed(self, token_ids: NDArray[np.int32]) -> tuple[Array32, ...]:
        second_ids = self.recorded.second_token_ids(token_ids, self.tokenizer_spec.eos_id)
        first = self.text_encoder(torch.from_numpy(token_ids).long(), output_hidden_states=True)
        second = self.text_encoder_2(torch.from_numpy(second_ids).long(), output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2)
        return hidden.numpy(), second.text_embeds.numpy()

    def step_tables(self, unet: nn.Module, timesteps: Sequence[float]) -> StepTables:
        network = time_network(unet, timesteps).float()
        shared = dict(zip(network.names, network.rows.split(network.widths, dim=1), strict=True))
        return StepTables(shared, NetworkRows(network, torch.tensor([self.recorded.time_ids])))

    def load(self) -> None:
        super().load()
        assert self.text_encoder_2
