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
_REPEAT_WAYS, _OPTION_WAYS = 44, 3
"""Places where a repeat can end, as three in a row end at 80**3 / 3! places of a long name; ways of what can be there or not."""
_MOST_WAYS = 150_000
_FEWEST_WAYS = 10
"""Patterns come from a stranger's file, and each is tried on every layer: repeats in one another, many in a row, and choices in a row
could take hours. All patterns together have so many ways to match, of which every pattern counts for some."""
_SHOWN = 60
"""Letters of a pattern in a message."""
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
    alphas: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    ranks: Mapping[re.Pattern[str], float] = field(default_factory=dict)
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


def _patterns(value: Any) -> dict[re.Pattern[str], float]:
    """Compiled as peft matches (``peft.utils.other.get_pattern_key``): the end of a layer's name, from a dot on."""
    patterns = {name: _number(number) for name, number in _object(value or {}).items()}
    ways = 0.0
    for name in patterns:
        ways += max(_FEWEST_WAYS, _ways(name))
        if ways > _MOST_WAYS or _INVOLVED.search(name):
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
            raise ValueError(f"the pattern {shown!r} is too involved")
    return {re.compile(rf"(.*\.)?({name})$"): number for name, number in patterns.items()}


def _ways(pattern: str) -> float:
    """Bound of the ways in which a pattern can match a name. Of alternatives and groups only the numbers
    are taken: the product is largest where they are spread evenly."""
    options, groups = pattern.count("|"), max(1, min(pattern.count("("), pattern.count("|")))
    exponent = (
        sum(map(pattern.count, "*+{")) * math.log(_REPEAT_WAYS)
        + pattern.count("?") * math.log(_OPTION_WAYS)
        + groups * math.log(1 + (_OPTION_WAYS - 1) * options / groups)
    )
    return math.exp(min(exponent, math.log(2 * _MOST_WAYS)))


def _matched(patterns: Mapping[re.Pattern[str], float], names: Iterable[str], otherwise: float | None) -> float | None:
    """Of the first pattern that matches a name."""
    spelled = list(names)
    for pattern, value in patterns.items():
        if any(pattern.match(name) for name in spelled):
            return value
    return otherwise
