"""``--layout coreai-models``: what the Swift package of apple/coreai-models reads, and the same numbers behind it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.plan import plan_for
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.swift_package import PackageSettings, package_settings
from s2p_converters.targets.coreai.target import TARGET
from s2p_converters.targets.timesteps import call_thresholds, linspace_timesteps, nearest_call
from s2p_mobile.sources.model import Model
from s2p_runtime.bundle import open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.verify import verify

PACKAGE = json.loads(Path(__file__).with_name("swift_package.json").read_text(encoding="utf-8"))
OPTIONS = CoreAIOptions(precision="fp32", layout="coreai-models")


@pytest.fixture(scope="module")
def checkpoint(
    make_small_model: Callable[..., Model], checkpoints_of: Callable[[Model], Callable[..., Checkpoint]]
) -> Checkpoint:
    """The small model with the package's own numbers: 77 tokens, and 8 pixels to a latent."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    model = make_small_model("seventy-seven", (16, 24), 3, one_transformer=True)
    torch.manual_seed(4)
    shutil.rmtree(model.folder / "text_encoder")
    shutil.rmtree(model.folder / "vae")
    frame = {"bos_token_id": 1024, "eos_token_id": 1025, "pad_token_id": 1025}
    text = CLIPTextConfig(
        vocab_size=1026, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, **frame
    )
    CLIPTextModel(text).save_pretrained(model.folder / "text_encoder")
    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, layers_per_block=1, sample_size=64, mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(model.folder / "vae")  # fmt: skip
    config = model.folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 77, "max_length": 77}))
    return checkpoints_of(Model(model.folder))()


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(checkpoint, OPTIONS, tmp_path_factory.mktemp("bundles") / "package.s2pmobile")


def test_files_and_metadata(folder: Path, checkpoint: Checkpoint) -> None:
    place, asked = folder / "Resources", PACKAGE["metadata"]
    metadata = json.loads((place / "metadata.json").read_text(encoding="utf-8"))
    assert (metadata["metadata_version"], metadata["kind"]) == ("0.2", "diffusion")
    assert set(asked["needed"]) <= set(metadata)
    assert metadata["assets"] == {key: f"{name}.aimodel" for key, name in asked["assets"].items()}
    assert {path.name for path in place.iterdir()} == {
        *metadata["assets"].values(),
        "metadata.json",
        PACKAGE["files"]["folder"],
    }
    assert {path.name for path in (place / PACKAGE["files"]["folder"]).iterdir()} == set(PACKAGE["files"]["plain"])
    diffusion = metadata["diffusion"]
    assert diffusion["type"] == "stable-diffusion" and diffusion["type"] in asked["types"]
    assert diffusion["prediction_type"] in asked["prediction_types"]
    # Swift's decoder refuses a number of another kind, and a scheduler that lacks one of its four fields.
    assert all(isinstance(diffusion[name], int) for name in asked["integers"])
    assert all(isinstance(diffusion[name], int | float) for name in asked["floats"])
    assert {name: type(value).__name__ for name, value in diffusion["scheduler"].items()} == asked["scheduler_needs"]
    assert set(diffusion) == {"type", "prediction_type", "scheduler", *asked["integers"], *asked["floats"]}
    assert diffusion["image_size"] == checkpoint.manifest.latents.height * PACKAGE["numbers"]["pixels_per_latent"]
    assert diffusion["decoder_scale_factor"] == pytest.approx(0.18215)


def signature(path: Path) -> tuple[list[str], dict[str, list[tuple[str, str, list[int]]]]]:
    """Functions of a program, and inputs and outputs of ``main``, as Apple's own reader lists them: (name, type, shape)."""
    from coreai.authoring import AIModelAsset

    summary = AIModelAsset.load(path).summary(include_statistics=False)
    assert summary is not None
    found: dict[str, list[tuple[str, str, list[int]]]] = {}
    for kind, ports in (("inputs", summary.function_inputs("main")), ("outputs", summary.function_outputs("main"))):
        found[kind] = []
        for name, written in ports:
            element, shape = re.fullmatch(r"NDArray \((\w+), ([\d ×]+)\)", written).groups()  # type: ignore[union-attr]
            found[kind].append((name, element, [int(size) for size in shape.split("×")]))
    return summary.function_names, found


@pytest.mark.parametrize("name", PACKAGE["programs"])
def test_programs_have_the_ports_that_the_package_fills(folder: Path, checkpoint: Checkpoint, name: str) -> None:
    asked, latents = PACKAGE["programs"][name], checkpoint.manifest.latents
    functions, ports = signature(folder / "Resources" / f"{PACKAGE['metadata']['assets'][name]}.aimodel")
    assert functions == [PACKAGE["loading"]["function"]]
    scale = PACKAGE["numbers"]["pixels_per_latent"]
    sizes = {
        "D": checkpoint.structure.context_dim, "H": latents.height, "W": latents.width,
        "H_image": scale * latents.height, "W_image": scale * latents.width,
    }  # fmt: skip
    # In the order in which Apple's reader lists them: the package fills inputs by their place.
    assert [shape for _, _, shape in ports["inputs"]] == [[sizes.get(n, n) for n in shape] for _, shape in asked["inputs"]]
    for (found, element, _), (wanted, _) in zip(ports["inputs"], asked["inputs"], strict=True):
        assert wanted in ("*", found)
        assert element == "Int32" if asked.get("integers") else element in PACKAGE["loading"]["float_types"]
    ((_, element, shape),) = ports["outputs"]
    assert shape == [sizes.get(n, n) for n in asked["output"]] and element in PACKAGE["loading"]["float_types"]


