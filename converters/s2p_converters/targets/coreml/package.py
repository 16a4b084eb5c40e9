"""torch module -> .mlpackage, silently and with the same bytes every time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from functools import cache
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from s2p_converters.targets.coreml.emission import PASS_NAME, WeightTable
from s2p_converters.targets.coreml.functions import share_small_constants
from s2p_converters.targets.coreml.passes import common_passes, unet_passes
from s2p_converters.targets.ports import example
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op
    from coremltools.proto import Model_pb2
    from torch.ao.quantization.fx import _decomposed as _quantized_decomposed_operators

assert _quantized_decomposed_operators  # its import registers torch.ops.quantized_decomposed

if "alias" not in _TORCH_OPS_REGISTRY:

    @register_torch_op
    def alias(context: Any, node: Any) -> None:
        """``aten.alias`` returns its input; transformers' text encoders export it and coremltools does not know it."""
        context.add(_get_inputs(context, node, expected=1)[0], torch_name=node.name)


if "chunk" not in _TORCH_OPS_REGISTRY:

    @register_torch_op
    def chunk(context: Any, node: Any) -> None:
        """``aten.chunk`` into equal parts, as gated layers have it; coremltools knows it by the name in TorchScript only."""
        x, parts, axis = _get_inputs(context, node, expected=3)
        context.add(mb.split(x=x, num_splits=parts, axis=axis, name=node.name), torch_name=node.name)


@torch.no_grad()
def convert_module(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
    *,
    minimum_os: str,
    half: bool,
    weights: WeightTable | None = None,
) -> None:
    """Export a module and write it as an ML Program.

    Args:
        module: its forward takes the inputs in order and returns one tensor, or a tuple of several.
        outputs: what it returns; a port's dtype decides that of the program's interface.
        path: the .mlpackage folder to create.
        minimum_os: ``iOS16``, ``iOS17`` or ``iOS18``.
        half: compute in float16; inputs and outputs stay float32 at the interface.
        weights: constants to be replaced by compressed ones.

    Raises:
        S2PError: torch or coremltools cannot convert the module, or a weight's constant is not in the program.
    """
    pipeline = common_passes() if weights is None else unet_passes(PASS_NAME, half)
    if weights is not None:
        pipeline.set_options(PASS_NAME, {"table": weights})
    try:
        with quiet_import():
            program = torch.export.export(module.eval(), tuple(example(port) for port in inputs), strict=False)
            model = ct.convert(
                in_aten(program),
                inputs=[ct.TensorType(name=port.name, shape=port.shape, dtype=_numpy_type(port)) for port in inputs],
                outputs=[ct.TensorType(name=port.name, dtype=_numpy_type(port)) for port in outputs],
                minimum_deployment_target=getattr(ct.target, minimum_os),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                pass_pipeline=pipeline,
                skip_model_load=True,
            )
            model.save(str(path))
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise S2PError(f"Core ML conversion of {path.stem} failed ({reason})", "report it with the model") from error
    if weights is not None and weights.missing:
        raise S2PError(f"Core ML program lacks the constant {weights.missing[0]}", "report it with the model")
    _make_reproducible(path)


def in_aten(program: ExportedProgram) -> ExportedProgram:
    """A program in the dialect that coremltools takes.

    ``run_decompositions({})`` traces the whole module once more, which takes as long as the export did, to write operators that
    change their inputs as others that do not, and composite ones as simple ones. A program whose operators change nothing and are
    known to coremltools only needs the name of the dialect.
    """
    if not all(_is_taken(node.target) for node in program.graph.nodes if node.op == "call_function"):
        return program.run_decompositions({})
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=_aten_verifiers(),
    )


@cache
def _aten_verifiers() -> Any:
    """What marks a program as one in this dialect: those of any program that is."""
    return torch.export.export(nn.Identity(), (torch.zeros(1),)).run_decompositions({}).verifiers


def _is_taken(operator: Any) -> bool:
    if operator is getitem:
        return True
    plain = isinstance(operator, OpOverload) and not operator._schema.is_mutable
    return plain and _TORCH_OPS_REGISTRY.get_func(str(operator)) is not None


def _numpy_type(port: TensorSpec) -> Any:
    return np.dtype(port.dtype).type


def _make_reproducible(package: Path) -> None:
    """Replace random identifiers and the date, so that equal programs are equal bytes, and say small constants once."""
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in manifest["itemInfoEntries"].items()}
    entries = {names[old]: entry for old, entry in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = dict(sorted(entries.items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    manifest_path.write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")
    model_path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(model_path.read_bytes())
    model.description.metadata.userDefined.clear()
    model.description.metadata.userDefined["s2p-mobile"] = "made by s2p-mobile"
    for function in model.mlProgram.functions.values():
        share_small_constants(function)
    model_path.write_bytes(model.SerializeToString(deterministic=True))
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    for path in (model_path, *model_path.parent.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
