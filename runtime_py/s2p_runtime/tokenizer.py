"""The CLIP byte-pair tokenizer in pure Python, equal to ``transformers.CLIPTokenizer`` (5.x) id for id.

A text goes through these stages:

1. words that stand for several added tokens are written out, as diffusers' pipelines do it (:mod:`s2p_runtime.added_tokens`);
2. the added tokens are cut out, those that frame a prompt among them;
3. the rest is normalized and split into words (:mod:`s2p_runtime.clip_words`);
4. the UTF-8 bytes of a word are spelled with GPT-2's 256 printable characters, ``</w>`` marks the last one, and neighbours are
   joined in the order of the merge list (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016);
5. the ids are cut to ``max_length - 2``, framed by ``bos`` and ``eos`` and padded.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from s2p_runtime.added_tokens import AddedTokens
from s2p_runtime.clip_words import BYTE_CHARACTERS, split_words
from s2p_runtime.errors import S2PError
from s2p_runtime.tokenizer_spec import TokenizerSpec

_END_OF_WORD = "</w>"


class ClipTokenizer:
    """CLIP tokenizer over a vocabulary and a merge list.

    Args:
        vocab: token -> id, ids unique and not negative. Holds the 256 byte characters alone and with ``</w>``.
        merges: pairs of tokens, most frequent first.
        spec: ids that frame a prompt, its length, and the added tokens, which need not be in ``vocab``.

    Raises:
        S2PError: an id of ``spec`` belongs to no token, or a merge names a token that is not in ``vocab``.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], spec: TokenizerSpec) -> None:
        self.spec = spec
        self._vocab = dict(vocab)
        known = {*self._vocab.values(), *(token.id for token in spec.added_tokens)}
        for field in ("bos_id", "eos_id", "unk_id", "pad_id"):
            if getattr(spec, field) not in known:
                raise S2PError(f"tokenizer vocabulary has no token for {field} {getattr(spec, field)}", "get the bundle again")
        self._added = AddedTokens(spec.added_tokens)
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(merges):
            for token in (left, right, left + right):
                if token not in self._vocab:
                    raise S2PError(
                        f"tokenizer merge {rank + 1} needs token {token!r}, not in the vocabulary", "get the files again"
                    )
            self._merges[self._vocab[left], self._vocab[right]] = (rank, self._vocab[left + right])
        self._words: dict[str, list[int]] = {}

    @classmethod
    def load(cls, vocab_path: Path, merges_path: Path, spec: TokenizerSpec) -> ClipTokenizer:
        """Read ``vocab.json`` and ``merges.txt``.

        Raises:
            S2PError: a file is missing, not UTF-8 or malformed, or the two do not fit together.
        """
        return cls(_read_vocab(vocab_path), _read_merges(merges_path), spec)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``: ``bos``, at most ``max_length - 2`` tokens, ``eos``, then ``pad`` up to ``max_length``.

        Raises:
            S2PError: ``text`` holds a lone surrogate, so it is not Unicode text.
        """
        return self.frame(self.tokenize(self.expand(text)))

    def frame(self, ids: Sequence[int]) -> list[int]:
        """``bos``, at most ``max_length - 2`` of the ids, ``eos``, then ``pad`` up to ``max_length``."""
        framed = [self.spec.bos_id, *ids[: self.spec.max_length - 2], self.spec.eos_id]
        return framed + [self.spec.pad_id] * (self.spec.max_length - len(framed))

    def expand(self, text: str) -> str:
        """A text with words that stand for several added tokens written out; see :meth:`AddedTokens.expand`."""
        return self._added.expand(text)

    def tokens_dropped(self, text: str) -> int:
        """How many tokens :meth:`encode` cuts off the end of ``text``; 0 when it fits.

        Raises:
            S2PError: as :meth:`encode`.
        """
        return max(0, len(self.tokenize(self.expand(text))) - (self.spec.max_length - 2))

    def tokenize(self, text: str) -> list[int]:
        """All token ids of ``text`` as it stands, neither framed nor cut.

        Raises:
            S2PError: as :meth:`encode`.
        """
        if any(0xD800 <= ord(char) < 0xE000 for char in text):
            raise S2PError("the prompt is not valid Unicode text (lone surrogate)", "give it in UTF-8")
        ids: list[int] = []
        for piece in self._added.pieces(text):
            if piece.id is not None:
                ids.append(piece.id)
            else:
                for word in split_words(piece.text):
                    ids.extend(self._word_ids(word))
        return ids

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._words:
            spelled = [BYTE_CHARACTERS[byte] for byte in word.encode("utf-8")]
            spelled[-1] += _END_OF_WORD
            self._words[word] = self._merge([self._vocab.get(symbol, self.spec.unk_id) for symbol in spelled])
        return self._words[word]

    def _merge(self, ids: list[int]) -> list[int]:
        """Join neighbours, always the pair that stands first in the merge list and, of equal pairs, the leftmost."""
        alive = [True] * len(ids)
        following = [*range(1, len(ids)), -1]
        preceding = list(range(-1, len(ids) - 1))
        queue: list[tuple[int, int, int]] = []

        def push(left: int) -> None:
            if left >= 0 and following[left] >= 0:
                merge = self._merges.get((ids[left], ids[following[left]]))
                if merge is not None:
                    heapq.heappush(queue, (merge[0], left, merge[1]))

        for left in range(len(ids) - 1):
            push(left)
        while queue:
            rank, left, joined = heapq.heappop(queue)
            right = following[left]
            # An entry is stale when one of its two symbols has been joined to another since it was queued.
            if not alive[left] or right < 0 or self._merges.get((ids[left], ids[right])) != (rank, joined):
                continue
            ids[left] = joined
            alive[right] = False
            following[left] = following[right]
            if following[right] >= 0:
                preceding[following[right]] = left
            push(preceding[left])
            push(left)
        return [token_id for token_id, keep in zip(ids, alive, strict=True) if keep]


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{path} is not readable JSON ({error})", "get it from its author again") from error
    if not isinstance(vocab, dict) or not vocab:
        raise S2PError(f"{path} is not a vocabulary (a JSON object of token: id)", "get it from its author again")
    for token, token_id in vocab.items():
        if type(token_id) is not int or token_id < 0:
            raise S2PError(f"{path} gives token {token!r} the id {token_id!r}, no whole number", "get it from its author again")
    if len(set(vocab.values())) != len(vocab):
        raise S2PError(f"{path} gives two tokens the same id", "get it from its author again")
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise S2PError(f"{path} is not readable text ({error})", "get it from its author again") from error
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#version") or not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            raise S2PError(f"line {number} of {path} is not two tokens and one space", "get it from its author again")
        merges.append((pair[0], pair[1]))
    return merges
