"""How much each layer's weight rounding hurts: estimators by name, their results, and how far they agree."""

from s2p_mobile.sensitivity.comparison import Comparison, compare, comparison_lines
from s2p_mobile.sensitivity.measure import CANDIDATE_BITS, measure, rank_layers, rank_on_trajectories
from s2p_mobile.sensitivity.registry import estimator, estimator_names
from s2p_mobile.sensitivity.result import LayerSensitivity, Sensitivity, read_sensitivity, write_sensitivity
from s2p_mobile.sensitivity.samples import CallSample, collect_samples

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
    "measure",
    "rank_layers",
    "rank_on_trajectories",
    "read_sensitivity",
    "write_sensitivity",
]
