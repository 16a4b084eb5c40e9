"""``--layout apple``: the interface that apple/ml-stable-diffusion asks for, and the same numbers behind it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.plan import make_scheduler, plan_for
from s2p_converters.targets.coreml.apple import FloatIdsTextEncoder
from s2p_converters.targets.coreml.apple_pipeline import pipeline_settings
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.package import convert_module
from s2p_converters.targets.ports import tensor
from s2p_converters.targets.timesteps import (
    call_thresholds,
    karras_timesteps,
    leading_timesteps,
    linspace_timesteps,
    nearest_call,
    pndm_timesteps,
)
from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_runtime.artist import draw
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.quiet import quiet_import
from s2p_runtime.verify import verify

INTERFACE = json.loads(Path(__file__).with_name("apple_interface.json").read_text())
COMPONENTS = {"Unet": "unet", "TextEncoder": "text_encoder", "VAEDecoder": "vae_decoder"}


@pytest.fixture(scope="module")
def bundles(
    checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """The same checkpoint in both layouts."""
    made = {}
    for layout in ("s2p", "apple"):
        folder = tmp_path_factory.mktemp(layout) / "small.s2pmobile"
        made[layout] = open_bundle(convert(checkpoint, CoreMLOptions(layout=layout), folder))  # type: ignore[arg-type]
    return made


def ports(package: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs as coremltools reads them from the package: name -> [type, shape]."""
    with quiet_import():
        import coremltools as ct

        description = ct.utils.load_spec(str(package)).description

    def read(features: Any) -> dict[str, Any]:
        found = {}
        for feature in features:
            array = feature.type.multiArrayType
            found[feature.name] = [array.ArrayDataType.Name(array.dataType).lower(), list(array.shape)]
        return found

    return read(description.input), read(description.output)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_pipeline_finds_the_interface_that_it_asks_for(bundles: dict[str, Bundle], name: str) -> None:
    manifest = bundles["apple"].manifest
    sizes = {"B": 2, "C": 4, "H": 8, "W": 8, "H_image": 32, "W_image": 32, "N": manifest.tokenizer.max_length, "D": 128}
    asked = INTERFACE["programs"][name]

    def concrete(port: list[Any]) -> list[Any]:
        return [port[0], [sizes.get(size, size) for size in port[1]]]

    inputs, outputs = ports(bundles["apple"].folder / "Resources" / f"{name}.mlpackage")
    if "*" in asked["inputs"]:
        assert list(inputs.values()) == [concrete(asked["inputs"]["*"])]
    else:
        assert inputs == {key: concrete(port) for key, port in asked["inputs"].items()}
    assert list(outputs.values()) == [concrete(port) for port in asked["outputs"]]
    if asked["outputs_are_found_by"] != "being the only one":
        assert list(outputs) == [asked["outputs_are_found_by"]]
    declared = manifest.components[COMPONENTS[name]]
    assert {port.name: [port.dtype, list(port.shape)] for port in declared.inputs} == inputs


