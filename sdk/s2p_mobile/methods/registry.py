"""Methods by name. A method turns a job into a quantized U-Net; writing the checkpoint is common to all."""

from __future__ import annotations

from collections.abc import Callable

from s2p_mobile.quantization.job import QuantizationJob, QuantizedUNet
from s2p_runtime.errors import S2PError

Method = Callable[[QuantizationJob], QuantizedUNet]

_METHODS: dict[str, Method] = {}


def register(name: str) -> Callable[[Method], Method]:
    """Make a method available under ``name``."""

    def keep(method: Method) -> Method:
        _METHODS[name] = method
        return method

    return keep


def method_names() -> list[str]:
    """Names of all methods."""
    return sorted(_METHODS)


def run_method(name: str, job: QuantizationJob) -> QuantizedUNet:
    """Quantize with a method by name.

    Raises:
        S2PError: unknown method (lists what exists).
    """
    check_method(name)
    return _METHODS[name](job)


def check_method(name: str) -> None:
    """Raise :class:`S2PError` when no method has this name."""
    if name not in _METHODS:
        raise S2PError(f"unknown method {name!r}; methods are {', '.join(method_names())}")
