"""Two text encoders, and a time table that each prompt brings for itself (SDXL).

Source: ``encode_prompt`` and ``_get_add_time_ids`` of diffusers' StableDiffusionXLPipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Conditioning, LatentSpec, PictureSize, size_ids
from s2p_runtime.conditioning.protocol import Array32, Conditioner, RunComponent
from s2p_runtime.conditioning.tokens import FIRST_IDS, SECOND_IDS, TokenIds
from s2p_runtime.pictures import relative_error

Array = NDArray[Any]


class PooledTextConditioner(Conditioner):
    """The component ``text_encoder`` holds both encoders: ``input_ids`` and ``second_input_ids``, int32 [1, N], ->
    ``hidden_states`` [1, N, D] and ``pooled_text`` [1, P]. ``time_table`` makes of ``pooled_text`` [B, P] and ``time_ids`` [B, 6] the
    rows of all calls, [B, T, K]."""

    kind = "pooled-text"
    token_inputs: ClassVar[Mapping[str, str]] = {"input_ids": FIRST_IDS, "second_input_ids": SECOND_IDS}
    components = ("text_encoder", "time_table")
    inputs: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "text_embeddings", "time_table": "time_table"}
    made_by: ClassVar[Mapping[str, str]] = {
        "text_embeddings": "text_encoder",
        "pooled_text": "text_encoder",
        "time_table": "time_table",
    }

    def __init__(self, conditioning: Conditioning, latents: LatentSpec) -> None:
        """
        Args:
            latents: of the own picture size, whose time ids ``conditioning`` holds.
        """
        self.conditioning, self.latents = conditioning, latents

    @property
    def tensors(self) -> tuple[str, ...]:
        """See :class:`Conditioner`; ``time_ids`` is no component's output."""
        return (*super().tensors, "time_ids")

    def encode(
        self, run: RunComponent, token_ids: TokenIds, size: PictureSize | None = None, negative: bool = False
    ) -> dict[str, Array]:
        """See :class:`Conditioner`. A missing negative text is zeros where the model was trained so
        (``force_zeros_for_empty_prompt``); one that was given is encoded, were it empty."""
        hidden, pooled = self._embed(run, token_ids, zeros=self.conditioning.zero_unconditional and not negative)
        time_ids = self.time_ids(len(pooled), size)
        table = run("time_table", {"pooled_text": pooled, "time_ids": time_ids})["time_table"]
        return {"text_embeddings": hidden, "pooled_text": pooled, "time_ids": time_ids, "time_table": table}

    def errors(self, run: RunComponent, tensors: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
        """See :class:`Conditioner`. Golden runs have no negative prompt."""
        hidden, pooled = self._embed(run, tensors, zeros=self.conditioning.zero_unconditional)
        yield "text_encoder", relative_error(hidden, tensors["text_embeddings"])
        yield "text_encoder", relative_error(pooled, tensors["pooled_text"])
        found = run("time_table", {name: tensors[name] for name in ("pooled_text", "time_ids")})["time_table"]
        yield "time_table", relative_error(found, tensors["time_table"])

    def time_ids(self, branches: int, size: PictureSize | None = None) -> Array32:
        """Time ids of a picture for every branch, float32 [B, 6]; None: of the own size."""
        own = size is None or size.fits(self.latents.shape)
        ids = self.conditioning.time_ids if own or size is None else size_ids(size.width, size.height)
        return np.tile(np.array([ids], np.float32), (branches, 1))

    def _embed(self, run: RunComponent, token_ids: Mapping[str, Array], zeros: bool) -> tuple[Array32, Array32]:
        """Both outputs of the text encoders, [B, N, D] and [B, P]; with ``zeros`` the first of two branches is 0."""
        found = [run("text_encoder", row) for row in self.token_rows(token_ids)]
        hidden, pooled = (np.concatenate([each[name] for each in found]) for name in ("hidden_states", "pooled_text"))
        if zeros and len(found) > 1:
            hidden[0], pooled[0] = 0, 0
        return hidden, pooled
