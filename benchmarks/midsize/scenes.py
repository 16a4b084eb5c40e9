"""The teacher's world in words: one to three things, what stands how to what, and which things its training never saw."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

SHAPES = (
    "circle", "square", "triangle", "diamond", "hexagon", "star", "heart", "cross", "ring", "moon", "dome", "arrow",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "grey")
TEXTURES = ("", "striped", "dotted", "checked", "outlined", "shaded")
"""The first has no word: one colour all over."""
SIZES = ("tiny", "small", "large", "huge")
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind")
BACKGROUNDS = ("white", "black", "navy", "beige", "mint", "lavender", "maroon", "olive")
MOST_THINGS = 3

OPPOSITE = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above", "in front of": "behind",
    "behind": "in front of",
}  # fmt: skip

_HELD_OUT_MODULUS = 12


@dataclass(frozen=True)
class Thing:
    """One object."""

    size: str
    texture: str
    colour: str
    shape: str

    @property
    def text(self) -> str:
        """``a large striped red star``."""
        words = [self.size, self.texture, self.colour, self.shape]
        return "a " + " ".join(word for word in words if word)

    @property
    def held_out(self) -> bool:
        """Whether no picture of the training shows this shape in this colour and texture, in any size."""
        return zlib.crc32(f"{self.shape}|{self.colour}|{self.texture}".encode()) % _HELD_OUT_MODULUS == 0


@dataclass(frozen=True)
class Scene:
    """One picture in parts.

    Attributes:
        things: one to three.
        relations: of each thing to the next one.
    """

    things: tuple[Thing, ...]
    relations: tuple[str, ...]
    background: str

    @property
    def text(self) -> str:
        """``a large red star left of a tiny striped blue ring on a white background``."""
        words = [self.things[0].text]
        for relation, thing in zip(self.relations, self.things[1:], strict=True):
            words += [relation, thing.text]
        article = "an" if self.background[0] in "aeiou" else "a"
        return f"{' '.join(words)} on {article} {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether one of its things is."""
        return any(thing.held_out for thing in self.things)


@cache
def things() -> tuple[Thing, ...]:
    """All things there are: 12 shapes, 10 colours, 6 textures, 4 sizes."""
    return tuple(
        Thing(size, texture, colour, shape) for shape, colour, texture, size in product(SHAPES, COLOURS, TEXTURES, SIZES)
    )


@cache
def _pools() -> tuple[tuple[Thing, ...], tuple[Thing, ...]]:
    """Things of the training, and those kept out of it."""
    return tuple(thing for thing in things() if not thing.held_out), tuple(thing for thing in things() if thing.held_out)


def words() -> list[str]:
    """Every word of a caption, for the tokenizer."""
    return [*SHAPES, *COLOURS, *filter(None, TEXTURES), *SIZES, *RELATIONS, *BACKGROUNDS, "a", "an", "on", "background"]


def draw_scenes(count: int, random: torch.Generator, held_out: float = 0.0) -> list[Scene]:
    """Random scenes, one in three with one thing, one with two, one with three.

    Args:
        held_out: share of the scenes that show a thing which is kept out of training; the others show none.
    """
    known, unseen = _pools()
    # All random numbers at once: a draw of a single one costs more than all that is made of it.
    places = torch.rand(count, 3 + 2 * MOST_THINGS, generator=random, dtype=torch.float64).tolist()
    scenes = []
    for kind, many, behind, *others in places:
        number = 1 + int(many * MOST_THINGS)
        shown = [known[int(place * len(known))] for place in others[:number]]
        if kind < held_out:
            # Where among the things it stands is no matter of its own: the first number beyond those used decides.
            at = int(others[-1] * number)
            shown[at] = unseen[int(others[at] * len(unseen))]
        relations = [RELATIONS[int(place * len(RELATIONS))] for place in others[MOST_THINGS : MOST_THINGS + number - 1]]
        if len(relations) == 2 and relations[1] == OPPOSITE[relations[0]]:
            # The first and the third thing would stand in one place.
            relations[1] = relations[0]
        scenes.append(Scene(tuple(shown), tuple(relations), BACKGROUNDS[int(behind * len(BACKGROUNDS))]))
    return scenes


def distinct_scenes(count: int, random: torch.Generator, held_out: float = 0.0) -> list[Scene]:
    """:func:`draw_scenes`, none twice."""
    found: dict[Scene, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(draw_scenes(count - len(found), random, held_out))
    return list(found)
