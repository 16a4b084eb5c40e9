"""The rules on functions written by hand, where the answer can be told by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_converters.targets.coreml.residency.check import check_function
from s2p_converters.targets.coreml.residency.table import NOT_DOCUMENTED, TABLE, ProgramBytesAbove, read_table, rule_table
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import Constant, Function, NamedType, Operation, TensorType, Weight
from s2p_runtime.hosts.coreml.mil.types import element_type
from s2p_runtime.residency import Finding, ProgramResidency

NUMBERS = {"bool": 1, "fp16": 10, "fp32": 11, "int8": 21, "int16": 22, "int32": 23}
Shape = Sequence[int | None]


def kind(name: str, shape: Shape) -> TensorType:
    return TensorType(element_type(NUMBERS[name]), tuple(shape))


class Maker:
    """Writes a function down, operator by operator."""

    def __init__(self, **inputs: tuple[str, Shape]) -> None:
        self.inputs = [NamedType(name, kind(*declared)) for name, declared in inputs.items()]
        self.constants: dict[str, Weight] = {}
        self.operations: list[Operation] = []

    def constant(self, dtype: str, shape: Shape, value: Any = 0) -> str:
        name = f"c{len(self.constants)}"
        declared = kind(dtype, shape)
        array = np.broadcast_to(np.asarray(value, declared.element.holder), declared.count if shape else 1).reshape(-1)
        held = Constant(declared, array.size * declared.element.bits // 8, lambda: array)
        self.constants[name] = Weight(name, "const", declared, {"val": held})
        return name

    def op(self, operator: str, dtype: str, shape: Shape, **arguments: str | tuple[str, ...]) -> str:
        name = f"{operator}_{len(self.operations)}"
        given = {key: value if isinstance(value, tuple) else (value,) for key, value in arguments.items()}
        self.operations.append(Operation(operator, (NamedType(name, kind(dtype, shape)),), given))
        return name

    def conv(self, x: str, shape: Shape, **more: str) -> str:
        return self.op("conv", "fp16", shape, x=x, weight=self.constant("fp16", (8, 8, 1, 1)), **more)

    def function(self, *results: str) -> Function:
        made = {output.name: output for each in self.operations for output in each.outputs}
        operations = tuple(self.operations)
        outputs = tuple(made[name] for name in results)
        return Function("main", tuple(self.inputs), outputs, self.constants, operations, operations, ())

    def check(self, *results: str) -> ProgramResidency:
        return check_function("unet", self.function(*results), rule_table())


def named(program: ProgramResidency, rule: str) -> list[Finding]:
    return [each for each in program.findings if each.rule == rule]


def places(program: ProgramResidency) -> Mapping[str, tuple[bool | None, str | None]]:
    return {each.name: (each.stays, each.rule) for each in program.placements}


STATE = (2, 64, 1, 256)


def test_a_program_that_stays_whole() -> None:
    made = Maker(sample=("fp16", STATE))
    x = made.conv("sample", STATE)
    x = made.op("silu", "fp16", STATE, x=x)
    program = made.check(made.conv(x, STATE))
    assert [(part.operators, part.first, part.last) for part in program.segments] == [(3, "conv_0", "conv_2")]
    assert program.cuts() == () and program.unknown == () and program.segments_at_most == 1
    assert all(each.stays for each in program.placements)
    # Three results of 2 * 64 * 256 fp16 numbers; 512 bytes a row need no padding.
    assert program.activation_bytes == program.padded_bytes == 3 * 2 * 64 * 256 * 2
    assert program.copied_bytes == program.transfer_bytes == 0
    assert program.weight_bytes == 2 * 64 * 2


def test_a_gather_between_convolutions_cuts() -> None:
    made = Maker(sample=("fp16", STATE))
    x = made.conv("sample", STATE)
    x = made.op("gather", "fp16", STATE, x=x, indices=made.constant("int16", (64,)))
    program = made.check(made.conv(x, STATE))
    (cut,) = program.cuts()
    assert (cut.type, cut.rule, cut.certain, cut.position) == ("gather", "operator:gather", True, "inside")
    assert cut.between_convolutions
    assert [part.operators for part in program.segments] == [1, 1]
    # It reads and writes 64 KiB each.
    assert cut.bytes == program.transfer_bytes == 2 * 65536


def test_the_step_row_is_looked_up_at_the_start_wherever_it_stands() -> None:
    """int32 index, gather on a table [T, L], a slice of the row for a layer: after the first convolution in the text."""
    made = Maker(sample=("fp16", STATE), step=("int32", (1,)))
    x = made.conv("sample", STATE)
    index = made.op("cast", "int16", (1,), x="step")
    row = made.op("gather", "fp16", (1, 128), x=made.constant("fp16", (50, 128)), indices=index)
    part = made.op("slice_by_index", "fp16", (1, 64), x=row)
    column = made.op("reshape", "fp16", (1, 64, 1, 1), x=part)
    x = made.op("mul", "fp16", STATE, x=x, y=column)
    program = made.check(made.conv(x, STATE))
    assert [(each.type, each.rule, each.position) for each in program.cuts()] == [
        ("cast", "wide-integer", "start"),
        ("gather", "operator:gather", "start"),
    ]
    assert not any(each.between_convolutions for each in program.cuts())
    assert len(program.segments) == program.segments_at_most == 1
    # The column's last axis of one number fills 64 bytes: 32 times.
    (padding,) = named(program, "last-axis-one")
    assert (padding.operator, padding.bytes) == (column, 64 * 64 - 64 * 2)


def test_a_look_up_by_a_result_is_no_look_up_of_the_step() -> None:
    made = Maker(sample=("fp16", STATE), step=("int32", (1,)))
    x = made.conv("sample", STATE)
    row = made.op("gather", "fp16", STATE, x=x, indices="step")
    program = made.check(made.conv(row, STATE))
    assert [(each.rule, each.position) for each in program.cuts()] == [("wide-integer", "inside")]


def test_work_on_the_index_that_could_run_on_the_engine_does_not_make_the_look_up_a_cut() -> None:
    made = Maker(sample=("fp16", STATE), step=("int16", (1,)))
    index = made.op("add", "int16", (1,), x="step", y=made.constant("int16", (1,)))
    row = made.op("gather", "fp16", (1, 64), x=made.constant("fp16", (50, 64)), indices=index)
    x = made.op("mul", "fp16", STATE, x="sample", y=row)
    program = made.check(made.conv(x, STATE))
    assert [each.position for each in program.cuts()] == ["start"] and len(program.segments) == 1


def test_words_are_no_start_once_a_product_came() -> None:
    made = Maker(ids=("int16", (1, 64)))
    words = made.op("gather", "fp16", (1, 64, 1, 64), x=made.constant("fp16", (100, 64)), indices="ids")
    x = made.conv(words, (1, 64, 1, 64))
    x = made.op("gather", "fp16", (1, 64, 1, 64), x=x, indices="ids")
    program = made.check(made.conv(x, (1, 64, 1, 64)))
    assert [each.position for each in program.cuts()] == ["start", "inside"] and len(program.segments) == 2


def test_float32_leaves_and_its_ports_cost_a_cast() -> None:
    made = Maker(sample=("fp32", STATE))
    x = made.op("cast", "fp16", STATE, x="sample")
    x = made.conv(x, STATE)
    wide = made.op("cast", "fp32", STATE, x=x)
    wide = made.op("add", "fp32", STATE, x=wide, y=wide)
    x = made.op("cast", "fp16", STATE, x=wide)
    x = made.conv(x, STATE)
    program = made.check(made.op("cast", "fp32", STATE, x=x))
    values = 2 * 64 * 256
    assert [(each.rule, each.position, each.bytes) for each in program.cuts()] == [
        ("interface-cast", "start", values * (4 + 2)),
        ("float32", "inside", values * (2 + 4)),
        ("float32", "inside", values * (4 + 4 + 4)),
        ("float32", "inside", values * (4 + 2)),
        ("interface-cast", "end", values * (2 + 4)),
    ]
    assert [part.operators for part in program.segments] == [1, 1]
    assert sum(each.between_convolutions for each in program.cuts()) == 3


def test_a_float32_literal_leaves_but_a_setting_does_not() -> None:
    made = Maker(sample=("fp16", STATE))
    literal = made.op("mul", "fp16", STATE, x="sample", y=made.constant("fp32", ()))
    factor = made.constant("fp32", (), 2.0)
    bigger = made.op(
        "upsample_nearest_neighbor", "fp16", STATE, x=literal, scale_factor_height=factor, scale_factor_width=factor
    )
    assert places(made.check(bigger)) == {literal: (False, "float32"), bigger: (True, "operator:upsample_nearest_neighbor")}


@pytest.mark.parametrize(
    ("dtype", "stays", "rule"),
    [
        ("fp16", True, "operator:add"),
        ("int8", True, "operator:add"),
        ("int16", True, "operator:add"),
        ("int32", False, "wide-integer"),
        ("fp32", False, "float32"),
        ("bool", None, "other-type"),
    ],
)
def test_element_types(dtype: str, stays: bool | None, rule: str) -> None:
    made = Maker(x=(dtype, STATE))
    assert places(made.check(made.op("add", dtype, STATE, x="x", y="x"))) == {"add_0": (stays, rule)}


def test_six_axes_and_unknown_lengths_leave() -> None:
    five, six = (2, 2, 4, 1, 64), (2, 2, 2, 2, 1, 64)
    made = Maker(x=("fp16", five))
    wide = made.op("reshape", "fp16", six, x="x")
    back = made.op("reshape", "fp16", five, x=wide)
    made.op("relu", "fp16", five, x=back)
    assert [rule for _, rule in places(made.check()).values()] == ["rank", "rank", "operator:relu"]
    made = Maker(x=("fp16", (None, 64)))
    program = made.check(made.op("relu", "fp16", (None, 64), x="x"))
    assert places(program) == {"relu_0": (False, "dynamic-shape")} and program.activation_bytes == 0


@pytest.mark.parametrize(("dtype", "times"), [("fp16", 32), ("int8", 64)])
def test_a_last_axis_of_one_costs_what_apple_says(dtype: str, times: int) -> None:
    made = Maker(x=(dtype, (1, 64, 8, 1)))
    program = made.check(made.op("relu", dtype, (1, 64, 8, 1), x="x"))
    assert program.padded_bytes == times * program.activation_bytes
    assert [each.rule for each in program.findings] == ["last-axis-one"]


def test_padding_to_64_bytes() -> None:
    made = Maker(x=("fp16", (10, 77)))
    program = made.check(made.op("relu", "fp16", (10, 77), x="x"))
    # 154 bytes a row become 192.
    assert (program.activation_bytes, program.padded_bytes) == (1540, 1920)
    assert {each.rule: each.bytes for each in program.findings} == {"last-axis": 380, "last-axis-power": 0}


@pytest.mark.parametrize(
    ("shape", "perm", "copies"),
    [
        ((2, 64, 256), None, True),
        ((2, 8, 8, 16, 16), None, False),
        ((2, 16, 16, 64), (0, 2, 3, 1), True),
        ((64, 2, 16, 16), (1, 0, 2, 3), False),
    ],
)
def test_what_touches_the_last_axis_is_written_anew(shape: Shape, perm: Sequence[int] | None, copies: bool) -> None:
    made = Maker(x=("fp16", (2, 64, 16, 16)))
    more = {} if perm is None else {"perm": made.constant("int32", (len(perm),), perm)}
    program = made.check(made.op("reshape" if perm is None else "transpose", "fp16", shape, x="x", **more))
    assert program.copied_bytes == (2 * 2 * 64 * 256 * 2 if copies else 0)


def test_an_operator_that_nobody_knows_is_neither_counted_as_staying_nor_as_leaving() -> None:
    made = Maker(sample=("fp16", STATE))
    x = made.conv("sample", STATE)
    x = made.op("fold_and_mutilate", "fp16", STATE, x=x)
    program = made.check(made.conv(x, STATE))
    assert [(each.type, each.stays, each.rule) for each in program.unknown] == [("fold_and_mutilate", None, None)]
    assert (len(program.segments), program.segments_at_most) == (1, 2) and program.cuts() == ()


def test_what_the_sources_leave_open() -> None:
    made = Maker(sample=("fp16", (2, 256, 64)))
    x = made.op("linear", "fp16", (2, 256, 64), x="sample", weight=made.constant("fp16", (64, 64)))
    x = made.op("relu", "fp16", (2, 256, 64), x=x)
    x = made.op("linear", "fp16", (2, 256, 64), x=x, weight=made.constant("fp16", (64, 64)))
    program = made.check(made.op("relu", "fp16", (2, 256, 64), x=x))
    assert [(each.certain, each.position) for each in program.cuts()] == [(False, "start"), (False, "inside")]
    assert (len(program.segments), program.segments_at_most) == (1, 2)
    assert places(program)["linear_0"] == (None, "operator:linear")


def test_remarks() -> None:
    made = Maker(x=("fp16", (2, 8, 2048, 2048)), y=("fp16", (2, 64, 1, 256)))
    scores = made.op("matmul", "fp16", (2, 8, 2048, 2048), x="x", y="x")
    made.op("softmax", "fp16", (2, 8, 2048, 2048), x=scores, axis=made.constant("int32", (), -1))
    made.op("softmax", "fp16", STATE, x="y", axis=made.constant("int32", (), -3))
    made.op("layer_norm", "fp16", STATE, x="y", axes=made.constant("int32", (1,), 1))
    made.op("layer_norm", "fp16", STATE, x="y", axes=made.constant("int32", (1,), -1))
    made.conv("y", STATE, strides=made.constant("int32", (2,), 4), dilations=made.constant("int32", (2,), 1))
    program = made.check()
    found = {
        rule: [each.operator for each in named(program, rule)] for rule in sorted({each.rule for each in program.findings})
    }
    assert found == {
        "heads-together": ["matmul_0"],
        "large-stride": ["conv_5"],
        "large-value": ["matmul_0", "softmax_1"],
        "norm-axis": ["layer_norm_4"],
        "softmax-axis": ["softmax_1"],
    }


def test_a_program_that_is_too_large() -> None:
    table = rule_table()
    (large,) = (each for each in table.rules if isinstance(each.test, ProgramBytesAbove))
    smaller = large.model_copy(update={"test": large.test.model_copy(update={"limit": 256})})
    made = Maker(sample=("fp16", STATE))
    function = made.function(made.conv(made.conv("sample", STATE), STATE))
    assert [each.rule for each in check_function("unet", function, table).findings] == []
    program = check_function("unet", function, table.model_copy(update={"rules": (smaller,)}))
    assert [(each.operator, each.rule) for each in program.findings] == [("unet", "large-program")]


def test_findings_from_devices_can_mend_the_table(tmp_path: Path) -> None:
    document = json.loads(TABLE.read_text(encoding="utf-8"))
    document["sources"]["phone"] = {"title": "a report", "address": "report.json"}
    document["operators"]["linear"] = {"stays": True, "sources": ["phone"]}
    (tmp_path / "rules.json").write_text(json.dumps(document))
    table = read_table(tmp_path / "rules.json")
    made = Maker(x=("fp16", (2, 64)))
    function = made.function(made.op("linear", "fp16", (2, 64), x="x", weight=made.constant("fp16", (64, 64))))
    assert check_function("unet", function, table).placements[0].stays is True
    assert table.rule("operator:linear").source == "a report, report.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["operators"]["conv"].update(sources=["nobody"]), "conv names the source nobody, which is not listed"),
        (lambda d: d["rules"][0]["test"].update(kind="taste"), "rules.0.test"),
        (lambda d: d["rules"][1].update(id=d["rules"][0]["id"]), "two rules have the same id"),
        (lambda d: d["operators"]["conv"].pop("sources"), "operators.conv.sources"),
    ],
)
def test_a_wrong_table_is_named(change: Any, words: str, tmp_path: Path) -> None:
    document = json.loads(TABLE.read_text(encoding="utf-8"))
    change(document)
    (tmp_path / "rules.json").write_text(json.dumps(document))
    with pytest.raises(S2PError, match=words):
        read_table(tmp_path / "rules.json")


def test_every_rule_and_operator_cites_or_says_that_nothing_is_documented() -> None:
    table = rule_table()
    assert all(rule.sources for rule in table.rules)
    for name, known in table.operators.items():
        cited = table.rule(f"operator:{name}").source
        assert ("https://" in cited) if known.sources else cited == NOT_DOCUMENTED
    assert all(source.address.startswith("https://") for source in table.sources.values())