def test_it_verifies(folder: Path) -> None:
    assert verify(open_bundle(folder)).ok


def test_every_timestep_finds_the_nearest_call(folder: Path, checkpoint: Checkpoint, write_unet: Callable[..., Path]) -> None:
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    feeds = {
        "sample": gaussian(5, (2, *shape[1:])),
        "encoder_hidden_states": gaussian(6, (2, tokens, checkpoint.structure.context_dim)),
    }
    timesteps = checkpoint.manifest.plan.timesteps
    thresholds = call_thresholds(timesteps)
    engine = Engine()
    engine.load("plain", write_unet(checkpoint, precision="fp32", compute_unit="gpu"), "main")
    engine.load("told", folder / "Resources" / "Unet.aimodel", "main")
    calls = [{**feeds, "step": np.array([call], np.int32)} for call in range(len(timesteps))]
    plain = [engine.run("plain", "main", given)["noise_pred"] for given in calls]
    for timestep in (0, 1, *(t + d for t in thresholds for d in (-1, 0)), 999):
        found = engine.run("told", "main", {**feeds, "timestep": np.full(2, timestep, np.float32)})["noise_pred"]
        nearest = min(range(len(timesteps)), key=lambda call: abs(timesteps[call] - timestep))
        assert nearest == nearest_call(thresholds, timestep)
        np.testing.assert_array_equal(found, plain[nearest], err_msg=str(timestep))
    engine.close()


def test_programs_are_for_the_unit_that_the_package_loads_them_for(folder: Path, checkpoint: Checkpoint) -> None:
    assert {part.compute_unit for part in open_bundle(folder).manifest.components.values()} == {
        PACKAGE["loading"]["preferred_compute_unit"]
    }
    assert CoreAIOptions(layout="coreai-models").form == "tokens" and CoreAIOptions().form == "channels-first"
    # Options that went through a request to another process stay what they were.
    engine = CoreAIOptions(layout="coreai-models", compute_unit="neural-engine")
    assert CoreAIOptions(**engine.model_dump()) == engine
    note = "the package loads every program for the GPU, and this U-Net is in the form for the Neural Engine"
    assert note in package_settings(checkpoint, engine).notes and note not in package_settings(checkpoint, OPTIONS).notes


def with_manifest(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, manifest=checkpoint.manifest.model_copy(update=changes))


def settings_of(checkpoint: Checkpoint, plan: SamplingPlan) -> PackageSettings:
    return package_settings(with_manifest(checkpoint, plan=plan), OPTIONS)


BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
ALWAYS = (
    "the package draws noise of its own, so that a seed gives another picture than with s2p-mobile",
    "the package passes timesteps, each of which uses the nearest call of the plan",
)


@pytest.mark.parametrize(
    ("name", "steps", "spacing", "scheduler"), [("pndm", 20, "leading", "pndm"), ("dpm++2m", 25, "linspace", "dpmpp")]
)
def test_settings_name_the_scheduler_of_the_plan(
    checkpoint: Checkpoint, tmp_path: Path, name: str, steps: int, spacing: str, scheduler: str
) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**BASE, "timestep_spacing": spacing}))
    settings = settings_of(checkpoint, plan_for(tmp_path, name, steps))
    assert settings.describe() == f"scheduler {scheduler}, {steps} steps, guidance 4"
    assert settings.notes == ALWAYS


