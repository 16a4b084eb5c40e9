"""Rows of the ablation: what each changes in the recipe that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BUDGET: Mapping[str, Any] = {"mixed": {"average_bits": 4.06, "candidates": [2, 4, 6, 8], "ranking": "sqnr"}}
"""Widths by layer."""

TOP: Mapping[str, Any] = {"mixed": {"top": "5%", "bits": 8, "ranking": "fisher"}}
"""The paper's rule, of the same average width."""

BASES: Mapping[str, Mapping[str, Any]] = {"w4a8-mixed": BUDGET, "w4a8-top5": TOP}
"""Built-in recipes that rows start from."""

PROMPTS = 512
"""Trajectories of every training."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: also the folder's name, with blanks as hyphens.
        base: built-in recipe that the row starts from.
        method: quantization method.
        changes: nested fields of the recipe that differ from the base; a None removes the field.
        steps: of the sampler.
        main: drawn with every seed set.
        iterations: of the training; None: those of the command line.
    """

    name: str
    base: str
    method: str = "s2p"
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 25
    main: bool = False
    iterations: int | None = None

    @property
    def slug(self) -> str:
        """File name."""
        return "".join(c if c.isalnum() else "-" for c in self.name)

    @property
    def document(self) -> dict[str, Any]:
        """The row's recipe but for the number of iterations; activations are symmetric and shortcuts whole where the row does not
        change that."""
        common = {
            "weights": {"bits": 4},
            "activations": {"zero_points": False},
            "split_shortcuts": False,
            "training": {"batch": 8, "prompts": PROMPTS},
            **BASES[self.base],
        }
        return merged(common, self.changes) | {"name": self.name, "description": f"row of the ablation of {self.base}"}

    @property
    def ranking(self) -> Mapping[str, Any] | None:
        """The mixed rule of a row whose widths come from a budget."""
        rule = self.document.get("mixed")
        return rule if rule is not None and "average_bits" in rule else None

    @property
    def pipeline(self) -> str:
        """s2p, serial or parallel."""
        return str(self.changes.get("training", {}).get("pipeline", "s2p"))


def training(**changes: Any) -> dict[str, Any]:
    """Changes of a recipe's training."""
    return {"training": changes}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, field by field."""
    result = dict(base)
    for key, value in changes.items():
        # A mixed rule is one of several: its fields do not add up.
        if key != "mixed" and isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _width(base: str, weights: int, activations: int) -> dict[str, Any]:
    changes: dict[str, Any] = {"weights": {"bits": weights}, "activations": {"bits": activations}}
    if weights == 8:
        return changes | {"mixed": None}
    by_budget = BASES[base] is BUDGET
    return changes | {"mixed": BUDGET["mixed"] | {"average_bits": weights + 0.06}} if by_budget else changes


def rows_of(base: str) -> list[Row]:
    """All rows, in the order of the table."""
    paper = [
        Row("rtn one scale, 5% at 8 bits", base, "rtn", {**TOP, "activations": {"per_step": False}}, main=True),
        Row("rtn, 5% at 8 bits", base, "rtn", TOP, main=True),
        Row("gptq, 5% at 8 bits", base, "gptq", TOP),
        Row("s2p, 5% at 8 bits", base, "s2p", TOP),
    ]
    return [
        *(
            paper
            if BASES[base] is BUDGET
            else [Row("rtn one scale", base, "rtn", {"activations": {"per_step": False}}, main=True)]
        ),
        Row("rtn", base, "rtn", main=BASES[base] is TOP),
        Row("gptq", base, "gptq"),
        Row("s2p", base, main=True),
        Row("s2p with zero points", base, changes={"activations": {"zero_points": True}}),
        *(Row(f"s2p, {count} iterations", base, iterations=count) for count in (50, 1000)),
        Row("s2p without scales per step", base, changes={"activations": {"per_step": False}}),
        Row("s2p with quantized time path", base, changes={"time": "quantized"}),
        Row("s2p without mixed precision", base, changes={"mixed": None}),
        Row("s2p without distillation", base, changes=training(distillation={"weight": 0.0})),
        Row("s2p without freezing", base, changes=training(freezing=None)),
        Row("serial, equal time", base, changes=training(pipeline="serial")),
        Row("parallel, equal time", base, changes=training(pipeline="parallel")),
        *(
            Row(f"{method} W{weights}A{activations}", base, method, _width(base, weights, activations))
            for weights, activations in ((8, 8), (4, 6), (3, 8), (4, 4))
            for method in ("rtn", "s2p")
        ),
        *(Row(f"{method} {steps} steps", base, method, steps=steps) for steps in (10, 30) for method in ("rtn", "s2p")),
        Row("s2p from nearest rounding", base, changes=training(start={"rounding": "nearest"})),
        Row("s2p without call weights", base, changes=training(loss={"calls": "uniform"})),
        Row("s2p without guided error", base, changes=training(loss={"guided": 0.0})),
        Row("s2p with fixed time tables and norms", base, changes=training(learning_rates={"time_tables": 0.0, "norms": 0.0})),
    ]
