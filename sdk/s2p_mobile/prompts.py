"""Prompt files: UTF-8 text, one prompt a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from s2p_runtime.errors import S2PError
from s2p_runtime.tokenizer import ClipTokenizer


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in their order, without surrounding white space. Blank lines are ignored, a byte order mark too.

    Raises:
        S2PError: file missing or unreadable, not UTF-8, or without a prompt.
    """
    try:
        # Not universal line splitting: a prompt may hold any Unicode separator, only a line feed ends it.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise S2PError(f"prompt file {path} does not exist; give a text file with one prompt a line") from None
    except OSError as error:
        raise S2PError(
            f"prompt file {path} cannot be read ({error.strerror}); give a text file with one prompt a line"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise S2PError(f"prompt file {path} is not UTF-8 (line {line}); save it as UTF-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise S2PError(f"prompt file {path} is empty; write one prompt a line")
    return prompts


def long_prompts(prompts: Iterable[str], tokenizer: ClipTokenizer) -> list[str]:
    """One warning for each prompt that the text encoder will not see whole."""
    dropped = ((prompt, tokenizer.tokens_dropped(prompt)) for prompt in prompts)
    longest = tokenizer.spec.max_length - 2
    return [
        f"prompt {prompt!r} is cut: {count} tokens over the tokenizer's {longest}; shorten it"
        for prompt, count in dropped
        if count
    ]
