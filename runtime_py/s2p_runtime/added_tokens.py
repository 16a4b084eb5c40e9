"""Added tokens: what is cut out of a text before the rest is split into words, and words that stand for several of them.

Source: ``AddedVocabulary`` of the ``tokenizers`` library (``extract_and_normalize``, ``find_matches``). Tokens that are not
normalized are looked for in the text as it is, the others in what is left of it, normalized. At every place the longest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from s2p_runtime.clip_words import WHITE_SPACE, in_word, normalize
from s2p_runtime.tokenizer_spec import AddedToken


@dataclass(frozen=True)
class Piece:
    """A stretch of a text.

    Attributes:
        text: normalized, unless it is a token that is not.
        id: of the added token that it is; None: words.
    """

    text: str
    id: int | None


class AddedTokens:
    """The added tokens of a tokenizer."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        # Special ones first: of two with one spelling the first counts.
        ordered = sorted(tokens, key=lambda token: not token.special)
        self._plain = _Spellings({token.content: token for token in reversed(ordered) if not token.normalized})
        self._normal = _Spellings({normalize(token.content): token for token in reversed(ordered) if token.normalized})
        self._several = several_tokens([token.content for token in tokens])

    def pieces(self, text: str) -> Iterator[Piece]:
        """A text cut into added tokens and what lies between them, which is normalized."""
        for plain, token in self._plain.cut(text):
            if token is not None:
                yield Piece(plain, token.id)
            else:
                for piece, found in self._normal.cut(normalize(plain)):
                    yield Piece(piece, None if found is None else found.id)

    def expand(self, text: str) -> str:
        """A text with every word of several vectors written out: ``<a>`` becomes ``<a> <a>_1 <a>_2``.

        As ``maybe_convert_prompt`` of diffusers' TextualInversionLoaderMixin, which looks for the token as the tokenizer found it and
        replaces it wherever the text has that spelling. Where one such word is part of another, diffusers' order is that of a set;
        here it is that of the text.
        """
        if not self._several:
            return text
        for found in dict.fromkeys(piece.text for piece in self.pieces(text) if piece.id is not None):
            text = text.replace(found, self._several.get(found, found))
        return text


class _Spellings:
    """Tokens by their spelling."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = tokens
        self._lengths = sorted({len(spelling) for spelling in tokens}, reverse=True)

    def cut(self, text: str) -> Iterator[tuple[str, AddedToken | None]]:
        """The text in order: stretches that are tokens, with the token, and what lies between them."""
        done = place = 0
        while place < len(text) and self._tokens:
            length, token = self._longest(text, place)
            if token is None:
                place += 1
                continue
            start, stop = place, place + length
            place = stop
            if token.single_word and (in_word(text[start - 1 : start] or " ") or in_word(text[stop : stop + 1] or " ")):
                continue
            if token.lstrip:
                # White space that the token before took stays with it.
                start = max(_blank_from(text, start), done)
            if token.rstrip:
                stop += len(text[stop:]) - len(text[stop:].lstrip(_WHITE))
            if done < start:
                yield text[done:start], None
            yield text[start:stop], token
            done = stop
        if done < len(text):
            yield text[done:], None

    def _longest(self, text: str, place: int) -> tuple[int, AddedToken | None]:
        for length in self._lengths:
            token = self._tokens.get(text[place : place + length])
            if token is not None:
                return min(length, len(text) - place), token
        return 0, None


def several_tokens(contents: Sequence[str]) -> dict[str, str]:
    """Words that stand for several tokens -> the words of all of them, with a space between; ``<a>_1`` follows ``<a>``."""
    known, written = set(contents), {}
    for first in contents:
        count = 1
        while f"{first}_{count}" in known:
            count += 1
        if count > 1:
            written[first] = " ".join([first, *(f"{first}_{k}" for k in range(1, count))])
    return written


_WHITE = "".join(sorted(WHITE_SPACE))


def _blank_from(text: str, end: int) -> int:
    """Where the white space that ends at ``end`` begins."""
    return len(text[:end].rstrip(_WHITE))
