"""What ``model_index.json`` names: the scheduler's class, pipelines with the same components, and code that is never run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers import AutoencoderTiny
from diffusers.pipelines import auto_pipeline

from s2p_converters.core.json_object import MAX_CONFIG_BYTES
from s2p_converters.core.plan import own_scheduler, plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.sources.families import supported_pipelines, text_to_image
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.reference import compare
from s2p_mobile.sources.session import open_session
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path, **asked: Any) -> str:
    with pytest.raises(S2PError) as caught:
        open_session(folder, device="cpu", **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_index_and_a_configuration_of_two_classes_are_refused(make_model: MakeModel) -> None:
    """diffusers would take the index's, whoever changed the other file; a scheduler that is asked for goes its way."""
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    line = refusal(folder)
    assert "names the scheduler EulerDiscreteScheduler but scheduler_config.json is one of DDIMScheduler" in line
    assert plan_for(folder / "scheduler", "ddim", 4).scheduler == "DDIMScheduler"
    rewrite(folder / "scheduler" / "scheduler_config.json", _class_name="EulerDiscreteScheduler")
    assert open_session(folder, device="cpu").plan.scheduler == "EulerDiscreteScheduler"
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    del config["_class_name"]
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert open_session(folder, device="cpu").plan.scheduler == "EulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (["diffusers", "SchedulerOfTomorrow"], "SchedulerOfTomorrow is not supported: it is no class of diffusers"),
        (["diffusers", "TCDScheduler"], "the model's scheduler TCDScheduler is not supported; choose `scheduler` from"),
    ],
)
def test_schedulers_that_cannot_be_used_are_named(make_model: MakeModel, entry: list[str], words: str) -> None:
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", scheduler=entry)
    rewrite(folder / "scheduler" / "scheduler_config.json", _class_name=entry[1])
    assert words in refusal(folder)


@pytest.mark.parametrize("name", [None, "euler"])
@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_a_model_of_edm_is_refused_whatever_is_asked_for(make_model: MakeModel, kind: str, name: str | None) -> None:
    folder = make_model("sd1")
    getattr(diffusers, kind)().save_pretrained(folder / "scheduler")
    rewrite(folder / "model_index.json", scheduler=["diffusers", kind])
    line = refusal(folder, scheduler=name)
    assert f"{kind}: the model was trained for EDM's preconditioning" in line and "choose" not in line


def test_a_missing_package_is_named(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.utils import import_utils
    from diffusers.utils.dummy_torch_and_scipy_objects import LMSDiscreteScheduler

    folder = make_model("sd1", scheduler={"_class_name": "LMSDiscreteScheduler"})
    # As diffusers is without scipy: a class that says what it lacks.
    monkeypatch.setattr(import_utils, "_scipy_available", False)
    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", LMSDiscreteScheduler)
    assert refusal(folder).endswith("; install scipy, or choose another `scheduler`")


def test_pipelines_from_pictures_hold_a_model_that_draws_from_texts(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline")
    assert all(each.is_small for each in compare(Model(folder)))
    # Paired as AutoPipelineForText2Image of diffusers pairs them.
    for pipeline in supported_pipelines():
        paired = auto_pipeline._get_task_class(auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, pipeline)
        assert text_to_image(pipeline) == paired.__name__


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "StableDiffusionPAGPipeline",
            r"a pipeline with perturbed attention guidance \(StableDiffusionPAGPipeline\); supported",
        ),
        ("StableDiffusionSAGPipeline", "a pipeline with self-attention guidance"),
        (
            "StableDiffusionLongPromptWeightingPipeline",
            "StableDiffusionLongPromptWeightingPipeline, which is no pipeline of diffusers",
        ),
        (["my_pipeline", "MyPipeline"], r"wants code of its own to be run \(pipeline my_pipeline.MyPipeline\)"),
    ],
)
def test_other_pipelines_are_named(make_model: MakeModel, kind: Any, words: str) -> None:
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", _class_name=kind)
    with pytest.raises(S2PError, match=words):
        Model(folder)


def test_the_refiner_is_named(make_model: MakeModel) -> None:
    folder = make_model("sdxl")
    rewrite(folder / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline", requires_aesthetics_score=True)
    with pytest.raises(S2PError, match="holds SDXL's refiner"):
        Model(folder)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model_index.json", {"unet": ["my_unet", "MyUNet"]}, "unet my_unet.MyUNet"),
        ("model_index.json", {"safety_checker": ["my_checker", "Checker"]}, "safety_checker my_checker.Checker"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map in text_encoder/config.json"),
        (
            "tokenizer/tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": "a.B"}},
            "auto_map in tokenizer/tokenizer_config.json",
        ),
    ],
)
def test_code_in_a_folder_is_never_run(
    make_model: MakeModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str, change: dict[str, Any], words: str
) -> None:
    folder, mark = make_model("sd1"), tmp_path / "ran"
    rewrite(folder / file, **change)
    for name in (
        "unet/my_unet.py",
        "safety_checker/my_checker.py",
        "text_encoder/modeling.py",
        "tokenizer/a.py",
        "my_pipeline.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    capfd.readouterr()
    assert run(["generate", str(folder), "a cat", "--out", str(tmp_path / "a.png")]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and f"wants code of its own to be run ({words})" in lines[0]
    assert not mark.exists()


def test_a_safety_checker_of_diffusers_is_no_code_of_its_own(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert Model(folder).family.name == "sd1"


def test_the_tiny_autoencoder_is_named(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    AutoencoderTiny(encoder_block_out_channels=(8,), decoder_block_out_channels=(8,), num_encoder_blocks=(1,),
                    num_decoder_blocks=(1,)).save_pretrained(folder / "vae")  # fmt: skip
    rewrite(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    assert (
        "vae/ of" in (line := refusal(folder))
        and "is of the class AutoencoderTiny" in line
        and "AutoencoderKL in its place" in line
    )


def test_a_tokenizer_with_many_words_has_a_large_configuration(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    rewrite(folder / "tokenizer" / "tokenizer_config.json", notes="x" * MAX_CONFIG_BYTES)
    assert Model(folder).conditioner.tokens == 16


def test_a_size_is_asked_for_where_a_model_has_none(make_model: MakeModel) -> None:
    folder = make_model("sd1", sample_size=None)
    with pytest.raises(S2PError, match="has no sample_size; say how large the pictures are with `size`") as caught:
        Model(folder)
    assert caught.value.field == "size"
    assert Model(folder, PixelSize(16, 16)).latent_shape == (1, 4, 8, 8)
    rewrite(folder / "unet" / "config.json", sample_size=9)
    with pytest.raises(S2PError, match="has a sample_size of 9x9, no multiple of 2; say how large"):
        Model(folder)
    for value in ("8", 8.5, True, 0, -2, [8], [8, "8"]):
        rewrite(folder / "unet" / "config.json", sample_size=value)
        with pytest.raises(S2PError, match=r"has sample_size = .* neither a positive number nor two"):
            Model(folder)


def test_a_folder_alone_is_of_its_configurations_class(make_model: MakeModel) -> None:
    folder = make_model("sd1", scheduler={"_class_name": "DEISMultistepScheduler"})
    (folder / "model_index.json").unlink()
    assert own_scheduler(folder / "scheduler").name == "DEISMultistepScheduler"


def test_heads_that_do_not_fill_the_width_are_refused(make_model: MakeModel) -> None:
    """diffusers makes an attention that is narrower than its block."""
    folder = make_model("sd1", attention_head_dim=(3, 4))
    with pytest.raises(S2PError, match="attention_head_dim = 3, the number of heads, does not divide the width 32"):
        Model(folder)
