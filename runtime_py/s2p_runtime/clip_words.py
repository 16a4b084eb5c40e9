"""How CLIP's tokenizer sees text: normalization, the split into words, and the kinds of characters.

Unicode: the reference classifies letters and digits by Unicode 16, lowers by Unicode 17 and composes by Unicode 10, whatever
the Unicode version of Python (14 in 3.11, 15 in 3.12). The tables at the end of this file hold the differences.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def normalize(text: str) -> str:
    """NFC, each run of white space to one space, lower case character by character."""
    composed: list[str] = []
    start = 0
    # The reference neither reorders nor composes across a mark that Unicode 10 did not know.
    for position, char in enumerate(text):
        if char in UNKNOWN_MARKS:
            composed += [unicodedata.normalize("NFC", text[start:position]), char]
            start = position + 1
    composed.append(unicodedata.normalize("NFC", text[start:]))
    characters: list[str] = []
    for char in "".join(composed):
        if char not in WHITE_SPACE:
            characters.append(_NEW_LOWER.get(char) or char.lower())
        elif not characters or characters[-1] != " ":
            characters.append(" ")
    return "".join(characters)


def split_words(text: str) -> Iterator[str]:
    """Words of normalized text: contractions, runs of letters, single digits, runs of anything else but space."""
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        end = _word_end(text, position)
        word = text[position:end]
        # A special token in capitals is one match of CLIP's pattern, which the byte-level stage then splits.
        if word in _LOWERED_SPECIAL:
            yield from ("<|", word[2:-2], "|>")
        else:
            yield word
        position = end


def _word_end(text: str, start: int) -> int:
    for literal in (*_LOWERED_SPECIAL, *_CONTRACTIONS):
        if text.startswith(literal, start):
            return start + len(literal)
    kind = character_kind(text[start])
    end = start + 1
    if kind != "number":
        while end < len(text) and character_kind(text[end]) == kind:
            end += 1
    return end


def character_kind(char: str) -> str:
    """``letter``, ``number``, ``space`` (U+0020 alone) or ``other``."""
    if char == " ":
        return "space"
    category = unicodedata.category(char)[0]
    if category == "L" or char in _NEW_LETTERS:
        return "letter"
    return "number" if category == "N" or char in _NEW_NUMBERS else "other"


def in_word(char: str) -> bool:
    """Whether a character belongs to a word for added tokens that stand alone: ``\\w`` of Rust's regular expressions, which is
    alphabetic, marks, decimal numbers, connecting punctuation and the two joiners (Unicode Technical Standard 18, annex C)."""
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in _OTHER_WORD


def _byte_characters() -> list[str]:
    """GPT-2's spelling of the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_in = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_in)) for byte in range(256)]


def _characters(ranges: str) -> frozenset[str]:
    """The characters of blank-separated hexadecimal code points and ranges ``first-last``."""
    found: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


def _shifted(*shifts: tuple[str, int]) -> dict[str, str]:
    return {char: chr(ord(char) + offset) for ranges, offset in shifts for char in _characters(ranges)}


BYTE_CHARACTERS = _byte_characters()
"""Byte -> the character that spells it."""
_LOWERED_SPECIAL = ("<|startoftext|>", "<|endoftext|>")

# Unicode White_Space; unlike str.isspace it leaves out the separators U+001C to U+001F.
WHITE_SPACE = _characters("9-d 20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000")

# Letters (general category L*) and numbers (N*) of Unicode 16 that Unicode 14 lacks.
_NEW_LETTERS = _characters(
    "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240 11380-11389 1138b 1138e "
    "11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d "
    "16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d 31350-323af"
)
_NEW_NUMBERS = _characters(
    "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9 1e5f1-1e5fa"
)

# Beside these: joiners, circled letters (alphabetic symbols), and marks of Unicode 16 that Unicode 14 lacks. Of the new numbers
# Kaktovik's, 1d2c0 to 1d2d3, are no decimal ones.
_OTHER_WORD = (
    _characters(
        "200c-200d 24b6-24e9 1f130-1f149 1f150-1f169 1f170-1f189 897 cf3 ece 10d69-10d6d 10efc-10eff 11241 113b8-113c0 113c2 113c5 "
        "113c7-113ca 113cc-113d0 113d2 113e1-113e2 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 11f5a 13440 13447-13455 1611e-1612f "
        "1e08f 1e4ec-1e4ef 1e5ee-1e5ef"
    )
    | _NEW_LETTERS
    | (_NEW_NUMBERS - _characters("1d2c0-1d2d3"))
)

# Simple lower case mappings of Unicode 15 to 17, as the distance to the lower case character.
_NEW_LOWER = _shifted(
    ("1c89 a7cc a7ce a7d2 a7d4 a7da", 1),
    ("a7cb", -42343),
    ("a7dc", -42561),
    ("10d50-10d65", 32),
    ("16ea0-16eb8", 27),
)

# Combining marks (class not 0) that came with Unicode 11 to 15, and U+11930, which composes since Unicode 13.
UNKNOWN_MARKS = _characters(
    "7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 10eab-10eac 10efd-10eff 10f46-10f50 "
    "10f82-10f85 11070 1133b 1145e 11839-1183a 11930 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 "
    "11f41-11f42 16ff0-16ff1 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef"
)
