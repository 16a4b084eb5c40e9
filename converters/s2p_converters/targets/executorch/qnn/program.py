"""Wraps context binaries into .pte programs, as ExecuTorch's own tools do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.targets.ports import example
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.delegate_data import ALIGNMENT, pack
from s2p_runtime.hosts.executorch.qnn.program import DELEGATE
from s2p_runtime.hosts.executorch.qnn.socs import Soc
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from executorch.exir import ExecutorchBackendConfig, to_edge
    from executorch.exir._serialize._flatbuffer import _flatc_compile
    from executorch.exir.backend.compile_spec_schema import CompileSpec
    from executorch.exir.lowered_backend_module import LoweredBackendModule

_SPEC_KEY = "qnn_compile_spec"
_SCHEMA = "qc_compiler_spec"
_HTP, _BURST, _LOG_ERRORS = 2, 2, 1


class _Shapes(nn.Module):
    """Stands for the compiled graph while a program is traced: the same inputs, outputs of the same shapes, no meaning."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        super().__init__()
        self.shapes = [port.shape for port in outputs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        anchor = sum(each.flatten()[0].float() for each in inputs)
        return tuple(torch.zeros(shape) + anchor for shape in self.shapes)


class _Delegate(nn.Module):
    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.lowered(*inputs)
        return outputs


def wrap(context: bytes, graph: str, soc: Soc, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    """A .pte whose one method is the delegate.

    Args:
        graph: name of the graph in the binary. It becomes the method's: by this name ExecuTorch looks for the graph.
        inputs, outputs: in the graph's own order, by which ExecuTorch hands them over.
    """
    examples = tuple(map(example, inputs))
    with quiet_import():
        stand_in = torch.export.export(_Shapes(outputs), examples)
        lowered = LoweredBackendModule(stand_in, DELEGATE, pack(context), [CompileSpec(_SPEC_KEY, compile_spec(soc))], None)
        exported = torch.export.export(_Delegate(lowered), examples)
        return bytes(to_edge({graph: exported}).to_executorch(ExecutorchBackendConfig(segment_alignment=ALIGNMENT)).buffer)


def compile_spec(soc: Soc) -> bytes:
    """What ExecuTorch's QNN delegate is told of a context binary, in ExecuTorch's own flatbuffer: as its
    ``generate_qnn_executorch_compiler_spec`` with ``is_from_context_binary`` writes it.

    ExecuTorch's Python package for Qualcomm is not imported: it fetches Qualcomm's SDK from the network and switches torch's
    settings.

    Raises:
        S2PError: this executorch lacks the schema.
    """
    package = find_spec("executorch")
    places = [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
    schemas = [place / f"backends/qualcomm/serialization/{_SCHEMA}.fbs" for place in places]
    schema = next((path for path in schemas if path.is_file()), None)
    if schema is None:
        raise S2PError(
            "executorch here lacks its qnn backend", "install another executorch, or use `backend=xnnpack`", "backend"
        )
    with tempfile.TemporaryDirectory() as scratch:
        words = Path(scratch) / f"{_SCHEMA}.json"
        words.write_text(json.dumps(_options(soc)))
        copied = Path(scratch) / schema.name
        copied.write_bytes(schema.read_bytes())
        _flatc_compile(scratch, str(copied), str(words))
        return (Path(scratch) / f"{_SCHEMA}.bin").read_bytes()


def _options(soc: Soc) -> dict[str, Any]:
    """``QnnExecuTorchOptions`` of ExecuTorch's schema, all fields."""
    low_power = {} if soc.low_power is None else {"lpai_info": {"lpai_hardware_version": soc.low_power}}
    return {
        "soc_info": {
            "soc_model": soc.model,
            "htp_info": {"htp_arch": soc.arch, "vtcm_size_in_mb": soc.vtcm},
            **low_power,
        },
        "backend_options": {
            "backend_type": _HTP,
            "htp_options": {
                "max_sf_buf_size": 0,
                "performance_mode": _BURST,
                "precision": 0,
                "pd_session": 0,
                "use_conv_hmx": True,
                "use_dlbc": False,
                "use_fold_relu": True,
                "use_multi_contexts": False,
                "use_weight_sharing": False,
                "use_slc_allocator": False,
            },
        },
        "library_path": "",
        "log_level": _LOG_ERRORS,
        "online_prepare": False,
        "dump_intermediate_outputs": False,
        "profile_level": 0,
        "shared_buffer": False,
        "is_from_context_binary": True,
        "saver": False,
        "saver_output_dir": "saver_output",
        "op_package_options": {"op_package_infos": []},
        "use_mha2sha": False,
    }
