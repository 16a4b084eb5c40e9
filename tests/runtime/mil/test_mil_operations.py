"""Every run-time operation against NumPy, SciPy or torch in float64, in fp32 and fp16 programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch.nn import functional as F

Array = np.ndarray[Any, Any]


def t(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@dataclass(frozen=True)
class Case:
    """``build(mb, c, x, y, z)`` makes the program (``c`` casts constants), ``reference(x, y, z)`` its float64 result.

    ``terms`` bounds how many roundings of relative size eps add up in an output; ``gain`` bounds the intermediate values
    relative to max(1, the largest output).
    """

    name: str
    shapes: Sequence[Sequence[int]]
    build: Callable[..., Any]
    reference: Callable[..., Any]
    terms: int = 8
    gain: float = 1.0
    target: str = "iOS17"
    positive: bool = False


R = np.random.default_rng(1)
W2 = R.standard_normal((6, 2, 3, 3))
W1 = R.standard_normal((4, 3, 2))
W3 = R.standard_normal((2, 3, 2, 2, 2))
WT = R.standard_normal((4, 3, 3, 3))
WL = R.standard_normal((5, 4))
B3, B4, B5, B6 = (R.standard_normal(n) for n in (3, 4, 5, 6))
V4 = R.uniform(0.5, 2, 4)


def half(array: Array) -> Array:
    """Values that fp16 holds exactly, so that fp16 and fp32 programs have the same constants."""
    return array.astype(np.float16).astype(np.float64)


W1, W2, W3, WT, WL, B3, B4, B5, B6, V4 = map(half, (W1, W2, W3, WT, WL, B3, B4, B5, B6, V4))


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + (0 if mask is None else mask)
    return scipy.special.softmax(scores, -1) @ v


def unary(name: str, reference: Callable[[Array], Array], **kwargs: Any) -> Case:
    return Case(name, [(3, 5)], lambda mb, c, x: getattr(mb, name)(x=x), reference, **kwargs)


def binary(name: str, reference: Callable[[Array, Array], Array], **kwargs: Any) -> Case:
    return Case(name, [(2, 3, 4), (3, 1)], lambda mb, c, x, y: getattr(mb, name)(x=x, y=y), reference, **kwargs)


def reduced(name: str, reference: Callable[..., Array], **kwargs: Any) -> list[Case]:
    return [
        Case(f"{name}_axes", [(3, 4, 5)], lambda mb, c, x: getattr(mb, name)(x=x, axes=[0, -1], keep_dims=True),
             lambda x: reference(x, axis=(0, 2), keepdims=True), terms=24, gain=4, **kwargs),
        Case(f"{name}_all", [(3, 4)], lambda mb, c, x: getattr(mb, name)(x=x, axes=None, keep_dims=False),
             lambda x: reference(x, axis=None, keepdims=False), terms=24, gain=4, **kwargs),
    ]  # fmt: skip


CASES = [
    *(binary(n, f) for n, f in [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("real_div", np.divide),
                                ("maximum", np.maximum), ("minimum", np.minimum)]),
    binary("pow", np.power, positive=True, terms=32),
    *(unary(n, f) for n, f in [("abs", np.abs), ("ceil", np.ceil), ("floor", np.floor), ("sign", np.sign), ("sin", np.sin),
                               ("cos", np.cos), ("exp", np.exp), ("exp2", np.exp2), ("erf", scipy.special.erf),
                               ("square", np.square), ("tanh", np.tanh), ("identity", lambda x: x),
                               ("sigmoid", scipy.special.expit), ("relu", lambda x: np.maximum(x, 0)),
                               ("relu6", lambda x: np.clip(x, 0, 6)), ("silu", lambda x: x * scipy.special.expit(x)),
                               ("softplus", lambda x: np.logaddexp(0, x)), ("softsign", lambda x: x / (1 + abs(x)))]),
    unary("sqrt", np.sqrt, positive=True),
    unary("round", np.rint),
    Case("rsqrt", [(7,)], lambda mb, c, x: mb.rsqrt(x=x, epsilon=c(2.0**-10)), lambda x: (x + 2.0**-10) ** -0.5, positive=True),
    Case("inverse", [(7,)], lambda mb, c, x: mb.inverse(x=x, epsilon=c(0.25)), lambda x: 1 / (x + 0.25), positive=True),
    Case("log", [(7,)], lambda mb, c, x: mb.log(x=x, epsilon=c(0.25)), lambda x: np.log(x + 0.25), positive=True),
    Case("clip", [(3, 5)], lambda mb, c, x: mb.clip(x=x, alpha=c(-0.5), beta=c(0.75)), lambda x: np.clip(x, -0.5, 0.75)),
    Case("threshold", [(9,)], lambda mb, c, x: mb.threshold(x=x, alpha=c(0.25)), lambda x: np.maximum(x, 0.25)),
    Case("leaky_relu", [(9,)], lambda mb, c, x: mb.leaky_relu(x=x, alpha=c(0.125)), lambda x: F.leaky_relu(t(x), 0.125)),
    Case("elu", [(9,)], lambda mb, c, x: mb.elu(x=x, alpha=c(0.5)), lambda x: F.elu(t(x), 0.5)),
    Case("linear_activation", [(9,)], lambda mb, c, x: mb.linear_activation(x=x, alpha=c(0.5), beta=c(3.0)),
         lambda x: x / 2 + 3),
    Case("sigmoid_hard", [(9,)], lambda mb, c, x: mb.sigmoid_hard(x=x, alpha=c(0.5), beta=c(0.25)),
         lambda x: np.clip(0.5 * x + 0.25, 0, 1)),
    Case("gelu_exact", [(9,)], lambda mb, c, x: mb.gelu(x=x, mode="EXACT"), lambda x: F.gelu(t(x)), gain=4),
    Case("gelu_tanh", [(9,)], lambda mb, c, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
         lambda x: F.gelu(t(x), approximate="tanh"), gain=4),
    Case("gelu_sigmoid", [(9,)], lambda mb, c, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
         lambda x: x * scipy.special.expit(1.702 * x), gain=4),
    Case("softmax", [(2, 5, 3)], lambda mb, c, x: mb.softmax(x=x, axis=1), lambda x: scipy.special.softmax(x, 1)),
    # Convolutions: one term per product, gain covers cancellation between products.
    Case("conv2d_groups_stride_pad", [(2, 4, 7, 6)],
         lambda mb, c, x: mb.conv(x=x, weight=c(W2), bias=c(B6), strides=[2, 1], pad_type="custom", pad=[1, 1, 2, 2], groups=2),
         lambda x: F.conv2d(t(x), t(W2), t(B6), stride=(2, 1), padding=(1, 2), groups=2), terms=19, gain=8),
    Case("conv2d_uneven_pad_dilation", [(1, 4, 8, 8)],
         lambda mb, c, x: mb.conv(x=x, weight=c(W2), dilations=[2, 1], pad_type="custom", pad=[0, 1, 2, 0], groups=2),
         lambda x: F.conv2d(F.pad(t(x), (2, 0, 0, 1)), t(W2), dilation=(2, 1), groups=2), terms=19, gain=8),
    Case("conv1d_valid", [(2, 3, 9)], lambda mb, c, x: mb.conv(x=x, weight=c(W1), pad_type="valid"),
         lambda x: F.conv1d(t(x), t(W1)), terms=7, gain=8),
    Case("conv3d", [(1, 3, 4, 4, 4)], lambda mb, c, x: mb.conv(x=x, weight=c(W3), pad_type="valid"),
         lambda x: F.conv3d(t(x), t(W3)), terms=25, gain=8),
    Case("conv_transpose", [(1, 4, 5, 4)],
         lambda mb, c, x: mb.conv_transpose(x=x, weight=c(WT), bias=c(B3), strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
                                            output_shape=[1, 3, 10, 8]),
         lambda x: F.conv_transpose2d(t(x), t(WT), t(B3), stride=2, padding=1, output_padding=1), terms=37, gain=8),
    Case("linear", [(2, 3, 4)], lambda mb, c, x: mb.linear(x=x, weight=c(WL), bias=c(B5)),
         lambda x: x @ WL.T + B5, terms=5, gain=8),
    Case("matmul", [(2, 1, 3, 4), (5, 4, 6)], lambda mb, c, x, y: mb.matmul(x=x, y=y), np.matmul, terms=4, gain=8),
    Case("matmul_transposed", [(2, 4, 3), (2, 6, 4)],
         lambda mb, c, x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
         lambda x, y: np.swapaxes(x, 1, 2) @ np.swapaxes(y, 1, 2), terms=4, gain=8),
    Case("einsum", [(2, 3, 4, 5), (2, 5, 4, 6)], lambda mb, c, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
         lambda x, y: np.einsum("nchw,nwhu->nchu", x, y), terms=5, gain=8),
    Case("attention", [(2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)],
         lambda mb, c, x, y, z: mb.scaled_dot_product_attention(query=x, key=y, value=z), attention, terms=32, gain=4,
         target="iOS18"),
    Case("attention_float_mask", [(2, 4, 8), (2, 5, 8), (2, 5, 6)],
         lambda mb, c, x, y, z: mb.scaled_dot_product_attention(query=x, key=y, value=z,
             attn_mask=c(np.triu(np.full((4, 5), -2.0)))),
         lambda x, y, z: attention(x, y, z, np.triu(np.full((4, 5), -2.0))), terms=32, gain=4, target="iOS18"),
    Case("attention_bool_mask", [(2, 4, 8), (2, 5, 8), (2, 5, 6)],
         lambda mb, c, x, y, z: mb.scaled_dot_product_attention(query=x, key=y, value=z, attn_mask=np.tri(4, 5, dtype=bool)),
         lambda x, y, z: attention(x, y, z, np.where(np.tri(4, 5) > 0, 0.0, -np.inf)), terms=32, gain=4, target="iOS18"),
    Case("layer_norm", [(2, 3, 4)], lambda mb, c, x: mb.layer_norm(x=x, axes=[-1], gamma=c(V4), beta=c(B4), epsilon=c(0.125)),
         lambda x: F.layer_norm(t(x), (4,), t(V4), t(B4), 0.125), terms=32, gain=4),
    Case("layer_norm_two_axes", [(2, 3, 4)], lambda mb, c, x: mb.layer_norm(x=x, axes=[1, 2], epsilon=c(0.125)),
         lambda x: F.layer_norm(t(x), (3, 4), eps=0.125), terms=32, gain=4),
    Case("layer_norm_middle_axis", [(2, 3, 4)],
         lambda mb, c, x: mb.layer_norm(x=x, axes=[1], gamma=c(B3), beta=c(B3), epsilon=c(0.125)),
         lambda x: F.layer_norm(t(x).transpose(1, 2), (3,), t(B3), t(B3), 0.125).transpose(1, 2), terms=32, gain=4),
    Case("instance_norm", [(2, 4, 3, 3)], lambda mb, c, x: mb.instance_norm(x=x, gamma=c(V4), beta=c(B4), epsilon=c(0.125)),
         lambda x: F.instance_norm(t(x), weight=t(V4), bias=t(B4), eps=0.125), terms=32, gain=4),
    Case("batch_norm", [(2, 4, 3, 3)],
         lambda mb, c, x: mb.batch_norm(x=x, mean=c(B4), variance=c(V4), gamma=c(V4), beta=c(B4), epsilon=c(0.125)),
         lambda x: F.batch_norm(t(x), t(B4), t(V4), t(V4), t(B4), eps=0.125), terms=16, gain=4),
    *reduced("reduce_sum", np.sum), *reduced("reduce_mean", np.mean), *reduced("reduce_max", np.max),
    *reduced("reduce_min", np.min),
    *reduced("reduce_prod", np.prod), *reduced("reduce_sum_square", lambda x, **k: np.sum(x * x, **k)),
    *reduced("reduce_l1_norm", lambda x, **k: np.sum(abs(x), **k)),
    *reduced("reduce_l2_norm", lambda x, **k: np.sqrt(np.sum(x * x, **k))),
    *reduced("reduce_log_sum", lambda x, **k: np.log(np.sum(x, **k)), positive=True),
    *reduced("reduce_log_sum_exp", lambda x, **k: np.log(np.sum(np.exp(x), **k))),
    Case("cumsum", [(3, 4)], lambda mb, c, x: mb.cumsum(x=x, axis=1), lambda x: np.cumsum(x, 1), gain=4),
    Case("cumsum_exclusive_reverse", [(3, 4)], lambda mb, c, x: mb.cumsum(x=x, axis=1, exclusive=True, reverse=True),
         lambda x: np.cumsum(x[:, ::-1], 1)[:, ::-1] - x, gain=8),
    # Movement of elements is exact; the tolerance is still that of one rounding.
    Case("reshape_infer", [(2, 3, 4)], lambda mb, c, x: mb.reshape(x=x, shape=[4, -1]), lambda x: x.reshape(4, 6)),
    Case("reshape_zero_keeps", [(2, 3, 4)], lambda mb, c, x: mb.reshape(x=x, shape=[0, -1, 2]), lambda x: x.reshape(2, 6, 2)),
    Case("transpose", [(2, 3, 4)], lambda mb, c, x: mb.transpose(x=x, perm=[2, 0, -2]), lambda x: x.transpose(2, 0, 1)),
    Case("expand_dims", [(2, 3)], lambda mb, c, x: mb.expand_dims(x=x, axes=[0, -1]), lambda x: x[None, :, :, None]),
    Case("squeeze_axes", [(1, 2, 1)], lambda mb, c, x: mb.squeeze(x=x, axes=[-1]), lambda x: x[..., 0]),
    Case("squeeze_all", [(1, 2, 1)], lambda mb, c, x: mb.squeeze(x=x), lambda x: x[0, :, 0]),
    Case("concat", [(2, 3), (2, 2)], lambda mb, c, x, y: mb.concat(values=[x, y], axis=-1),
         lambda x, y: np.concatenate([x, y], 1)),
    Case("concat_interleave", [(2, 3), (2, 3)], lambda mb, c, x, y: mb.concat(values=[x, y], axis=1, interleave=True),
         lambda x, y: np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], x[:, 2], y[:, 2]], 1)),
    Case("stack", [(2, 3), (2, 3)], lambda mb, c, x, y: mb.stack(values=[x, y], axis=1), lambda x, y: np.stack([x, y], 1)),
    Case("split_even", [(2, 6)], lambda mb, c, x: mb.split(x=x, num_splits=3, axis=1)[1], lambda x: x[:, 2:4]),
    Case("split_sizes", [(2, 6)], lambda mb, c, x: mb.split(x=x, split_sizes=[1, 3, 2], axis=-1)[2], lambda x: x[:, 4:]),
    Case("tile", [(2, 3)], lambda mb, c, x: mb.tile(x=x, reps=[2, 3]), lambda x: np.tile(x, (2, 3))),
    Case("slice_masks", [(5, 6, 3)],
         lambda mb, c, x: mb.slice_by_index(x=x, begin=[1, 0, 2], end=[-1, 5, 0], stride=[1, 2, 1],
                                            end_mask=[False, True, False],
                                            begin_mask=[False, True, False], squeeze_mask=[False, False, True]),
         lambda x: x[1:-1, ::2, 2]),
    Case("slice_negative_stride", [(5, 4)],
         lambda mb, c, x: mb.slice_by_index(x=x, begin=[4, 0], end=[1, 4], stride=[-2, 1]), lambda x: x[4:1:-2]),
    Case("slice_by_size", [(5, 6)], lambda mb, c, x: mb.slice_by_size(x=x, begin=[1, 2], size=[3, -1]), lambda x: x[1:4, 2:]),
    Case("gather", [(5, 3)], lambda mb, c, x: mb.gather(x=x, indices=np.int32([[4, 0], [2, 2]]), axis=0),
         lambda x: x[[[4, 0], [2, 2]]]),
    Case("gather_scalar_axis", [(5, 3)], lambda mb, c, x: mb.gather(x=x, indices=np.int32(2), axis=-1), lambda x: x[:, 2]),
    Case("gather_negative_ios16", [(5, 3)], lambda mb, c, x: mb.gather(x=x, indices=np.int32([-1, 0]), axis=0),
         lambda x: x[[-1, 0]], target="iOS16"),
    Case("gather_batch_dims", [(2, 4, 3)],
         lambda mb, c, x: mb.gather(x=x, indices=np.int32([[3, 1], [0, 2]]), axis=1, batch_dims=1),
         lambda x: np.stack([x[0][[3, 1]], x[1][[0, 2]]])),
    Case("gather_along_axis", [(3, 4)],
         lambda mb, c, x: mb.gather_along_axis(x=x, indices=np.int32([[0, 3], [1, 1], [2, 0]]), axis=1),
         lambda x: np.take_along_axis(x, np.array([[0, 3], [1, 1], [2, 0]]), 1)),
    Case("gather_nd", [(3, 4, 2)], lambda mb, c, x: mb.gather_nd(x=x, indices=np.int32([[2, 3], [0, 1]])),
         lambda x: x[[2, 0], [3, 1]]),
    Case("gather_nd_batch", [(2, 4, 3)],
         lambda mb, c, x: mb.gather_nd(x=x, indices=np.int32([[[3], [0]], [[1], [1]]]), batch_dims=1),
         lambda x: np.stack([x[0][[3, 0]], x[1][[1, 1]]])),
    Case("select", [(3, 4), (3, 4)], lambda mb, c, x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=c(np.float64(0.5))),
         lambda x, y: np.where(x > y, x, 0.5)),
    Case("band_part", [(2, 4, 5)], lambda mb, c, x: mb.band_part(x=x, lower=1, upper=2), lambda x: np.triu(np.tril(x, 2), -1)),
    Case("fill", [(2,)], lambda mb, c, x: mb.mul(x=mb.fill(shape=[3, 2], value=c(0.75)), y=x),
         lambda x: np.full((3, 2), 0.75) * x),
    Case("fill_like", [(2, 3)], lambda mb, c, x: mb.fill_like(ref_tensor=x, value=c(0.75)), lambda x: np.full((2, 3), 0.75)),
    Case("pad_constant", [(2, 3, 4)], lambda mb, c, x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="constant", constant_val=c(0.5)),
         lambda x: np.pad(x, ((0, 0), (1, 0), (2, 3)), constant_values=0.5)),
    Case("pad_reflect", [(2, 3, 4)], lambda mb, c, x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="reflect"),
         lambda x: np.pad(x, ((0, 0), (1, 0), (2, 3)), mode="reflect")),
    Case("pad_replicate", [(2, 3, 4)], lambda mb, c, x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="replicate"),
         lambda x: np.pad(x, ((0, 0), (1, 0), (2, 3)), mode="edge")),
    Case("upsample_nearest", [(1, 2, 3, 4)],
         lambda mb, c, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
         lambda x: x.repeat(2, 2).repeat(3, 3)),
    Case("upsample_nearest_fraction", [(1, 2, 4, 5)],
         lambda mb, c, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.5, scale_factor_width=2.0),
         lambda x: F.interpolate(t(x), scale_factor=(1.5, 2.0), mode="nearest")),
    Case("resize_nearest", [(1, 2, 5, 4)],
         lambda mb, c, x: mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=3),
         lambda x: F.interpolate(t(x), size=(8, 3), mode="nearest")),
    Case("upsample_bilinear", [(1, 2, 3, 4)],
         lambda mb, c, x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
         lambda x: F.interpolate(t(x), scale_factor=(2, 3), mode="bilinear"), gain=4),
    Case("upsample_bilinear_aligned", [(1, 2, 3, 4)],
         lambda mb, c, x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True),
         lambda x: F.interpolate(t(x), scale_factor=(2, 3), mode="bilinear", align_corners=True), gain=4),
    Case("resize_bilinear_unaligned", [(1, 2, 5, 4)],
         lambda mb, c, x: mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3, sampling_mode="UNALIGN_CORNERS"),
         lambda x: F.interpolate(t(x), size=(7, 3), mode="bilinear"), gain=4),
    Case("max_pool", [(1, 2, 6, 5)], lambda mb, c, x: mb.max_pool(x=x, kernel_sizes=[2, 3], strides=[2, 1], pad_type="valid"),
         lambda x: F.max_pool2d(t(x), (2, 3), (2, 1))),
    Case("avg_pool", [(1, 2, 6, 5)],
         lambda mb, c, x: mb.avg_pool(x=x, kernel_sizes=[2, 3], strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1],
                                      exclude_padding_from_average=True),
         lambda x: F.avg_pool2d(t(x), (2, 3), (2, 1), padding=(1, 1), count_include_pad=False)),
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """All cases of one dtype and target in one program: coremltools takes 0.4 s to save a program of any size."""

    feeds: dict[str, dict[str, Array]]
    exact: dict[str, Array]
    declared: dict[str, Array]


@pytest.fixture(scope="session")
def batch(open_program: Any) -> Callable[[str, str], Batch]:
    @functools.cache
    def run(dtype: str, target: str) -> Batch:
        cases = [case for case in CASES if case.target == target]
        generator = np.random.default_rng(20240607)
        feeds: dict[str, dict[str, Array]] = {}
        for case in cases:
            shapes = dict(zip("xyz", case.shapes, strict=False))
            feeds[case.name] = {
                name: half(generator.uniform(0.25, 2.0, shape) if case.positive else generator.standard_normal(shape))
                for name, shape in shapes.items()
            }

        def cast(value: Any) -> Any:
            return np.asarray(value).astype(dtype)[()]

        def build(mb: Any, **variables: Any) -> list[Any]:
            return [
                mb.identity(x=case.build(mb, cast, **{name: variables[f"{case.name}_{name}"] for name in feeds[case.name]}),
                            name=f"{case.name}_out")
                for case in cases
            ]  # fmt: skip

        flat = {f"{case}_{name}": value for case, values in feeds.items() for name, value in values.items()}
        program = open_program({name: (value.shape, dtype) for name, value in flat.items()}, build, target)
        exact, declared = program.run(flat, compute="float64"), program.run(flat)
        return Batch(feeds, *({case.name: outputs[f"{case.name}_out"] for case in cases} for outputs in (exact, declared)))

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_against_reference(case: Case, dtype: str, batch: Callable[[str, str], Batch]) -> None:
    results = batch(dtype, case.target)
    reference = np.asarray(case.reference(*results.feeds[case.name].values()), np.float64)
    largest = max(1.0, float(np.abs(reference).max())) * case.gain

    exact = results.exact[case.name]
    assert exact.dtype == np.float64 and exact.shape == reference.shape
    np.testing.assert_allclose(exact, reference, rtol=0, atol=case.terms * 2.0**-53 * largest)

    declared = results.declared[case.name]
    assert declared.dtype == np.dtype(dtype)
    # float32 arithmetic, then half a unit in the last place of fp16: 2**-11 relative, 2**-25 for subnormals.
    tolerance = case.terms * 2.0**-24 * largest + (2.0**-11 * np.abs(reference) + 2.0**-25 if dtype == "float16" else 0)
    assert np.all(np.abs(declared.astype(np.float64) - reference) <= tolerance)


def run_int(open_program: Any, build: Any, target: str = "iOS17", **feeds: Array) -> Array:
    program = open_program({name: (value.shape, str(value.dtype)) for name, value in feeds.items()}, build, target)
    (result,) = program.run(feeds).values()
    return np.asarray(result)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("floor_div", np.floor_divide), ("mod", np.mod),
     ("maximum", np.maximum), ("minimum", np.minimum), ("real_div", lambda x, y: np.trunc(x / y))],
)  # fmt: skip
def test_integer_arithmetic(name: str, reference: Any, open_program: Any) -> None:
    x, y = np.int32([7, -7, 9, -9, 2**24 + 1]), np.int32([2, 2, -4, -4, 1])
    result = run_int(open_program, lambda mb, x, y: getattr(mb, name)(x=x, y=y), x=x, y=y)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, reference(x, y))


@pytest.mark.parametrize(
    ("name", "reference"),
    [("equal", np.equal), ("not_equal", np.not_equal), ("greater", np.greater), ("greater_equal", np.greater_equal),
     ("less", np.less), ("less_equal", np.less_equal)],
)  # fmt: skip
def test_comparisons(name: str, reference: Any, open_program: Any) -> None:
    x, y = np.int32([1, 2, 3]), np.int32([2, 2, 2])
    result = run_int(open_program, lambda mb, x, y: mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="int32"), x=x, y=y)
    np.testing.assert_array_equal(result, reference(x, y))


@pytest.mark.parametrize(
    ("name", "reference"), [("logical_and", np.logical_and), ("logical_or", np.logical_or), ("logical_xor", np.logical_xor)]
)
def test_logic(name: str, reference: Any, open_program: Any) -> None:
    x, y = np.int32([0, 0, 5, 5]), np.int32([0, 1, 0, 1])

    def build(mb: Any, x: Any, y: Any) -> Any:
        result = getattr(mb, name)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool"))
        return mb.cast(x=mb.logical_not(x=result), dtype="int32")

    np.testing.assert_array_equal(run_int(open_program, build, x=x, y=y), ~reference(x, y))


def test_arg_reductions_shape_range_and_cast(open_program: Any) -> None:
    x = np.float32([[1.5, -2.5, 7.9], [3.0, -4.0, 2.0]])

    def build(mb: Any, x: Any) -> Any:
        return (
            mb.reduce_argmax(x=x, axis=1, keep_dims=True),
            mb.reduce_argmin(x=x, axis=0, keep_dims=False),
            mb.shape(x=x),
            mb.range_1d(start=np.int32(7), end=np.int32(-3), step=np.int32(-4)),
            mb.cast(x=x, dtype="int32"),
        )

    program = open_program({"x": (x.shape, "float32")}, build)
    results = list(program.run({"x": x}).values())
    expected = [x.argmax(1)[:, None], x.argmin(0), [2, 3], [7, 3, -1], np.trunc(x)]
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, reference)


def test_rounding_is_half_to_even(open_program: Any) -> None:
    x = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    result = run_int(open_program, lambda mb, x: mb.round(x=x), x=x)
    np.testing.assert_array_equal(result, [-2, -2, 0, 0, 2, 2])


# x = [1, 2, 3, 4], kernel [1, 10(, 100)]: an odd padding element goes after the data, with same_lower before it.
@pytest.mark.parametrize(
    ("pad_type", "kernel", "stride", "expected"),
    [
        ("same", [1, 10], 1, [21, 32, 43, 4]),
        ("same_lower", [1, 10], 1, [10, 21, 32, 43]),
        ("same", [1, 10, 100], 1, [210, 321, 432, 43]),
        ("same", [1, 10, 100], 2, [321, 43]),
        ("same_lower", [1, 10, 100], 2, [210, 432]),
    ],
)
def test_same_padding(pad_type: str, kernel: list[int], stride: int, expected: list[int], open_program: Any) -> None:
    weight = np.float32(kernel)[None, None]
    x = np.float32([[[1, 2, 3, 4]]])
    result = run_int(open_program, lambda mb, x: mb.conv(x=x, weight=weight, strides=[stride], pad_type=pad_type), x=x)
    np.testing.assert_array_equal(result[0, 0], expected)


# Grid points for two inputs [0, 1] from the documentation of resize_bilinear (values there are rounded to two digits).
@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("STRICT_ALIGN_CORNERS", 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("ALIGN_CORNERS", 1, [0.5]),
    ],
)
def test_documented_sampling_grids(mode: str, size: int, expected: list[float], open_program: Any) -> None:
    x = np.float32([[[[0, 1]]]])
    program = open_program(
        {"x": (x.shape, "float32")},
        lambda mb, x: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=size, sampling_mode=mode),
    )
    (result,) = program.run({"x": x}, compute="float64").values()
    np.testing.assert_allclose(result[0, 0, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("strides", "dilations", "groups", "pad", "rows"),
    [((1, 1), (1, 1), 1, (1, 1, 1, 1), 1), ((2, 1), (1, 2), 2, (0, 2, 1, 0), 2), ((3, 2), (2, 1), 1, (2, 1, 0, 0), 3)],
)
def test_large_convolutions_go_by_rows(
    open_program: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    strides: Any,
    dilations: Any,
    groups: int,
    pad: Any,
    rows: int,
) -> None:
    """Against the same convolution at once in torch: sums of 36 terms in another order, 36 * 2^-53 of the terms' size (below 40)."""
    x, weight = R.standard_normal((2, 4, 15, 9)), half(R.standard_normal((6, 4 // groups, 3, 3)))
    program = open_program(
        {"x": (x.shape, "float32")},
        lambda mb, x: mb.conv(
            x=x, weight=weight.astype(np.float32), bias=B6.astype(np.float32), strides=list(strides), dilations=list(dilations),
            groups=groups, pad_type="custom", pad=list(pad),
        ),
    )  # fmt: skip
    width = x.shape[3] + pad[2] + pad[3]
    monkeypatch.setattr(
        "s2p_runtime.hosts.coreml.mil.ops.convolution._UNFOLDED_AT_ONCE", rows * 2 * 4 * 9 * width // strides[1]
    )
    (found,) = program.run({"x": x}, compute="float64").values()
    padded = F.pad(t(x), (pad[2], pad[3], pad[0], pad[1]))
    wanted = F.conv2d(padded, t(weight), t(B6), strides, 0, dilations, groups).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=36 * 2**-53 * 40)
