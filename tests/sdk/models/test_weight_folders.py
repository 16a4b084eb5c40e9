"""Weight files of a model folder: heads that lie, links and shards that lead out, variants, keys that nothing takes."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.variants import weights_variant
from s2p_converters.targets.float_modules import decoder_module
from s2p_mobile.cli.app import run
from s2p_mobile.sources.modules import read_json
from s2p_mobile.sources.opening import open_model
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
VAE = "vae/diffusion_pytorch_model.safetensors"


def head(entries: object, data: int = 8, length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def entry(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


LIES = {
    "length": head(b"{}", length=1 << 60),
    "limit": head(b"{}", length=100_000_001),
    "beyond": head({"a": entry([4], 0, 16)}),
    "overlap": head({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, data=12),
    "product": head({"a": entry([3], 0, 8)}),
    "overflow": head({"a": entry([1 << 62, 1 << 62], 0, 8)}),
    "hole": head({"a": entry([1], 4, 8)}),
    "nested": head(b"[" * 100_000),
    "type": head({"a": "x"}),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_head_that_lies_is_one_line(make_model: MakeModel, tmp_path: Path, kind: str) -> None:
    folder = make_model("sd1")
    (folder / VAE).write_bytes(LIES[kind])
    (tmp_path / "single.safetensors").write_bytes(LIES[kind])
    for path in (folder, tmp_path / "single.safetensors"):
        with pytest.raises(S2PError, match=r"cannot be read as safetensors") as caught:
            open_model(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../secret.safetensors", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("..\\secret.safetensors", "leads out of the folder"),
        ("C:secret.safetensors", "leads out of the folder"),
        ("unet/x.safetensors", "leads out of the folder"),
        ("diffusion_pytorch_model-00003-of-00002.safetensors", "lacks diffusion_pytorch_model-00003"),
        (None, "is no index of shards"),
    ],
)
def test_an_index_names_files_of_its_folder(make_model: MakeModel, name: str | None, words: str) -> None:
    folder = make_model("sd1")
    index = {"weight_map": {"a": name}} if name else []
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(S2PError, match=words):
        open_model(folder)


def test_links_out_of_the_folder_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("sd1")
    outside = Path(shutil.move(folder / VAE, tmp_path / "elsewhere"))
    (folder / VAE).symlink_to(outside)
    with pytest.raises(S2PError, match=r"is a link that leads out of the model's folder, to .*elsewhere"):
        open_model(folder)
    (folder / VAE).unlink()
    # Within the folder, and to the folder, links are fine.
    shutil.move(outside, folder / "weights")
    (folder / VAE).symlink_to(folder / "weights")
    (tmp_path / "link").symlink_to(folder)
    assert open_model(tmp_path / "link").vae is not None
    shutil.move(folder / "vae", tmp_path / "other")
    (folder / "vae").symlink_to(tmp_path / "other")
    with pytest.raises(S2PError, match="vae is a link that leads out"):
        open_model(folder)


def test_keys_that_a_module_does_not_take(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    state = load_file(folder / VAE)
    save_file(state | {"decoder.extra.weight": torch.zeros(1), "decoder.extra.bias": torch.zeros(1)}, folder / VAE)
    with pytest.raises(S2PError, match=r"vae has decoder\.extra\.bias and 1 more weights, which a AutoencoderKL of its config"):
        _ = open_model(folder).vae
    text = folder / "text_encoder" / "model.safetensors"
    unused = {"text_model.embeddings.position_ids": torch.arange(16)[None], "logit_scale": torch.zeros(1)}
    save_file(load_file(text) | unused, text, metadata={"format": "pt"})
    assert open_model(folder).conditioner.text_encoder is not None
    save_file(load_file(text) | {"encoder.layers.3.mlp.fc1.bias": torch.zeros(128)}, text, metadata={"format": "pt"})
    with pytest.raises(S2PError, match=r"has encoder\.layers\.3\.mlp\.fc1\.bias, which a CLIPTextModel"):
        _ = open_model(folder).conditioner.text_encoder


def test_attention_under_its_older_names(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    expected = AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = dict(load_file(folder / VAE))
    for key in list(old):
        for new, name in names.items():
            if "attentions" in key and f".{new}." in key:
                old[key.replace(f".{new}.", f".{name}.")] = old.pop(key)
    save_file(old, folder / VAE, metadata={"format": "pt"})
    found = open_model(folder).vae.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None),
        (["diffusion_pytorch_model.bf16.safetensors"], "bf16"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "diffusion_pytorch_model.non_ema.safetensors"], "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "model.bf16.safetensors"], "fp16"),
        (["model-00001-of-00002.safetensors", "model.fp16.safetensors"], None),
        (["diffusion_pytorch_model.non_ema.safetensors"], "non_ema"),
        (["model.safetensors", "openvino_model.x.safetensors"], None),
        ([], None),
    ],
)
def test_variants(tmp_path: Path, names: list[str], variant: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert weights_variant(tmp_path) == variant


def test_variants_that_say_nothing_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"model.{name}.safetensors").touch()
    with pytest.raises(S2PError, match=r"several variants \(a, b\) and none without"):
        weights_variant(tmp_path)


def test_a_variant_goes_into_a_checkpoint_and_out_of_it(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("sd1")
    AutoencoderKL.from_pretrained(folder / "vae").to(torch.bfloat16).save_pretrained(folder / "vae", variant="bf16")
    (folder / VAE).unlink()
    given = ["quantize", str(folder), "--method", "rtn", "--steps", "1", "--count", "1", "--out", str(tmp_path / "checkpoint")]
    assert run([*given, "--recipe", "w4a16"]) == 0
    latents = torch.randn(1, 4, 8, 8)
    vae = AutoencoderKL.from_pretrained(folder / "vae", variant="bf16", torch_dtype=torch.float32)
    expected = vae.decode(latents / vae.config.scaling_factor).sample
    decoded = decoder_module(open_checkpoint(tmp_path / "checkpoint"))(latents / vae.config.scaling_factor)
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json",
     "scheduler/scheduler_config.json", "s2p_defaults.json"],
)  # fmt: skip
def test_a_huge_configuration_is_not_read(make_model: MakeModel, name: str) -> None:
    """Nothing but blanks behind its content: JSON all the same. As much memory as the limit, and a little more, is all it takes."""
    folder = make_model("sd1")
    file = folder / name
    content = file.read_bytes() if file.exists() else b'{"format": "s2p-defaults", "version": 1}'
    with file.open("wb") as handle:
        handle.write(content.ljust(2 << 20))
        handle.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(
            S2PError, match=rf"{Path(name).name} has more than the \d+ MiB that are read|has 1048576 MiB"
        ) as caught:
            open_model(folder)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("name", ["unet/config.json", "unet/extra.safetensors", "tokenizer/merges.txt", "README.md"])
def test_what_is_no_file_is_not_waited_for(make_model: MakeModel, name: str) -> None:
    folder = make_model("sd1")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(S2PError, match=rf"{name} is neither a file nor a folder; put the file itself there"):
        open_model(folder)


def test_a_reader_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(S2PError, match=r"config\.json is no file; export"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("part", "told", "words"),
    [
        ("unet", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("vae", {"quant_method": "torchao"}, "torchao"),
        ("unet", {"quant_method": "gguf"}, "gguf"),
        ("text_encoder", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("text_encoder", {"bits": 4}, "something that it does not name"),
    ],
)
def test_a_quantized_component_is_named(make_model: MakeModel, part: str, told: dict[str, object], words: str) -> None:
    folder = make_model("sd1")
    config = folder / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": told}))
    with pytest.raises(S2PError, match=rf"{part} is quantized by {words} \(.*\); give the model as it was before"):
        open_model(folder)


@pytest.mark.parametrize(("part", "key"), [("text_encoder", "mlp.fc1.bias"), ("unet", "conv_out.bias")])
def test_a_weight_of_another_shape_is_named_with_both(make_model: MakeModel, part: str, key: str) -> None:
    folder = make_model("sd1")
    (file,) = (folder / part).glob("*.safetensors")
    state = load_file(file)
    names = [name for name in state if name.endswith(key)]
    shapes = [list(state[name].shape) for name in names]
    save_file(state | {name: torch.zeros(7, 3) for name in names}, file, metadata={"format": "pt"})
    with pytest.raises(S2PError) as caught:
        open_model(folder).load()
    line = str(caught.value)
    assert "\n" not in line and f"[7, 3], where its config.json makes it {shapes[0]}" in line and key in line
    assert ("more weights of other shapes" in line) == (len(names) > 1)
