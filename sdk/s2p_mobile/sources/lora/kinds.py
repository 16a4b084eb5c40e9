"""The kinds of updates and their formulas: the change of a weight before it is scaled, in float64.

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1. LoCon (LoRA of convolutions), Tucker decompositions, LoKr and the layouts of all:
Yeh et al. 2024 (LyCORIS), arXiv 2309.14859, sections 3 and 4. LoHa: Hyeon-Woo et al. 2022 (FedPara), arXiv 2108.06098, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]
"""Role -> tensor, as the file has it."""
Product = tuple[Tensor, int | None]
"""Change of the weight's number of elements with its rows first, float64, and the rank that alpha is divided by, if it has one."""


class ShapeError(ValueError):
    """An update that does not fit its weight."""


def _fit(rows: int, columns: int, shape: Sequence[int]) -> None:
    """Before anything is multiplied: a damaged file could ask for a matrix of any size."""
    if (rows, columns) != (shape[0], math.prod(shape[1:])):
        raise ShapeError


def _tucker(core: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """Core [r, s, ...] x out [r, O] x into [s, I] -> [O, I, ...]."""
    return torch.einsum("rs...,ro,si->oi...", core.double(), out.double(), into.double()).contiguous()  # kron wants it so


def _lora(parts: Parts, shape: Sequence[int]) -> Product:
    """``up @ down``; with a core ``mid`` a Tucker decomposition, its matrices being 1x1 convolutions."""
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    if (core := parts.get("mid")) is not None:
        _fit(up.shape[0], down.shape[1] * math.prod(core.shape[2:]), shape)
        return _tucker(core, up.T, down), down.shape[0]
    _fit(up.shape[0], down.shape[1], shape)
    return up.double() @ down.double(), down.shape[0]


def _loha(parts: Parts, shape: Sequence[int]) -> Product:
    """``(w1_a @ w1_b) * (w2_a @ w2_b)``, element by element; with cores t1 and t2 both factors are Tucker decompositions."""
    factors = []
    for which in ("1", "2"):
        a, b, core = parts[f"hada_w{which}_a"], parts[f"hada_w{which}_b"], parts.get(f"hada_t{which}")
        if core is None:
            _fit(a.shape[0], b.shape[1], shape)
            factors.append(a.double() @ b.double())
        else:
            _fit(a.shape[1], b.shape[1] * math.prod(core.shape[2:]), shape)
            factors.append(_tucker(core, a, b))
    return factors[0] * factors[1], parts["hada_w1_b"].shape[0]


def _lokr(parts: Parts, shape: Sequence[int]) -> Product:
    """Kronecker product of w1 and w2, each whole or ``a @ b``; w2 of a convolution has its kernel, or is flat."""
    whole, rank = [], None
    for which in ("1", "2"):
        matrix, core = parts.get(f"lokr_w{which}"), parts.get(f"lokr_t{which}")
        if matrix is None:
            a, b = parts[f"lokr_w{which}_a"], parts[f"lokr_w{which}_b"]
            if rank not in (None, b.shape[0]):
                raise ShapeError  # one alpha cannot scale two ranks
            rank = b.shape[0]
            rows, kernel = (a.shape[0], 1) if core is None else (a.shape[1], math.prod(core.shape[2:]))
            if rows * b.shape[1] * kernel > math.prod(shape):
                raise ShapeError
            matrix = a.double() @ b.double() if core is None else _tucker(core, a, b)
        whole.append(matrix.double())
    first, second = whole
    _fit(first.shape[0] * second.shape[0], first[0].numel() * second[0].numel(), shape)
    return torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - first.dim())), second), rank


def _difference(parts: Parts, shape: Sequence[int]) -> Product:
    """The change itself, of the weight's shape; of norms too."""
    change = parts["diff"]
    _fit(change.shape[0], change[0].numel(), shape)
    return change.double(), None


@dataclass(frozen=True)
class Kind:
    """A kind of update.

    Attributes:
        needs: for each factor, the sets of roles that give it; one of them has to be there.
        extras: a role that may be there besides -> the roles that it needs.
    """

    name: str
    needs: tuple[tuple[frozenset[str], ...], ...]
    product: Callable[[Parts, Sequence[int]], Product]
    extras: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[str]:
        return frozenset(self.extras).union(*(roles for factor in self.needs for roles in factor))

    def missing(self, given: frozenset[str]) -> str | None:
        """A role that has to be there beside those given."""
        for factor in self.needs:
            if not any(roles <= given for roles in factor):
                nearest = max(factor, key=lambda roles: len(roles & given))
                return min(nearest - given)
        return next((min(roles - given) for role, roles in self.extras.items() if role in given and roles - given), None)

    def doubled(self, given: frozenset[str]) -> bool:
        """Whether a factor is given in more than one way."""
        return any(sum(bool(roles & given) for roles in factor) > 1 for factor in self.needs)


def _factor(*ways: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(way.split()) for way in ways)


KINDS = (
    Kind("LoRA", (_factor("down up"),), _lora, {"mid": frozenset(), "up_bias": frozenset()}),
    Kind(
        "LoHa",
        (_factor("hada_w1_a hada_w1_b"), _factor("hada_w2_a hada_w2_b")),
        _loha,
        {"hada_t1": frozenset({"hada_t2"}), "hada_t2": frozenset({"hada_t1"})},
    ),
    Kind(
        "LoKr",
        (_factor("lokr_w1", "lokr_w1_a lokr_w1_b"), _factor("lokr_w2", "lokr_w2_a lokr_w2_b")),
        _lokr,
        {"lokr_t2": frozenset({"lokr_w2_a", "lokr_w2_b"})},
    ),
    Kind("full difference", (_factor("diff"),), _difference),
)
