"""Tokenizers of models: whatever transformers says about a folder, or one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AddedToken, CLIPTokenizer, PreTrainedTokenizerFast

from s2p_converters.core.json_object import MAX_CONFIG_BYTES, MAX_WORDS_BYTES
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources import tokenizer_files
from s2p_mobile.sources.tokenizer_files import TokenizerTable, part_of_another, read_tokenizer, require_words
from s2p_runtime.errors import S2PError
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.tokenizer_spec import MAX_ADDED_TOKENS

TEXTS = ["", "a red apple!", "!! wow ! x", "<style> in a <STYLE>,x<style>y", "[L] a  [L]", "A cat 's 12" * 9]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """vocab.json, merges.txt and a configuration, as every older download has them."""
    place = tmp_path / "tokenizer"
    place.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(DEMO_MODEL / "tokenizer" / name, place / name)
    return place


def settle(folder: Path, **settings: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def same(table: TokenizerTable, folder: Path) -> bool:
    """Whether the runtime gives transformers' ids, from the table and from the files that are written of it."""
    theirs = CLIPTokenizer.from_pretrained(folder)
    wanted = theirs(TEXTS, padding="max_length", max_length=16, truncation=True)["input_ids"]
    place = folder.parent / "written"
    (place / folder.name).mkdir(parents=True)
    table.write(place)
    spec = table.spec
    read = ClipTokenizer.load(place / spec.vocab, place / spec.merges, spec)
    return all([one.encode(text) for text in TEXTS] == wanted for one in (table.tokenizer, read))


def from_special_tokens_map(folder: Path) -> None:
    """As the published Stable Diffusion 2 has it: one file says one padding, the other another."""
    token = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    settle(folder, eos_token={"__type": "AddedToken", **token})
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": token, "pad_token": "!"}))


