"""What a trainer wrote beside the numbers: alpha, rank and variants, in the file's metadata (diffusers) or in peft's own file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2p_mobile.sources.lora.given import ADAPTER_CONFIG, PEFT_FILE
from s2p_mobile.sources.lora.spellings import COMPONENTS
from s2p_runtime.errors import S2PError

_METADATA = "lora_adapter_metadata"
_LONGEST = 1 << 20
"""Bytes of a configuration; peft's are a few kilobytes."""
_PEFT_DEFAULT = 8
"""Of ``r``, ``lora_alpha`` and ``alpha`` in all of peft's configurations."""
_TYPES = ("LORA", "LOHA", "LOKR")
_INVOLVED = re.compile(r"\)[*+{?]")
_REPEATS = 3
"""A pattern comes from a stranger's file: repeats in one another, or many in a row, can take hours to match."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the model's own weights as they are; PiSSA, OLoRA and others change them too."""


@dataclass(frozen=True)
class Settings:
    """Of one component. Without settings alpha is the rank, so that an update counts as it is.

    Attributes:
        alpha, rank: of layers that no pattern names; None where nothing is told.
        alphas, ranks: peft's patterns -> value.
        root: alpha is divided by the root of the rank (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
        dora: every layer has a magnitude.
    """

    alpha: float | None = None
    rank: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    root: bool = False
    dora: bool = False

    def alpha_of(self, names: Iterable[str]) -> float | None:
        """Of the layer with these names."""
        return _matched(self.alphas, names, self.alpha)

    def rank_of(self, names: Iterable[str]) -> float | None:
        """Of the layer with these names; for updates whose shapes do not tell it."""
        return _matched(self.ranks, names, self.rank)


def read_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Settings]:
    """Settings by component; those that nothing is told of are left out.

    ``adapter_config.json`` counts beside a file that has peft's own name, since any other may lie there by chance.

    Raises:
        S2PError: unreadable, values of a wrong kind, or a variant that is not supported.
    """
    try:
        if _METADATA in metadata:
            told = _object(json.loads(metadata[_METADATA]))
            parts = {part: _with_prefix(told, f"{part}.") for part in COMPONENTS}
            return {part: _settings(path, values) for part, values in parts.items() if values}
        beside = path.with_name(ADAPTER_CONFIG)
        if path.name == PEFT_FILE and beside.is_file():
            with beside.open("rb") as file:
                values = _object(json.loads(file.read(_LONGEST)))
            return dict.fromkeys(COMPONENTS, _settings(path, values))
        return {}
    except (ValueError, TypeError, OSError, re.error, RecursionError) as error:
        raise S2PError(f"{path} has damaged adapter settings ({error})", "get the file again", "lora") from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _with_prefix(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _settings(path: Path, values: Mapping[str, Any]) -> Settings:
    kind = str(values.get("peft_type") or "LORA").upper()
    if kind not in _TYPES:
        raise S2PError(f"{path} is of peft's kind {kind}, which is not supported", "get it as LoRA, LoHa, LoKr or DoRA", "lora")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and not start.lower().startswith(_PLAIN_STARTS):
        raise S2PError(
            f"{path} began as {start}, which changes the model's weights too",
            "convert it to a plain LoRA (peft: save_pretrained with path_initial_model_for_weight_conversion)",
            "lora",
        )
    return Settings(
        alpha=_number(values.get("lora_alpha", values.get("alpha", _PEFT_DEFAULT))),
        rank=_number(values.get("r", _PEFT_DEFAULT)),
        alphas=_patterns(values.get("alpha_pattern")),
        ranks=_patterns(values.get("rank_pattern")),
        root=bool(values.get("use_rslora")),
        dora=bool(values.get("use_dora")),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no finite number")
    return float(value)


def _patterns(value: Any) -> dict[str, float]:
    patterns = {name: _number(number) for name, number in _object(value or {}).items()}
    for name in patterns:
        if _INVOLVED.search(name) or sum(map(name.count, "*+{")) > _REPEATS:
            raise ValueError(f"the pattern {name!r} is too involved")
        re.compile(name)
    return patterns


def _matched(patterns: Mapping[str, float], names: Iterable[str], otherwise: float | None) -> float | None:
    """As peft matches (``peft.utils.other.get_pattern_key``): the end of a layer's name, from a dot on, first pattern first."""
    spelled = list(names)
    for pattern, value in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in spelled):
            return value
    return otherwise
