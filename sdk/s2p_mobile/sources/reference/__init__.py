"""The reference is diffusers: a model is compared with the pipeline that diffusers opens from the same files, once."""

from s2p_mobile.sources.reference.comparison import LIMIT, Difference, compare
from s2p_mobile.sources.reference.record import require_same

__all__ = ["LIMIT", "Difference", "compare", "require_same"]
