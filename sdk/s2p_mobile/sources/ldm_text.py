"""The text encoders of a single-file checkpoint: under which names they lie, and their configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2p_mobile.sources.header_kind import FAMILY_TITLES
from s2p_mobile.sources.ldm_config import UNET_PREFIX, Tensors, UntoldShapeError, require_multiple

_HEAD_WIDTH = 64
"""Channels of a head in every text encoder."""
_WORDS = 49408
"""Of CLIP's published vocabulary, which is written beside the weights."""
_VIT_H_BLOCKS = 24
"""Of OpenCLIP's ViT-H, whose last one Stable Diffusion 2 does not use: it was trained on the layer before."""
_CLIP_L_WIDTH, _VIT_H_WIDTH = 768, 1024
"""Of the published text encoders of 1.x and 2.x."""


@dataclass(frozen=True)
class TextLayout:
    """Where a text encoder lies.

    Attributes:
        prefix: of its keys.
        open_clip: named as OpenCLIP does, else as transformers does.
    """

    prefix: str
    open_clip: bool

    @property
    def blocks_prefix(self) -> str:
        """What the keys of all blocks begin with; the number follows."""
        return self.prefix + ("transformer.resblocks." if self.open_clip else "text_model.encoder.layers.")

    def blocks(self, tensors: Tensors) -> int:
        """How many blocks there are."""
        return len(
            {key.removeprefix(self.blocks_prefix).split(".")[0] for key in tensors if key.startswith(self.blocks_prefix)}
        )


CLIP = TextLayout("cond_stage_model.transformer.", False)
OPEN_CLIP = TextLayout("cond_stage_model.model.", True)
XL_FIRST = TextLayout("conditioner.embedders.0.transformer.", False)
XL_SECOND = TextLayout("conditioner.embedders.1.model.", True)


def text_layout(tensors: Tensors, said: str | None = None) -> tuple[TextLayout, bool]:
    """Where a file of 1.x or 2.x has its text encoder, and whether it is that of 2.x.

    Some files of 2.x name it as transformers does. Its width is then what tells, as in diffusers. Of a width that neither has, the
    U-Net tells: 2.x projects what attends with matrices, 1.x with convolutions.

    Args:
        said: title of the kind that the file's header names.

    Raises:
        KeyError: no word embedding.
        UntoldShapeError: the header says another family than the U-Net.
    """
    if any(key.startswith(OPEN_CLIP.prefix) for key in tensors):
        return OPEN_CLIP, True
    width = tensors[f"{CLIP.prefix}text_model.embeddings.token_embedding.weight"].shape[1]
    if width in (_CLIP_L_WIDTH, _VIT_H_WIDTH):
        return CLIP, width == _VIT_H_WIDTH
    v2 = any(
        key.startswith(UNET_PREFIX) and key.endswith(".proj_in.weight") and value.dim() == 2 for key, value in tensors.items()
    )
    built = FAMILY_TITLES["sd2" if v2 else "sd1"]
    if said not in (None, built):
        raise UntoldShapeError(f"its header says {said}, and its U-Net is built as {built}'s")
    return CLIP, v2


def sd2_blocks(tensors: Tensors, layout: TextLayout) -> int:
    """How many blocks of a 2.x text encoder are used: all but the original's last.

    The original has 24; converters write the 23 that diffusers keeps. Of other models (small ones made for tests) an original is
    known by OpenCLIP's tensors beside the blocks.

    Raises:
        UntoldShapeError: nothing tells.
    """
    found = layout.blocks(tensors)
    if found in (_VIT_H_BLOCKS, _VIT_H_BLOCKS - 1):
        return _VIT_H_BLOCKS - 1
    if layout.open_clip and any(f"{layout.prefix}{name}" in tensors for name in ("text_projection", "logit_scale")):
        return found - 1
    raise UntoldShapeError(
        f"its text encoder has {found} blocks, and nothing says whether the last one, which Stable Diffusion 2 leaves out, is "
        "among them"
    )


def text_config(tensors: Tensors, layout: TextLayout, act: str, blocks: int) -> dict[str, Any]:
    """Configuration of a text encoder.

    Args:
        act: ``quick_gelu`` of CLIP, ``gelu`` of OpenCLIP.
        blocks: how many are used.

    Raises:
        UntoldShapeError: a width that heads of 64 channels do not divide, fewer words than CLIP's vocabulary.
    """
    inside = "" if layout.open_clip else "text_model.embeddings."
    embedding = tensors[f"{layout.prefix}{inside}token_embedding.weight"]
    positions = tensors[f"{layout.prefix}{inside}position{'al_embedding' if layout.open_clip else '_embedding.weight'}"]
    width = int(embedding.shape[1])
    require_multiple("text encoder", width, _HEAD_WIDTH, "channels of a head")
    if len(embedding) < _WORDS:
        raise UntoldShapeError(f"its text encoder knows {len(embedding)} words, not the {_WORDS} of CLIP's vocabulary")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": act,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // _HEAD_WIDTH,
        "vocab_size": int(embedding.shape[0]),
        "max_position_embeddings": int(positions.shape[0]),
        "projection_dim": width,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }
