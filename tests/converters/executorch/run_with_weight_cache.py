"""A program of its own, since what it looks for ends a process: ``PROGRAM INPUTS.npz OUTPUT.npy CACHE`` with CACHE 0 or 1.

Runs the method ``forward`` with XNNPACK's weight cache off (as in the pip package) or on (as in ExecuTorch's Android package).
"""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime


class Option(ctypes.Structure):
    """``executorch::runtime::BackendOption``: a name and a variant of bool, int and 256 characters."""

    _fields_ = (
        ("key", ctypes.c_char * 64),
        ("value", ctypes.c_ubyte * 256),
        ("kind", ctypes.c_ubyte),
        ("_", ctypes.c_ubyte * 3),
    )


class Span(ctypes.Structure):
    """``executorch::runtime::Span``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


def set_weight_cache(on: bool) -> None:
    """The Python package has no name for XNNPACK's options, its C++ library has."""
    folder = Path(next(iter(find_spec("executorch").submodule_search_locations)))  # type: ignore[arg-type,union-attr]
    library = ctypes.CDLL(str(folder / "backends" / "qualcomm" / "libqnn_executorch_backend.so"))
    set_option = library["_ZN10executorch7runtime10set_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"]
    set_option.argtypes, set_option.restype = [ctypes.c_char_p, Span], ctypes.c_uint32
    option = Option(key=b"weight_cache_enabled")
    option.value[0] = on
    if set_option(b"XnnpackBackend", Span(ctypes.addressof(option), 1)):
        raise SystemExit("this ExecuTorch does not know the option weight_cache_enabled")


def main() -> None:
    """Command line."""
    program, feeds, output, cache = sys.argv[1:]
    runtime = Runtime.get()
    set_weight_cache(cache == "1")
    method = runtime.load_program(program).load_method("forward")
    with np.load(feeds) as arrays:
        inputs = [torch.from_numpy(arrays[name]) for name in arrays.files]
    np.save(output, method.execute(inputs)[0].numpy())


if __name__ == "__main__":
    main()
