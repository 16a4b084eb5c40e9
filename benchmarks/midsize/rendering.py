"""The teacher's world in pictures: shapes by signed distances, on whichever device is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midsize.scenes import SHAPES, TEXTURES, Scene, Thing, distinct_scenes, draw_scenes

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 45, 45),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 60),
    "green": (50, 165, 70),
    "cyan": (60, 200, 215),
    "blue": (50, 95, 220),
    "purple": (140, 60, 190),
    "pink": (245, 140, 190),
    "brown": (130, 85, 50),
    "grey": (135, 135, 135),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "navy": (25, 30, 80),
    "beige": (235, 220, 190),
    "mint": (185, 235, 205),
    "lavender": (205, 195, 240),
    "maroon": (90, 20, 35),
    "olive": (95, 100, 40),
}
"""8-bit RGB of colours and backgrounds."""

RADII = {"tiny": 0.16, "small": 0.26, "large": 0.40, "huge": 0.56}
"""Half of the picture is 1. A scene that would not fit is made smaller as a whole."""
_EDGE = 0.94
_GAP = 1.12
_DIRECTIONS = {
    "left of": (-1.0, 0.0), "right of": (1.0, 0.0), "above": (0.0, 1.0), "below": (0.0, -1.0), "in front of": (0.8, -0.6),
    "behind": (-0.8, 0.6),
}  # fmt: skip
_IN_DEPTH = {"in front of": 1, "behind": -1}


def _box(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(x.abs() - width, y.abs() - height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.8660 * x.abs() + 0.5 * (y + 0.2), -(y + 0.2)) - 0.5


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: the plane folded onto a tenth of the turn, then the line from an outer corner to an inner one."""
    fifth, inner = 2 * math.pi / 5, 0.45
    angle = torch.atan2(x, y)
    angle = (angle - fifth * (angle / fifth).round()).abs()
    length = torch.hypot(x, y)
    u, v = length * angle.sin(), length * angle.cos()
    corner = (inner * math.sin(fifth / 2), inner * math.cos(fifth / 2))
    along = (corner[0], corner[1] - 1.0)
    size = math.hypot(*along)
    return (-u * along[1] + (v - 1.0) * along[0]) / size


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with a circle on each of its upper sides."""
    x, y = x.abs() / 0.95, y / 0.95 + 0.05
    square = (x + (y + 0.2).abs() - 0.7) * math.sqrt(0.5)
    circle = torch.hypot(x - 0.38, y - 0.22) - 0.52
    return torch.minimum(square, circle) * 0.95


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 0.95, 0.80 - torch.hypot(x - 0.45, y - 0.15))


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    head = torch.maximum((0.75 * (x - 1.0) + 0.95 * y.abs()) / math.hypot(0.75, 0.95), 0.05 - x)
    return torch.minimum(_box(x + 0.45, y, 0.55, 0.24), head)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.95,
    "square": lambda x, y: _box(x, y, 0.80, 0.80),
    "triangle": _triangle,
    "diamond": lambda x, y: (x.abs() + 0.7 * y.abs() - 0.70) / math.hypot(1.0, 0.7),
    "hexagon": lambda x, y: torch.maximum(0.8660 * x.abs() + 0.5 * y.abs(), y.abs()) - 0.85,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.70).abs() - 0.25,
    "moon": _moon,
    "dome": lambda x, y: torch.maximum(torch.hypot(x, y + 0.4) - 0.95, -(y + 0.4)),
    "arrow": _arrow,
}
"""Shape -> distance to its edge, negative inside, in units of its radius; x to the right, y up. Near the edges it is exact; deeper
inside a union it is the smaller one's of its parts, which is why outlines of hearts and arrows show theirs."""


def _pattern(texture: str, x: Tensor, y: Tensor) -> Tensor:
    """How much lighter a place is, 0 to 1."""
    if texture == "striped":
        return (0.5 + 4 * torch.sin(2 * math.pi * 1.6 * (x + y))).clamp(0, 1)
    if texture == "dotted":
        near = torch.hypot(torch.frac(x / 0.5 + 10) - 0.5, torch.frac(y / 0.5 + 10) - 0.5)
        return (0.5 + 12 * (0.27 - near)).clamp(0, 1)
    if texture == "checked":
        return (0.5 + 4 * torch.sin(2 * math.pi * 1.1 * x) * torch.sin(2 * math.pi * 1.1 * y)).clamp(0, 1)
    if texture == "shaded":
        return (0.5 + 0.6 * y).clamp(0, 1)
    return torch.zeros_like(x)


@dataclass(frozen=True)
class Placed:
    """A thing in its place: centre and radius in halves of the picture, and how far in front it stands."""

    thing: Thing
    x: float
    y: float
    radius: float
    depth: int


