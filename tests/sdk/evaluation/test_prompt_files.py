"""Prompt files, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import long_prompts, read_prompts
from s2p_runtime.errors import S2PError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a cat\na dog\n", ["a cat", "a dog"]),
        (b"a cat", ["a cat"]),
        (b"\r\n  a cat \r\n\r\n\t\r\na dog\r\n", ["a cat", "a dog"]),
        (b"\xef\xbb\xbfa cat\n", ["a cat"]),
        ("ein Käse\nein\u2028Satz\n".encode(), ["ein Käse", "ein\u2028Satz"]),
        (b"twice\ntwice\n", ["twice", "twice"]),
    ],
)
def test_reads_one_prompt_a_line(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    assert read_prompts(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n\t\n", "is empty"),
        (b"a cat\na k\xe4se\n", r"not UTF-8 \(line 2\)"),
        (b"\xff\xfea\x00", r"not UTF-8 \(line 1\)"),
    ],
)
def test_refuses_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(S2PError, match=message) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_refuses_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(S2PError, match="cannot be read"):
        read_prompts(tmp_path)


def test_names_prompts_over_the_tokenizers_length() -> None:
    """The demo tokenizer holds 14 tokens between its frame, and ``apple`` is one token."""
    tokenizers = open_model(None).conditioner.tokenizers
    warnings = long_prompts([" ".join(["apple"] * 14), " ".join(["apple"] * 17)], tokenizers)
    assert len(warnings) == 1
    assert "apple apple" in warnings[0] and "3 tokens over the tokenizer's 14" in warnings[0]
