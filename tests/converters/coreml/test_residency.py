"""Programs that coremltools writes, held against the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.residency.check import check_function
from s2p_converters.targets.coreml.residency.table import rule_table
from s2p_converters.targets.coreml.workload import function_workload
from s2p_mobile.quantize.workload import checkpoint_workload
from s2p_mobile.sources.model import Model
from s2p_runtime.hosts.coreml.mil.package import read_package
from s2p_runtime.quiet import quiet_import
from s2p_runtime.residency import ProgramResidency

C, S, K, HEADS, ROWS = 64, 256, 64, 2, 4
"""Channels, positions, words, heads and steps of the small program."""


def split_attention(mb: Any, queries: Any, keys: Any, values: Any) -> Any:
    """Attention head by head over [B, C, 1, S], scores [B, K, 1, S], softmax over the channel axis."""
    keys = mb.transpose(x=keys, perm=[0, 3, 2, 1])
    parts = zip(
        mb.split(x=queries, num_splits=HEADS, axis=1),
        mb.split(x=keys, num_splits=HEADS, axis=3),
        mb.split(x=values, num_splits=HEADS, axis=1),
        strict=True,
    )
    results = []
    for q, k, v in parts:
        scores = mb.softmax(x=mb.einsum(values=(k, q), equation="nchw,nwhu->nchu"), axis=1)
        results.append(mb.einsum(values=(v, scores), equation="nchw,nwhu->nchu"))
    return mb.concat(values=results, axis=1)


def transformer(mb: Any, sample: Any, step: Any, text: Any) -> Any:
    """A transformer block as the Neural Engine likes it, between two convolutions, its scales from a table by the step."""
    random = np.random.default_rng(0)

    def conv(x: Any, columns: int = C) -> Any:
        return mb.conv(x=x, weight=random.standard_normal((C, columns, 1, 1)).astype(np.float16))

    row = mb.gather(x=random.standard_normal((ROWS, 2 * C)).astype(np.float16), indices=step, axis=0)
    scale = mb.reshape(x=mb.slice_by_size(x=row, begin=[0, 0], size=[1, C]), shape=[1, C, 1, 1])
    words = mb.cast(x=text, dtype="fp16")
    x = conv(mb.cast(x=sample, dtype="fp16"))
    y = mb.layer_norm(x=x, axes=[1], gamma=np.ones(C, np.float16), beta=np.zeros(C, np.float16), epsilon=np.float16(1e-5))
    y = mb.mul(x=y, y=scale)
    y = mb.quantize(input=y, scale=np.float16(2**-7), output_dtype="int8")
    y = mb.dequantize(input=y, scale=np.float16(2**-7))
    y = split_attention(mb, conv(y), conv(words), conv(words))
    return mb.cast(x=conv(mb.add(x=x, y=y)), dtype="fp32", name="noise")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProgramResidency, Path, Counter[str]]:
    """The check of :func:`transformer`, its package, and its operators as coremltools counts them."""
    with quiet_import():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Program, types

        inputs = {
            "sample": mb.placeholder(shape=(2, C, 1, S), dtype=types.fp32),
            "step": mb.placeholder(shape=(1,), dtype=types.int32),
            "text": mb.placeholder(shape=(2, C, 1, K), dtype=types.fp32),
        }
        made = Program()
        with Function(inputs, opset_version=ct.target.iOS17) as function:
            function.set_outputs([transformer(mb, **function.inputs)])
            made.add_function("main", function)
        model = ct.convert(
            made,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        path = tmp_path_factory.mktemp("programs") / "block.mlpackage"
        model.save(str(path))
        counted = Counter(each.op_type for each in made.functions["main"].operations if each.op_type != "const")
    (function,) = read_package(path).values()
    return check_function("unet", function, rule_table()), path, counted


def test_the_form_for_the_engine_is_not_cut(program: tuple[ProgramResidency, Path, Counter[str]]) -> None:
    found, _, counted = program
    assert Counter(each.type for each in found.placements) == counted
    assert found.unknown == () and found.cuts(certain=False) == ()
    assert {(each.type, each.rule, each.position) for each in found.cuts()} == {
        ("gather", "wide-integer", "start"),
        ("cast", "interface-cast", "start"),
        ("cast", "interface-cast", "end"),
    }
    assert not any(each.between_convolutions for each in found.cuts())
    assert len(found.segments) == found.segments_at_most == 1
    # What its ports cost: fp32 in and fp16 out of sample and text, and the result the other way.
    numbers = 2 * C * S + 2 * C * K + 2 * C * S
    assert sum(each.bytes for each in found.cuts() if each.rule == "interface-cast") == 6 * numbers
    # The keys are turned once, 2 bytes read and 2 written of each; the step's row is a few bytes.
    copied = {each.type: each.bytes for each in found.findings if each.rule == "moves-last-axis"}
    assert copied == {"transpose": 4 * 2 * C * K, "reshape": 4 * C}
    notes = {each.rule for each in found.findings if each.effect == "note"}
    assert notes == set()


def test_its_operations(program: tuple[ProgramResidency, Path, Counter[str]]) -> None:
    (function,) = read_package(program[1]).values()
    work = function_workload("unet", function, 3, unet=True)
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        sample, text, weight = torch.empty(2, C, 1, S), torch.empty(2, C, 1, K), torch.empty(C, C, 1, 1)
        q, k, v = (torch.conv2d(x, weight) for x in (sample, text, text))
        for each in range(HEADS):
            cut = slice(each * C // HEADS, (each + 1) * C // HEADS)
            scores = torch.einsum("bchq,bchk->bkhq", q[:, cut], k[:, cut])
            torch.einsum("bkhq,bchk->bchq", scores, v[:, cut])
        torch.conv2d(torch.conv2d(sample, weight), weight)
    assert work.operations == work.float_operations == counter.get_total_flops()
    assert (work.batch, work.runs, work.unet) == (2, 3, True)


def test_operations_of_an_emitted_program_are_those_of_diffusers(
    converted: Callable[..., Path], checkpoint: Checkpoint, small_model: Model
) -> None:
    """Torch counts the source network; its time path is a table in the program."""
    import torch
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    (function,) = read_package(converted()).values()
    shapes = {value.name: value.type.shape for value in function.inputs}
    unet = UNet2DConditionModel.from_pretrained(small_model.folder / "unet").to("meta")
    # Without numbers: torch does not count the attention kernel that it has for processors.
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(torch.empty(shapes["sample"]), torch.zeros(2), torch.empty(shapes["encoder_hidden_states"]))
    found = counter.get_flop_counts()
    time = sum(sum(each.values()) for name, each in found.items() if name.endswith((".time_embedding", ".time_emb_proj")))
    work = function_workload("unet", function, 1, unet=True)
    assert work.operations == counter.get_total_flops() - time
    # The checkpoint's layers, counted without a program: one byte of each rounded input, two of everything else.
    counted = checkpoint_workload(checkpoint)
    assert (work.operations, work.activation_bytes, work.batch) == (counted.operations, counted.activation_bytes, counted.batch)
    assert work.integer_operations + work.palette_operations == counted.integer_operations
    # Layers of at most 6 bits rest as palettes, those of 8 as integers; the first and last, and attention, are in float.
    assert min(work.integer_operations, work.palette_operations, work.float_operations) > 0


@pytest.mark.parametrize("settings", [{}, {"minimum_os": "iOS18"}, {"attention": "split"}, {"activations": "float16"}], ids=str)
def test_the_emitted_form_for_the_engine_is_not_cut(converted: Callable[..., Path], settings: dict[str, str]) -> None:
    (function,) = read_package(converted(**settings)).values()
    found = check_function("unet", function, rule_table())
    assert found.unknown == () and found.cuts(certain=False) == ()
    assert len(found.segments) == found.segments_at_most == 1
    assert {each.position for each in found.cuts()} == {"start", "end"}
    assert not any(each.between_convolutions for each in found.cuts())


def test_the_form_for_the_gpu(converted: Callable[..., Path]) -> None:
    """[B, N, C] with linear layers: nothing cuts for sure, but every linear layer may."""
    (function,) = read_package(converted(compute_unit="gpu")).values()
    found = check_function("unet", function, rule_table())
    kinds = Counter(each.type for each in found.placements)
    assert found.cuts(certain=True, position="inside") == () and found.unknown == ()
    assert Counter(each.type for each in found.cuts(certain=False)) == {"linear": kinds["linear"]}
    assert all(each.between_convolutions for each in found.cuts(certain=False))
    assert len(found.segments) == 1 and found.segments_at_most > 5
    copies = Counter(each.type for each in found.findings if each.effect == "copy")
    # Each of the transformers turns its state twice, and splits and joins heads besides.
    assert copies["transpose"] >= 2 and copies["reshape"] >= kinds["softmax"] * 3
    assert {each.rule for each in found.findings} >= {"heads-together", "softmax-axis", "norm-axis"}


def test_a_float32_program_leaves_whole(converted: Callable[..., Path]) -> None:
    (function,) = read_package(converted(precision="fp32")).values()
    found = check_function("unet", function, rule_table())
    assert found.segments == () and not any(each.stays for each in found.placements)
    # But for the index, everything leaves because of float32.
    others = Counter(each.rule for each in found.placements if each.rule != "float32")
    assert set(others) <= {"wide-integer"} and sum(others.values()) < 10