def place(scene: Scene, across: float = 0.5, up: float = 0.5) -> list[Placed]:
    """Where a scene's things stand.

    Args:
        across, up: where the whole stands in the room that is left, 0 to 1.
    """
    radii = [RADII[thing.size] for thing in scene.things]
    centres, depths = [(0.0, 0.0)], [0]
    for index, relation in enumerate(scene.relations):
        a, b = radii[index], radii[index + 1]
        x, y = _DIRECTIONS[relation]
        # Of two that overlap, the one behind is to be seen all the same.
        apart = max(0.6 * b, a - 0.3 * b, b - 0.3 * a) if relation in _IN_DEPTH else _GAP * (a + b)
        last = centres[-1]
        # "A left of B": B stands on the other side of A.
        centres.append((last[0] - x * apart, last[1] - y * apart))
        depths.append(depths[-1] - _IN_DEPTH.get(relation, 0))
    spans = [[(c[axis] - r, c[axis] + r) for c, r in zip(centres, radii, strict=True)] for axis in range(2)]
    ends = [(min(low for low, _ in span), max(high for _, high in span)) for span in spans]
    factor = min(1.0, *(2 * _EDGE / (high - low) for low, high in ends))
    found = []
    for thing, centre, radius, depth in zip(scene.things, centres, radii, depths, strict=True):
        values = []
        for axis, share in ((0, across), (1, up)):
            low, high = (factor * end for end in ends[axis])
            room = 2 * _EDGE - (high - low)
            values.append(factor * centre[axis] - low - _EDGE + share * room)
        found.append(Placed(thing, values[0], values[1], factor * radius, depth))
    return sorted(found, key=lambda each: each.depth)


def render(scenes: Sequence[Scene], random: torch.Generator, size: int, device: torch.device) -> Tensor:
    """Pictures float32 [B, 3, size, size] in [-1, 1], each scene somewhere in the room that it leaves.

    Args:
        random: on the processor, so that places do not depend on the device.
    """
    shifts = torch.rand(len(scenes), 2, generator=random, dtype=torch.float64).tolist()
    placed = [place(scene, *shift) for scene, shift in zip(scenes, shifts, strict=True)]
    colours = torch.tensor([PALETTE[scene.background] for scene in scenes], dtype=torch.float32)
    pictures = colours.to(device)[:, :, None, None].expand(-1, -1, size, size).clone()
    for slot in range(max(map(len, placed))):
        rows = [row for row, found in enumerate(placed) if slot < len(found)]
        layer, alpha = _layer([placed[row][slot] for row in rows], size, device)
        chosen = torch.tensor(rows).to(device)
        under = pictures[chosen]
        pictures[chosen] = under + alpha[:, None] * (layer - under)
    return pictures / 127.5 - 1.0


def _layer(things: Sequence[Placed], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Colours [N, 3, size, size] and opacities [N, size, size] of one thing a picture."""
    numbers = torch.tensor([(each.x, each.y, each.radius) for each in things], dtype=torch.float32)
    centre_x, centre_y, radius = (column[:, None, None] for column in numbers.to(device).unbind(1))
    places = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0
    x = ((places[None, None, :] - centre_x) / radius).expand(-1, size, -1)
    y = ((-places[None, :, None] - centre_y) / radius).expand(-1, -1, size)
    distance = _each(x, y, [each.thing.shape for each in things], SHAPES, lambda shape, u, v: DISTANCES[shape](u, v))
    lighter = _each(x, y, [each.thing.texture for each in things], TEXTURES, _pattern)
    outlined = torch.tensor([each.thing.texture == "outlined" for each in things]).to(device)[:, None, None]
    distance = torch.where(outlined, (distance + 0.11).abs() - 0.11, distance)
    # One pixel from outside to inside.
    alpha = (0.5 - distance * radius * (size / 2)).clamp(0, 1)
    colour = torch.tensor([PALETTE[each.thing.colour] for each in things], dtype=torch.float32).to(device)[:, :, None, None]
    return colour + 0.65 * lighter[:, None] * (255.0 - colour), alpha


def _each(
    x: Tensor, y: Tensor, kinds: Sequence[str], known: Sequence[str], function: Callable[[str, Tensor, Tensor], Tensor]
) -> Tensor:
    """A function of the plane for each row, by its kind; [N, size, size]."""
    found = torch.empty(x.shape, device=x.device)
    for kind in known:
        rows = [row for row, name in enumerate(kinds) if name == kind]
        if rows:
            # Known on the processor, so that a GPU is not asked and nothing waits.
            chosen = torch.tensor(rows).to(x.device)
            found[chosen] = function(kind, x[chosen], y[chosen])
    return found


@dataclass(frozen=True)
class ShapePictures:
    """A :class:`~demo_training.data.PictureSource` of scenes.

    Attributes:
        size: pixels of a side.
        held_out: share of pictures with a held-out thing where these are asked for; a twelfth of the things is.
    """

    size: int
    device: torch.device
    held_out: float = 0.25

    def draw(self, count: int, random: torch.Generator, *, held_out_too: bool = False, distinct: bool = False) -> list[Scene]:
        """See :class:`~demo_training.data.PictureSource`."""
        share = self.held_out if held_out_too else 0.0
        return distinct_scenes(count, random, share) if distinct else draw_scenes(count, random, share)

    def compose(self, captions: list[Scene], random: torch.Generator) -> Tensor:
        """See :class:`~demo_training.data.PictureSource`; on the device."""
        return render(captions, random, self.size, self.device)
