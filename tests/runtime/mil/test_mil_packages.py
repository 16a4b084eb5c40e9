"""Packages as they should not be: every defect is one S2PError that names it. And what a sound package says of itself."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import load_program

MATRIX = np.arange(64, dtype=np.float32).reshape(8, 8)
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def sound(save_package: Any) -> Path:
    def build(mb: Any, x: Any, i: Any) -> Any:
        return mb.linear(x=x, weight=MATRIX), mb.add(x=i, y=np.int32(1))

    path: Path = save_package({"x": ((2, 8), "float32"), "i": ((1,), "int32")}, build)
    return path


@pytest.fixture
def package(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy.mlpackage"))


def feeds() -> dict[str, Any]:
    return {"x": np.ones((2, 8), np.float32), "i": np.int32([1])}


def edit_model(package: Path, change: Callable[[Any], None]) -> None:
    from s2p_runtime.hosts.coreml.mil.schema import new_model

    model = new_model()
    model.ParseFromString((package / MODEL).read_bytes())
    change(next(iter(model.mlProgram.functions["main"].block_specializations.values())))
    (package / MODEL).write_bytes(model.SerializeToString())


def test_description(sound: Path) -> None:
    program = load_program(str(sound))
    assert [(item.name, str(item.type)) for item in program.inputs] == [("x", "fp32[2, 8]"), ("i", "int32[1]")]
    assert [str(item.type) for item in program.outputs] == ["fp32[2, 8]", "int32[1]"]
    assert program.functions == ("main",)
    counts = program.operation_counts()
    assert (counts["linear"], counts["add"]) == (1, 1) and counts["const"] >= 2


def test_values_are_dropped_after_their_last_use(open_program: Any) -> None:
    def build(mb: Any, x: Any) -> Any:
        a = mb.relu(x=x, name="a")
        b = mb.exp(x=a, name="b")
        mb.tanh(x=b, name="unused")
        return mb.add(x=a, y=b, name="c")

    function = open_program({"x": ((3,), "float32")}, build).function()
    order = {operation.kind: index for index, operation in enumerate(function.operations)}
    assert "x" in function.last_use[order["relu"]]
    assert set(function.last_use[order["add"]]) == {"a", "b"}
    assert not any("c" in names for names in function.last_use)


@pytest.mark.parametrize("reach", [0, 10, 63, 64, 100, 128, 128 + 255])
def test_truncated_weights(package: Path, reach: int) -> None:
    """64 bytes of header, 64 of metadata, 256 of data."""
    raw = (package / WEIGHTS).read_bytes()
    assert len(raw) >= 128 + 256
    (package / WEIGHTS).write_bytes(raw[:reach])
    with pytest.raises(S2PError, match=r"weight\.bin is damaged"):
        load_program(package).run(feeds())


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (4, "<I", 3),  # version
        (64, "<I", 0),  # sentinel
        (68, "<I", 1),  # fp16 instead of fp32
        (72, "<Q", 252),  # bytes
        (80, "<Q", 1 << 40),  # data beyond the file
        (80, "<Q", 0),  # data inside the header
        (80, "<Q", (1 << 64) - 8),  # would wrap in 64 bits
        (88, "<Q", 4),  # padding bits
    ],
)
def test_contradictory_blob_records(package: Path, offset: int, form: str, value: int) -> None:
    raw = bytearray((package / WEIGHTS).read_bytes())
    struct.pack_into(form, raw, offset, value)
    (package / WEIGHTS).write_bytes(raw)
    with pytest.raises(S2PError, match=r"weight\.bin is damaged"):
        load_program(package).run(feeds())


def blob_value(block: Any) -> Any:
    return next(o.attributes["val"] for o in block.operations if o.attributes["val"].WhichOneof("value") == "blobFileValue")


@pytest.mark.parametrize("offset", [0, 65, 1 << 30, (1 << 64) - 1])
def test_blob_offset_that_points_nowhere(package: Path, offset: int) -> None:
    edit_model(package, lambda block: setattr(blob_value(block).blobFileValue, "offset", offset))
    with pytest.raises(S2PError, match=r"weight\.bin is damaged"):
        load_program(package).run(feeds())


@pytest.mark.parametrize("name", ["@model_path/../../../secret", "/etc/passwd", "@model_path/"])
def test_blob_file_outside_the_package(package: Path, name: str) -> None:
    edit_model(package, lambda block: setattr(blob_value(block).blobFileValue, "fileName", name))
    with pytest.raises(S2PError):
        load_program(package).run(feeds())


def test_missing_files(package: Path, tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="not a folder"):
        load_program(tmp_path / "absent.mlpackage")
    (package / WEIGHTS).unlink()
    with pytest.raises(S2PError, match=r"cannot read .*weight\.bin"):
        load_program(package).run(feeds())
    (package / MODEL).unlink()
    with pytest.raises(S2PError, match=r"cannot read .*model\.mlmodel"):
        load_program(package)
    (package / "Manifest.json").unlink()
    with pytest.raises(S2PError, match=r"Manifest\.json"):
        load_program(package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rootModelIdentifier": 3, "itemInfoEntries": []}'])
def test_damaged_manifest(package: Path, text: str) -> None:
    (package / "Manifest.json").write_text(text)
    with pytest.raises(S2PError, match=r"Manifest\.json"):
        load_program(package)


def test_manifest_that_leaves_the_package(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../outside"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(S2PError, match="outside its folder"):
        load_program(package)


@pytest.mark.parametrize("raw", [b"\xff" * 40, b"", b"not a model"])
def test_damaged_model(package: Path, raw: bytes) -> None:
    (package / MODEL).write_bytes(raw)
    with pytest.raises(S2PError):
        load_program(package)


def test_truncated_model_never_escapes_as_another_error(package: Path) -> None:
    raw = (package / MODEL).read_bytes()
    for length in range(0, len(raw), max(1, len(raw) // 60)):
        (package / MODEL).write_bytes(raw[:length])
        with pytest.raises(S2PError):
            load_program(package).run(feeds())


def test_unknown_operation_is_named_with_its_output(package: Path) -> None:
    def rename(block: Any) -> None:
        operation = next(o for o in block.operations if o.type == "linear")
        operation.type, operation.outputs[0].name = "warp_drive", "engaged"
        block.outputs[0] = "engaged"

    edit_model(package, rename)
    program = load_program(package)
    assert program.operation_counts()["warp_drive"] == 1
    with pytest.raises(S2PError, match=r"operation warp_drive \(output engaged\) is not known.*; convert"):
        program.run(feeds())


def test_result_of_another_shape_than_declared(package: Path) -> None:
    def lie(block: Any) -> None:
        output = next(o for o in block.operations if o.type == "linear").outputs[0]
        output.type.tensorType.dimensions[1].constant.size = 9

    edit_model(package, lie)
    with pytest.raises(S2PError, match=r"linear .* gave shape \(2, 8\), the program declares fp32\[2, 9\]"):
        load_program(package).run(feeds())


def test_name_that_nothing_defines(package: Path) -> None:
    def cut(block: Any) -> None:
        next(o for o in block.operations if o.type == "linear").inputs["x"].arguments[0].name = "ghost"

    edit_model(package, cut)
    with pytest.raises(S2PError, match="ghost, which nothing defines"):
        load_program(package)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "needs input 'x'"),
        ({"y": np.zeros(1)}, "no input 'y'; its inputs are x, i"),
        ({"x": np.zeros((2, 9), np.float32)}, r"shape \(2, 9\), declared fp32\[2, 8\]"),
        ({"x": np.zeros((2, 8), np.int32)}, "dtype int32"),
        ({"i": np.float32([1])}, "dtype float32"),
        ({"i": np.int64([2**31])}, "outside int32"),
    ],
)
def test_wrong_inputs(change: dict[str, Any], message: str, sound: Path) -> None:
    given = {name: value for name, value in (feeds() | change).items() if value is not None}
    with pytest.raises(S2PError, match=message):
        load_program(sound).run(given)


def test_wrong_function_and_arithmetic(sound: Path) -> None:
    with pytest.raises(S2PError, match="no function other; it has main"):
        load_program(sound).run(feeds(), function="other")
    with pytest.raises(S2PError, match="unknown arithmetic"):
        load_program(sound).run(feeds(), compute="bfloat16")  # type: ignore[arg-type]


def test_inputs_take_wider_dtypes(sound: Path) -> None:
    x = np.full((2, 8), 1 + 2.0**-40)
    declared, _ = load_program(sound).run({"x": x, "i": np.int64([5])}).values()
    exact, count = load_program(sound).run({"x": x, "i": np.int64([5])}, compute="float64").values()
    np.testing.assert_array_equal(declared, np.ones((2, 8)) @ MATRIX.T)  # 2**-40 is lost in float32
    np.testing.assert_allclose(exact, x @ MATRIX.T, rtol=2.0**-50)
    assert (declared.dtype, exact.dtype, count.dtype, count[0]) == (np.float32, np.float64, np.int32, 6)


def test_gather_out_of_bounds_is_an_error(open_program: Any) -> None:
    program = open_program(
        {"x": ((4, 2), "float32"), "i": ((1,), "int32")},
        lambda mb, x, i: mb.gather(x=x, indices=i, axis=0, validate_indices=False),
    )
    x = np.zeros((4, 2), np.float32)
    for index in (4, -1):  # iOS 17 counts negative indices as out of bounds
        with pytest.raises(S2PError, match=r"gather .* out of bounds"):
            program.run({"x": x, "i": np.int32([index])})


def test_reading_is_silent_without_coremltools_and_shares_its_classes(sound: Path) -> None:
    script = (
        "import sys, numpy as np; from s2p_runtime.hosts.coreml.mil import load_program; "
        f"program = load_program({str(sound)!r}); "
        "program.run({'x': np.ones((2, 8), np.float32), 'i': np.int32([1])}); "
        "assert 'coremltools' not in sys.modules; "
        "from s2p_runtime.quiet import quiet_import\n"
        "with quiet_import():\n    import coremltools.proto.Model_pb2 as own\n"
        "from s2p_runtime.hosts.coreml.mil.schema import new_model\n"
        "assert type(new_model()) is own.Model"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_several_functions(save_package: Any, tmp_path: Path) -> None:
    from s2p_runtime.quiet import quiet_import

    with quiet_import():
        import coremltools as ct
    paths = [
        save_package(
            {"x": ((4,), "float32")}, lambda mb, x, k=k: mb.mul(x=x, y=np.arange(16, dtype=np.float32)[k : k + 4]), "iOS18"
        )
        for k in (1, 2)
    ]
    description = ct.utils.MultiFunctionDescriptor()
    for name, path in zip(("first", "second"), paths, strict=True):
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "first"
    with quiet_import():
        ct.utils.save_multifunction(description, str(tmp_path / "both.mlpackage"))
    program = load_program(tmp_path / "both.mlpackage")
    assert program.functions == ("first", "second")
    for k, name in ((1, "first"), (2, "second")):
        (result,) = program.run({"x": np.ones(4, np.float32)}, function=name).values()
        np.testing.assert_array_equal(result, np.arange(k, k + 4))
