"""Tokenizer folders of a model, opened with transformers; what that gives becomes a table that every runtime reads."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from s2p_converters.core.json_object import MAX_WORDS_BYTES
from s2p_mobile.sources.modules import read_json
from s2p_mobile.sources.origin import file_title, title
from s2p_mobile.sources.telling_texts import telling_texts
from s2p_runtime.added_tokens import several_tokens
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.tokenizer_spec import MAX_ADDED_TOKENS, AddedToken, TokenizerSpec

CONFIG_NAME = "tokenizer_config.json"
_FILES = (CONFIG_NAME, "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "vocab.json", "merges.txt")
_MAX_SPECIAL_TOKENS = 4096
"""transformers takes a second of a processor for some thousand of them, and more than in proportion for more."""
_AGAIN = "export the model again with diffusers"
_CLIP = "give a model with CLIP's tokenizer"


@dataclass(frozen=True)
class TokenizerTable:
    """A tokenizer as the runtimes take it.

    Attributes:
        vocab: token -> id.
        merges: pairs of tokens, most frequent first.
        spec: all else; its paths are relative to the model.
    """

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    spec: TokenizerSpec

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The runtime's own."""
        return ClipTokenizer(self.vocab, self.merges, self.spec)

    def write(self, folder: Path) -> None:
        """Write ``vocab.json`` and ``merges.txt`` below ``folder``, where ``spec`` has them."""
        words = dict(sorted(self.vocab.items(), key=lambda item: item[1]))
        (folder / self.spec.vocab).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        lines = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)])
        (folder / self.spec.merges).write_bytes(f"{lines}\n".encode())


def tokenizer_spec(folder: Path, positions: int) -> TokenizerSpec:
    """What :func:`read_tokenizer` says about a tokenizer."""
    return read_tokenizer(folder, positions).spec


def require_words(table: TokenizerTable, encoder: str, words: int) -> None:
    """Refuse a tokenizer with ids that its text encoder has no embedding of.

    Args:
        words: rows of the encoder's embedding.

    Raises:
        S2PError: as described.
    """
    needed = 1 + max((*table.vocab.values(), *(token.id for token in table.spec.added_tokens)))
    if needed > words:
        raise S2PError(
            f"the vocabulary of {Path(table.spec.vocab).parent} has {needed} words but {encoder}/ knows {words}",
            "export the model again with diffusers, tokenizer and text encoder together",
        )


def part_of_another(words: Sequence[str]) -> tuple[str, str] | None:
    """A word of several vectors and another word that it is part of; None: there are no such two.

    Where a prompt has both, diffusers writes the first out (``maybe_convert_prompt``) within the second too, or does not: in the
    order of a set, another one in each process.

    Args:
        words: all that a tokenizer has beyond its vocabulary, without those that frame and fill texts.
    """
    several = several_tokens(words)
    lengths = {len(word) for word in several}
    for word in words:
        for length in sorted(length for length in lengths if length < len(word)):
            for part in (word[start : start + length] for start in range(len(word) - length + 1)):
                if part in several and f" {word} " not in f"{several[part]} ":
                    return part, word
    return None


def read_tokenizer(folder: Path, positions: int, entry: object = None) -> TokenizerTable:
    """The tokenizer in a folder, with the class that diffusers would take, from local files and without code of the model's own.

    Args:
        positions: of the text encoder; texts are no longer.
        entry: what ``model_index.json`` says about it, ``[library, class]``; transformers' CLIPTokenizer when None.

    Raises:
        S2PError: a file missing, damaged or too large, too many added tokens, a tokenizer that wants code run, one that is not
            CLIP's byte-pair tokenizer (says in what), words of which one is part of another (:func:`part_of_another`), or a tokenizer
            that the runtime would not repeat.
    """
    theirs = open_tokenizer(folder, entry)
    state = json.loads(theirs.backend_tokenizer.to_str())
    _require_clip(folder, state)
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in state["model"]["merges"]]
    if odd := next((pair for pair in merges if any(token.split() != [token] for token in pair)), None):
        raise S2PError(f"{title(folder)} has a merge with white space, {odd[0]!r} and {odd[1]!r}", _CLIP)
    spec = _spec(folder, theirs, state["added_tokens"], positions)
    frame = {spec.bos_id, spec.eos_id, spec.unk_id, spec.pad_id}
    if pair := part_of_another([token.content for token in spec.added_tokens if token.id not in frame]):
        raise S2PError(
            f"{title(folder)} has the word {pair[0]!r} of several vectors, which is part of its word {pair[1]!r}: diffusers reads "
            "prompts with both one way or the other, as it happens",
            "choose another word for one of them",
        )
    table = TokenizerTable(state["model"]["vocab"], merges, spec)
    _require_same_ids(folder, theirs, table)
    return table


def open_tokenizer(folder: Path, entry: object = None) -> Any:
    """transformers' tokenizer of a folder.

    Args:
        entry: as for :func:`read_tokenizer`.

    Raises:
        S2PError: as :func:`read_tokenizer`, but for what is no concern of transformers.
    """
    _check_files(folder)
    try:
        with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
            tokenizer = _class(folder, entry).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except S2PError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise S2PError(f"{title(folder)} cannot be opened with transformers ({lines[0]})", _AGAIN) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise S2PError(f"{title(folder)} is opened by {type(tokenizer).__name__}, which is no CLIP tokenizer", _CLIP)
    return tokenizer


def _class(folder: Path, entry: object) -> Any:
    import transformers

    library, name = entry if isinstance(entry, list) and len(entry) == 2 else ("transformers", "CLIPTokenizer")
    found = getattr(transformers, str(name), None) if library == "transformers" else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)):
        raise S2PError(
            f"model_index.json wants {library}.{name} for {title(folder)}, which is no tokenizer of transformers", _CLIP
        )
    return found


