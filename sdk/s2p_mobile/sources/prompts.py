"""Prompt files: UTF-8 text with one prompt a line, COCO captions (JSON), Stable-Diffusion-Prompts (CSV or parquet).

Rule of subsets, so that a table can be repeated exactly: the prompts are put in the order that each reader names, then
``count`` of them are taken: the first without a seed, else those that ``random.Random(seed).sample(range(n), count)`` picks, in
the order in which it picks them. CPython fixed that sequence for integer seeds.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from s2p_runtime.conditioning import tokens_dropped
from s2p_runtime.errors import S2PError
from s2p_runtime.tokenizer import ClipTokenizer

_COLUMNS = ("prompt", "caption", "text")
_HOW = "give a text file with one prompt a line, COCO captions (.json) or Stable-Diffusion-Prompts (.csv, .parquet)"


def read_prompts(path: Path, count: int | None = None, seed: int | None = None) -> list[str]:
    """The prompts of a file, without surrounding white space; empty ones are left out.

    Args:
        path: ``.json``: COCO captions (``{"annotations": [{"image_id", "id", "caption"}, ...]}``), one caption an image, that
            with the smallest ``id``, images by ascending ``image_id``; or a plain list of texts. ``.csv`` with a heading, or
            ``.parquet``: the column prompt, caption or text, rows in order. Anything else: UTF-8, one prompt a line.
        count: how many; all when None.
        seed: pick them at random with this seed; the first ``count`` when None.

    Raises:
        S2PError: file missing or unreadable, not of its format, without a prompt, or with fewer than ``count``.
    """
    readers = {".json": _from_json, ".csv": _from_csv, ".parquet": _from_parquet}
    found = readers.get(path.suffix.lower(), _from_lines)(path)
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise S2PError(f"prompt file {path} is empty", f"{_HOW}")
    return prompts if count is None else subset(prompts, count, seed)


def subset(prompts: Sequence[str], count: int, seed: int | None) -> list[str]:
    """``count`` prompts by the rule above.

    Raises:
        S2PError: there are fewer.
    """
    if count > len(prompts):
        raise S2PError(f"{count} prompts were asked for but there are {len(prompts)}", "lower `count`", "count")
    if seed is None:
        return list(prompts[:count])
    return [prompts[index] for index in random.Random(seed).sample(range(len(prompts)), count)]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise S2PError(f"prompt file {path} does not exist", f"{_HOW}") from None
    except OSError as error:
        raise S2PError(f"prompt file {path} cannot be read ({error.strerror})", f"{_HOW}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise S2PError(f"prompt file {path} is not UTF-8 (line {line})", "save it as UTF-8") from error


def _from_lines(path: Path) -> list[str]:
    # Not universal line splitting: a prompt may hold any Unicode separator, only a line feed ends it.
    return _text(path).split("\n")


def _from_json(path: Path) -> list[str]:
    try:
        value: Any = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise S2PError(f"prompt file {path} is not JSON ({error})", f"{_HOW}") from error
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    try:
        first: dict[int, tuple[int, str]] = {}
        for entry in value["annotations"]:
            image, found = int(entry["image_id"]), (int(entry["id"]), str(entry["caption"]))
            first[image] = min(first.get(image, found), found)
    except (KeyError, TypeError, ValueError) as error:
        raise S2PError(f"prompt file {path} is neither COCO captions nor a list of texts", f"{_HOW}") from error
    return [first[image][1] for image in sorted(first)]


def _from_csv(path: Path) -> list[str]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    column = _column(path, list(reader.fieldnames or []))
    try:
        return [row[column] or "" for row in reader]
    except csv.Error as error:
        raise S2PError(f"prompt file {path} is not CSV (line {reader.line_num}: {error})", f"{_HOW}") from error


def _from_parquet(path: Path) -> list[str]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise S2PError(f"reading {path} needs pyarrow", "run pip install pyarrow, or save the file as CSV") from error
    try:
        file = parquet.ParquetFile(path)
        column = _column(path, list(file.schema_arrow.names))
        return [str(text or "") for text in file.read([column]).column(column).to_pylist()]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"prompt file {path} is not parquet ({reason})", f"{_HOW}") from error


def _column(path: Path, names: list[str]) -> str:
    for wanted in _COLUMNS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    raise S2PError(f"prompt file {path} has no column {' or '.join(_COLUMNS)}", f"it has {', '.join(names) or 'none'}")


def long_prompts(prompts: Iterable[str], tokenizers: Mapping[str, ClipTokenizer]) -> list[str]:
    """One warning for each prompt that a text encoder will not see whole.

    Args:
        tokenizers: of a model, see :attr:`~s2p_mobile.sources.families.Conditioner.tokenizers`; they are of one length.
    """
    dropped = ((prompt, tokens_dropped(tokenizers, prompt)) for prompt in prompts)
    longest = next(iter(tokenizers.values())).spec.max_length - 2
    return [
        f"prompt {prompt!r} is cut: {count} tokens over the tokenizer's {longest}; shorten it"
        for prompt, count in dropped
        if count
    ]


def repeated(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` prompts: the first ones, or all of them again and again when there are fewer (prompt k has a seed of its own)."""
    return tuple(islice(cycle(prompts), count))