def test_settings_tell_of_another_rule_other_timesteps_and_calls_without_a_scheduler(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def plan(name: str, steps: int, spacing: str) -> SamplingPlan:
        (tmp_path / "scheduler_config.json").write_text(json.dumps({**BASE, "timestep_spacing": spacing}))
        return plan_for(tmp_path, name, steps)

    same = plan("pndm", 20, "leading").model_copy(update={"scheduler": "DDIMScheduler"})
    assert settings_of(checkpoint, same).notes == (
        *ALWAYS,
        "the plan is of DDIMScheduler; the package makes the same calls and combines them otherwise",
    )
    trailing = plan("dpm++2m", 3, "trailing")
    apart = max(abs(a - b) for a, b in zip(trailing.timesteps, linspace_timesteps(3), strict=True))
    assert apart >= 1 and f"timesteps up to {apart:.0f} away" in settings_of(checkpoint, trailing).notes[-1]
    uneven = plan("ddim", 4, "leading")
    calls = [call.model_copy(update={"timestep": t}) for call, t in zip(uneven.calls, (999.0, 998.0, 997.0, 3.0), strict=True)]
    settings = settings_of(checkpoint, uneven.model_copy(update={"calls": tuple(calls)}))
    assert settings.scheduler is None and settings.notes[-1].startswith("no scheduler of the package visits every call")
    assert settings.describe().startswith("scheduler dpmpp")


def test_v_prediction_is_known(checkpoint: Checkpoint) -> None:
    """Stable Diffusion 2.1."""
    manifest = checkpoint.manifest
    settings_of(checkpoint, manifest.plan.model_copy(update={"prediction_type": "v_prediction"}))


def test_prompts_that_the_package_reads_otherwise(checkpoint: Checkpoint) -> None:
    spec = checkpoint.manifest.tokenizer
    padded = with_manifest(checkpoint, tokenizer=spec.model_copy(update={"pad_id": 0}))
    told = "the package pads prompts with <|endoftext|>, this model was trained with token 0"
    assert told in package_settings(padded, OPTIONS).notes


def test_what_differs_is_told_at_conversion(checkpoint: Checkpoint) -> None:
    after = TARGET.notes(checkpoint, OPTIONS).after
    assert after[0].startswith("settings of the package: scheduler ") and set(ALWAYS) <= set(after)
    assert not set(ALWAYS) & set(TARGET.notes(checkpoint, CoreAIOptions()).after)


def unsuitable(checkpoint: Checkpoint, folder: Path, change: str) -> Checkpoint:
    """A checkpoint that the package cannot draw with."""
    manifest = checkpoint.manifest
    latents, spec = manifest.latents, manifest.tokenizer
    match change:
        case "tokens":
            return with_manifest(checkpoint, tokenizer=spec.model_copy(update={"max_length": 16}))
        case "channels":
            return with_manifest(checkpoint, latents=latents.model_copy(update={"channels": 16}))
        case "oblong":
            return with_manifest(checkpoint, latents=latents.model_copy(update={"width": latents.width + 8}))
        case "shift":
            return with_manifest(checkpoint, latents=latents.model_copy(update={"shift_factor": 0.1}))
        case "sample":
            return with_manifest(checkpoint, plan=manifest.plan.model_copy(update={"prediction_type": "sample"}))
        case "no guidance":
            return with_manifest(checkpoint, guidance=1.0)
    shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True)
    path = folder / ("scheduler/scheduler_config.json" if "betas" in change or change == "steps" else spec.vocab)
    document = json.loads(path.read_text())
    match change:
        case "betas":
            document["beta_schedule"] = "linear"
        case "trained betas":
            document["trained_betas"] = [0.1, 0.2]
        case "steps":
            document["num_train_timesteps"] = 500
        case "frame":
            document["<s>"] = document.pop("<|startoftext|>")
    path.write_text(json.dumps(document))
    return dataclasses.replace(checkpoint, folder=folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("tokens", "has 16 tokens to a text, the package takes 77"),
        ("channels", "has 16 latent channels, the package takes 4"),
        ("no guidance", "has 1 branches to a call, the package takes 2"),
        ("oblong", "draws oblong pictures, the package square ones"),
        ("shift", "shifts its latents, the package only scales them"),
        ("sample", "predicts sample, the package knows epsilon and v_prediction"),
        ("betas", "was trained with another noise schedule than scaled_linear over 1000 steps"),
        ("trained betas", "was trained with another noise schedule"),
        ("steps", "was trained with another noise schedule"),
        ("frame", "frames a prompt with token 1024, the package with <|startoftext|>"),
    ],
)
def test_a_model_that_the_package_cannot_draw_with(checkpoint: Checkpoint, tmp_path: Path, change: str, reason: str) -> None:
    with pytest.raises(S2PError) as caught:
        package_settings(unsuitable(checkpoint, tmp_path / "copy", change), OPTIONS)
    assert reason in str(caught.value) and str(caught.value).endswith("leave the option out and draw with the plan")


def test_pixels_to_a_latent_are_the_packages(make_checkpoint: Callable[..., Checkpoint]) -> None:
    small = make_checkpoint()
    longer = with_manifest(small, tokenizer=small.manifest.tokenizer.model_copy(update={"max_length": 77}))
    with pytest.raises(S2PError, match="has 4 pixels to a latent, the package takes 8"):
        package_settings(longer, OPTIONS)


@pytest.mark.parametrize("given", [{"chunks": 2}, {"size": ((64, 64),)}])
def test_one_unet_at_one_size(given: dict[str, Any]) -> None:
    with pytest.raises(S2PError, match="runs one U-Net at one size"):
        CoreAIOptions(layout="coreai-models", **given)


def test_it_starts_from_noise() -> None:
    with pytest.raises(S2PError, match="draws from noise only"):
        CoreAIOptions(layout="coreai-models", image_to_image=True)
