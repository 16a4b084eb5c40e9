"""Tensor files: the same bytes for the same arrays, one line for a bad file."""

from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_folder
from s2p_runtime.tensors import TensorFile, read_tensors, write_tensors

ARRAYS = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([-128, 127], np.int8),
    "half": np.array([1.5, np.inf, np.nan], np.float16),
    "scalar": np.array(2.5, np.float64),
    "empty": np.zeros((0, 4), np.int32),
    "flag": np.array([True, False]),
    "wide": np.array([2**63 - 1], np.int64),
}


@pytest.mark.parametrize("name", list(ARRAYS))
def test_torch_reads_what_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, ARRAYS)
    tensor = safetensors.torch.load_file(path)[name]
    assert tuple(tensor.shape) == ARRAYS[name].shape and tensor.numpy().dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(tensor.numpy(), ARRAYS[name])


def test_reads_what_torch_wrote(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"b": torch.arange(5, dtype=torch.int16), "a": torch.randn(2, 3, generator=torch.Generator().manual_seed(0))}
    safetensors.torch.save_file(tensors, path)
    found = read_tensors(path)
    assert list(found) == ["a", "b"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        found[name] += 1  # writable, and not the file's memory


def test_bytes_do_not_depend_on_order_layout_or_endianness(tmp_path: Path) -> None:
    straight, turned = tmp_path / "1", tmp_path / "2"
    write_tensors(straight, ARRAYS)
    other: dict[str, Any] = {name: ARRAYS[name] for name in reversed(ARRAYS)}
    other["z"] = np.asfortranarray(ARRAYS["z"]).astype(">f4")
    other["wide"] = np.stack([ARRAYS["wide"], ARRAYS["wide"]], axis=1)[:, 0]
    write_tensors(turned, other)
    assert straight.read_bytes() == turned.read_bytes()


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j]), np.array([None])])
def test_dtypes_that_do_not_fit(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(S2PError, match="dtype"):
        write_tensors(tmp_path / "x", {"x": array})
    assert not (tmp_path / "x").exists()


def header(document: Any) -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4,
        b"not a tensor file at all",
        struct.pack("<Q", 2**60) + b"{}",
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}) + b"\0" * 15,
        header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}) + b"\0" * 16,
        header({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}) + b"\0" * 16,
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-4, 12]}}) + b"\0" * 16,
        header([]),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(S2PError, match=r"x\.safetensors is not a complete safetensors file") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(3, dtype=np.float32)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(S2PError, match="complete"):
            read_tensors(path)


def test_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="does not exist"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(S2PError, match="cannot read"):
        read_tensors(tmp_path)


def test_a_full_disk_is_enospc_and_reported_by_the_folder(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError) as caught:
        write_tensors(Path("/dev/full"), ARRAYS)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(S2PError, match="no space left"), atomic_folder(tmp_path / "out") as scratch:
        (scratch / "x.safetensors").symlink_to("/dev/full")
        write_tensors(scratch / "x.safetensors", ARRAYS)


def test_bytes_are_those_of_safetensors_own_writer(tmp_path: Path) -> None:
    kinds = ["u8", "i8", "f8", "f4", "u4", "i4", "f2", "u2", "i2", "i1", "u1", "?"]
    arrays = {f'{name} of {kind} "é': np.arange(3).astype(kind) for kind in kinds for name in ("b", "a")} | ARRAYS
    write_tensors(tmp_path / "x", arrays)
    assert (tmp_path / "x").read_bytes() == safetensors.numpy.save({name: arrays[name] for name in sorted(arrays)})


def test_a_tensor_file_reads_each_tensor_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    large = np.random.default_rng(0).standard_normal((8, 1 << 17)).astype(np.float32)
    write_tensors(path, {str(place): row for place, row in enumerate(large)} | ARRAYS)
    tracemalloc.start()
    found = TensorFile(path)
    sums = [float(found[str(place)].sum()) for place in range(8)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A tensor and the bytes that it was read from; not eight tensors.
    assert peak < 3 * large[0].nbytes
    assert sums == [float(row.sum()) for row in large]
    assert list(found) == sorted([*ARRAYS, *map(str, range(8))]) and "none" not in found
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(KeyError):
        found["none"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(S2PError, match="not a complete safetensors file"):
        TensorFile(path)
    with pytest.raises(S2PError, match="does not exist"):
        TensorFile(tmp_path / "none")
