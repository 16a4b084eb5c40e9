"""Which of coremltools' passes a program goes through.

coremltools checks a whole program after each of its 95 passes, and most passes look for what other networks have. Of the demo
model's U-Net 17 change anything; the others take half of the passes' time, and the checks after them as much again. So U-Nets go
through a third of the list: what changed a program in any of their forms, what tidies up after it, and what a form with linear layers
could need. A test holds the bytes against those of the whole list.
"""

from __future__ import annotations

from typing import Any

from s2p_runtime.quiet import quiet_import

with quiet_import():
    import coremltools as ct

_FOLDING = ("fuse_conv_scale", "fuse_conv_batchnorm", "fuse_elementwise_to_batchnorm")
"""They multiply a layer's output scale into its weights, which then are no longer the checkpoint's integers."""

_HALVING = "add_fp16_cast"

_OF_UNETS = (
    "update_output_dtypes",
    "cast_optimization",
    "noop_elimination",
    "nullify_redundant_quantization_zero_point",
    "const_elimination",
    "sanitize_input_output_names",
    "const_deduplication",
    "fuse_matmul_weight_bias",
    "fuse_linear_bias",
    "reduce_transposes",
    "merge_consecutive_reshapes",
    "merge_consecutive_transposes",
    "fuse_transpose_matmul",
    "reduce_transposes",
    "remove_redundant_ops",
    "dedup_op_and_var_names",
    _HALVING,
    "add_int16_cast",
    "update_output_dtypes",
    "guard_negative_gather_indices",
    "const_elimination",
    "dead_code_elimination",
    "cast_optimization",
    "dead_code_elimination",
    "add_int16_cast",
    "const_elimination",
    "const_deduplication",
    "dead_code_elimination",
    "noop_elimination",
    "dedup_op_and_var_names",
    "reduce_transposes",
    "remove_redundant_ops",
    "topological_reorder",
    "dead_code_elimination",
)
"""In coremltools' own order."""


def common_passes() -> Any:
    """Everything that coremltools does by itself, except what would change a checkpoint's integers."""
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({f"common::{name}" for name in _FOLDING})
    return pipeline


def unet_passes(weights_pass: str, half: bool) -> Any:
    """The passes of a U-Net.

    Args:
        weights_pass: puts in the checkpoint's weights. It runs before values are made float16; of a float32 program, where
            coremltools leaves that out, it is the last.
    """
    passes = [f"common::{name}" for name in _OF_UNETS]
    passes.insert(passes.index(f"common::{_HALVING}") if half else len(passes), weights_pass)
    return ct.PassPipeline(pass_names=passes, pipeline_name="U-Net")
