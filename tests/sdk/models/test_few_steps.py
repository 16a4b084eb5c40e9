"""Steps and guidance of models trained for few steps, as their files say, and never where a caller says something else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler
from safetensors.torch import save_file

from s2p_converters.core.plan import own_scheduler, plan_for
from s2p_mobile.sources.few_steps import few_steps
from s2p_mobile.sources.markers import read_markers
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.session import open_session
from s2p_runtime.errors import S2PWarning

MakeModel = Callable[..., Path]
TRAILING = {"timestep_spacing": "trailing"}
EULER, ANCESTRAL = {"_class_name": "EulerDiscreteScheduler"}, {"_class_name": "EulerAncestralDiscreteScheduler"}
LCM = {"_class_name": "LCMScheduler", "original_inference_steps": 50}


def notes(folder: Path, **asked: Any) -> tuple[int, float, list[str]]:
    """Steps and guidance of a session, and what is told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = open_session(folder, device="cpu", **asked)
    return session.plan.steps, session.guidance, [str(each.message) for each in caught if each.category is S2PWarning]


CASES: dict[str, tuple[dict[str, Any], str, int, float, str]] = {
    "sdxl-turbo as it ships": ({**ANCESTRAL, **TRAILING}, "any", 1, 0.0, "a Turbo model (Euler ancestral with trailing steps)"),
    "sd-turbo": ({**EULER, **TRAILING}, "sd-turbo", 1, 0.0, "a Turbo model (named sd-turbo, trailing steps)"),
    "Lightning": ({**EULER, **TRAILING}, "SDXL-Lightning", 4, 0.0, "a Lightning model"),
    "Lightning of two steps": ({**EULER, **TRAILING}, "sdxl_lightning_2step", 2, 0.0, "a Lightning model"),
    "Hyper": ({**EULER, **TRAILING}, "Hyper-SD15-8steps", 8, 0.0, "a Hyper model"),
    "LCM by its scheduler": (LCM, "any", 4, 1.0, "a latent consistency model (its scheduler is LCMScheduler)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_few_step_model_says_how_it_is_meant(make_model: MakeModel, case: str) -> None:
    scheduler, name, steps, guidance, words = CASES[case]
    folder = make_model("sd1", scheduler=scheduler)
    folder = folder.rename(folder.with_name(name))
    decided = notes(folder)
    assert decided[:2] == (steps, guidance)
    (line,) = decided[2]
    assert words in line and line.endswith(f"{steps} step{'s' if steps > 1 else ''} and guidance {guidance:g}")
    # What a caller says counts, and is not told again.
    assert notes(folder, steps=7)[:2] == (7, guidance) and notes(folder, guidance=2.0)[:2] == (steps, 2.0)
    assert notes(folder, steps=7, guidance=2.0) == (7, 2.0, [])


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        ({**EULER, **TRAILING}, "any"),
        ({**EULER, "timestep_spacing": "leading"}, "sdxl-lightning"),
        ({**ANCESTRAL, "timestep_spacing": "leading"}, "any"),
        ({**EULER, **TRAILING, "prediction_type": "v_prediction"}, "turbo"),
        ({**EULER, **TRAILING, "rescale_betas_zero_snr": True}, "turbo"),
        ({**EULER, **TRAILING}, "turbocharged"),
    ],
)
def test_other_models_keep_the_defaults_of_their_family(make_model: MakeModel, scheduler: dict[str, Any], name: str) -> None:
    folder = make_model("sd1", scheduler=scheduler)
    assert notes(folder.rename(folder.with_name(name))) == (25, 7.5, [])


def test_the_guidance_of_a_consistency_model_is_told(make_model: MakeModel) -> None:
    folder = make_model("sd1", scheduler=LCM, time_cond_proj_dim=16)
    steps, guidance, (line,) = notes(folder)
    assert (steps, guidance) == (4, 1.0) and line.endswith("4 steps and guidance 8.5 in its time path")
    assert notes(folder, guidance=3.0)[2] == [
        "random-sd1 is a latent consistency model (its U-Net is told the guidance): 4 steps"
    ]


def test_what_a_model_says_of_its_guidance_goes_before(make_model: MakeModel) -> None:
    folder = make_model("sd1", scheduler={**ANCESTRAL, **TRAILING})
    (folder / "s2p_defaults.json").write_text(json.dumps({"format": "s2p-defaults", "version": 1, "guidance": 1.5}))
    model = Model(folder)
    assert (model.steps, model.guidance) == (1, 1.5)


def test_the_name_under_which_a_model_was_saved_counts(make_model: MakeModel) -> None:
    folder = make_model("sd1", scheduler={**EULER, **TRAILING})
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "stabilityai/sd-turbo"}))
    assert notes(folder)[:2] == (1, 0.0)


TITLED: dict[str, tuple[str, str, int, float, Any]] = {
    "SDXL Turbo": ("sdxl", "a Turbo model (named SDXL Turbo, trailing steps)", 1, 0.0, EulerAncestralDiscreteScheduler),
    "SDXL-Lightning 2-step": ("sdxl", "a Lightning model", 2, 0.0, EulerDiscreteScheduler),
    "Hyper-SD15-8steps": ("sd1", "a Hyper model", 8, 0.0, DDIMScheduler),
    "Painter LCM": ("sd1", "a latent consistency model", 4, 1.0, LCMScheduler),
}


@pytest.mark.parametrize("title", TITLED)
def test_the_title_in_a_header_says_it(tmp_path: Path, title: str) -> None:
    family, words, steps, guidance, kind = TITLED[title]
    config = read_markers(tmp_path / "painter.safetensors", {"modelspec.title": title}, [], family).scheduler_config(family)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    found = few_steps(own_scheduler(tmp_path / "scheduler"), {"_name_or_path": title}, {}, "painter")
    assert found is not None and (found.steps, found.guidance) == (steps, guidance) and words in found.title
    # diffusers with that scheduler's own settings on the noise schedule of Stable Diffusion.
    spacing = {} if kind is LCMScheduler else TRAILING
    theirs = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, **spacing)
    theirs.set_timesteps(steps)
    assert plan_for(tmp_path / "scheduler", None, steps).timesteps == theirs.timesteps.tolist()


def test_the_title_of_a_single_file_counts_and_its_name_alone_does_not(original: Callable[..., Any], tmp_path: Path) -> None:
    tensors = original("sd1")[1]
    save_file(tensors, tmp_path / "painter.safetensors", metadata={"modelspec.title": "SDXL  Lightning\n2-step"})
    steps, guidance, (line,) = notes(tmp_path / "painter.safetensors", size="16x16")
    assert (steps, guidance) == (
        2,
        0.0,
    ) and "a Lightning model (named SDXL Lightning 2-step, trailing steps): 2 steps and" in line
    path = tmp_path / "sd_lightning_4step.safetensors"
    save_file(tensors, path, metadata={"modelspec.title": "Enlightning"})
    steps, guidance, (line,) = notes(path, size="16x16")
    assert (steps, guidance) == (25, 7.5)
    assert "is called lightning and its header (modelspec.title) does not say so: 25 steps and guidance 7.5" in line
    assert notes(path, size="16x16", steps=4, guidance=0.0) == (4, 0.0, [])
