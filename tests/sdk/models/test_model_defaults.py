"""What a model folder says about itself, and that nothing but its files makes the built-in model special."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import s2p_mobile
from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.cli.app import run
from s2p_mobile.demo import CALIBRATION_PROMPTS, DEMO_MODEL, HELD_OUT_PROMPTS, names_demo
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.default_prompts import CALIBRATION_PROMPTS as ANY_MODELS_PROMPTS
from s2p_mobile.sources.default_prompts import calibration_prompts, golden_prompts, held_out_prompts
from s2p_mobile.sources.defaults import DEFAULTS_NAME, DefaultsFile, read_defaults
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def say(folder: Path, **changes: Any) -> None:
    document = {"format": "s2p-defaults", "version": 1, **changes}
    (folder / DEFAULTS_NAME).write_text(json.dumps(document))


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def users_demo(make_model: MakeModel, place: Path) -> Path:
    """A model of a user's own, in a folder called as the built-in one."""
    return Path(shutil.copytree(make_model("sd1"), place / "demo"))


def test_the_built_in_model_is_what_its_file_says() -> None:
    model = open_model(None)
    assert (model.name, model.guidance, model.folder) == ("demo", 4.0, DEMO_MODEL)
    assert calibration_prompts(model, None) == tuple(read_prompts(CALIBRATION_PROMPTS))
    assert held_out_prompts(model, None) == tuple(read_prompts(HELD_OUT_PROMPTS))
    assert golden_prompts(model) == ("a red apple on a blue background", "a panda on a yellow background")
    with default_checkpoint(model) as folder:
        assert folder.name == "demo" and open_checkpoint(folder).manifest.source.unet_sha256 == model.unet_sha256


def test_a_users_folder_called_demo_is_an_ordinary_model(users_demo: Path) -> None:
    assert run(["generate", "demo", "a cat", "--steps", "1", "--out", "a.png"]) == 0
    assert np.asarray(Image.open("a.png")).shape == (16, 16, 3), "the built-in model draws 64 x 64"
    model = open_model("demo")
    assert (model.name, model.guidance) == ("demo", 7.5) and calibration_prompts(model, None) == ANY_MODELS_PROMPTS
    options = ["--method", "rtn", "--recipe", "w8a8", "--steps", "1", "--count", "1", "--out", "ck"]
    assert run(["quantize", "demo", *options]) == 0
    manifest = open_checkpoint(Path("ck")).manifest
    assert [run.prompt for run in manifest.golden] == list(ANY_MODELS_PROMPTS[:2])
    # A checkpoint of it is not taken for one of the built-in model.
    with pytest.raises(S2PError, match="made from the model demo; give that model's folder with `model`"):
        s2p_mobile.evaluate("ck", prompts=["a cat"], cache=False)


def test_the_word_stands_for_the_built_in_model_where_nothing_else_is_called_so(place: Path) -> None:
    assert names_demo("demo") and not names_demo("Demo") and not names_demo("./demo")
    with pytest.raises(S2PError, match="demo does not exist"):
        s2p_mobile.load("demo")  # a word of the command line only; the library has None
    (place / "demo").mkdir()
    assert not names_demo("demo")


def test_a_model_brings_its_own_prompts_and_guidance(make_model: MakeModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_model("sd1"), tmp_path / "m"))
    (folder / "mine.txt").write_text("a\nb\nc\n")
    say(folder, name="mine", guidance=3.0, calibration_prompts="mine.txt", golden_prompts=["g"])
    model = open_model(folder)
    assert (model.name, model.guidance, golden_prompts(model)) == ("mine", 3.0, ("g",))
    assert calibration_prompts(model, None, 2) == ("a", "b") and calibration_prompts(model, ["x"]) == ("x",)
    with pytest.raises(S2PError, match="names no prompts to evaluate with; give `prompts`"):
        held_out_prompts(model, None)
    with pytest.raises(S2PError, match="no checkpoint"), default_checkpoint(model):
        pass
    with pytest.raises(S2PError, match="there are no prompts"):
        calibration_prompts(model, [])


def test_lora_keeps_what_holds_for_the_fused_model(make_model: MakeModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_model("sd1"), tmp_path / "m"))
    (folder / "ck").mkdir()
    (folder / "mine.txt").write_text("a\n")
    say(folder, guidance=3.0, held_out_prompts="mine.txt", checkpoint="ck")
    path = tmp_path / "style.safetensors"
    save_file({f"unet.{LAYER}.lora_A.weight": torch.randn(2, 64), f"unet.{LAYER}.lora_B.weight": torch.randn(32, 2)}, path)
    fused = s2p_mobile.load(folder, lora=path)
    assert (fused.name, fused.guidance, held_out_prompts(fused, None)) == ("m+style", 3.0, ("a",))
    assert read_defaults(folder).checkpoint is not None and fused.defaults.checkpoint is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has format version 2"),
        ({"format": "s2p-bundle"}, "is not of format 's2p-defaults'"),
        ({"guidance": "4"}, "guidance"),
        ({"guidance": 101.0}, "guidance"),
        ({"golden_prompts": []}, "golden_prompts"),
        ({"name": "a/b"}, "name"),
        ({"colour": "red"}, "colour"),
        ({"held_out_prompts": "none.txt"}, "names none.txt, which is not there"),
        ({"calibration_prompts": "../other.txt"}, "points outside its folder"),
        ({"checkpoint": "/tmp"}, "points outside its folder"),
    ],
)
def test_a_file_that_is_wrong_is_refused(make_model: MakeModel, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = Path(shutil.copytree(make_model("sd1"), tmp_path / "m"))
    (tmp_path / "other.txt").write_text("a secret\n")
    say(folder, **changes)
    with pytest.raises(S2PError, match=message) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


def test_the_page_has_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "inputs.md").read_text(encoding="utf-8")
    section = page.partition("s2p_defaults.json`\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(DefaultsFile.model_fields)
