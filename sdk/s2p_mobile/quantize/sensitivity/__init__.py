"""How much each layer's weight rounding hurts: estimators by name, their results, and how far they agree."""

from s2p_mobile.quantize.sensitivity.comparison import Comparison, compare, comparison_lines
from s2p_mobile.quantize.sensitivity.estimators import ESTIMATORS, Estimator, LayerValues, Measurement, Outlook
from s2p_mobile.quantize.sensitivity.measure import CANDIDATE_BITS, measure, rank_layers, rank_on_trajectories, ranking_stages
from s2p_mobile.quantize.sensitivity.result import LayerSensitivity, Sensitivity, read_sensitivity, write_sensitivity
from s2p_mobile.quantize.sensitivity.samples import CallSample, collect_samples

__all__ = [
    "CANDIDATE_BITS",
    "ESTIMATORS",
    "CallSample",
    "Comparison",
    "Estimator",
    "LayerSensitivity",
    "LayerValues",
    "Measurement",
    "Outlook",
    "Sensitivity",
    "collect_samples",
    "compare",
    "comparison_lines",
    "measure",
    "rank_layers",
    "rank_on_trajectories",
    "ranking_stages",
    "read_sensitivity",
    "write_sensitivity",
]
