"""What every command on a model decides: the same words, the same defaults, the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import s2p_mobile
from s2p_mobile.cli.app import run
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.session import Session, open_session
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
Fails = Callable[..., str]
COMMANDS: dict[str, tuple[str, ...]] = {
    "quantize": ("quantize", "MODEL", "--out", "ck", "--method", "rtn"),
    "forecast": ("quantize", "MODEL", "--dry-run"),
    "generate": ("generate", "MODEL", "a cat", "--out", "a.png"),
    "evaluate": ("evaluate", "MODEL", "--prompts", "p.txt"),
    "sensitivity": ("sensitivity", "MODEL", "--out", "s.json"),
    "latents": ("latents", "MODEL", "--out", "set"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue("tiny_model").folder)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--device", "tpu", "unknown device 'tpu'; devices are auto, cpu, cuda, cuda:N and mps"),
        ("--device", "cuda:1", "no cuda device; choose --device cpu or auto"),
        ("--scheduler", "magic", "unknown scheduler 'magic'; there are ddim, "),
        ("--size", "10x16", "width 10 of size 10x16 is not a multiple of"),
        ("--lora", "none.safetensors", "LoRA file none.safetensors does not exist"),
    ],
)
def test_every_command_refuses_alike(
    fails: Fails,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    option: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "p.txt").write_text("a cat\n")
    words = [str(folder) if word == "MODEL" else word for word in COMMANDS[name]]
    assert message in fails(*words, option, value)


def test_devices_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1) and choose_device("auto") == torch.device("cuda")
    assert choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    for name, message in (("cuda:2", "its last is cuda:1"), ("cuda:", "unknown"), ("cpu:1", "unknown"), ("CPU", "unknown")):
        with pytest.raises(S2PError, match=message) as caught:
            choose_device(name)
        assert caught.value.field == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == torch.device("mps")


def test_what_is_left_out_is_the_models(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    session = open_session(folder, device="cpu")
    assert (session.plan.steps, session.guidance, session.seed, session.size) == (25, 7.5, 0, PixelSize(16, 16))
    asked = open_session(folder, size=(24, 16), scheduler="euler", steps=3, guidance=2.0, device="cpu", seed=9)
    assert (asked.plan.steps, asked.guidance, asked.seed, asked.size) == (3, 2.0, 9, PixelSize(24, 16))
    with pytest.raises(AttributeError):
        session.seed = 1  # type: ignore[misc]


def test_an_opened_model_is_taken_as_it_is(make_model: MakeModel, tmp_path: Path) -> None:
    model = open_model(make_model("sd1"), PixelSize(24, 16))
    assert open_session(model, size="24x16", device="cpu").model is model
    for change, field in (({"size": "16x16"}, "size"), ({"lora": [tmp_path / "a.safetensors"]}, "lora")):
        with pytest.raises(S2PError, match="is open already") as caught:
            open_session(model, device="cpu", **change)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [({"steps": 0}, "steps"), ({"steps": 1001}, "steps"), ({"guidance": -1.0}, "guidance"), ({"seed": -1}, "seed")],
)
def test_numbers_out_of_range_are_refused_before_anything_is_opened(change: dict[str, int], field: str) -> None:
    with pytest.raises(S2PError) as caught:
        open_session("no/such/model", **change)
    assert caught.value.field == field


@pytest.fixture()
def consistency_model(make_model: MakeModel) -> Path:
    return make_model("sd1", scheduler={"_class_name": "LCMScheduler", "original_inference_steps": 50}, time_cond_proj_dim=16)


def test_a_sensitivity_of_a_consistency_model_serves_the_next_command(consistency_model: Path, tmp_path: Path) -> None:
    """Both commands take the model's own four steps, whatever other models have."""
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(
        "name: mixed\ndescription: two widths\nweights: {bits: 4}\nactivations: {bits: null}\n"
        "mixed: {average_bits: 5, candidates: [4, 8], ranking: sqnr}\n"
    )
    measured, out = tmp_path / "s.json", tmp_path / "ck"
    assert run(["sensitivity", str(consistency_model), "--estimator", "sqnr", "--count", "1", "--out", str(measured)]) == 0
    given = ["quantize", str(consistency_model), "--method", "rtn", "--recipe", str(recipe), "--count", "1"]
    assert run([*given, "--sensitivity", str(measured), "--out", str(out)]) == 0
    manifest = s2p_mobile.inspect(out)
    assert "4 steps" in manifest.facts["sampler"] and {layer.weight_bits for layer in manifest.layers} == {4, 8, 32}


def test_sessions_are_one_thing() -> None:
    assert set(Session.__dataclass_fields__) == {"model", "plan", "guidance", "device", "seed"}
