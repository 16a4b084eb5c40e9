"""Token ids of texts: one row of them to a text encoder, each from its own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Conditioning
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.tokenizer_spec import TokenizerSpec

FIRST_IDS, SECOND_IDS = "token_ids", "second_token_ids"

TokenIds = Mapping[str, NDArray[np.int32]]
"""Token ids of K texts by the name under which golden runs record them, int32 [K, N] each: :data:`FIRST_IDS`, and with a second text
encoder :data:`SECOND_IDS`."""


def tokenizer_specs(first: TokenizerSpec, conditioning: Conditioning | None) -> dict[str, TokenizerSpec]:
    """The tokenizers that a manifest describes, by the name of their ids."""
    return {FIRST_IDS: first} | ({} if conditioning is None else {SECOND_IDS: conditioning.second_tokenizer})


def load_tokenizers(folder: Path, specs: Mapping[str, TokenizerSpec]) -> dict[str, ClipTokenizer]:
    """The tokenizers of a folder.

    Raises:
        S2PError: as :meth:`ClipTokenizer.load`.
    """
    return {name: ClipTokenizer.load(folder / spec.vocab, folder / spec.merges, spec) for name, spec in specs.items()}


def token_ids(tokenizers: Mapping[str, ClipTokenizer], texts: Sequence[str]) -> dict[str, NDArray[np.int32]]:
    """:data:`TokenIds` of K texts.

    Raises:
        S2PError: as :meth:`ClipTokenizer.encode`.
    """
    return {name: np.array([one.encode(text) for text in texts], np.int32) for name, one in tokenizers.items()}


def tokens_dropped(tokenizers: Mapping[str, ClipTokenizer], text: str) -> int:
    """How many tokens of a text the encoder that loses most of them does not see; 0 when it fits.

    Raises:
        S2PError: as :meth:`ClipTokenizer.encode`.
    """
    return max(one.tokens_dropped(text) for one in tokenizers.values())
