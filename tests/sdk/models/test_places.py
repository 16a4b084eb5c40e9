"""Hub ids of models that were downloaded before, without any network; and GGUF files."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from s2p_mobile.sources.gguf_file import read_gguf
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.open_source import source_kind
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
Original = Callable[[str], tuple[Model, dict[str, torch.Tensor]]]


@pytest.fixture()
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something went to the network"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def download(folder: Path, hub: Path, name: str) -> None:
    """A model in the cache as huggingface_hub lays it out: each file is a link into ``blobs``."""
    home, revision = hub / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        place = home / "snapshots" / revision / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, home / "blobs" / str(number))
        place.symlink_to(Path(*[".."] * (len(file.relative_to(folder).parts) + 1), "blobs", str(number)))


def test_a_downloaded_model_is_opened_by_its_id(make_model: MakeModel, hub: Path) -> None:
    folder = make_model("sd1")
    download(folder, hub, "some-one/tiny_model.v1")
    assert source_kind("some-one/tiny_model.v1") == "model"
    model = open_model("some-one/tiny_model.v1")
    assert model.name == "tiny_model.v1"
    expected, found = (one.unet.state_dict() for one in (Model(folder), model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # What lies here goes before the hub.
    (hub.parent / "some-one" / "tiny_model.v1").mkdir(parents=True)
    with pytest.raises(S2PError, match="is empty"):
        open_model("some-one/tiny_model.v1")


def test_a_link_out_of_the_cache_is_refused(make_model: MakeModel, hub: Path, tmp_path: Path) -> None:
    download(make_model("sd1"), hub, "some/one")
    (link,) = hub.rglob("vae/*.safetensors")
    (tmp_path / "secret").write_bytes(link.read_bytes())
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(S2PError, match="leads out of the model's folder"):
        open_model("some/one")


@pytest.mark.parametrize("source", ["runwayml/stable-diffusion-v1-5", "out/modle"])
def test_what_was_not_downloaded_is_not_fetched(hub: Path, source: str) -> None:
    for opens in (open_model, source_kind):
        with pytest.raises(S2PError, match=rf"{source} does not exist here.*: hf download {source}$") as caught:
            opens(source)
        assert "\n" not in str(caught.value)
    for path in ("a/b/c", "/a/b", "a b/c", "model.ckpt"):
        with pytest.raises(S2PError, match=f"^{path} does not exist; give a model folder"):
            open_model(path)


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    message = r"is a GGUF file, and the package that reads those is not installed; pip install 's2p-mobile\[gguf\]'"
    with pytest.raises(S2PError, match=message):
        open_model(tmp_path / "a.gguf")


def test_gguf_is_read_as_diffusers_dequantizes_it(original: Original, tmp_path: Path) -> None:
    import gguf

    _, tensors = original("sd1")
    path, quantized = tmp_path / "a.gguf", {}
    writer = gguf.GGUFWriter(path, "sd")
    for name, value in tensors.items():
        numbers = value.numpy()
        if name.startswith("model.") and name.endswith(("attn2.to_k.weight", "ff.net.2.weight")):
            packed = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
            quantized[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, numbers.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert len(quantized) > 4
    read = read_gguf(path)
    for name, value in quantized.items():
        # diffusers multiplies in float16, whose numbers have 11 bits; gguf in float32.
        np.testing.assert_allclose(read[name].float().numpy(), value, rtol=2**-10, atol=0)
    state = open_model(path, PixelSize(16, 16)).unet.state_dict()
    assert torch.equal(state["conv_in.weight"], tensors["model.diffusion_model.input_blocks.0.0.weight"].half().float())
    (tmp_path / "b.gguf").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(S2PError, match="cannot be read as GGUF") as caught:
        open_model(tmp_path / "b.gguf")
    assert "\n" not in str(caught.value)
