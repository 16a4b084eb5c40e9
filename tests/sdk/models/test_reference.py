"""Models are held against the pipeline that diffusers opens from the same files: what is the same passes, each fault is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

import s2p_mobile
from s2p_converters.core.plan import plan_for
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.reference import LIMIT, comparison, record, require_same
from s2p_mobile.sources.reference import compare as compare_with_diffusers
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
COMPONENTS = ["text encoder", "scheduler", "U-Net", "VAE"]


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture()
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("S2P_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compared"


@pytest.fixture()
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are really compared."""
    done: list[str] = []

    def counted(model: Model) -> list[comparison.Difference]:
        done.append(model.name)
        return compare_with_diffusers(model)

    monkeypatch.setattr(record, "compare", counted)
    return done


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_component_of_every_family_is_compared(family_models: dict[str, Path], family: str) -> None:
    found = compare_with_diffusers(Model(family_models[family], PixelSize(24, 16)))
    assert [each.component for each in found] == COMPONENTS
    assert all(each.relative <= LIMIT for each in found), found


def test_a_consistency_model_is_compared_with_its_guidance_as_an_input(make_model: MakeModel) -> None:
    """The reference's U-Net is told the guidance, ours has it built in; building it in leaves the reference alone."""
    scheduler = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
    model = Model(make_model("sd1", scheduler=scheduler, time_cond_proj_dim=16), embedded_guidance=6.0)
    assert all(each.is_small for each in compare_with_diffusers(model))
    assert model.unet.time_embedding.cond_proj is None and model.diffusers_unet.time_embedding.cond_proj is not None
    assert model.unet.conv_in.weight is model.diffusers_unet.conv_in.weight
    found = {each.component: each for each in compare_with_diffusers(fooled(model, "guidance"))}
    assert not found["U-Net"].is_small


def fooled(model: Model, part: str) -> Model:
    """The same model, one part of its reading wrong."""
    if part == "text encoder":
        (table,) = model.conditioner.tables
        spec = table.spec.model_copy(update={"pad_id": table.spec.pad_id - 3})
        model.conditioner.tables = (replace(table, spec=spec),)
    elif part == "U-Net":
        down = tuple(replace(block, heads=2 * block.heads) for block in model.structure.down)
        model.structure = replace(model.structure, down=down)
    elif part == "guidance":
        model.__dict__["unet"] = model.with_embedded_guidance(6.5).unet
    else:
        model.latents = model.latents.model_copy(update={"scaling_factor": model.latents.scaling_factor * 1.01})
    return model


@pytest.mark.parametrize("part", ["text encoder", "U-Net", "VAE"])
def test_a_misread_part_is_refused_by_name(make_model: MakeModel, cache: Path, part: str) -> None:
    model = fooled(Model(make_model("sd1")), part)
    with pytest.raises(
        S2PError, match=rf"the {part} of random-sd1 differs from diffusers by \S+ \(\S+ here, \S+ there"
    ) as caught:
        require_same(model)
    assert "\n" not in str(caught.value) and not cache.exists()
    assert {each.component for each in compare_with_diffusers(model) if not each.is_small} == {part}


