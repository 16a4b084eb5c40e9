"""The multiple-choice knapsack: one width per layer, least total sensitivity, total cost within a budget.

With ``v`` the values, ``c`` the costs and ``B`` the budget, every multiplier ``m >= 0`` gives a lower bound of the optimum,

    L(m) = sum over layers of min over choices (v + m c)  -  m B,

and a feasible selection of total cost ``C`` has the value ``L(m) + m (B - C) + sum of excesses``, where the excess of a choice
is ``v + m c`` less its layer's minimum. So once any feasible selection of value ``U`` is known, each better one has
``m (B - C) + sum of excesses < U - L(m)``. A dynamic programme over the layers that keeps the Pareto front of states (cost,
value) and drops every state at or over that gap is exact, and small, because the best ``m`` leaves a gap of about one layer's
worth. Only when many layers gain exactly the same per unit of cost does the problem turn into a subset sum, with fronts without
end; then the most promising :data:`STATES` go on, and the bound of those left out stays in the result as proof of how near it
is. (The bound is Fisher's, Management Science 27(1), 1981; Pareto fronts are Nemhauser's and Ullmann's, Management Science
15(9), 1969.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STATES = 2**15
"""States that go on from one layer to the next at most. Rounding errors of real layers need a few hundred."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """What one layer may be.

    Attributes:
        costs: integer cost of each choice.
        values: what each choice adds to the total that is minimised; finite.
    """

    costs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Selection:
    """The best selection found.

    Attributes:
        picks: index of the choice of each item.
        cost: total cost, at most the budget.
        value: total value.
        bound: no selection within the budget has less than this. Equal to ``value`` when that is proved the least possible.
    """

    picks: tuple[int, ...]
    cost: int
    value: float
    bound: float


@dataclass(frozen=True)
class _Item:
    """A layer's undominated choices: costs strictly ascending, values strictly descending; ``original`` is their index."""

    costs: Ints
    values: Floats
    original: Ints


