"""One text encoder whose hidden states are all that the U-Net learns of a prompt (Stable Diffusion 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import PictureSize
from s2p_runtime.conditioning.protocol import Array32, Conditioner, RunComponent
from s2p_runtime.conditioning.tokens import FIRST_IDS, TokenIds
from s2p_runtime.pictures import relative_error

Array = NDArray[Any]


class TextConditioner(Conditioner):
    """``input_ids`` int32 [1, N] -> ``last_hidden_state`` float32 [1, N, D], once for each branch; recorded as ``text_embeddings``
    [B, N, D]."""

    kind = "text"
    token_inputs: ClassVar[Mapping[str, str]] = {"input_ids": FIRST_IDS}
    components = ("text_encoder",)
    inputs: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "text_embeddings"}
    made_by: ClassVar[Mapping[str, str]] = {"text_embeddings": "text_encoder"}

    def encode(
        self, run: RunComponent, token_ids: TokenIds, size: PictureSize | None = None, negative: bool = False
    ) -> dict[str, Array]:
        """See :class:`Conditioner`. Every text is encoded, the empty one too; the picture's size changes nothing."""
        return {"text_embeddings": np.concatenate([self._embed(run, row) for row in self.token_rows(token_ids)])}

    def errors(self, run: RunComponent, tensors: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
        """See :class:`Conditioner`: every branch alone."""
        for row, wanted in zip(self.token_rows(tensors), tensors["text_embeddings"], strict=True):
            yield "text_encoder", relative_error(self._embed(run, row), wanted[None])

    def _embed(self, run: RunComponent, row: Mapping[str, Array]) -> Array32:
        return run("text_encoder", row)["last_hidden_state"]
