"""What a file says about one layer, and the layer's weights with it.

DoRA: Liu et al. 2024, arXiv 2402.09353, section 4: ``W' = m * V / |V|`` with ``V = W + change``. The norm runs over each row of
the weight (peft, LyCORIS) or over each column (LyCORIS before ``wd_on_output``); the magnitude's shape tells which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from s2p_mobile.sources.lora.kinds import KINDS, Kind, ShapeError
from s2p_mobile.sources.lora.settings import Settings
from s2p_mobile.sources.lora.spellings import Layer
from s2p_runtime.errors import S2PError

_MAGNITUDES = ("dora_scale", "magnitude")
_BESIDE = frozenset({"alpha", "diff_b", *_MAGNITUDES})
"""Roles that go with any kind."""


@dataclass
class Update:
    """What a file says about one layer.

    Attributes:
        path: of the file, for messages.
        parts: role -> tensor as the file has it.
        keys: role -> the file's key, for messages.
        other: what to do when the update does not fit.
    """

    path: Path
    layer: Layer
    settings: Settings = field(default_factory=Settings)
    other: str = "it is for another model"
    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """One key of the file, for messages."""
        return next(iter(self.keys.values()))

    @property
    def roles(self) -> frozenset[str]:
        """Of the weight's change, without what goes with any kind."""
        return frozenset(self.parts) - _BESIDE

    @property
    def kind(self) -> Kind | None:
        """Of the weight's change; None where only the bias changes."""
        return next((kind for kind in KINDS if self.roles & kind.roles), None)

    def check(self) -> None:
        """Raise :class:`S2PError` when a part is missing, is there twice, or belongs to no other."""
        kind, roles = self.kind, self.roles
        magnitudes = [role for role in _MAGNITUDES if role in self.parts]
        again = ("get the file again", "lora")
        if "up_bias" in self.parts and not self.layer.has_bias:
            raise S2PError(
                f"{self.path} has {self.keys['up_bias']} (trained with peft's lora_bias), and the model's layer has no bias to add "
                "it to",
                "train it without lora_bias",
                "lora",
            )
        if "diff_b" in self.parts and not self.layer.has_bias:
            raise S2PError(f"{self.path} changes the bias of {self.key}, a layer that has none", self.other, "lora")
        if kind is None:
            if "diff_b" not in self.parts or magnitudes or "alpha" in self.parts:
                raise S2PError(f"{self.path} has {self.key} and no change that it belongs to", *again)
            return
        if roles - kind.roles or kind.doubled(roles) or len(magnitudes) > 1:
            raise S2PError(f"{self.path} changes the layer of {self.key} in two ways at once", *again)
        if missing := kind.missing(roles):
            raise S2PError(f"{self.path} has only one half of {self.key}: it lacks {missing}", *again)
        if self.settings.dora and not magnitudes:
            raise S2PError(f"{self.path} says use_dora and has no magnitude beside {self.key}", *again)

    def weight(self, old: Tensor, scale: float) -> Tensor:
        """The layer's weight with the update.

        The scale is that of the change inside of DoRA's norm, as peft's ``scale_layer`` (diffusers' ``lora_scale``) has it.

        Args:
            old: any float dtype.

        Returns:
            float32 of the same shape.

        Raises:
            S2PError: shapes that do not fit, or a weight that overflows.
        """
        kind = self.kind
        assert kind is not None, "asked for a weight that does not change"
        try:
            product, rank = kind.product(self.parts, old.shape)
            if rank == 0:
                raise ShapeError
        except (ShapeError, IndexError, RuntimeError) as error:
            shapes = ", ".join(f"{role} {list(self.parts[role].shape)}" for role in sorted(self.roles))
            raise S2PError(f"{self.path}: {self.key} ({shapes}) does not fit {list(old.shape)}", self.other, "lora") from error
        changed = old.double() + product.reshape(old.shape) * (scale * self._factor(rank))
        return self._finite(self._rescaled(changed), old)

    def bias(self, old: Tensor, scale: float) -> Tensor:
        """The layer's bias with the update, float32; DoRA leaves it as it is.

        Raises:
            S2PError: as :meth:`weight`.
        """
        new = old.double()
        rank = self.parts["up"].flatten(1).shape[1] if "up_bias" in self.parts else None
        for role, factor in (("diff_b", 1.0), ("up_bias", self._factor(rank))):
            if (change := self.parts.get(role)) is not None:
                if change.numel() != old.numel():
                    shapes = f"{self.keys[role]} of shape {list(change.shape)} does not fit {list(old.shape)}"
                    raise S2PError(f"{self.path}: {shapes}", self.other, "lora")
                new = new + change.double().reshape(old.shape) * (scale * factor)
        return self._finite(new, old)

    @property
    def changes_bias(self) -> bool:
        return not frozenset({"diff_b", "up_bias"}).isdisjoint(self.parts)

    def _factor(self, rank: int | None) -> float:
        """``alpha / rank`` (with rsLoRA ``alpha / sqrt(rank)``); alpha is the tensor's, else the settings', else the rank.

        An update without rank is taken as it is (LyCORIS: LoKr of two whole matrices), unless peft's settings name one.
        """
        name = self.layer.name.removeprefix("text_model.")
        names = (name, f"text_model.{name}")  # as either generation of transformers calls a text encoder's
        alpha = float(self.parts["alpha"]) if "alpha" in self.parts else self.settings.alpha_of(names)
        told = self.settings.rank_of(names) if self.kind is not None and self.kind.name == "LoKr" else None
        size = rank or told
        if size is None or alpha is None:
            return 1.0
        return alpha / (math.sqrt(size) if self.settings.root else size)

    def _rescaled(self, changed: Tensor) -> Tensor:
        role = next((role for role in _MAGNITUDES if role in self.parts), None)
        if role is None:
            return changed
        magnitude = self.parts[role].double()
        rows, ones = changed.shape[0], [1] * (changed.dim() - 1)
        # peft writes [1, rows, 1, 1] for convolutions, LyCORIS [rows, 1, 1, 1], or [1, columns, 1, 1] for norms of columns.
        if magnitude.numel() == rows and (role == "magnitude" or magnitude.shape[:1] == (rows,)):
            norm = changed.flatten(1).norm(dim=1).reshape(rows, *ones)
        elif role == "dora_scale" and changed.dim() > 1 and magnitude.numel() == changed.shape[1]:
            norm = changed.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, changed.shape[1], *ones[1:])
        else:
            shapes = f"{self.keys[role]} of shape {list(magnitude.shape)} does not fit {list(changed.shape)}"
            raise S2PError(f"{self.path}: {shapes}", self.other, "lora")
        # A row of zeros stays one.
        return changed * (magnitude.reshape(norm.shape) / norm.clamp_min(torch.finfo(torch.float64).tiny))

    def _finite(self, new: Tensor, old: Tensor) -> Tensor:
        result = new.float()
        if not torch.isfinite(result).all() and torch.isfinite(old).all():
            raise S2PError(f"{self.path} makes the layer of {self.key} infinite", "give a smaller scale, FILE:scale", "lora")
        return result


def by_name(updates: Mapping[Layer, Update], component: str) -> dict[str, tuple[Update, bool]]:
    """Tensor's name in the files of a component -> its update, and whether it is the bias."""
    found: dict[str, tuple[Update, bool]] = {}
    for layer, update in updates.items():
        if layer.component == component:
            if update.kind is not None:
                found[layer.weight] = (update, False)
            if update.changes_bias:
                found[layer.bias] = (update, True)
    return found
