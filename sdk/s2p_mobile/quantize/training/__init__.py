"""Training of quantized weights and scales against the FP model's outputs and block outputs."""

from s2p_mobile.quantize.training.guard import Diverged
from s2p_mobile.quantize.training.state import STATE_NAME, TrainingState, fingerprint, load_state
from s2p_mobile.quantize.training.student import StudentSpec
from s2p_mobile.quantize.training.trainer import Trainer

__all__ = ["STATE_NAME", "Diverged", "StudentSpec", "Trainer", "TrainingState", "fingerprint", "load_state"]
