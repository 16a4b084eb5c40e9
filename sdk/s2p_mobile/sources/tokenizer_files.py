"""Tokenizer folders of a model in diffusers layout."""

from __future__ import annotations

from pathlib import Path

from s2p_mobile.sources.modules import read_json
from s2p_runtime.bundle import TokenizerSpec
from s2p_runtime.errors import S2PError


def require_words(folder: Path, encoder: str) -> None:
    """Refuse a tokenizer with ids that its text encoder has no embedding of.

    Raises:
        S2PError: as described.
    """
    words = read_json(folder / encoder / "config.json").get("vocab_size")
    vocabulary = folder / encoder.replace("text_encoder", "tokenizer") / "vocab.json"
    if words is None or not vocabulary.is_file():
        return
    needed = 1 + max((number for number in read_json(vocabulary).values() if isinstance(number, int)), default=-1)
    if needed > words:
        raise S2PError(
            f"the vocabulary of {vocabulary.parent} has {needed} words but {encoder}/ knows {words}",
            "export the model again with diffusers, tokenizer and text encoder together",
        )


def tokenizer_spec(folder: Path, positions: int) -> TokenizerSpec:
    """Tokenizer settings of a diffusers ``tokenizer`` folder; file names are relative to a bundle.

    Raises:
        S2PError: vocabulary or a special token missing.
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise S2PError(f"{folder} lacks {name}", "export the model again with diffusers")
    vocab = read_json(folder / "vocab.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}

    def token_id(key: str, default: str) -> int:
        token = config.get(key, default)
        text = token["content"] if isinstance(token, dict) else token
        if text not in vocab:
            raise S2PError(f"{folder}/vocab.json lacks the {key} {text!r}", "export the model again with diffusers")
        return int(vocab[text])

    eos = token_id("eos_token", "<|endoftext|>")
    return TokenizerSpec(
        kind="clip",
        vocab="tokenizer/vocab.json",
        merges="tokenizer/merges.txt",
        max_length=min(int(config.get("model_max_length", positions)), positions),
        bos_id=token_id("bos_token", "<|startoftext|>"),
        eos_id=eos,
        pad_id=token_id("pad_token", "<|endoftext|>"),
    )
