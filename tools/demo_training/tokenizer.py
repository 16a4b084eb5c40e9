"""The tokenizer: CLIP's byte-level BPE, its merges learned from the captions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = r"[a-z]+|[0-9]|[^\sa-z0-9]+"  # CLIP's word pattern, for lower-case ASCII


def byte_characters() -> list[str]:
    """The 256 printable stand-ins of the bytes, in CLIP's order (printable bytes first, then the rest as U+0100...)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def learn_merges(captions: Iterable[str], count: int) -> list[tuple[str, str]]:
    """At most ``count`` BPE merges, most frequent pair first, ties by the older symbols (Sennrich et al., ACL 2016).

    Not the ``tokenizers`` package's trainer: it breaks ties by numbers that differ from run to run, and a tokenizer
    that is not reproducible makes every later stage irreproducible.
    """
    frequency = Counter(word for caption in captions for word in re.findall(_WORDS, caption))
    spelled = {word: [*word[:-1], word[-1] + _WORD_END] for word in frequency}
    alphabet = {symbol for symbols in spelled.values() for symbol in symbols}
    age = {symbol: index for index, symbol in enumerate(sorted(alphabet, key=lambda symbol: (len(symbol), symbol)))}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        for symbols in spelled.values():
            _merge(symbols, best)
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> None:
    """Join every occurrence of ``pair`` in place, from the left."""
    index = 0
    while index < len(symbols) - 1:
        if (symbols[index], symbols[index + 1]) == pair:
            symbols[index : index + 2] = ["".join(pair)]
        index += 1


def build_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> Any:
    """A ``CLIPTokenizer``: bytes, bytes at a word's end, merges, start and end token, in CLIP's order.

    Args:
        captions: lower-case texts to learn from.
        vocabulary: entries at most.
        length: ids per text.
    """
    alphabet = byte_characters()
    base = alphabet + [character + _WORD_END for character in alphabet]
    merges = learn_merges(captions, vocabulary - len(base) - 2)
    words = [*base, *(left + right for left, right in merges), START, END]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=length,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the fast tokenizer's files, and ``vocab.json`` and ``merges.txt`` for readers without it."""
    tokenizer.save_pretrained(str(folder))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ordered = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
