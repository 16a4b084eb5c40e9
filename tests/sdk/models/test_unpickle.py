"""Pickled weights: refused by default with a command that works, read weights only when allowed, never run."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.unpickle import convert, main, read_pickle
from s2p_runtime.errors import S2PError, S2PWarning

Original = Callable[[str], tuple[Model, dict[str, torch.Tensor]]]
SMALL = PixelSize(16, 16)


class Evil:
    """Leaves a file behind when it is unpickled freely."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def command(error: S2PError) -> list[str]:
    """The command in a message, as a shell would read it."""
    return shlex.split(error.remedy.partition(": ")[2].partition(" (reads")[0])


def pickled(folder: Path, **shards: str) -> Path:
    """A model folder with its weights as ``.bin`` alone, as older downloads are."""
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            name = file.name.replace("model.safetensors", "pytorch_model.bin") if part == "text_encoder" else f"{file.stem}.bin"
            torch.save(load_file(file), folder / part / name)
            file.unlink()
    return folder


def test_a_ckpt_is_refused_with_a_command_that_works(original: Original, tmp_path: Path) -> None:
    model, tensors = original("sd1")
    path = tmp_path / "my model.ckpt"
    shared = tensors["model.diffusion_model.out.2.bias"]
    # As Lightning leaves it: weights under state_dict, some of them sharing memory, beside what training needed.
    state = {**tensors, "model_ema.decay": torch.tensor(0.9), "model_ema.x": shared[:2], "global_step": 470000}
    torch.save({"state_dict": state, "optimizer_states": [{"a": 1}], "epoch": 3}, path)
    with pytest.raises(S2PError, match="a pickle can run any code when it is opened; write safetensors with: ") as caught:
        open_model(path, SMALL)
    assert caught.value.field == "allow_pickle" and "`allow_pickle`" in str(caught.value)
    done = subprocess.run(command(caught.value), capture_output=True, text=True, env=os.environ, check=False)
    written = path.with_suffix(".safetensors")
    assert (done.returncode, done.stdout) == (0, f"wrote {written}\n"), done.stderr
    assert same(open_model(written, SMALL).unet, model.unet)
    with pytest.warns(S2PWarning, match=r"my model\.ckpt is a pickle; only its weights were read"):
        allowed = open_model(path, SMALL, allow_pickle=True)
    assert same(allowed.unet, model.unet) and allowed.name == "my model"


def test_a_pickle_is_known_by_its_content(original: Original, tmp_path: Path) -> None:
    model, tensors = original("sd1")
    torch.save(tensors, tmp_path / "a.safetensors")
    with pytest.raises(S2PError, match="is a pickle"):
        open_model(tmp_path / "a.safetensors", SMALL)
    save_file(tensors, tmp_path / "b.ckpt")
    assert same(open_model(tmp_path / "b.ckpt", SMALL).vae, model.vae)


def test_what_a_pickle_wants_to_run_is_not_run(tmp_path: Path) -> None:
    place = tmp_path / "made"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Evil(place)}, tmp_path / "a.ckpt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil(place)))
    (tmp_path / "c.bin").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "d.pth").write_bytes(b"")
    torch.save([torch.zeros(1)], tmp_path / "e.pt")
    expected = {
        "a.ckpt": r"it wants \w+\.mkdir",
        "b.pt": "cannot be read as weights",
        "c.bin": "cannot be read",
        "d.pth": "cannot be read",
    }
    for name, words in (expected | {"e.pt": "holds a list, no weights"}).items():
        with pytest.raises(S2PError, match=words) as caught:
            open_model(tmp_path / name, allow_pickle=True)
        assert "\n" not in str(caught.value) and str(caught.value).endswith("; get the model as .safetensors")
    assert not place.exists()


def test_a_folder_with_pickled_weights(
    make_model: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = make_model("sd1")
    (whole / "s2p_defaults.json").write_text('{"format": "s2p-defaults", "version": 1, "name": "painter"}')
    folder = pickled(Path(shutil.copytree(whole, tmp_path / "pickled")))
    with pytest.raises(S2PError, match="has pickled weights only, and a pickle can run any code") as caught:
        open_model(folder)
    with pytest.warns(S2PWarning, match="pickled is a pickle"):
        model = open_model(folder, allow_pickle=True)
    reference = open_model(whole)
    pairs = [(model.unet, reference.unet), (model.conditioner.text_encoder, reference.conditioner.text_encoder)]
    assert all(same(one, other) for one, other in pairs) and model.name == "painter"
    # The command line says it in its own words.
    capfd.readouterr()
    drawing = ["generate", str(folder), "a cat", "--steps", "1", "--out", str(tmp_path / "a.png")]
    assert run(drawing) == 2 and "allow that reading here with --allow-pickle" in capfd.readouterr().err
    assert run([*drawing, "--allow-pickle"]) == 0 and "note: " in capfd.readouterr().err
    assert main(command(caught.value)[3:]) == 0 and len(capfd.readouterr().out.splitlines()) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", S2PWarning)
        assert same(open_model(folder).unet, reference.unet)


def test_shards_and_variants_keep_their_names(tmp_path: Path) -> None:
    part = tmp_path / "model" / "unet"
    part.mkdir(parents=True)
    for number in (1, 2):
        torch.save({f"{number}": torch.ones(number)}, part / f"diffusion_pytorch_model-0000{number}-of-00002.bin")
    torch.save({"half": torch.ones(1)}, part / "diffusion_pytorch_model.fp16.bin")
    torch.save({"other": torch.ones(1)}, part / "training_args.bin")
    index = {"weight_map": {f"{number}": f"diffusion_pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)}}
    (part / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index))
    written = convert(tmp_path / "model")
    assert [file.name for file in written] == [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    found = json.loads((part / "diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    assert found == {f"{n}": file.name for n, file in zip((1, 2), written, strict=True)}
    assert torch.equal(load_file(written[1])["2"], torch.ones(2))


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    part = tmp_path / "model" / "unet"
    part.mkdir(parents=True)
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for number, name in enumerate(names):
        torch.save({f"{number}": torch.ones(3)}, part / name)
    (part / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"0": names[0], "1": names[1]}}))
    kept = (part / names[1]).read_bytes()
    (part / names[1]).write_bytes(kept[:100])
    with pytest.raises(S2PError, match="cannot be read as weights"):
        convert(tmp_path / "model")
    (part / names[1]).write_bytes(kept)
    assert [file.name for file in convert(tmp_path / "model")] == [names[1].replace(".bin", ".safetensors")]
    with pytest.raises(S2PError, match="no pickled weights"):
        convert(tmp_path / "model")


def test_what_cannot_be_converted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    for arguments, words in (([tmp_path / "a.pt"], "is there already"), ([tmp_path], "no pickled weights"), ([], "one path")):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capfd.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert (tmp_path / "a.safetensors").read_bytes() == b"mine"


def test_entries_that_are_no_tensors_keep_their_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {"state_dict": {"a": torch.ones(2), "string_to_token": {"*": 265}}}}, tmp_path / "a.pt")
    found = read_pickle(tmp_path / "a.pt")
    assert found.keys() == {"a", "string_to_token"} and found["string_to_token"].numel() == 0
