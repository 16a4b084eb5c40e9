"""Learned words: textual inversion files put into a model's tokenizers and text encoders (Gal et al. 2022, arXiv 2208.01618).

diffusers itself puts them in; what is checked here before is what it would say in several lines, or not at all.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from s2p_mobile.sources.modules import load_module, read_json
from s2p_mobile.sources.tokenizer_files import open_tokenizer, part_of_another
from s2p_mobile.sources.unpickle import PICKLES, conversion, read_pickle, tell_of_pickle
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tokenizer_spec import MAX_ADDED_TOKENS

ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
"""Folder -> its class in transformers."""
_PARTS = {
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "text_encoders_0": "text_encoder",
    "text_encoders_1": "text_encoder_2",
}
"""Names in files for Stable Diffusion XL -> the encoder whose vectors they are; diffusers' own trainers number them."""
_UNNAMED = {"emb_params", *_PARTS}
"""Names of tensors that are no word."""
_OTHER = "it is for another model"


def parse_embedding(text: str, allow_pickle: bool = False) -> tuple[Path, str | None]:
    """``FILE`` or ``FILE:word``: the file, and the word where one is given.

    Args:
        allow_pickle: a pickle will do.

    Raises:
        S2PError: no such file, no word behind the colon, a pickle that is not allowed, or no file of vectors.
    """
    path, word = Path(text), None
    if not path.is_file():
        colons = [place for place, char in enumerate(text) if char == ":"]
        place = next((place for place in colons if Path(text[:place]).is_file()), None)
        if place is None:
            raise S2PError(f"embedding file {path} does not exist", "give FILE or FILE:word", "embedding")
        path, word = Path(text[:place]), text[place + 1 :]
        if not word.strip():
            raise S2PError(f"there is no word behind {path}:", f"give FILE:word, for example {path.name}:<style>", "embedding")
    if path.suffix.lower() in PICKLES:
        if not allow_pickle:
            remedy = f"{conversion(path)}, or allow that reading here with `allow_pickle`"
            raise S2PError(f"{path} is a pickle, which can run code and is not read", remedy, "embedding")
    elif path.suffix.lower() != ".safetensors":
        raise S2PError(f"{path} is no .safetensors file", "give a textual inversion as .safetensors", "embedding")
    return path, word


def add_words(source: Path, folder: Path, path: Path, word: str | None) -> None:
    """Write a copy of a model that knows the word of one file: changed text encoders (in float32) and tokenizers, others as links.

    A file of diffusers (``{word: [n, D]}``) or with ``emb_params`` is for the first text encoder, one with ``clip_l`` and ``clip_g``
    (or ``text_encoders_0`` and ``text_encoders_1``) for both. A word of n vectors becomes n tokens, ``<a>``, ``<a>_1`` and so on.

    Args:
        source: model in diffusers layout.
        folder: exists and is empty.
        word: in place of the file's own; None where the file has one.

    Raises:
        S2PError: a damaged file, one that is no textual inversion, one for another model, a word that the tokenizer has already, or
            one that is part of another (:func:`~s2p_mobile.sources.tokenizer_files.part_of_another`).
    """
    index = read_json(source / "model_index.json")
    changed = set()
    read = _read(path, word)
    if absent := [encoder for encoder in read if not (source / encoder).is_dir()]:
        raise S2PError(f"{path} has vectors for {absent[0]}, which the model does not have", _OTHER, "embedding")
    for encoder, (own, vectors) in read.items():
        name = encoder.replace("text_encoder", "tokenizer")
        tokenizer = open_tokenizer(source / name, index.get(name))
        _add(tokenizer, source / encoder, folder / encoder, own, vectors, path)
        tokenizer.save_pretrained(folder / name)
        changed |= {encoder, name}
    for entry in sorted(source.iterdir()):
        if entry.name not in changed:
            (folder / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())


def _read(path: Path, word: str | None) -> dict[str, tuple[str, Tensor]]:
    """Text encoder -> (word, vectors float32 [n, D])."""
    tensors = _tensors(path)
    parts = tensors if tensors and set(tensors) <= set(_PARTS) else {}
    if not parts and len(tensors) != 1:
        raise S2PError(
            f"{path} is no textual inversion: it has {len(tensors)} tensors and not one",
            "give one of diffusers or emb_params",
            "embedding",
        )
    found = {}
    for key, tensor in tensors.items():
        own = word or (None if key in _UNNAMED else key)
        if not own:
            raise S2PError(
                f"{path} names no word that stands for it",
                f"give one with FILE:word, for example {path.name}:<style>",
                "embedding",
            )
        vectors = tensor[None] if tensor.dim() == 1 else tensor
        if vectors.dim() != 2 or not 1 <= len(vectors) <= MAX_ADDED_TOKENS or not vectors.is_floating_point():
            raise S2PError(
                f"{path}: {key} of shape {list(tensor.shape)} is no list of vectors", "get the file again", "embedding"
            )
        if not torch.isfinite(vectors).all():
            raise S2PError(f"{path} has an infinity or NaN in {key}", "get the file again", "embedding")
        encoder = _PARTS.get(key, "text_encoder")
        if encoder in found:
            raise S2PError(f"{path} has vectors for {encoder} twice, {key} among them", "get the file again", "embedding")
        found[encoder] = (own, vectors.float())
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    """Of a file whose kind :func:`parse_embedding` let through."""
    if path.suffix.lower() in PICKLES:
        tensors = read_pickle(path)
        tell_of_pickle(path)
        return tensors
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise S2PError(f"{path} cannot be read as safetensors ({error})", "get the file again", "embedding") from error


def _add(tokenizer: Any, source: Path, folder: Path, word: str, vectors: Tensor, path: Path) -> None:
    """Add a word to a tokenizer, and its vectors to the text encoder in ``source``, which is written into ``folder``."""
    known = tokenizer.get_vocab()
    remedy = f"give another word with FILE:word, for example {path.name}:<style>"
    for spelling in (word, f"{word}_1"):
        if spelling in known:
            raise S2PError(f"the model's tokenizer knows {spelling!r} already", remedy, "embedding")
    learned = [each for each in tokenizer.get_added_vocab() if each not in tokenizer.all_special_tokens]
    if pair := part_of_another([*learned, word, *(f"{word}_{index}" for index in range(1, len(vectors)))]):
        raise S2PError(
            f"the word {pair[0]!r} of several vectors is part of the word {pair[1]!r}, and diffusers reads prompts with both one way "
            "or the other, as it happens",
            remedy,
            "embedding",
        )
    with quiet_import():
        import transformers
        from diffusers.loaders import TextualInversionLoaderMixin
    encoder = load_module(getattr(transformers, ENCODERS[source.name]), source)
    width = encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[1] != width:
        what = f"{path} has vectors of {vectors.shape[1]} numbers, {source.name} takes {width}"
        raise S2PError(what, _OTHER, "embedding")
    # What the loader asks of a pipeline beside its tokenizer and text encoder: that nothing of it is moved between devices.
    loader = type("_Loader", (TextualInversionLoaderMixin,), {"hf_device_map": None, "components": {}})()
    with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
        loader.load_textual_inversion({word: vectors}, tokenizer=tokenizer, text_encoder=encoder)
        encoder.save_pretrained(folder)
