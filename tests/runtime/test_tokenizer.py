"""The tokenizer against transformers' CLIPTokenizer and against the cases shared with the Swift and C++ ports."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from pydantic import ValidationError
from transformers import CLIPTokenizer

from s2p_runtime.errors import S2PError
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.tokenizer_spec import MAX_ADDED_TOKENS, AddedToken, TokenizerSpec

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "sdk" / "s2p_mobile" / "demo" / "model" / "tokenizer"
FIXTURES = REPOSITORY / "tests" / "fixtures"
CASES = json.loads((FIXTURES / "tokenizer_cases.json").read_text(encoding="utf-8"))
ADDED_CASES = json.loads((FIXTURES / "added_token_cases.json").read_text(encoding="utf-8"))


def added(content: str, token_id: int, **flags: bool) -> AddedToken:
    settings = {"special": False, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, **flags}
    return AddedToken.model_validate({"content": content, "id": token_id, **settings})


FRAME = (added("<|startoftext|>", 1024, special=True), added("<|endoftext|>", 1025, special=True))
SPEC = TokenizerSpec(
    kind="clip", vocab="v", merges="m", max_length=16, bos_id=1024, eos_id=1025, unk_id=1025, pad_id=1025, added_tokens=FRAME
)


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_tokenizer_cases", FIXTURES / "make_tokenizer_cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    return ClipTokenizer.load(FOLDER / "vocab.json", FOLDER / "merges.txt", SPEC)


@pytest.fixture(scope="module")
def reference() -> Any:
    """Transformers' tokenizer without truncation and padding."""
    backend = CLIPTokenizer.from_pretrained(FOLDER).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def whole(reference: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids[1:-1] for encoding in reference.encode_batch(texts)]


def test_the_shared_cases(ours: ClipTokenizer) -> None:
    assert len(CASES) >= 500
    assert [case["text"] for case in CASES if ours.encode(case["text"]) != case["ids"]] == []


def test_the_shared_cases_are_what_transformers_says() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    assert [case["text"] for case in CASES] == generator().texts()
    encoded = tokenizer([case["text"] for case in CASES], padding="max_length", truncation=True, max_length=16)["input_ids"]
    assert encoded == [case["ids"] for case in CASES]


def test_nothing_is_lost_behind_the_cut(ours: ClipTokenizer, reference: Any) -> None:
    texts = [case["text"] for case in CASES]
    for text, ids in zip(texts, whole(reference, texts), strict=True):
        assert ours.tokenize(text) == ids, ascii(text)
        assert ours.tokens_dropped(text) == max(0, len(ids) - 14)


@pytest.mark.parametrize("group", ADDED_CASES, ids=["learned", "flags", "frame"])
def test_the_shared_cases_of_added_tokens(group: dict[str, Any]) -> None:
    spec = SPEC.model_copy(
        update={"pad_id": group["pad_id"], "added_tokens": tuple(AddedToken.model_validate(t) for t in group["added_tokens"])}
    )
    tokenizer = ClipTokenizer.load(FOLDER / "vocab.json", FOLDER / "merges.txt", spec)
    assert len(group["cases"]) > 50
    assert [case["text"] for case in group["cases"] if tokenizer.encode(case["text"]) != case["ids"]] == []


def test_the_shared_cases_of_added_tokens_are_what_transformers_and_diffusers_say() -> None:
    assert generator().added_cases(FOLDER) == ADDED_CASES


def test_words_of_several_vectors_are_written_out() -> None:
    """By hand; diffusers goes by what the tokenizer found, so a capital in the word or white space that goes with it hides it."""
    names = ["<a>", "<a>_1", "<a>_2", "<B>", "<B>_1", "<l>", "<l>_1", "<one>"]
    tokens = [added(name, 2000 + k, normalized=True, lstrip=name == "<l>") for k, name in enumerate(names)]
    spec = SPEC.model_copy(update={"added_tokens": (*FRAME, *tokens)})
    tokenizer = ClipTokenizer.load(FOLDER / "vocab.json", FOLDER / "merges.txt", spec)
    for text, written in (
        ("a <a>, <one>", "a <a> <a>_1 <a>_2, <one>"),
        ("<A> x", "<A> x"),
        ("<B> x", "<B> x"),
        ("<l> x <l>", "<l> <l>_1 x <l> <l>_1"),
        ("x <l>", "x <l>"),
        ("<a>_1", "<a>_1"),
        ("<a> <a>_1", "<a> <a>_1 <a>_2 <a> <a>_1 <a>_2_1"),
    ):
        assert tokenizer.expand(text) == written
    assert tokenizer.tokens_dropped("<a> " * 5) == 15 - 14


