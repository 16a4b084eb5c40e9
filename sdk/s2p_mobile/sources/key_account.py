"""Single files: from which keys each weight is made. Every key is used, or known to be of no use, or refused by name.

diffusers' own functions convert. They are run a first time on tensors without data that remember from which keys they came, whatever
is done to them, so that nothing has to be known here of the mapping.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2p_mobile.sources.ldm_config import Tensors, UntoldShapeError
from s2p_mobile.sources.unused_keys import is_unused
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_REMEDY = "give the model as a diffusers folder"
_FEATURES = (
    ("time_embed.cond_proj", "the guidance embedding of a latent consistency model"),
    ("label_emb.", "an embedding of classes or of pictures"),
    (".absmax", "weights quantized by bitsandbytes"),
    (".quant_map", "weights quantized by bitsandbytes"),
    ("motion_modules.", "a motion module"),
)
"""Parts of keys that say what a model has beyond Stable Diffusion."""


class _Traced(torch.Tensor):
    """A tensor without data that knows the keys that it was made from."""

    origins: frozenset[str]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, cls):
            result.origins = frozenset[str]().union(*_origins((*args, *(kwargs or {}).values())))
        return result


def _origins(values: Iterable[Any]) -> Iterable[frozenset[str]]:
    for value in values:
        if isinstance(value, _Traced):
            yield value.origins
        elif isinstance(value, list | tuple):
            yield from _origins(value)


def _traced(key: str, value: torch.Tensor) -> _Traced:
    empty = torch.empty(value.shape, device="meta").as_subclass(_Traced)
    empty.origins = frozenset([key])
    return empty


@dataclass(frozen=True)
class Part:
    """A component of a single file.

    Attributes:
        folder: of the component in diffusers layout.
        config: content of its ``config.json``.
        tensors: its tensors under their original names.
        convert: diffusers' function: tensors under original names -> under diffusers' or transformers' names.
        spare: beginnings of names whose weights are made up of zeros where not all are there, since nothing here uses them.
    """

    folder: str
    config: Mapping[str, Any]
    tensors: Tensors
    convert: Callable[[Tensors], Tensors]
    spare: tuple[str, ...] = ()

    def shapes(self) -> dict[str, torch.Size]:
        """Of the weights that the component's class has with this configuration."""
        with quiet_import(), torch.device("meta"):
            if name := self.config.get("_class_name"):
                module = getattr(importlib.import_module("diffusers"), name).from_config(dict(self.config))
            else:
                kind = getattr(importlib.import_module("transformers"), self.config["architectures"][0])
                module = kind(kind.config_class(**self.config))
        return {name: value.shape for name, value in module.state_dict().items()}


def converted_parts(
    path: Path, parts: Iterable[Part], keys: Mapping[str, str], unused: Iterable[str] = ()
) -> dict[str, Tensors]:
    """The weights of every part, by folder, after accounting for every key.

    Args:
        path: of the file.
        keys: original name as the parts have it -> key in the file, of all its tensors.
        unused: beginnings of names that this model does not use, beside those of :mod:`unused_keys`.

    Raises:
        S2PError: a weight that no key gives, a key of another shape than its weight or without floating-point numbers, or a key
            that nothing uses.
    """
    weights, used = {}, set[str]()
    for part in parts:
        weights[part.folder], taken = _convert(path, part, keys)
        used |= taken
    left = [
        key
        for name, key in keys.items()
        if name not in used and not is_unused(name) and not any(name.startswith(beginning) for beginning in unused)
    ]
    if left:
        feature = next((f", {words}," for mark, words in _FEATURES for key in left if mark in key), "")
        more = f" and {len(left) - 1} more keys" if len(left) > 1 else ""
        raise S2PError(f"{path} has {left[0]}{more}{feature} which nothing in Stable Diffusion takes", _REMEDY)
    return weights


def _convert(path: Path, part: Part, keys: Mapping[str, str]) -> tuple[Tensors, set[str]]:
    try:
        shapes = part.shapes()
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UntoldShapeError(" ".join(str(error).split())) from error

    def own(name: str) -> str:
        """transformers' text encoders have been flattened: the class may lack the outer name."""
        return name if name in shapes else name.removeprefix("text_model.")

    traced = {own(name): value for name, value in part.convert(_all_traced(part.tensors)).items()}
    fits = {name: value for name, value in traced.items() if name in shapes and value.shape == shapes[name]}
    made_up = set()
    if not all(name in fits for name in shapes if name.startswith(part.spare)):
        made_up = {name for name in shapes if name.startswith(part.spare)}
    lacking = [name for name in shapes if name not in traced and name not in made_up]
    if lacking:
        raise S2PError(
            f"{path} is incomplete (its {part.folder} lacks {lacking[0]}, as diffusers calls it"
            f"{f', and {len(lacking) - 1} more' if len(lacking) > 1 else ''})",
            "get the file again, or give a diffusers folder",
        )
    used = set[str]()
    for name, value in traced.items():
        if name not in shapes or name in made_up:
            continue
        assert isinstance(value, _Traced)
        key = keys[min(value.origins)]
        if name not in fits:
            raise S2PError(f"{path} has {key} as {list(value.shape)}, where {list(shapes[name])} is needed", _REMEDY)
        if not all(part.tensors[origin].is_floating_point() for origin in value.origins):
            raise S2PError(f"{path} has {key} as integers, so it is quantized in a way that is not known here", _REMEDY)
        used |= value.origins
    weights = {name: value for name, value in part.convert(part.tensors).items() if own(name) in shapes}
    return {name: value for name, value in weights.items() if own(name) not in made_up} | {
        name: torch.zeros(shapes[name]) for name in made_up
    }, used


def _all_traced(tensors: Tensors) -> Tensors:
    return {key: _traced(key, value) for key, value in tensors.items()}
