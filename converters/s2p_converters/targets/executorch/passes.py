"""Lowering to ExecuTorch without the work that changes nothing.

Its XNNPACK backend runs seventeen passes on every part of a graph that it takes (23 parts, of the demo model's VAE decoder), and each
traces its part anew. Most look for an operator that the part does not have. torch keeps, with every node of every graph, the record
of all nodes that it came from, and copies that record whenever it traces. A test holds the bytes of programs against those that are
lowered with all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from s2p_runtime.quiet import quiet_import

_LOOK_FOR = {
    "XNNPACKRemoveCloneOpsTransform": ("clone",),
    "DimOrderOpsRevertPass": ("dim_order",),
    "ConvertToUpsampleBilinear2d": ("upsample", "index"),
    "ConvertToLinearPass": ("mm.", "linear"),
    "PropagateCustomMetaPass": ("quantize",),
    "ConvertToSDPAPass": ("softmax",),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "FuseActivationPass": ("relu", "hardtanh"),
    "DecomposeConcatenate": (".cat.",),
    "InsertPadQDQPass": ("quantize",),
    "PReLUReshapePass": ("prelu",),
}
"""Passes that only do something where an operator has one of these words in its schema, which begins with its name. Those that are
not listed run always."""


@contextlib.contextmanager
def without_idle_work() -> Iterator[None]:
    """Lower inside of this context. Where torch or executorch name these parts otherwise, all the work is done."""
    try:
        with quiet_import():
            from executorch.backends.xnnpack import xnnpack_preprocess
            from torch.fx.traceback import NodeSource

        whole: Any = xnnpack_preprocess.XNNPACKPassManager
    except (ImportError, AttributeError):
        yield
        return

    def needed(exported_program: Any, passes: Any = None) -> Any:
        """Of the passes those that may find something."""
        manager = whole(exported_program, passes)
        nodes = exported_program.graph_module.graph.nodes
        names = " ".join(str(node.target) for node in nodes if node.op == "call_function")
        manager.passes = [each for each in manager.passes if _may_find(each.__name__, names)]
        return manager

    # Records of where a node came from never change: sharing them is as good as copying them.
    with (
        _replaced(xnnpack_preprocess, "XNNPACKPassManager", needed),
        _replaced(NodeSource, "__deepcopy__", lambda self, _: self),
    ):
        yield


def _may_find(name: str, operators: str) -> bool:
    return name not in _LOOK_FOR or any(word in operators for word in _LOOK_FOR[name])


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