def test_what_touches_a_word_that_stands_alone() -> None:
    r"""``single_word``: one character in 61, all that Unicode 14 and 16 class otherwise, circled letters and joiners."""
    theirs = CLIPTokenizer.from_pretrained(FOLDER)
    alone = {"single_word": True, "normalized": False}
    theirs.add_tokens([tokenizers.AddedToken("[W]", **alone)])
    backend = theirs.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    spec = SPEC.model_copy(update={"added_tokens": (*FRAME, added("[W]", 1026, **alone))})
    ours = ClipTokenizer.load(FOLDER / "vocab.json", FOLDER / "merges.txt", spec)
    points = {*range(0, 0x110000, 61), *range(0x250), *(p for a, b in (*DIFFERENT, *TOUCHING) for p in range(a, b + 1))}
    texts = [f"[W]{chr(point)}" for point in sorted(points) if not 0xD800 <= point < 0xE000]
    encoded = backend.encode_batch(texts, add_special_tokens=False)
    assert [ascii(text) for text, e in zip(texts, encoded, strict=True) if ours.tokenize(text) != e.ids] == []


def test_as_many_added_tokens_as_there_may_be() -> None:
    tokens = [added(f"<{k}>", 2000 + k).model_dump() for k in range(MAX_ADDED_TOKENS)]
    settings = {**SPEC.model_dump(), "added_tokens": tokens}
    tokenizer = ClipTokenizer.load(FOLDER / "vocab.json", FOLDER / "merges.txt", TokenizerSpec.model_validate(settings))
    assert tokenizer.tokenize(f"<0><{MAX_ADDED_TOKENS - 1}>") == [2000, 2000 + MAX_ADDED_TOKENS - 1]
    with pytest.raises(ValidationError, match="at most 65536 items"):
        TokenizerSpec.model_validate({**settings, "added_tokens": [*tokens, added("<more>", 1).model_dump()]})
    with pytest.raises(ValidationError, match="two have the same content"):
        TokenizerSpec.model_validate({**settings, "added_tokens": [*tokens[:3], tokens[0]]})


# Stretches where Python's Unicode tables and the reference's differ, and marks of Unicode 15 (Python 3.12).
DIFFERENT = [
    (0x1C, 0x1F), (0x7FD, 0x7FD), (0x898, 0x8D3), (0xC3C, 0xC3C), (0x1715, 0x1715), (0x1ABF, 0x1ACE), (0x1C89, 0x1C8A),
    (0xA7CB, 0xA7DC), (0x105C0, 0x105F3), (0x10D40, 0x10D85), (0x10EFD, 0x10EFF), (0x11380, 0x113D3), (0x11930, 0x11943),
    (0x11F00, 0x11F59), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x16EA0, 0x16EB8), (0x1E030, 0x1E08F), (0x1E4D0, 0x1E4F9),
    (0x2EBF0, 0x2EBF4), (0x31350, 0x31354),
]  # fmt: skip


TOUCHING = [
    (0xCF3, 0xCF3), (0xECE, 0xECE), (0x200B, 0x200F), (0x24B0, 0x24F0), (0x11241, 0x11241), (0x113E1, 0x113E2), (0x13440, 0x13455),
    (0x1611E, 0x1612F), (0x1D2C0, 0x1D2D3), (0x1F12E, 0x1F18C), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF),
]  # fmt: skip


def test_single_characters_in_every_role(ours: ClipTokenizer, reference: Any) -> None:
    """Between letters, before marks of two combining classes and capitalised: one code point in 61, and all that differ."""
    points = {*range(0, 0x110000, 61), *range(0x250), *(p for a, b in DIFFERENT for p in range(a, b + 1))}
    characters = [chr(point) for point in sorted(points) if not 0xD800 <= point < 0xE000]
    texts = [f"a{c}b\u0316 Z{c}\u0323\u0301x 1{c}2 \U00011935{c}" for c in characters]
    wrong = [ascii(t) for t, ids in zip(texts, whole(reference, texts), strict=True) if ours.tokenize(t) != ids]
    assert wrong == []


def test_long_words(ours: ClipTokenizer, reference: Any) -> None:
    texts = ["television" * 300, "aAbB" * 700 + "!" * 1000, "'" * 501 + "s" * 500]
    assert [ours.tokenize(text) for text in texts] == whole(reference, texts)


