"""Quantization methods, registered by name."""

from s2p_mobile.methods.registry import Method, QuantizationJob, QuantizedUNet, method_names, run_method

__all__ = ["Method", "QuantizationJob", "QuantizedUNet", "method_names", "run_method"]
