"""Fidelity of a model, checkpoint or bundle to the FP model on a prompt file."""

from s2p_mobile.judge.evaluation.cache import PictureCache, default_cache_folder
from s2p_mobile.judge.evaluation.evaluate import EvaluationResult, evaluate
from s2p_mobile.judge.evaluation.source import EvaluationSource, open_evaluation

__all__ = [
    "EvaluationResult",
    "EvaluationSource",
    "PictureCache",
    "default_cache_folder",
    "evaluate",
    "open_evaluation",
]
