"""Pictures: emoji sprites rendered once from a colour font, composed with backgrounds on the fly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from demo_training.captions import BACKGROUNDS, Caption, EmojiObject, all_captions, objects
from demo_training.config import IMAGE_SIZE, DataConfig
from demo_training.state import load_tensors, save_tensors
from s2p_runtime.errors import S2PError


class Captioned(Protocol):
    """What a picture shows."""

    @property
    def text(self) -> str:
        """The caption."""
        ...


Shown = TypeVar("Shown", bound=Captioned)


class PictureSource(Protocol[Shown]):
    """A world of captioned pictures, some of which are kept out of training."""

    @property
    def size(self) -> int:
        """Pixels of a side."""
        ...

    def draw(self, count: int, random: torch.Generator, *, held_out_too: bool = False, distinct: bool = False) -> list[Shown]:
        """Random contents of pictures, from those of training only unless ``held_out_too``; ``distinct``: none twice."""
        ...

    def compose(self, captions: list[Shown], random: torch.Generator) -> Tensor:
        """Pictures float32 [B, 3, size, size] in [-1, 1]."""
        ...


Renderer = Callable[[EmojiObject], Image.Image]
"""An object's picture, RGBA, cropped to what is drawn, any size."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "red": (224, 49, 45),
    "green": (50, 170, 75),
    "blue": (50, 101, 224),
    "yellow": (250, 219, 53),
    "pink": (248, 170, 203),
}
"""Backgrounds in 8-bit RGB, as the shipped model draws them."""

_FONT_PLACES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),
)
_STRIKE = 109  # the only bitmap size in Noto Color Emoji; FreeType refuses every other
_VARIATION_SELECTOR = "\ufe0f"


def find_font(given: Path | None = None) -> Path:
    """The Noto Color Emoji font file: ``given``, or where Debian and other systems put it.

    Raises:
        S2PError: it is not there.
    """
    if given is not None:
        if not given.is_file():
            raise S2PError(f"font {given} does not exist", "give the NotoColorEmoji.ttf file with `font`", "font")
        return given
    for path in _FONT_PLACES:
        if path.is_file():
            return path
    raise S2PError(
        "Noto Color Emoji is not installed", "install the package fonts-noto-color-emoji or give the file with `font`", "font"
    )


def noto_renderer(font_file: Path) -> Renderer:
    """Renderer for a Noto Color Emoji file.

    Raises:
        S2PError: Pillow cannot read the file as a font with the 109-pixel strike, or (on use) a picture is missing in it.
    """
    try:
        font = ImageFont.truetype(str(font_file), _STRIKE)
    except OSError as error:
        raise S2PError(
            f"cannot read {font_file} as Noto Color Emoji ({error})", "give the bitmap (CBDT) file with `font`", "font"
        ) from error

    def render(item: EmojiObject) -> Image.Image:
        canvas = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
        # The selector would be drawn as a glyph of its own where Pillow has no text shaping.
        ImageDraw.Draw(canvas).text((20, 20), item.text.replace(_VARIATION_SELECTOR, ""), font=font, embedded_color=True)
        box = canvas.getbbox()
        if box is None:
            raise S2PError(f"{font_file} has no picture of {item.name}", "use a newer fonts-noto-color-emoji")
        return canvas.crop(box)

    return render


def _sprite(picture: Image.Image, size: int) -> np.ndarray:
    """RGBA uint8 [IMAGE_SIZE, IMAGE_SIZE, 4]: the picture with its longest side ``size``, centred."""
    factor = size / max(picture.size)
    # Colour times alpha before resizing, or the invisible pixels' colour bleeds into the edges.
    small = picture.convert("RGBa").resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBa", (IMAGE_SIZE, IMAGE_SIZE))
    canvas.paste(small, ((IMAGE_SIZE - small.width) // 2, (IMAGE_SIZE - small.height) // 2))
    sprite = np.asarray(canvas).copy()
    # Lanczos overshoots: colour above alpha would come out brighter than white on a white background.
    sprite[..., :3] = np.minimum(sprite[..., :3], sprite[..., 3:])
    return sprite


def make_sprites(renderer: Renderer, config: DataConfig) -> Tensor:
    """All sprites, uint8 [objects, 2 (normal, small), 4 (RGB times alpha, alpha), 64, 64]."""
    rows = []
    for item in objects():
        picture = renderer(item)
        rows.append(np.stack([_sprite(picture, config.normal_size), _sprite(picture, config.small_size)]))
    return torch.from_numpy(np.stack(rows)).permute(0, 1, 4, 2, 3).contiguous()


def load_sprites(path: Path, config: DataConfig, fingerprint: str, renderer: Callable[[], Renderer]) -> Tensor:
    """Sprites from ``path``; rendered and stored there first when the file is not there."""
    if not path.exists():
        save_tensors(path, {"sprites": make_sprites(renderer(), config)}, {"settings": fingerprint})
    return load_tensors(path, fingerprint)[0]["sprites"]


@dataclass
class Pictures:
    """Random pictures of given captions; a :class:`PictureSource`.

    Attributes:
        sprites: see :func:`make_sprites`.
        config: sizes and jitter.
    """

    sprites: Tensor
    config: DataConfig
    size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        self._object_index = {item.name: index for index, item in enumerate(objects())}
        self._pools = {
            False: [caption for caption in all_captions() if not caption.held_out],
            True: list(all_captions()),
        }
        self._colours = {name: torch.tensor(COLOURS[name], dtype=torch.float32).view(3, 1, 1) for name in BACKGROUNDS}

    def compose(self, captions: list[Caption], random: torch.Generator) -> Tensor:
        """Pictures float32 [B, 3, 64, 64] in [-1, 1], each sprite shifted at random by whole pixels."""
        out = torch.empty(len(captions), 3, IMAGE_SIZE, IMAGE_SIZE)
        for row, caption in enumerate(captions):
            sprite = self.sprites[self._object_index[caption.item.name], int(caption.small)].float()
            reach = self.config.small_jitter if caption.small else self.config.normal_jitter
            dy, dx = (int(v) for v in torch.randint(-reach, reach + 1, (2,), generator=random))
            # Sprites are empty for at least ``reach`` pixels at every edge, so rolling never wraps a drawn pixel.
            sprite = torch.roll(sprite, (dy, dx), (1, 2))
            out[row] = sprite[:3] + self._colours[caption.background] * (1.0 - sprite[3:] / 255.0)
        return out / 127.5 - 1.0

    def draw(self, count: int, random: torch.Generator, *, held_out_too: bool = False, distinct: bool = False) -> list[Caption]:
        """Random captions, from the training captions only unless ``held_out_too``."""
        pool = self._pools[held_out_too]
        if distinct:
            order = torch.randperm(len(pool), generator=random)[:count].tolist()
        else:
            order = torch.randint(len(pool), (count,), generator=random).tolist()
        return [pool[index] for index in order]