def test_merge_order_of_overlapping_pairs() -> None:
    """Lowest rank first, leftmost first, and pairs that a merge makes are queued too: by hand."""
    tokens = ["<s>", "<e>", "a", "b", "c", "a</w>", "b</w>", "c</w>", "aa", "ab", "abc", "bc</w>", "aab", "aa</w>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [("a", "a"), ("b", "c</w>"), ("aa", "b"), ("a", "b"), ("ab", "c")]
    frame = (added("<s>", 0, special=True), added("<e>", 1, special=True))
    spec = TokenizerSpec(
        kind="clip", vocab="v", merges="m", max_length=8, bos_id=0, eos_id=1, unk_id=1, pad_id=1, added_tokens=frame
    )
    tokenizer = ClipTokenizer(vocab, merges, spec)
    for text, expected in (
        ("aaa", ["aa", "a</w>"]),
        ("aaaab", ["aa", "aa", "b</w>"]),
        ("aabc", ["aa", "bc</w>"]),
        ("aabca", ["aab", "c", "a</w>"]),
        ("abca", ["abc", "a</w>"]),
        ("z", ["<e>"]),
        ("az", ["a", "<e>"]),
        ("a<s>b", ["a</w>", "<s>", "b</w>"]),
    ):
        assert [tokens[token] for token in tokenizer.tokenize(text)] == expected, text
        assert tokenizer.encode(text)[: len(expected) + 2] == [0, *(vocab[token] for token in expected), 1]


def test_another_pad_token_is_special_too(tmp_path: Path) -> None:
    """Stable Diffusion 2 pads with "!", which its tokenizer therefore cuts out of prompts as it stands."""
    vocab = json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ")) for line in (FOLDER / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]]
    theirs = CLIPTokenizer(vocab=vocab, merges=merges, pad_token="!", model_max_length=16)
    pads = {"pad_id": vocab["!"], "added_tokens": (added("!", vocab["!"], special=True), *FRAME)}
    ours = ClipTokenizer(vocab, merges, SPEC.model_copy(update=pads))
    for text in ("", "a red fox!", "!!", "a! b ! c?!", "wow!?!", "it!'s"):
        assert ours.encode(text) == theirs(text, padding="max_length", truncation=True)["input_ids"], text


def test_framing(ours: ClipTokenizer) -> None:
    assert ours.encode("") == [1024, 1025] + [1025] * 14
    long = ours.encode("a red fox " * 10)
    assert len(long) == 16 and long[0] == 1024 and long[-1] == 1025 and long[-2] != 1025
    assert ours.tokens_dropped("a red fox " * 10) > 0 == ours.tokens_dropped("a red fox")


@pytest.mark.parametrize("text", ["\ud800", "a \udcff b"])
def test_lone_surrogates(ours: ClipTokenizer, text: str) -> None:
    with pytest.raises(S2PError, match="not valid Unicode"):
        ours.encode(text)


GOOD_VOCAB = b'{"<s>": 0, "<e>": 1, "a": 2, "b": 3, "ab": 4}'
SMALL = TokenizerSpec(kind="clip", vocab="v", merges="m", max_length=4, bos_id=0, eos_id=1, unk_id=1, pad_id=1, added_tokens=())


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (None, b"", "vocab.json does not exist"),
        (GOOD_VOCAB, None, "merges.txt does not exist"),
        (b"{", b"", "vocab.json is not readable JSON"),
        (b"\xff", b"", "vocab.json is not readable JSON"),
        (b"[" * 100_000, b"", "vocab.json is not readable JSON"),
        (b"[1]", b"", "not a vocabulary"),
        (b"{}", b"", "not a vocabulary"),
        (b'{"a": "1"}', b"", "token 'a' the id '1'"),
        (b'{"a": 1.0}', b"", "token 'a' the id 1.0"),
        (b'{"a": true}', b"", "token 'a' the id True"),
        (b'{"a": -1}', b"", "token 'a' the id -1"),
        (b'{"a": 1, "b": 1}', b"", "two tokens the same id"),
        (b'{"a": 0}', b"", "no token for eos_id 1"),
        (GOOD_VOCAB, b"\xff\xfe", "merges.txt is not readable text"),
        (GOOD_VOCAB, b"#version: 0.2\na b\na\n", "line 3 of"),
        (GOOD_VOCAB, b"a b ab\n", "line 1 of"),
        (GOOD_VOCAB, b"a  b\n", "line 1 of"),
        (GOOD_VOCAB, b"a b\nb a\n", "merge 2 needs token 'ba'"),
        (GOOD_VOCAB, b"a c\n", "merge 1 needs token 'c'"),
    ],
)
def test_malformed_files(tmp_path: Path, vocab: bytes | None, merges: bytes | None, message: str) -> None:
    for name, content in (("vocab.json", vocab), ("merges.txt", merges)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(S2PError) as caught:
        ClipTokenizer.load(tmp_path / "vocab.json", tmp_path / "merges.txt", SMALL)
    text = str(caught.value)
    assert message in text and "\n" not in text


def test_merges_with_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes(b'{"<s>": 0, "<e>": 1, "a": 2, "b</w>": 3, "ab</w>": 4}')
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\r\na b</w>\r\n\r\n")
    assert ClipTokenizer.load(tmp_path / "vocab.json", tmp_path / "merges.txt", SMALL).encode("AB") == [0, 4, 1, 1]
