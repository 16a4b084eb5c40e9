"""A float16 program computed in float32, for the CPU of this machine.

Apple's runtime emulates float16 where the processor has none: a call of the demo model's U-Net takes 13 seconds in place of 0.7. So
checks run the program with every float type made float32. Its constants stay as they are stored, and its operations too; what is
left out is the rounding of intermediate results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s2p_runtime.hosts.coreai.constants import operations_of, stored_bytes


def write_wide(path: Path, wide: Path) -> None:
    """Write the float32 form of an ``.aimodel`` to ``wide``, a new ``.aimodel``."""
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(path).program
    module = program._module._mlir_module
    with module.context:
        for graph in module.body.operations:
            _widen(graph)
    program.save_asset(wide)


def _widen(graph: Any) -> None:
    from coreai._compiler.ir import FunctionType, Location, TypeAttr

    with Location.unknown():
        for operation in list(operations_of(graph)):
            if operation.name == "coreai.constant":
                _widen_constant(operation)
            for result in operation.results:
                result.set_type(_wide(result.type))
        for region in graph.regions:
            for block in region.blocks:
                for argument in block.arguments:
                    argument.set_type(_wide(argument.type))
        declared = FunctionType(TypeAttr(graph.attributes["function_type"]).value)
        kinds = [[_wide(kind) for kind in kinds] for kinds in (declared.inputs, declared.results)]
        graph.attributes["function_type"] = TypeAttr.get(FunctionType.get(*kinds))


def _wide(kind: Any) -> Any:
    """float32 in the place of float16."""
    from coreai._compiler.ir import F16Type, F32Type, RankedTensorType

    if not RankedTensorType.isinstance(kind):
        return kind
    tensor = RankedTensorType(kind)
    return RankedTensorType.get(tensor.shape, F32Type.get()) if F16Type.isinstance(tensor.element_type) else kind


def _widen_constant(operation: Any) -> None:
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects.coreai import create_elements_attr
    from coreai._compiler.ir import Location, RankedTensorType

    kind = operation.attributes["value"].type
    if _wide(kind) == kind:
        return
    shape, stored = tuple(RankedTensorType(kind).shape), stored_bytes(operation)
    values = stored.view(np.float16).astype(np.float32).reshape(shape)
    operation.attributes["value"] = create_elements_attr(Location.unknown(), _wide(kind), values)