def test_resources_holds_what_the_pipeline_opens(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["apple"]
    found = {path.name for path in (bundle.folder / "Resources").iterdir()}
    compiled = {name.replace(".mlmodelc", ".mlpackage") for name in INTERFACE["files"]["compiled"]}
    assert found == compiled | set(INTERFACE["files"]["plain"])
    # BPETokenizer+Reading.swift drops a last line without a line break.
    assert (bundle.folder / "Resources" / "merges.txt").read_bytes().endswith(b"\n")


def apple_feeds(feeds: dict[str, np.ndarray], timestep: float) -> dict[str, np.ndarray]:
    """As ``Unet.predictNoise`` and ``toHiddenStates`` make them, index by index."""
    text = feeds["encoder_hidden_states"]
    hidden = np.zeros((text.shape[0], text.shape[2], 1, text.shape[1]), np.float32)
    for i1 in range(text.shape[1]):
        hidden[:, :, 0, i1] = text[:, i1, :]
    return {"sample": feeds["sample"], "timestep": np.array([timestep, timestep], np.float32), "encoder_hidden_states": hidden}


def step_feeds(checkpoint: Checkpoint, call: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    tokens = checkpoint.manifest.tokenizer.max_length
    return {
        "sample": random.standard_normal((2, 4, 8, 8)).astype(np.float32),
        "encoder_hidden_states": random.standard_normal((2, tokens, 128)).astype(np.float32),
        "step": np.array([call], np.int32),
    }


@pytest.mark.parametrize("settings", [{}, {"minimum_os": "iOS16"}], ids=str)
def test_a_timestep_gives_what_its_call_gives_bit_for_bit(
    checkpoint: Checkpoint, bundles: dict[str, Bundle], converted: Callable[..., Path], settings: dict[str, str]
) -> None:
    by_step, by_time = (
        load_program(converted(layout=layout, **settings) if settings else bundles[layout].component("unet")[1])
        for layout in ("s2p", "apple")
    )
    timesteps = checkpoint.manifest.plan.timesteps
    outputs = [by_step.run(step_feeds(checkpoint, call))["noise_pred"] for call in range(len(timesteps))]
    assert not np.array_equal(outputs[0], outputs[1])
    middle = (timesteps[0] + timesteps[1]) / 2
    asked = [*timesteps, 999, 0, int(middle) + 1, int(middle) - 1]
    for timestep in asked:
        # Nearest by its definition; none of these lies in the middle of two calls.
        nearest = int(np.argmin(np.abs(np.array(timesteps) - timestep)))
        feeds = apple_feeds(step_feeds(checkpoint, 0), timestep)
        np.testing.assert_array_equal(by_time.run(feeds)["noise_pred"], outputs[nearest])


@pytest.mark.parametrize("minimum_os", ["iOS16", "iOS17", "iOS18"])
def test_token_ids_as_floats_reach_every_row_of_clips_vocabulary(minimum_os: str, tmp_path: Path) -> None:
    """49,407 fits neither float16 exactly nor int16, into which converters like to cast."""
    embedding = torch.nn.Embedding(49408, 1)
    embedding.weight.data = (torch.arange(49408) % 2039).float()[:, None]  # a prime below 2048: exact in float16
    ids, hidden = tensor("input_ids", (1, 4)), tensor("last_hidden_state", (1, 4, 1))
    package = tmp_path / "text.mlpackage"
    encoder = FloatIdsTextEncoder(embedding)
    convert_module(encoder, [ids], [hidden], package, minimum_os=minimum_os, half=True)
    asked = np.array([[49406, 49407, 40000, 2049]])
    found = load_program(package).run({"input_ids": asked.astype(np.float32)})["last_hidden_state"]
    np.testing.assert_array_equal(found[..., 0], asked % 2039)


def test_weights_rest_in_the_same_bytes(bundles: dict[str, Bundle]) -> None:
    for component in COMPONENTS.values():
        blobs = [
            (bundle.component(component)[1] / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()
            for bundle in bundles.values()
        ]
        assert blobs[0] == blobs[1]


def test_both_layouts_draw_the_same_picture_and_verify(bundles: dict[str, Bundle]) -> None:
    pictures = [
        draw(BundleArtist(bundle, open_backend(bundle)), "a red apple on a blue background", 7) for bundle in bundles.values()
    ]
    np.testing.assert_array_equal(pictures[0].latents, pictures[1].latents)
    np.testing.assert_array_equal(pictures[0].picture, pictures[1].picture)
    assert verify(bundles["apple"]).ok


def with_plan(checkpoint: Checkpoint, plan: SamplingPlan) -> Checkpoint:
    return dataclasses.replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"plan": plan}))


def test_calls_at_one_timestep_share_the_first_of_them(
    checkpoint: Checkpoint, small_model: Model, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    """PNDM passes its second timestep twice, and nothing tells the program which call is meant."""
    plan = plan_for(small_model.folder / "scheduler", "pndm", 2)
    repeated = with_plan(checkpoint, plan)
    assert plan.timesteps[1] == plan.timesteps[2] and len(plan.calls) == len(checkpoint.manifest.plan.calls)
    by_step = load_program(bundles["s2p"].component("unet")[1])  # a plan does not enter the program that takes the step
    by_time = load_program(tmp_path / convert_unet(repeated, CoreMLOptions(layout="apple"), tmp_path).components["unet"].path)
    for timestep, call in ((plan.timesteps[0], 0), (plan.timesteps[1], 1)):
        expected = by_step.run(step_feeds(checkpoint, call))["noise_pred"]
        found = by_time.run(apple_feeds(step_feeds(checkpoint, 0), timestep))["noise_pred"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_find_the_nearest_call(seed: int) -> None:
    random = np.random.default_rng(seed)
    timesteps = np.sort(random.uniform(0, 999, random.integers(1, 60)))[::-1].round(int(random.integers(0, 3)))
    thresholds = call_thresholds(timesteps.tolist())
    assert len(thresholds) == len(timesteps) - 1
    for t in range(1000):
        # The first of the nearest: argmin takes the earliest, which is the noisier call.
        assert nearest_call(thresholds, t) == int(np.argmin(np.abs(timesteps - t)))


def test_rising_timesteps_name_no_call() -> None:
    with pytest.raises(S2PError, match="the plan's timesteps rise"):
        call_thresholds([10.0, 20.0])


BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


@pytest.mark.parametrize("steps", [2, 10, 20, 25, 50])
def test_timesteps_are_those_of_the_schedulers_that_the_pipeline_says_it_matches(steps: int) -> None:
    """PNDMScheduler.swift and DPMSolverMultistepScheduler.swift name diffusers' schedulers as their model."""

    def diffusers_timesteps(name: str, **options: Any) -> list[int]:
        scheduler = make_scheduler(name, BASE, **options)
        scheduler.set_timesteps(steps)
        return [int(t) for t in scheduler.timesteps]

    assert pndm_timesteps(steps) == diffusers_timesteps("pndm", spacing="leading")
    assert linspace_timesteps(steps) == diffusers_timesteps("dpm++2m", spacing="linspace")
    assert leading_timesteps(steps) == diffusers_timesteps("dpm++2m", spacing="leading")
    assert karras_timesteps(steps) == diffusers_timesteps("dpm++2m-karras", spacing="linspace")


SETTINGS = {
    "pndm, 20": "schedulerType = .pndmScheduler, stepCount = 20",
    "dpm++2m, 20": "schedulerType = .dpmSolverMultistepScheduler, schedulerTimestepSpacing = .linspace, stepCount = 20",
    "dpm++2m-karras, 12": "schedulerType = .dpmSolverMultistepScheduler, schedulerTimestepSpacing = .karras, stepCount = 12",
}


@pytest.mark.parametrize("asked", SETTINGS)
def test_settings_name_the_scheduler_of_the_plan(checkpoint: Checkpoint, tmp_path: Path, asked: str) -> None:
    name, steps = asked.split(", ")
    spacing = "leading" if name == "pndm" else "linspace"
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**BASE, "timestep_spacing": spacing}))
    settings = pipeline_settings(with_plan(checkpoint, plan_for(tmp_path, name, int(steps))))
    assert settings.describe() == f"{SETTINGS[asked]}, guidanceScale = 4"
    assert settings.notes == ()


