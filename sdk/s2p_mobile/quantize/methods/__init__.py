"""Quantization methods, registered by name: importing the package registers them."""

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods import rtn, s2p, starting_points
from s2p_mobile.quantize.methods.baselines import palettize, pcr, ptq4dm, q_diffusion
from s2p_mobile.quantize.methods.registry import Method, check_method, method_names, run_method

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