def without_configuration(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def with_added_tokens_file(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<style>": 1026, "[L]": 1027}))


def saved_by_transformers(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json alone."""
    tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token="!")
    tokenizer.add_tokens(["<style>", AddedToken("[L]", lstrip=True, normalized=False)])
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.json").exists()


@pytest.mark.parametrize(
    ("change", "pad", "learned"),
    [
        (lambda folder: None, 1025, []),
        (lambda folder: settle(folder, pad_token="!"), 0, []),
        (from_special_tokens_map, 0, []),
        (without_configuration, 1025, []),
        (with_added_tokens_file, 1025, ["<style>", "[L]"]),
        (saved_by_transformers, 0, ["<style>", "[L]"]),
    ],
    ids=["plain", "pad", "map", "none", "added", "saved"],
)
def test_a_folder_is_what_transformers_says(folder: Path, change: Callable[[Path], None], pad: int, learned: list[str]) -> None:
    change(folder)
    table = read_tokenizer(folder, 16)
    assert (table.spec.bos_id, table.spec.eos_id, table.spec.pad_id, table.spec.max_length) == (1024, 1025, pad, 16)
    assert [token.content for token in table.spec.added_tokens if not token.special] == learned
    assert same(table, folder)


def test_the_files_that_are_written_are_the_demos_own(tmp_path: Path) -> None:
    """So that a table written again and again stays the same, byte for byte."""
    (tmp_path / "tokenizer").mkdir()
    read_tokenizer(DEMO_MODEL / "tokenizer", 16).write(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (DEMO_MODEL / "tokenizer" / name).read_bytes()


def test_texts_are_no_longer_than_the_encoder_has_positions(folder: Path) -> None:
    settle(folder, model_max_length=77)
    assert read_tokenizer(folder, 12).spec.max_length == 12
    settle(folder, model_max_length=int(1e30))
    assert read_tokenizer(folder, 16).spec.max_length == 16


def test_ids_without_a_row_are_refused_with_both_numbers(folder: Path) -> None:
    with_added_tokens_file(folder)
    table = read_tokenizer(folder, 16)
    require_words(table, "text_encoder", 1028)
    with pytest.raises(S2PError, match="the vocabulary of tokenizer has 1028 words but text_encoder/ knows 1027; export"):
        require_words(table, "text_encoder", 1027)


def other_kind(folder: Path, change: Callable[[Any], Any]) -> None:
    """The same tokenizer with one part of it another, saved as a class that takes tokenizer.json as it is."""
    backend = CLIPTokenizer.from_pretrained(folder).backend_tokenizer
    backend = change(backend) or backend
    shutil.rmtree(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
        pad_token="<|endoftext|>", model_max_length=16,
    ).save_pretrained(folder)  # fmt: skip


def large(folder: Path) -> None:
    with (folder / "vocab.json").open("ab") as file:
        file.truncate(MAX_WORDS_BYTES + 1)


def many(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({f"<{k}>": 1026 + k for k in range(MAX_ADDED_TOKENS + 1)}))


def word_level(backend: Any) -> Any:
    vocab = {"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    return tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<|endoftext|>"))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no-merges": (lambda f: (f / "merges.txt").unlink(), r"lacks merges\.txt, and has no tokenizer\.json; export"),
    "no-vocabulary": (lambda f: (f / "vocab.json").unlink(), r"lacks vocab\.json, and has no tokenizer\.json; export"),
    "damaged": (lambda f: (f / "vocab.json").write_text("{"), r"vocab\.json is not readable JSON"),
    "no-numbers": (lambda f: (f / "vocab.json").write_text('{"a": "b"}'), "cannot be opened with transformers"),
    "large": (large, r"vocab\.json has 32 MiB, and no vocab\.json of CLIP's has more than 32; give"),
    "many": (many, "has 65537 added tokens, more than 65536; give"),
    "auto-map": (lambda f: settle(f, auto_map={"AutoTokenizer": ["own.Own", None]}), "wants code of its own run"),
    "fills-left": (lambda f: settle(f, padding_side="left"), "fills texts on the left, the runtime on the right; give"),
    "cuts-left": (lambda f: settle(f, truncation_side="left"), "cuts texts on the left"),
    "no-length": (lambda f: settle(f, model_max_length=1), "gives texts 1 tokens; correct"),
    "length-text": (lambda f: settle(f, model_max_length="x"), r"config\.json has a model_max_length of 'x', .*; write .*: 16 there"),
    "length-fraction": (lambda f: settle(f, model_max_length=16.0), r"config\.json has a model_max_length of 16\.0, which"),
    "length-nan": (lambda f: settle(f, model_max_length=float("nan")), r"model_max_length of nan"),
    "length-true": (lambda f: settle(f, model_max_length=True), r"model_max_length of True"),
    "keeps-special": (lambda f: settle(f, split_special_tokens=True), "otherwise than the runtime's CLIP tokenizer; give"),
    "normalizer": (
        lambda f: other_kind(f, lambda b: setattr(b, "normalizer", tokenizers.normalizers.NFKC())),
        r"is no CLIP tokenizer \(its normalizer is NFKC, another than CLIP's\)",
    ),
    "words": (
        lambda f: other_kind(f, lambda b: setattr(b, "pre_tokenizer", tokenizers.pre_tokenizers.ByteLevel())),
        r"is no CLIP tokenizer \(its pre_tokenizer is ByteLevel",
    ),
    "model": (lambda f: other_kind(f, word_level), r"is no CLIP tokenizer \(its model is WordLevel, CLIP's BPE\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_one_line(folder: Path, case: str) -> None:
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(S2PError, match=message) as caught:
        read_tokenizer(
            folder, 16, ["transformers", "PreTrainedTokenizerFast" if case in ("normalizer", "words") else "CLIPTokenizer"]
        )
    assert "\n" not in str(caught.value)


def test_other_parts_count_only_for_a_class_that_takes_them(folder: Path) -> None:
    """transformers' CLIPTokenizer builds its own normalizer, whatever the file says."""
    other_kind(folder, lambda backend: setattr(backend, "normalizer", tokenizers.normalizers.NFKC()))
    assert same(read_tokenizer(folder, 16, ["transformers", "CLIPTokenizer"]), folder)


@pytest.mark.parametrize(
    "entry", [["own", "OwnTokenizer"], ["transformers", "CLIPModel"], ["transformers", "Nothing"], [None, None]]
)
def test_a_class_outside_transformers_is_refused_by_name(folder: Path, entry: list[Any]) -> None:
    with pytest.raises(
        S2PError, match=rf"model_index\.json wants {entry[0]}\.{entry[1]} for .*, which is no tokenizer of transformers; give"
    ):
        read_tokenizer(folder, 16, entry)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("key", ["model_specific_special_tokens", "extra_special_tokens", None])
def test_special_tokens_are_counted_under_whatever_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, key: str | None
) -> None:
    """transformers would be at work for minutes before anything is known of their number."""
    monkeypatch.setattr(tokenizer_files, "_class", lambda *_: pytest.fail("transformers is asked to open it"))
    names = [f"<{number}>" for number in range(4097)]
    named = {f"{name}_token": name for name in names}
    told = named if key is None else {key: names if key.startswith("extra") else named}
    (folder / place).write_text(json.dumps(told))
    with pytest.raises(S2PError, match="has 4097 special tokens, more than 4096; give"):
        read_tokenizer(folder, 16)


def test_learned_words_are_no_special_tokens(folder: Path) -> None:
    """A saved pipeline may have many: its configuration is larger than others."""
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    added = {str(1026 + number): {**token, "content": f"<{number}>"} for number in range(9000)}
    settle(folder, added_tokens_decoder=added)
    assert (folder / "tokenizer_config.json").stat().st_size > MAX_CONFIG_BYTES
    assert len(read_tokenizer(folder, 16).spec.added_tokens) == 9002


@pytest.mark.parametrize(
    ("words", "pair"),
    [
        (["easyneg", "easyneg_1", "easynegv2"], ("easyneg", "easynegv2")),
        (["negv", "easynegv2", "negv_1", "easynegv2_1"], ("negv", "easynegv2")),
        (["<a>", "<a>_1", "<a>_3"], ("<a>", "<a>_3")),
        (["easyneg", "easynegv2", "easynegv2_1"], None),
        (["<a>", *(f"<a>_{number}" for number in range(1, 13)), "<b>", "<b>_1"], None),
        ([], None),
    ],
)
def test_words_that_are_part_of_others(words: list[str], pair: tuple[str, str] | None) -> None:
    """Of several vectors alone: diffusers replaces one by itself otherwise. What a word is written out as is its own."""
    assert part_of_another(words) == pair