def _check_files(folder: Path) -> None:
    """Look at what transformers would read before it does."""
    found = {name: folder / name for name in _FILES if (folder / name).is_file()}
    for name, path in found.items():
        if path.stat().st_size > MAX_WORDS_BYTES:
            size = path.stat().st_size / 2**20
            raise S2PError(
                f"{file_title(path)} has {size:.0f} MiB, and no {name} of CLIP's has more than {MAX_WORDS_BYTES >> 20}", _CLIP
            )
    # Without its files transformers makes a tokenizer of three words and says nothing.
    if "tokenizer.json" not in found:
        for name in ("vocab.json", "merges.txt"):
            if name not in found:
                raise S2PError(f"{title(folder)} lacks {name}, and has no tokenizer.json", _AGAIN)
    content = {name: read_json(path, MAX_WORDS_BYTES) for name, path in found.items() if path.suffix == ".json"}
    config, whole = content.get(CONFIG_NAME, {}), content.get("tokenizer.json", {})
    if config.get("auto_map"):
        raise S2PError(f"{title(folder)} wants code of its own run (auto_map in tokenizer_config.json)", _CLIP)
    # transformers' CLIPTokenizer takes the words of any model for those of a BPE.
    model = whole.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else "BPE"
    if kind != "BPE":
        raise S2PError(f"{title(folder)} is no CLIP tokenizer (its model is {kind}, CLIP's BPE)", _CLIP)
    lists = [content.get("added_tokens.json"), config.pop("added_tokens_decoder", None), whole.get("added_tokens")]
    # Whatever else is listed may be special tokens: transformers takes them under many names, and under a model's own.
    for kind, count, most in (
        ("added", _longest(lists), MAX_ADDED_TOKENS),
        ("special", _longest([config, content.get("special_tokens_map.json")]), _MAX_SPECIAL_TOKENS),
    ):
        if count > most:
            raise S2PError(f"{title(folder)} has {count} {kind} tokens, more than {most}", _CLIP)


def _longest(value: object) -> int:
    """Length of the longest list or object in JSON."""
    longest, left = 0, [value]
    while left:
        found = left.pop()
        if isinstance(found, list | dict):
            longest = max(longest, len(found))
            left.extend(found.values() if isinstance(found, dict) else found)
    return longest


def _require_clip(folder: Path, state: Mapping[str, Any]) -> None:
    """Hold the kind of a tokenizer against CLIP's, which transformers builds from nothing."""
    with quiet_import():
        from transformers import CLIPTokenizer
    clip = json.loads(CLIPTokenizer().backend_tokenizer.to_str())
    model, own = state["model"], clip["model"]
    if model["type"] != own["type"]:
        raise S2PError(f"{title(folder)} is no CLIP tokenizer (its model is {model['type']}, CLIP's {own['type']})", _CLIP)
    for key, value in own.items():
        if key not in ("vocab", "merges", "unk_token") and model.get(key) != value:
            raise S2PError(f"{title(folder)} is no CLIP tokenizer (its {key} is {model.get(key)!r}, CLIP's {value!r})", _CLIP)
    for part in ("normalizer", "pre_tokenizer"):
        if state[part] != clip[part]:
            raise S2PError(
                f"{title(folder)} is no CLIP tokenizer (its {part} is {_kinds(state[part])}, another than CLIP's)", _CLIP
            )


def _kinds(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return "none"
    inner = next((value for value in part.values() if isinstance(value, list)), [])
    return "+".join(_kinds(each) for each in inner) or str(part.get("type"))


def _spec(folder: Path, theirs: Any, added: Sequence[Mapping[str, Any]], positions: int) -> TokenizerSpec:
    if len(added) > MAX_ADDED_TOKENS:
        raise S2PError(f"{title(folder)} has {len(added)} added tokens, more than {MAX_ADDED_TOKENS}", _CLIP)
    for what, side in (("fills", theirs.padding_side), ("cuts", theirs.truncation_side)):
        if side != "right":
            raise S2PError(f"{title(folder)} {what} texts on the {side}, the runtime on the right", _CLIP)
    length = theirs.model_max_length
    if type(length) is not int:  # true is no length
        raise S2PError(
            f"{file_title(folder / CONFIG_NAME)} has a model_max_length of {length!r}, which is no whole number",
            f'write "model_max_length": {positions} there',
        )
    if length < 2:
        raise S2PError(f"{title(folder)} gives texts {length} tokens", f"correct model_max_length of {CONFIG_NAME}")
    ids = {name: getattr(theirs, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    if missing := [name for name, number in ids.items() if number is None]:
        raise S2PError(f"{title(folder)} has no {missing[0]}_token", _AGAIN)
    return TokenizerSpec(
        kind="clip",
        vocab=f"{folder.name}/vocab.json",
        merges=f"{folder.name}/merges.txt",
        max_length=min(length, positions),
        **{f"{name}_id": number for name, number in ids.items()},
        added_tokens=tuple(AddedToken.model_validate(dict(token)) for token in added),
    )


def _require_same_ids(folder: Path, theirs: Any, table: TokenizerTable) -> None:
    """Compare both tokenizers on texts that tell them apart: what the runtime would read otherwise is refused here."""
    texts, length = telling_texts(table.spec), table.spec.max_length
    try:
        wanted = theirs(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
    except Exception as error:
        raise S2PError(f"{title(folder)} cannot read texts ({str(error).strip().splitlines()[0]})", _AGAIN) from error
    own = table.tokenizer
    for text, ids in zip(texts, wanted, strict=True):
        if own.frame(own.tokenize(text)) != ids:
            shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
            raise S2PError(f"{title(folder)} reads {shown} otherwise than the runtime's CLIP tokenizer", _CLIP)