def solve(items: Sequence[Choices], budget: int) -> Selection:
    """The selection of least value among those whose cost is within the budget; of several, always the same one.

    Args:
        items: one entry a layer, at least one choice each.
        budget: same unit as the costs.

    Raises:
        ValueError: the cheapest selection costs more than the budget.
    """
    front = [_undominated(item) for item in items]
    if sum(int(item.costs[0]) for item in front) > budget:
        raise ValueError("budget below the cost of the cheapest selection")
    unit = math.gcd(*(int(cost) for item in front for cost in item.costs)) or 1
    front = [_Item(item.costs // unit, item.values, item.original) for item in front]
    room = budget // unit

    multiplier, picks = _relaxed(front, room)
    excesses = [item.values + multiplier * item.costs for item in front]
    bound = sum(float(excess.min()) for excess in excesses) - multiplier * room
    excesses = [excess - excess.min() for excess in excesses]
    gap = _total(front, picks)[1] - bound
    better, left_out = _improve(front, excesses, multiplier, room, gap)
    if better is not None and _total(front, better)[1] < _total(front, picks)[1]:
        picks = better
    cost, value = _total(front, picks)
    chosen = tuple(int(item.original[pick]) for item, pick in zip(front, picks, strict=True))
    return Selection(chosen, cost * unit, value, min(value, bound + left_out))


def _undominated(item: Choices) -> _Item:
    order = sorted(range(len(item.costs)), key=lambda k: (item.costs[k], item.values[k], k))
    kept: list[int] = []
    for k in order:
        if not kept or item.values[k] < item.values[kept[-1]]:
            kept.append(k)
    costs = np.array([item.costs[k] for k in kept], np.int64)
    return _Item(costs, np.array([item.values[k] for k in kept], np.float64), np.array(kept, np.int64))


def _total(items: Sequence[_Item], picks: Sequence[int]) -> tuple[int, float]:
    cost = sum(int(item.costs[pick]) for item, pick in zip(items, picks, strict=True))
    return cost, math.fsum(float(item.values[pick]) for item, pick in zip(items, picks, strict=True))


def _hull(item: _Item) -> list[int]:
    """Choices on the lower convex hull, cheapest first."""
    hull: list[int] = []
    for k in range(len(item.costs)):
        while len(hull) >= 2 and _slope(item, hull[-2], hull[-1]) <= _slope(item, hull[-1], k):
            hull.pop()
        hull.append(k)
    return hull


def _slope(item: _Item, start: int, end: int) -> float:
    """Value gained per unit of cost from one choice to a dearer one."""
    return float((item.values[start] - item.values[end]) / (item.costs[end] - item.costs[start]))


def _relaxed(items: Sequence[_Item], room: int) -> tuple[float, list[int]]:
    """The best multiplier, and a feasible selection.

    The LP relaxation takes steps along the hulls by falling gain per cost until one does not fit; that step's gain is the best
    multiplier (0 when all fit). The selection goes on with the steps that still fit.
    """
    hulls = [_hull(item) for item in items]
    steps = [
        (-_slope(item, start, end), index, end, int(item.costs[end] - item.costs[start]))
        for index, (item, hull) in enumerate(zip(items, hulls, strict=True))
        for start, end in itertools.pairwise(hull)
    ]
    picks = [0] * len(items)
    spent = sum(int(item.costs[0]) for item in items)
    multiplier = 0.0
    blocked: set[int] = set()
    for negative_gain, index, end, extra in sorted(steps):
        if index in blocked or spent + extra > room:
            # A later step of the same layer starts where this one ends.
            blocked.add(index)
            multiplier = max(multiplier, -negative_gain)
            continue
        picks[index], spent = end, spent + extra
    return multiplier, picks


@dataclass(frozen=True)
class _Layer:
    """States after one layer, for walking back: which state before and which choice led to each."""

    parents: NDArray[np.int32]
    picks: NDArray[np.int8]


def _improve(
    items: Sequence[_Item], excesses: Sequence[Floats], multiplier: float, room: int, gap: float
) -> tuple[list[int] | None, float]:
    """The best selection found whose excess and charge for unused room together stay below the gap, or None; and the least such
    sum that a selection left out unseen may have (infinite when none was left out)."""
    cheapest = np.array([int(item.costs[0]) for item in items], np.int64)
    dearest = np.array([int(item.costs[-1]) for item in items], np.int64)
    least_rest = np.concatenate([np.cumsum(cheapest[::-1])[::-1][1:], [0]])
    most_rest = np.concatenate([np.cumsum(dearest[::-1])[::-1][1:], [0]])
    costs, totals = np.zeros(1, np.int64), np.zeros(1)
    history: list[_Layer] = []
    left_out = math.inf
    for item, excess, least, most in zip(items, excesses, least_rest, most_rest, strict=True):
        worth = np.flatnonzero(excess < gap)
        grown_costs = (costs[:, None] + item.costs[worth]).ravel()
        grown_totals = (totals[:, None] + excess[worth]).ravel()
        least_gap = grown_totals + multiplier * np.maximum(room - grown_costs - most, 0)
        alive = np.flatnonzero((grown_costs + least <= room) & (least_gap < gap))
        # States are compared by their value, which is the excess less the multiplier times the cost (up to a constant).
        values = grown_totals[alive] - multiplier * grown_costs[alive]
        order = np.lexsort((values, grown_costs[alive]))
        best = np.minimum.accumulate(values[order])
        keep = alive[order[np.concatenate([[True], values[order][1:] < best[:-1]])[: len(order)]]]
        if not len(keep):
            return None, left_out
        if len(keep) > STATES:
            limit = np.partition(least_gap[keep], STATES - 1)[STATES - 1]
            promising = np.flatnonzero(least_gap[keep] <= limit)
            # Evenly over the costs, where more than fit are equally promising.
            taken = promising[np.linspace(0, len(promising) - 1, STATES).astype(np.int64)]
            left_out = min(left_out, float(np.delete(least_gap[keep], taken).min()))
            keep = keep[taken]
        history.append(_Layer((keep // len(worth)).astype(np.int32), worth[keep % len(worth)].astype(np.int8)))
        costs, totals = grown_costs[keep], grown_totals[keep]
    state = int(np.argmin(totals - multiplier * costs))
    picks: list[int] = []
    for layer in reversed(history):
        picks.append(int(layer.picks[state]))
        state = int(layer.parents[state])
    return picks[::-1], left_out
