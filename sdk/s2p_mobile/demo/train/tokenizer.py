"""The tokenizer: CLIP's byte-level BPE, its merges learned from the captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's own word pattern


def byte_characters() -> list[str]:
    """The 256 printable stand-ins of the bytes, in CLIP's order (printable bytes first, then the rest as U+0100...)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def learn_merges(captions: Iterable[str], count: int) -> list[tuple[str, str]]:
    """At most ``count`` BPE merges, most frequent pair first."""
    learner = Tokenizer(BPE(end_of_word_suffix=_WORD_END))
    learner.pre_tokenizer = Split(Regex(_WORDS), behavior="removed", invert=True)
    # The trainer counts its alphabet (letters, letters at a word's end) as part of the vocabulary: ask for
    # enough and cut, for its merges come in order.
    learner.train_from_iterator(
        captions, BpeTrainer(vocab_size=count + 512, end_of_word_suffix=_WORD_END, show_progress=False, min_frequency=2)
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges][:count]


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
