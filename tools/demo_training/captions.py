"""The demo model's world: 136 objects x 7 backgrounds x two sizes, and which captions its training never saw.

Needs neither a font nor the ``emoji`` package: the objects are data (``objects.json``: name, code points, article).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BACKGROUNDS: tuple[str, ...] = ("white", "black", "red", "green", "blue", "yellow", "pink")

_HELD_OUT_MODULUS = 12
_CALIBRATION_COUNT = 64


@dataclass(frozen=True)
class EmojiObject:
    """One drawable thing: its name in captions, its Unicode text, and ``"a"``, ``"an"`` or ``""`` (plural)."""

    name: str
    text: str
    article: str


@dataclass(frozen=True)
class Caption:
    """One picture of the data set in words and in parts."""

    item: EmojiObject
    background: str
    small: bool

    @property
    def text(self) -> str:
        """The English caption, for example ``a small fox on a black background``."""
        article = "a" if self.small and self.item.article else self.item.article
        words = [article, "small" if self.small else "", self.item.name]
        return " ".join(word for word in words if word) + f" on a {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether this pair of object and background is kept out of training, in both sizes."""
        return zlib.crc32(f"{self.item.name}|{self.background}".encode()) % _HELD_OUT_MODULUS == 0


@cache
def objects() -> tuple[EmojiObject, ...]:
    """All objects, by name."""
    rows = json.loads((Path(__file__).parent / "objects.json").read_text("utf-8"))
    return tuple(
        EmojiObject(row["name"], "".join(chr(int(point, 16)) for point in row["codepoints"].split()), row["article"])
        for row in rows
    )


def _mixed(captions: list[Caption]) -> list[Caption]:
    # A hash order: the first n captions are then a fair sample of all objects and backgrounds.
    return sorted(captions, key=lambda caption: (zlib.crc32(caption.text.encode()), caption.text))


@cache
def all_captions() -> tuple[Caption, ...]:
    """Every caption: objects by name, then backgrounds, then normal before small."""
    return tuple(
        Caption(item, background, small) for item in objects() for background in BACKGROUNDS for small in (False, True)
    )


def training_captions() -> list[str]:
    """The captions the model was trained on, in a fixed mixed order."""
    return [caption.text for caption in _mixed([c for c in all_captions() if not c.held_out])]


def held_out_captions() -> list[str]:
    """The captions kept out of training, in a fixed mixed order."""
    return [caption.text for caption in _mixed([c for c in all_captions() if c.held_out])]


def calibration_captions() -> list[str]:
    """Every caption the model was trained on. The first 64 have 64 different objects, each background 9 or 10 times, both sizes
    alternating, so that a few already are a fair sample; the others follow in the mixed order.

    Calibration must not see what evaluation draws, so these come from the training half.
    """
    chosen: list[Caption] = []
    used: set[str] = set()
    pool = _mixed([caption for caption in all_captions() if not caption.held_out])
    while len(chosen) < _CALIBRATION_COUNT:
        turn = len(chosen)
        background = BACKGROUNDS[turn % len(BACKGROUNDS)]
        caption = next(c for c in pool if c.background == background and c.small == bool(turn % 2) and c.item.name not in used)
        chosen.append(caption)
        used.add(caption.item.name)
    first = [caption.text for caption in chosen]
    return first + [text for text in training_captions() if text not in set(first)]
