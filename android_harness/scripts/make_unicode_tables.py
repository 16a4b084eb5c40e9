"""Write core/src/unicode_tables.inc from the tables of s2p_runtime.clip_words and of Python's unicodedata.

    python android_harness/scripts/make_unicode_tables.py

The C++ tokenizer has to classify, lower and compose characters exactly as the Python one does, which in turn equals
transformers' CLIP tokenizer. Python 3.11 and 3.12 give the same file (test_unicode_tables.py checks that it is current).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from s2p_runtime import clip_words

TABLES = Path(__file__).resolve().parents[1] / "core" / "src" / "unicode_tables.inc"
SURROGATES = range(0xD800, 0xE000)
HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)


def _code_points() -> Iterable[int]:
    return (code for code in range(sys.maxunicode + 1) if code not in SURROGATES)


def _ranges(wanted: Callable[[str], bool]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for code in _code_points():
        if wanted(chr(code)):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return found


def _lower(char: str) -> str:
    return clip_words._NEW_LOWER.get(char) or char.lower()


def _decomposition(char: str) -> str:
    """Canonical decomposition, fully expanded. Hangul is computed, and unknown marks stand for themselves."""
    if char in clip_words.UNKNOWN_MARKS or ord(char) in HANGUL_SYLLABLES:
        return char
    expanded = unicodedata.normalize("NFD", char)
    # Unicode 10 did not know the marks in these pairs, so the characters do not come apart there.
    return char if any(mark in clip_words.UNKNOWN_MARKS for mark in expanded) else expanded


def _compositions() -> list[tuple[int, int, int]]:
    found = []
    for code in _code_points():
        char = chr(code)
        parts = unicodedata.decomposition(char).split()
        if len(parts) != 2 or parts[0].startswith("<") or _decomposition(char) == char:
            continue
        first, second = (int(part, 16) for part in parts)
        # Composition exclusions do not come back under NFC.
        if unicodedata.normalize("NFC", char) == char:
            found.append((first, second, code))
    return sorted(found)


def _array(name: str, kind: str, rows: Iterable[str]) -> str:
    lines: list[str] = []
    line = " "
    for row in rows:
        if len(line) + len(row) > 118:
            lines.append(line)
            line = " "
        line += " " + row + ","
    return "\n".join([f"constexpr {kind} {name}[] = {{", *lines, line, "};", ""])


def _ranges_array(name: str, wanted: Callable[[str], bool]) -> str:
    return _array(name, "Range", (f"{{0x{first:x}, 0x{last:x}}}" for first, last in _ranges(wanted)))


def _mapping_array(name: str, mapping: Callable[[str], str]) -> str:
    rows = []
    for code in _code_points():
        image = mapping(chr(code))
        if image != chr(code):
            assert len(image) <= 4
            rows.append(f"{{0x{code:x}, {{{', '.join(f'0x{ord(c):x}' for c in image)}}}}}")
    return _array(name, "Mapping", rows)


def tables() -> str:
    """The text of unicode_tables.inc."""
    classes = []
    for code in _code_points():
        value = 0 if chr(code) in clip_words.UNKNOWN_MARKS else unicodedata.combining(chr(code))
        if value:
            if classes and classes[-1][1] == code - 1 and classes[-1][2] == value:
                classes[-1] = (classes[-1][0], code, value)
            else:
                classes.append((code, code, value))
    parts = [
        "// Written by android_harness/scripts/make_unicode_tables.py; do not edit.\n",
        _ranges_array("kLetters", lambda c: clip_words.character_kind(c) == "letter"),
        _ranges_array("kNumbers", lambda c: clip_words.character_kind(c) == "number"),
        _ranges_array("kInWord", clip_words.in_word),
        _mapping_array("kLower", _lower),
        _mapping_array("kDecompositions", _decomposition),
        _array("kCombiningClasses", "ClassRange", (f"{{0x{a:x}, 0x{b:x}, {c}}}" for a, b, c in classes)),
        _array("kCompositions", "Composition", (f"{{0x{a:x}, 0x{b:x}, 0x{c:x}}}" for a, b, c in _compositions())),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    TABLES.write_text(tables(), encoding="utf-8")