def test_a_misread_scheduler_is_refused_by_name(make_model: MakeModel, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan whose last row is a tenth off, and one whose last timestep is the one before."""
    folder = make_model("sd1")
    plan = plan_for(folder / "scheduler", None, 25)
    last = plan.calls[-1]
    row = last.model_copy(update={"outputs": tuple((k, value * 1.1) for k, value in last.outputs)})
    early = last.model_copy(update={"timestep": last.timestep + 1})
    for changed in (row, early):
        wrong = plan.model_copy(update={"calls": (*plan.calls[:-1], changed)})
        monkeypatch.setattr(comparison, "plan_for", lambda *_, wrong=wrong: wrong)
        with pytest.raises(S2PError, match="the scheduler DDIMScheduler of random-sd1 differs from diffusers"):
            require_same(Model(folder))


def test_the_second_opening_compares_nothing(make_model: MakeModel, cache: Path, comparisons: list[str]) -> None:
    folder = make_model("sd1")
    require_same(Model(folder))
    require_same(Model(folder))
    s2p_mobile.load(folder, size=(24, 16))
    assert comparisons == ["random-sd1"]
    assert [sorted(json.loads(path.read_text())["differences"]) for path in cache.iterdir()] == [sorted(COMPONENTS)]


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/vocab.json"])
def test_changed_files_are_compared_again(make_model: MakeModel, cache: Path, comparisons: list[str], file: str) -> None:
    folder = make_model("sd1")
    require_same(Model(folder))
    path = folder / file
    if path.suffix == ".json":  # the content changes, the size and the time do not
        told = path.stat()
        text = path.read_text()
        path.write_text(text.replace('": 1', '":1 ', 1))
        assert path.read_text() != text
        os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
        assert path.stat().st_size == told.st_size
    else:
        os.utime(path)
    require_same(Model(folder))
    assert len(comparisons) == 2


def test_a_fused_model_is_known_by_its_files(
    make_model: MakeModel, cache: Path, comparisons: list[str], tmp_path: Path
) -> None:
    """Its folder is another one each time."""
    folder, style = make_model("sd1"), tmp_path / "style.safetensors"
    save_file(
        {"unet.conv_in.lora_A.weight": torch.ones(1, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(32, 1, 1, 1)}, style
    )
    for scale in (0.1, 0.1, 0.2):
        require_same(open_model(folder, None, [f"{style}:{scale}"]))
    assert comparisons == ["random-sd1+style"] * 2


def test_a_cache_that_cannot_be_written_stops_nothing(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comparisons: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("S2P_CACHE", str(tmp_path / "file"))
    folder = make_model("sd1")
    require_same(Model(folder))
    require_same(Model(folder))
    assert len(comparisons) == 2


def test_what_diffusers_cannot_draw_with_is_refused(make_model: MakeModel, cache: Path) -> None:
    folder = make_model("sd1")
    rewrite(folder / "model_index.json", tokenizer=["transformers", "CLIPTokenizerOfAnother"])
    with pytest.raises(S2PError, match=r"tokenizer/ of .* is of the class CLIPTokenizerOfAnother, which is not supported"):
        Model(folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index["tokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(S2PError, match=r"diffusers itself cannot open random-sd1 \(.*expected.*tokenizer") as caught:
        require_same(Model(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (
            "nothing",
            r"tokenizer_config\.json has no model_max_length, which diffusers cannot draw with: text_encoder has 16 pos",
        ),
        (int(1e30), r"tokenizer_config\.json has a model_max_length of 10{3}\d+, which"),
        (17, r"tokenizer_config\.json has a model_max_length of 17, which"),
        ("no file", r"tokenizer_config\.json is not there, so diffusers does not know how long texts are"),
    ],
)
def test_a_tokenizer_without_a_length_is_named_with_the_way_out(
    make_model: MakeModel, cache: Path, told: int | str, problem: str
) -> None:
    """diffusers' own pipeline draws nothing with such a one, and draws what is drawn here when the advice is followed."""
    folder = make_model("sd1")
    file = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    if isinstance(told, int):
        settings["model_max_length"] = told
    file.write_text(json.dumps(settings))
    if told == "no file":
        file.unlink()
    pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    with pytest.raises((OverflowError, RuntimeError, ValueError)):
        pipe("a cat", num_inference_steps=1, height=16, width=16)
    with pytest.raises(S2PError, match=problem) as caught:
        require_same(Model(folder))
    assert '"model_max_length": 16' in caught.value.remedy and "\n" not in str(caught.value)
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), "model_max_length": 16}))
    require_same(Model(folder))


@pytest.mark.parametrize("scheduler", [{"steps_offset": 0}, {"steps_offset": 0, "timestep_spacing": "leading"}])
def test_settings_that_a_pipeline_changes_are_changed_here(make_model: MakeModel, scheduler: dict[str, Any]) -> None:
    """StableDiffusionPipeline sets ``steps_offset`` to 1 and ``clip_sample`` to false, whatever a model says or leaves out."""
    folder = make_model("sd1", scheduler=scheduler)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    del config["clip_sample"]
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    theirs = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True).scheduler
    theirs.set_timesteps(10)
    assert plan_for(folder / "scheduler", None, 10).timesteps == theirs.timesteps.tolist()
    assert all(each.is_small for each in compare_with_diffusers(Model(folder)))


def test_decoding_takes_the_statistics_of_sdxl_alone(make_model: MakeModel) -> None:
    """diffusers' pipelines of 1.x and 2.x look at neither, and none of the three at a shift."""
    mean, std = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    specs = {}
    for family in ("sd1", "sdxl"):
        folder = make_model(family)
        rewrite(folder / "vae" / "config.json", latents_mean=mean, latents_std=std, shift_factor=0.5)
        model = Model(folder)
        specs[family] = (model.latents.mean, model.latents.std, model.latents.shift_factor)
        assert all(each.is_small for each in compare_with_diffusers(model))
        rewrite(folder / "vae" / "config.json", latents_std=std[:3])
        if family == "sdxl":
            with pytest.raises(S2PError, match=r"vae/config.json .*std: 3 numbers for 4 channels"):
                Model(folder)
    assert specs == {"sd1": (None, None, 0.0), "sdxl": (tuple(mean), tuple(std), 0.0)}


def test_evaluation_rests_on_it(make_model: MakeModel, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = make_model("sd1")
    (tmp_path / "prompts.txt").write_text("a cat\n")
    wrong = comparison.Difference("U-Net", 1.0, "1", "2")
    monkeypatch.setattr(record, "compare", lambda _: [wrong])
    for command in (
        lambda: s2p_mobile.evaluate(folder, prompts=tmp_path / "prompts.txt", metrics=["psnr"], cache=False),
        lambda: s2p_mobile.generate(folder, "a cat", steps=1),
        lambda: s2p_mobile.load(folder),
        lambda: s2p_mobile.latents(folder, out=tmp_path / "set", prompts=tmp_path / "prompts.txt", steps=1),
        lambda: s2p_mobile.sensitivity(folder, estimator="sqnr", steps=1),
        lambda: s2p_mobile.quantize(folder, out=tmp_path / "out", method="rtn", recipe="w8a8", count=1, steps=1),
    ):
        with pytest.raises(S2PError, match=r"the U-Net of random-sd1 differs from diffusers by 1\.0e"):
            command()
    assert s2p_mobile.forecast(folder, method="rtn", recipe="w8a8", count=1, steps=1).memory_bytes > 0
    assert not (tmp_path / "out").exists() and not (tmp_path / "set").exists()
