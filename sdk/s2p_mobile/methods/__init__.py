"""Quantization methods, registered by name: importing the package registers them."""

from s2p_mobile.methods import palettize, pcr, ptq4dm, q_diffusion, rtn, s2p, starting_points
from s2p_mobile.methods.registry import Method, check_method, method_names, run_method
from s2p_mobile.quantization.job import QuantizationJob, QuantizedUNet

__all__ = [
    "Method",
    "QuantizationJob",
    "QuantizedUNet",
    "check_method",
    "method_names",
    "palettize",
    "pcr",
    "ptq4dm",
    "q_diffusion",
    "rtn",
    "run_method",
    "s2p",
    "starting_points",
]
