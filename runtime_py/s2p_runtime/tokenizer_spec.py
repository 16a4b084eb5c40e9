"""What a bundle and a checkpoint say about a tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from s2p_runtime.contract import Contract

MAX_ADDED_TOKENS = 65_536
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class AddedToken(Contract):
    """A token that is cut out of a text before the rest is split into words; see :mod:`s2p_runtime.added_tokens`."""

    content: str = Field(min_length=1, description="its spelling")
    id: TokenId
    special: bool = Field(description="it frames or pads texts, or was declared so; of two with one spelling it comes first")
    lstrip: bool = Field(description="white space before it goes with it")
    rstrip: bool = Field(description="white space behind it goes with it")
    single_word: bool = Field(description="it counts only where no letter, mark, digit or underscore touches it")
    normalized: bool = Field(
        description="it is looked for in normalized text, where capitals are small; else in the text as it is"
    )


class TokenizerSpec(Contract):
    """A CLIP byte-pair tokenizer: paths in the bundle, the ids that frame a prompt, and what is cut out of texts."""

    kind: Literal["clip"]
    vocab: str
    merges: str
    max_length: int = Field(ge=2)
    bos_id: TokenId
    eos_id: TokenId
    unk_id: TokenId = Field(description="stands for a byte that the vocabulary lacks")
    pad_id: TokenId
    added_tokens: tuple[AddedToken, ...] = Field(
        max_length=MAX_ADDED_TOKENS, description="tokens that are cut out of texts, those that frame a prompt among them"
    )

    @model_validator(mode="after")
    def _spellings_differ(self) -> TokenizerSpec:
        if len({token.content for token in self.added_tokens}) != len(self.added_tokens):
            raise ValueError("added_tokens: two have the same content")
        return self
