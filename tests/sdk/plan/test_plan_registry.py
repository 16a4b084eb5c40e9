"""Schedulers by name and from a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest

from s2p_converters.core.plan import SCHEDULERS, extract_plan, make_scheduler, plan_for
from s2p_runtime.errors import S2PError

CONFIG: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.0009,
    "beta_end": 0.011,
    "beta_schedule": "linear",
    "num_train_timesteps": 500,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "skip_prk_steps": True,
    "timestep_spacing": "leading",
}
CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++2m-karras": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_name_keeps_the_models_noise_schedule(name: str) -> None:
    scheduler = make_scheduler(name, CONFIG)
    assert type(scheduler) is getattr(diffusers, CLASSES[name])
    for option in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "steps_offset"):
        assert scheduler.config[option] == CONFIG[option]
    assert scheduler.config.timestep_spacing == "leading"  # the LCM scheduler keeps it and does not use it
    assert not scheduler.config.get("clip_sample") and not scheduler.config.get("thresholding")
    assert make_scheduler(name, CONFIG, spacing="trailing").config.timestep_spacing == "trailing"
    if name.startswith("dpm"):
        assert scheduler.config.algorithm_type == "dpmsolver++" and scheduler.config.solver_order == 2
        assert scheduler.config.use_karras_sigmas == name.endswith("karras")


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_a_non_linear_option_of_the_model_is_kept_and_refused(option: str) -> None:
    scheduler = make_scheduler("ddim", {**CONFIG, option: True})
    assert scheduler.config[option] is True
    with pytest.raises(S2PError, match=f"set {option} to false"):
        extract_plan(scheduler, 5)


def test_karras_where_it_exists() -> None:
    assert make_scheduler("euler", CONFIG, karras=True).config.use_karras_sigmas is True
    assert make_scheduler("dpm++2m", CONFIG, karras=True).config.use_karras_sigmas is True
    with pytest.raises(S2PError, match="no Karras sigmas"):
        make_scheduler("ddim", CONFIG, karras=True)


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(S2PError, match=r"unknown scheduler 'plms'; there are ddim, pndm, euler, euler-a, dpm\+\+2m"):
        make_scheduler("plms", CONFIG)


def test_plan_for_a_model_folder(folder: Path) -> None:
    own = plan_for(folder, None, 7)
    assert (own.scheduler, own.steps, own.prediction_type, len(own.calls)) == ("PNDMScheduler", 7, "v_prediction", 8)
    other = plan_for(folder, "dpm++2m-karras", 7)
    assert other.scheduler == "DPMSolverMultistepScheduler" and len(other.calls) == 7
    assert other == extract_plan(make_scheduler("dpm++2m-karras", CONFIG), 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"{", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[]", "not a scheduler configuration"),
        (b"{}", "scheduler None is not supported; choose `scheduler` from ddim"),
        (b'{"_class_name": "KarrasVeScheduler"}', "KarrasVeScheduler is not supported"),
        (b'{"_class_name": "DDIMScheduler", "beta_schedule": "wavy"}', "refuses the model's scheduler configuration"),
        (b'{"_class_name": "DDIMScheduler", "num_train_timesteps": "many"}', "refuses the model's scheduler configuration"),
        (b'{"_class_name": "DDIMScheduler", "clip_sample": false, "timestep_spacing": "odd"}', "odd"),
    ],
)
def test_bad_folder(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "scheduler_config.json").write_bytes(content)
    with pytest.raises(S2PError, match=message) as caught:
        plan_for(tmp_path, None, 5)
    assert "\n" not in str(caught.value)