def test_settings_tell_of_another_rule_and_of_calls_without_a_scheduler(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**BASE, "timestep_spacing": "leading"}))
    same = plan_for(tmp_path, "pndm", 20).model_copy(update={"scheduler": "DDIMScheduler"})
    assert pipeline_settings(with_plan(checkpoint, same)).notes == (
        "the plan is of DDIMScheduler; the pipeline's scheduler makes the same calls and combines them otherwise",
    )
    uneven = plan_for(tmp_path, "ddim", 4)
    calls = [call.model_copy(update={"timestep": t}) for call, t in zip(uneven.calls, (999.0, 998.0, 997.0, 3.0), strict=True)]
    settings = pipeline_settings(with_plan(checkpoint, uneven.model_copy(update={"calls": tuple(calls)})))
    assert settings.scheduler is None and "no scheduler of the pipeline" in settings.notes[0]


@pytest.mark.parametrize("name", ["ddim", "dpm++2m"])
def test_settings_tell_of_other_timesteps_where_few_steps_leave_wide_gaps(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**BASE, "timestep_spacing": "trailing"}))
    plan = plan_for(tmp_path, name, 3)
    settings = pipeline_settings(with_plan(checkpoint, plan))
    visited = linspace_timesteps(3) if settings.spacing == ".linspace" else leading_timesteps(3)
    apart = max(abs(a - b) for a, b in zip(plan.timesteps, visited, strict=True))
    assert apart >= 1 and f"up to {apart:.0f} away from those of the plan" in settings.notes[0]


def unsuitable(checkpoint: Checkpoint, folder: Path, change: str) -> Checkpoint:
    """A checkpoint that the pipeline cannot draw with."""
    manifest = checkpoint.manifest
    if change == "v":
        return with_plan(checkpoint, manifest.plan.model_copy(update={"prediction_type": "v_prediction"}))
    if change == "shift":
        latents = manifest.latents.model_copy(update={"shift_factor": 0.1})
        return dataclasses.replace(checkpoint, manifest=manifest.model_copy(update={"latents": latents}))
    shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True)
    path = folder / ("scheduler/scheduler_config.json" if change == "betas" else manifest.tokenizer.vocab)
    document = json.loads(path.read_text())
    if change == "betas":
        document["beta_schedule"] = "linear"
    else:
        document["<s>"] = document.pop("<|startoftext|>")
    path.write_text(json.dumps(document))
    return dataclasses.replace(checkpoint, folder=folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("v", "predicts v_prediction, the pipeline expects epsilon"),
        ("shift", "shifts its latents"),
        ("betas", "was trained with beta_schedule linear, the pipeline's schedulers have scaled_linear"),
        ("tokens", "frames a prompt with token 1024, the pipeline with <|startoftext|>"),
    ],
)
def test_a_model_that_the_pipeline_cannot_draw_with(checkpoint: Checkpoint, tmp_path: Path, change: str, reason: str) -> None:
    with pytest.raises(S2PError) as caught:
        pipeline_settings(unsuitable(checkpoint, tmp_path / "copy", change))
    assert reason in str(caught.value) and str(caught.value).endswith("leave the option out and draw with the plan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "executorch", "--layout", "apple"],
            "--layout is an option of the target coreml or coreai; leave it out for executorch",
        ),
        (["--target", "coreml", "--layout", "google"], "unknown layout 'google'; choose from s2p, apple"),
    ],
)
def test_bad_layouts_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(["convert", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
