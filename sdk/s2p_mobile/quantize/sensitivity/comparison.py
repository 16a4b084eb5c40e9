"""How far estimators agree: rank correlations, and how many of the most sensitive layers they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from s2p_mobile.quantize.bits import top_layers
from s2p_mobile.quantize.sensitivity.result import Sensitivity
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 in ascending order; equal values share the mean of their ranks. [N] -> float64 [N]"""
    _, index, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[index]


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rho: Pearson's correlation of the ranks. None when one side is constant."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else None


def kendall(a: ArrayLike, b: ArrayLike) -> float | None:
    """Kendall's tau-b: concordant less discordant pairs, with ties counted as half. None when one side is constant."""
    upper = np.triu_indices(len(np.asarray(a)), 1)
    x, y = (np.sign(np.subtract.outer(v, v))[upper] for v in (np.asarray(a, np.float64), np.asarray(b, np.float64)))
    scale = math.sqrt(float(np.count_nonzero(x)) * float(np.count_nonzero(y)))
    return float((x * y).sum()) / scale if scale else None


class Pair(Contract):
    """Two estimators beside each other."""

    first: str
    second: str
    spearman: float | None = Field(description="null: one of them gives every layer the same value")
    kendall: float | None = Field(description="tau-b; null as above")
    shared_top: float = Field(ge=0, le=1, description="share of the most sensitive layers that both name")


class Comparison(Contract):
    """Estimators compared at one width."""

    bits: int
    share: float
    pairs: tuple[Pair, ...]
    top: Mapping[str, tuple[str, ...]] = Field(description="estimator -> its most sensitive layers, the most sensitive first")


def compare(results: Sequence[Sensitivity], bits: int, share: float = 0.05) -> Comparison:
    """Compare results of several estimators on the same layers.

    Args:
        bits: the width at which layers are ranked.
        share: how many layers count as the most sensitive.

    Raises:
        S2PError: fewer than two results, twice the same estimator, other models or layers, a width not measured.
    """
    names = [result.estimator for result in results]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise S2PError(f"cannot compare {', '.join(names) or 'nothing'}", "give results of two or more different estimators")
    layers = [[layer.name for layer in result.layers] for result in results]
    if any(other != layers[0] for other in layers) or len({result.unet_sha256 for result in results}) > 1:
        raise S2PError("results belong to different models or layers", "measure all of them on the same model and recipe")
    values = {result.estimator: result.at(bits) for result in results}
    top = {name: tuple(top_layers(layer_values, share)) for name, layer_values in values.items()}
    pairs = [
        Pair(
            first=first,
            second=second,
            spearman=spearman(list(values[first].values()), list(values[second].values())),
            kendall=kendall(list(values[first].values()), list(values[second].values())),
            shared_top=len(set(top[first]) & set(top[second])) / len(top[first]),
        )
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    ]
    return Comparison(bits=bits, share=share, pairs=tuple(pairs), top=top)


def comparison_lines(comparison: Comparison) -> list[str]:
    """The comparison as lines of text."""
    lines = [
        f"layers ranked at {comparison.bits} bits",
        f"{'estimators':<26}{'Spearman':>10}{'Kendall':>10}{f'same top {comparison.share:.0%}':>14}",
    ]
    for pair in comparison.pairs:
        rho, tau = ("constant" if value is None else f"{value:.3f}" for value in (pair.spearman, pair.kendall))
        lines.append(f"{pair.first + ' / ' + pair.second:<26}{rho:>10}{tau:>10}{pair.shared_top:>14.0%}")
    lines.extend(f"{name}: {', '.join(layers)}" for name, layers in comparison.top.items())
    return lines
