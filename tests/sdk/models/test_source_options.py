"""Commands whose source is a model: LoRA, picture size, and the guidance of latent consistency models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import s2p_runtime.bench
from s2p_converters.core.plan import plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.judge.artist import draw_with, open_artist
from s2p_mobile.judge.evaluation import open_evaluation
from s2p_mobile.quantize.sensitivity import read_sensitivity
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.session import open_session
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Silent

MakeModel = Callable[..., Path]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture()
def lora(tmp_path: Path) -> Path:
    """A strong one of rank 2 on one layer of the random model."""
    torch.manual_seed(2)
    path = tmp_path / "strong.safetensors"
    save_file({f"unet.{LAYER}.lora_A.weight": torch.randn(2, 64), f"unet.{LAYER}.lora_B.weight": torch.randn(32, 2)}, path)
    return path


def errors(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]


def test_generate_fuses_and_sizes(make_model: MakeModel, lora: Path, tmp_path: Path) -> None:
    folder = str(make_model("sd1"))
    pictures = {}
    for name, options in {
        "plain": [],
        "none": ["--lora", f"{lora}:0"],
        "strong": ["--lora", str(lora)],
        "wide": ["--size", "24x16"],
    }.items():
        out = tmp_path / f"{name}.png"
        assert run(["generate", folder, "a cat", "--steps", "2", "--out", str(out), *options]) == 0
        pictures[name] = np.asarray(Image.open(out))
    np.testing.assert_array_equal(pictures["plain"], pictures["none"])
    assert (pictures["plain"] != pictures["strong"]).any()
    assert pictures["wide"].shape == (16, 24, 3)


def test_guidance_of_a_consistency_model_is_built_in(make_model: MakeModel) -> None:
    scheduler = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
    folder = make_model("sd1", scheduler=scheduler, time_cond_proj_dim=16)
    sessions = {guidance: open_session(folder, guidance=guidance, seed=3, device="cpu") for guidance in (None, 2.0, 8.5)}
    drawn = {
        guidance: draw_with(open_artist(session, session.device), "a cat", 3, None, Silent()).latents
        for guidance, session in sessions.items()
    }
    np.testing.assert_array_equal(drawn[None], drawn[8.5])
    assert np.abs(drawn[2.0] - drawn[8.5]).max() > 1e-4
    # The model's own four steps, one branch, the guidance in the time path.
    model, plan = Model(folder, embedded_guidance=2.0), plan_for(folder / "scheduler", None, 4)
    assert sessions[2.0].guidance == 1.0 and sessions[2.0].plan == plan
    prompt = encode_prompt(model, "a cat", 3, 1.0)
    np.testing.assert_array_equal(drawn[2.0], draw_latents(float_unet(model, plan), plan, prompt, 1.0, model.latent_shape))


def test_another_guidance_leaves_an_opened_consistency_model_alone(make_model: MakeModel) -> None:
    model = open_model(make_model("sd1", time_cond_proj_dim=16))
    weight = model.unet.time_embedding.linear_1.bias.clone()
    other = open_session(model, guidance=2.0, device="cpu").model
    assert (model.embedded_guidance, other.embedded_guidance) == (8.5, 2.0)
    assert open_session(model, guidance=8.5, device="cpu").model is model
    assert not torch.equal(other.unet.time_embedding.linear_1.bias, weight)
    assert torch.equal(model.unet.time_embedding.linear_1.bias, weight)


def test_evaluate_opens_the_model_as_asked(make_model: MakeModel, lora: Path, tmp_path: Path) -> None:
    folder = make_model("sd1")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    out = tmp_path / "figures.json"
    given = ["evaluate", str(folder), "--prompts", str(tmp_path / "prompts.txt"), "--metrics", "psnr", "--cache", str(tmp_path)]
    assert run([*given, "--size", "24x16", "--lora", str(lora), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["count"] == 2
    source = open_evaluation(open_model(folder, PixelSize(24, 16)))
    assert source.artist.latent_shape == (1, 4, 8, 12)


def test_evaluate_names_what_does_not_fit(make_model: MakeModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(make_model("sd1"))
    assert run(["evaluate", folder, "--model", folder]) == 2
    assert "leave it out" in errors(capfd)[0]


def test_a_checkpoint_of_another_size_is_not_compared(tmp_path: Path) -> None:
    from s2p_mobile.quantize.checkpointing import write_checkpoint
    from s2p_mobile.quantize.jobs import make_job
    from s2p_mobile.quantize.methods import run_method

    job = make_job(None, recipe="w4a8-mixed", steps=1, device="cpu", size="96x64", count=1)
    plain = job.recipe.model_copy(
        update={"mixed": None, "activations": job.recipe.activations.model_copy(update={"bits": None})}
    )
    job = type(job)(**{**job.__dict__, "recipe": plain})
    write_checkpoint(job, "rtn", run_method("rtn", job), tmp_path)
    with pytest.raises(S2PError, match="pass that as `size`"):
        open_evaluation(tmp_path)
    assert open_evaluation(tmp_path, open_model(None, PixelSize(96, 64))).artist.latent_shape == (1, 4, 16, 24)


def test_sensitivity_of_a_model_with_lora(make_model: MakeModel, lora: Path, tmp_path: Path) -> None:
    folder = str(make_model("sd1"))
    values = []
    for name, options in {"a": [], "b": ["--lora", str(lora), "--size", "24x16"]}.items():
        out = tmp_path / f"{name}.json"
        given = ["sensitivity", folder, "--estimator", "fisher", "--steps", "1", "--count", "1", "--out", str(out)]
        assert run([*given, *options]) == 0
        values.append(read_sensitivity(out).at(4)[LAYER])
    assert values[0] != values[1]


def test_options_of_models_are_refused_elsewhere(tmp_path: Path, lora: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = str(FIXTURES / "ancestral.s2pmobile")
    out = str(tmp_path / "a.png")
    assert run(["generate", bundle, "a cat", "--lora", str(lora), "--out", out]) == 2
    assert "quantize --lora" in errors(capfd)[0]
    assert run(["generate", "demo", "a cat", "--release-chunks", "--out", out]) == 2
    assert "converted with --chunks" in errors(capfd)[0]


def test_bench_looks_at_the_reports_place_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s2p_runtime.bench, "bench_host", lambda *args: pytest.fail("measured before looking"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("file/report.json", "folder"):
        assert run(["bench", str(FIXTURES / "chunked.s2pmobile"), "--out", str(tmp_path / place), "--force"]) == 2
        assert len(errors(capfd)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
