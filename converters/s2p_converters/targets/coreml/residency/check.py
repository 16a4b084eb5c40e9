"""A bundle's programs, held against the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2p_runtime.bundle import Bundle
from s2p_runtime.residency import OperatorPlacement, Residency


def check_bundle(bundle: Bundle) -> Residency:
    """Every operator of every program of a bundle against the rules.

    Raises:
        S2PError: a program is damaged.
    """
    raise NotImplementedError


def expected_placement(bundle: Bundle) -> Mapping[str, Sequence[OperatorPlacement]]:
    """Where each operator is expected to run: program -> its operators in order, by the name of their first output.

    The key is the component (``unet``), or ``unet.FUNCTION`` of a program with several functions. ``stays`` is None where the rules
    do not decide: with a rule, its sources leave it open; without one, the operator is unknown.

    Raises:
        S2PError: a program is damaged.
    """
    return check_bundle(bundle).placements
