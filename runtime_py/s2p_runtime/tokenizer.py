"""The CLIP byte-pair tokenizer in pure Python, equal to ``transformers.CLIPTokenizer`` (5.x) id for id.

A text goes through these stages:

1. the special tokens (``<|startoftext|>``, ``<|endoftext|>``, and the pad token when it is another) are cut out as they stand;
2. the rest is normalized: NFC, each run of white space to one space, lower case character by character;
3. it is split into words: contractions, runs of letters, single digits, runs of anything else but space;
4. the UTF-8 bytes of a word are spelled with GPT-2's 256 printable characters, ``</w>`` marks the last one, and neighbours are
   joined in the order of the merge list (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016);
5. the ids are cut to ``max_length - 2``, framed by ``bos`` and ``eos`` and padded.

Unicode: the reference classifies letters and digits by Unicode 16, lowers by Unicode 17 and composes by Unicode 10, whatever
the Unicode version of Python (14 in 3.11, 15 in 3.12). The tables at the end of this file hold the differences.
"""

from __future__ import annotations

import heapq
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from s2p_runtime.bundle import TokenizerSpec
from s2p_runtime.errors import S2PError

_END_OF_WORD = "</w>"
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class ClipTokenizer:
    """CLIP tokenizer over a vocabulary and a merge list.

    Args:
        vocab: token -> id, ids unique and not negative. Holds the 256 byte characters alone and with ``</w>``.
        merges: pairs of tokens, most frequent first.
        spec: ids that frame a prompt, and its length. An unknown byte becomes ``eos_id``, CLIP's unknown token.

    Raises:
        S2PError: an id of ``spec`` is not in ``vocab``, or a merge names a token that is not in ``vocab``.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], spec: TokenizerSpec) -> None:
        self.spec = spec
        self._vocab = dict(vocab)
        tokens = {token_id: token for token, token_id in self._vocab.items()}
        self._special: dict[str, int] = {}
        for field, token_id in (("bos_id", spec.bos_id), ("eos_id", spec.eos_id), ("pad_id", spec.pad_id)):
            if not tokens.get(token_id):
                raise S2PError(f"tokenizer vocabulary has no token for {field} {token_id}", "get the bundle again")
            self._special[tokens[token_id]] = token_id
        # Longest first, so that one special token may begin with another.
        longest_first = sorted(self._special, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
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
        ids = self.tokenize(text)[: self.spec.max_length - 2]
        framed = [self.spec.bos_id, *ids, self.spec.eos_id]
        return framed + [self.spec.pad_id] * (self.spec.max_length - len(framed))

    def tokens_dropped(self, text: str) -> int:
        """How many tokens :meth:`encode` cuts off the end of ``text``; 0 when it fits.

        Raises:
            S2PError: as :meth:`encode`.
        """
        return max(0, len(self.tokenize(text)) - (self.spec.max_length - 2))

    def tokenize(self, text: str) -> list[int]:
        """All token ids of ``text``, neither framed nor cut.

        Raises:
            S2PError: as :meth:`encode`.
        """
        if any(0xD800 <= ord(char) < 0xE000 for char in text):
            raise S2PError("the prompt is not valid Unicode text (lone surrogate)", "give it in UTF-8")
        ids: list[int] = []
        for piece in filter(None, self._special_pattern.split(text)):
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                for word in _split_words(_normalize(piece)):
                    ids.extend(self._word_ids(word))
        return ids

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._words:
            spelled = [_BYTE_CHARACTERS[byte] for byte in word.encode("utf-8")]
            spelled[-1] += _END_OF_WORD
            self._words[word] = self._merge([self._vocab.get(symbol, self.spec.eos_id) for symbol in spelled])
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


def _normalize(text: str) -> str:
    composed: list[str] = []
    start = 0
    # The reference neither reorders nor composes across a mark that Unicode 10 did not know.
    for position, char in enumerate(text):
        if char in _UNKNOWN_MARKS:
            composed += [unicodedata.normalize("NFC", text[start:position]), char]
            start = position + 1
    composed.append(unicodedata.normalize("NFC", text[start:]))
    characters: list[str] = []
    for char in "".join(composed):
        if char not in _WHITE_SPACE:
            characters.append(_NEW_LOWER.get(char) or char.lower())
        elif not characters or characters[-1] != " ":
            characters.append(" ")
    return "".join(characters)


def _split_words(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        end = _word_end(text, position)
        word = text[position:end]
        # A special token in capitals is one match of CLIP's pattern, which the byte-level stage then splits.
        if word in _LOWERED_SPECIAL:
            yield from ("<|", word[2:-2], "|>")
        else:
            yield word
        position = end


def _word_end(text: str, start: int) -> int:
    for literal in (*_LOWERED_SPECIAL, *_CONTRACTIONS):
        if text.startswith(literal, start):
            return start + len(literal)
    kind = _kind(text[start])
    end = start + 1
    if kind != "number":
        while end < len(text) and _kind(text[end]) == kind:
            end += 1
    return end


def _kind(char: str) -> str:
    if char == " ":
        return "space"
    category = unicodedata.category(char)[0]
    if category == "L" or char in _NEW_LETTERS:
        return "letter"
    return "number" if category == "N" or char in _NEW_NUMBERS else "other"


def _byte_characters() -> list[str]:
    """GPT-2's spelling of the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_in = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_in)) for byte in range(256)]


def _characters(ranges: str) -> frozenset[str]:
    """The characters of blank-separated hexadecimal code points and ranges ``first-last``."""
    found: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


def _shifted(*shifts: tuple[str, int]) -> dict[str, str]:
    return {char: chr(ord(char) + offset) for ranges, offset in shifts for char in _characters(ranges)}


_BYTE_CHARACTERS = _byte_characters()
_LOWERED_SPECIAL = ("<|startoftext|>", "<|endoftext|>")

# Unicode White_Space; unlike str.isspace it leaves out the separators U+001C to U+001F.
_WHITE_SPACE = _characters("9-d 20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000")

# Letters (general category L*) and numbers (N*) of Unicode 16 that Unicode 14 lacks.
_NEW_LETTERS = _characters(
    "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240 11380-11389 1138b 1138e "
    "11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d "
    "16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d 31350-323af"
)
_NEW_NUMBERS = _characters(
    "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9 1e5f1-1e5fa"
)

# Simple lower case mappings of Unicode 15 to 17, as the distance to the lower case character.
_NEW_LOWER = _shifted(
    ("1c89 a7cc a7ce a7d2 a7d4 a7da", 1),
    ("a7cb", -42343),
    ("a7dc", -42561),
    ("10d50-10d65", 32),
    ("16ea0-16eb8", 27),
)

# Combining marks (class not 0) that came with Unicode 11 to 15, and U+11930, which composes since Unicode 13.
_UNKNOWN_MARKS = _characters(
    "7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 10eab-10eac 10efd-10eff 10f46-10f50 "
    "10f82-10f85 11070 1133b 1145e 11839-1183a 11930 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 "
    "11f41-11f42 16ff0-16ff1 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef"
)
