"""Training of quantized weights and scales against the FP model's outputs and block outputs."""

from s2p_mobile.quantize.training.guard import Diverged
from s2p_mobile.quantize.training.state import TrainingState, load_state
from s2p_mobile.quantize.training.trainer import Trainer

__all__ = ["Diverged", "Trainer", "TrainingState", "load_state"]
