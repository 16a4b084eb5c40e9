"""Turns a Stable Diffusion checkpoint into a small integer model for phones that draws the same picture.

Errors are :class:`S2PError` (what is wrong; what to do), things worth knowing are warnings of the class :class:`S2PWarning`.

Example:
    >>> import s2p_mobile as s2p
    >>> model = s2p.load("path/to/model")
    >>> checkpoint = s2p.quantize(model, prompts="prompts.txt", out="checkpoint", progress=True)
    >>> bundle = s2p.convert(checkpoint, target="coreml", out="app.s2pmobile")
    >>> assert s2p.verify(bundle).ok
    >>> s2p.generate(bundle, "a red apple", seed=1).save("apple.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from s2p_mobile.api.benchmarking import bench, compare_units, report
from s2p_mobile.api.bundling import convert, inspect, verify
from s2p_mobile.api.drawing import evaluate, generate
from s2p_mobile.api.forecasting import roofline
from s2p_mobile.api.measuring import compare_sensitivity, latents, sensitivity
from s2p_mobile.api.quantizing import forecast, load, quantize
from s2p_runtime import __version__
from s2p_runtime.errors import CheckFailed, S2PError, S2PWarning
from s2p_runtime.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_mobile.api.description import Description
    from s2p_mobile.judge.evaluation import EvaluationResult
    from s2p_mobile.judge.roofline import Roofline
    from s2p_mobile.quantize.forecast import Forecast
    from s2p_mobile.quantize.interruption import Interrupted
    from s2p_mobile.quantize.latents import LatentDataset
    from s2p_mobile.quantize.recipes import Recipe
    from s2p_mobile.quantize.sensitivity import Comparison, Sensitivity
    from s2p_mobile.sources.model import Model
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.report import BenchReport
    from s2p_runtime.residency import Residency
    from s2p_runtime.verify import Verification

_TYPES = {
    "BenchReport": "s2p_runtime.report",
    "Bundle": "s2p_runtime.bundle",
    "Checkpoint": "s2p_converters.core.checkpoint",
    "Comparison": "s2p_mobile.quantize.sensitivity",
    "Description": "s2p_mobile.api.description",
    "EvaluationResult": "s2p_mobile.judge.evaluation",
    "Forecast": "s2p_mobile.quantize.forecast",
    "Interrupted": "s2p_mobile.quantize.interruption",
    "LatentDataset": "s2p_mobile.quantize.latents",
    "Model": "s2p_mobile.sources.model",
    "Recipe": "s2p_mobile.quantize.recipes",
    "Residency": "s2p_runtime.residency",
    "Roofline": "s2p_mobile.judge.roofline",
    "Sensitivity": "s2p_mobile.quantize.sensitivity",
    "Verification": "s2p_runtime.verify",
}
"""Types that functions take and give, imported at first use: most of them need torch."""

__all__ = [
    "BenchReport",
    "Bundle",
    "CheckFailed",
    "Checkpoint",
    "Comparison",
    "Description",
    "EvaluationResult",
    "Forecast",
    "Interrupted",
    "LatentDataset",
    "Model",
    "Progress",
    "ProgressEvent",
    "Recipe",
    "Residency",
    "Roofline",
    "S2PError",
    "S2PWarning",
    "Sensitivity",
    "Verification",
    "__version__",
    "bench",
    "compare_sensitivity",
    "compare_units",
    "convert",
    "evaluate",
    "forecast",
    "generate",
    "inspect",
    "latents",
    "load",
    "quantize",
    "report",
    "roofline",
    "sensitivity",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _TYPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_TYPES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
