"""Which layers of a ranking are taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction


def top_layers(sensitivity: Mapping[str, float], share: float) -> list[str]:
    """The most sensitive layers, ``ceil(share * L)`` of them; ties go to the layer that comes first."""
    # As a decimal fraction: 0.07 * 100 is 7.000000000000001 in binary, and its ceiling 8.
    count = math.ceil(Fraction(str(share)) * len(sensitivity))
    order = sorted(sensitivity, key=lambda name: -sensitivity[name])
    return order[:count]
