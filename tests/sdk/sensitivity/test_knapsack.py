"""The knapsack against enumeration and against a plain dynamic programme over every cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from s2p_mobile.quantize.knapsack import Choices, solve


def enumerated(items: list[Choices], budget: int) -> float:
    """Least value over all selections within the budget."""
    return min(
        math.fsum(item.values[k] for item, k in zip(items, picks, strict=True))
        for picks in itertools.product(*(range(len(item.costs)) for item in items))
        if sum(item.costs[k] for item, k in zip(items, picks, strict=True)) <= budget
    )


def by_every_cost(items: list[Choices], budget: int) -> float:
    """The textbook recurrence: least value for each cost up to the budget."""
    best = np.zeros(budget + 1)
    for item in items:
        after = np.full(budget + 1, np.inf)
        for cost, value in zip(item.costs, item.values, strict=True):
            if cost <= budget:
                after[cost:] = np.minimum(after[cost:], best[: budget + 1 - cost] + value)
        best = after
    return float(best.min())


def check(items: list[Choices], budget: int, expected: float) -> None:
    found = solve(items, budget)
    assert found.cost == sum(item.costs[k] for item, k in zip(items, found.picks, strict=True)) <= budget
    assert found.value == pytest.approx(
        math.fsum(item.values[k] for item, k in zip(items, found.picks, strict=True)), rel=1e-12, abs=1e-12
    )
    # Sums of at most a few hundred doubles in another order: far inside 1e-9 of the largest term.
    scale = max(abs(value) for item in items for value in item.values)
    assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)
    assert found.bound == found.value


@pytest.mark.parametrize("seed", range(12))
def test_small_cases_are_those_of_enumeration(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(25):
        items = []
        for _ in range(random.integers(1, 7)):
            count = int(random.integers(1, 5))
            # Costs repeat and values are neither monotone nor convex, some are equal, some negative.
            costs = random.integers(1, 30, count).tolist()
            values = random.choice([random.normal(size=count), random.integers(0, 4, count).astype(float)]).tolist()
            items.append(Choices(costs, values))
        least, most = (sum(pick(item.costs) for item in items) for pick in (min, max))
        for budget in {least, (least + most) // 2, int(random.integers(least, most + 1)), most, most + 5}:
            check(items, budget, enumerated(items, budget))


@pytest.mark.parametrize("average", [2.0, 2.3, 4.2, 5.5, 8.0])
@pytest.mark.parametrize("widths", [(4, 8), (2, 3, 4, 5, 6, 8)])
def test_layers_of_a_network_are_those_of_the_plain_recurrence(average: float, widths: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    sizes = random.integers(1, 400, 60).tolist()
    # Error falls by about four for each bit, as rounding errors do, times a layer's own factor.
    factors = random.lognormal(0.0, 2.0, 60)
    items = [
        Choices([size * bits for bits in widths], [float(f * 4.0**-bits * random.uniform(0.7, 1.3)) for bits in widths])
        for size, f in zip(sizes, factors, strict=True)
    ]
    budget = int(max(average, min(widths)) * sum(sizes))
    check(items, budget, by_every_cost(items, budget))


def test_costs_of_millions_with_a_common_factor() -> None:
    items = [Choices([4 * size * 2**20, 8 * size * 2**20], [1.0 / size, 0.0]) for size in (3, 1, 4, 1, 5, 9, 2, 6)]
    check(items, 150 * 2**20, enumerated(items, 150 * 2**20))


def test_a_subset_sum_ends_with_a_proved_gap() -> None:
    # All layers gain the same per unit of cost, and the costs have no common factor: the front would grow to every sum.
    random = np.random.default_rng(0)
    sizes = random.integers(10**5, 10**6, 40).tolist()
    items = [Choices([2 * size, 3 * size], [2.0 * size, float(size)]) for size in sizes]
    budget = 5 * sum(sizes) // 2
    found = solve(items, budget)
    # Total value and total cost add up to 4 times the weights here, so no selection is below that less the budget.
    assert found.cost <= budget and found.value == 4 * sum(sizes) - found.cost
    assert 4 * sum(sizes) - budget <= found.value <= found.bound + 1e-4 * found.value
    assert found.bound <= found.value


def test_budget_below_the_cheapest_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        solve([Choices([4, 8], [1.0, 0.0]), Choices([5], [1.0])], 8)
