"""How much each layer's weight rounding hurts: estimators by name, their results, and how far they agree.

Importing the package registers the estimators.
"""

from s2p_mobile.quantize.sensitivity import fisher, gradient, hutchinson, sqnr
from s2p_mobile.quantize.sensitivity.comparison import Comparison, compare, comparison_lines
from s2p_mobile.quantize.sensitivity.measure import CANDIDATE_BITS, measure, rank_layers, rank_on_trajectories
from s2p_mobile.quantize.sensitivity.registry import estimator, estimator_names
from s2p_mobile.quantize.sensitivity.result import LayerSensitivity, Sensitivity, read_sensitivity, write_sensitivity
from s2p_mobile.quantize.sensitivity.samples import CallSample, collect_samples

__all__ = [
    "CANDIDATE_BITS",
    "CallSample",
    "Comparison",
    "LayerSensitivity",
    "Sensitivity",
    "collect_samples",
    "compare",
    "comparison_lines",
    "estimator",
    "estimator_names",
    "fisher",
    "gradient",
    "hutchinson",
    "measure",
    "rank_layers",
    "rank_on_trajectories",
    "read_sensitivity",
    "sqnr",
    "write_sensitivity",
]
