"""Schedulers from outside that inherit from diffusers' own, whatever way their module imports these."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import diffusers
import pytest

from s2p_converters.core.plan import extract_plan, schedulers
from s2p_converters.core.plan import probe as probing

CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "trailing",
}
IMPORTS = {
    "name": ("from diffusers import EulerDiscreteScheduler", "EulerDiscreteScheduler"),
    "package": ("import diffusers", "diffusers.EulerDiscreteScheduler"),
    "module": (
        "from diffusers.schedulers import scheduling_euler_discrete as euler",
        "euler.EulerDiscreteScheduler",
    ),
}


@pytest.mark.parametrize("way", IMPORTS)
def test_the_inherited_arithmetic_is_in_double_too(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass that changes nothing has its parent's plan to the last bit; in float32 rows have seven digits."""
    statement, parent = IMPORTS[way]
    name = f"outside_{way}"
    (tmp_path / f"{name}.py").write_text(f"{statement}\n\nclass Outside({parent}):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module(name).Outside
    known = schedulers.scheduler_classes() | {"Outside": kind}
    monkeypatch.setattr(probing, "scheduler_classes", lambda: known)
    plan = extract_plan(kind.from_config(CONFIG), 7)
    own = extract_plan(diffusers.EulerDiscreteScheduler.from_config(CONFIG), 7)
    assert plan.scheduler == "Outside"
    assert plan.model_copy(update={"scheduler": own.scheduler}) == own
