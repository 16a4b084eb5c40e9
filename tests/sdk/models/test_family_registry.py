"""Families from outside: asked before the built-in ones, with a conditioner and components of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.graph import DENOISERS
from s2p_converters.core.plan import plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.judge.evaluation import evaluate, open_evaluation
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import load_recipe
from s2p_mobile.sources.components import checkpoint_components
from s2p_mobile.sources.families import FAMILIES, families_in_order
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import draw
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
PROMPTS = ("a red apple", "a blue fox")

WAVES = '''
"""A family without a text encoder: a word's embedding is a wave of its token's number. Its U-Net is of a class of its own."""
import numpy as np
from diffusers import UNet2DConditionModel

from s2p_converters.core.graph import Denoiser, StepTables, StepUNet, UNetStructure
from s2p_mobile.sources.families import Conditioner, ConditionSpec, Family
from s2p_mobile.sources.time_tables import time_tables
from s2p_mobile.sources.tokenizer_files import tokenizer_spec


class WaveUNet(UNet2DConditionModel):
    pass


WAVE_UNET = Denoiser(
    kind="WaveUNet", module="waves_family", folder="unet", graph=StepUNet, time_path=("time_embedding.", "time_emb_proj."),
    structure=lambda config: UNetStructure.from_config({**config, "_class_name": "UNet2DConditionModel"}),
)


class WaveConditioner(Conditioner):
    @classmethod
    def of_model(cls, folder, index, structure, size):
        return cls(folder, tokenizer_spec(folder / "tokenizer", 16), structure)

    @property
    def conditions(self):
        return (ConditionSpec("waves", "text_waves", (self.tokens, self.structure.context_dim)),)

    def embed(self, token_ids):
        width = self.structure.context_dim
        return (np.sin(token_ids["token_ids"][..., None] * np.arange(1, width + 1) / width).astype(np.float32),)

    def step_tables(self, unet, timesteps):
        return StepTables(time_tables(unet, timesteps))

    def load(self):
        pass


WAVES = Family(
    name="waves", title="Waves in place of a text encoder", needs="unet, vae, tokenizer, scheduler", pipelines=("WavePipeline",),
    folders=("vae", "tokenizer", "scheduler"), conditioner=WaveConditioner, guidance=3.0, scaling_factor=0.5,
    matches=lambda configs: "text_encoder" not in configs, denoiser_kind="WaveUNet",
)
'''


@pytest.fixture()
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``install(module, source, family, denoiser="")``: a distribution with one family, for the time of a test."""

    def add(module: str, source: str, family: str, denoiser: str = "") -> None:
        site = tmp_path / "site"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[s2p_mobile.families]\n{family}\n[s2p_mobile.denoisers]\n{denoiser}\n")
        monkeypatch.syspath_prepend(str(site))
        for registry in (FAMILIES, DENOISERS):
            monkeypatch.delitem(vars(registry), "_plugins", raising=False)
            # Put back after the test, whatever was loaded in it.
            monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))

    yield add
    for registry in (FAMILIES, DENOISERS):
        vars(registry).pop("_plugins", None)


def wave_model(make_model: MakeModel) -> Path:
    folder = make_model("sd1")
    shutil.rmtree(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WavePipeline"}))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "WaveUNet"}))
    return folder


def test_a_family_from_outside_goes_the_whole_way(
    make_model: MakeModel, install: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a folder to trajectories, a checkpoint and pictures, with conditions under names of its own."""
    folder = wave_model(make_model)
    with pytest.raises(S2PError, match="holds a WavePipeline, which is no pipeline of diffusers; supported are"):
        Model(folder)
    install("waves_family", WAVES, "waves = waves_family:WAVES", "WaveUNet = waves_family:WAVE_UNET")
    assert run(["models"]) == 0
    assert "Waves in place of a text encoder" in capfd.readouterr().out
    model = Model(folder)
    assert (model.family.name, model.guidance, model.latents.scaling_factor) == ("waves", 3.0, 0.18215)  # the VAE's own factor
    model.load()
    assert type(model.unet).__name__ == "WaveUNet"
    plan = plan_for(folder / "scheduler", "ddim", 2)
    latents = write_latents(LatentJob(model, plan, PROMPTS, 3.0), tmp_path / "set")
    (waves,) = latents.conditions([1])
    ids = model.conditioner.token_ids(["", PROMPTS[1]])["token_ids"]
    np.testing.assert_array_equal(waves[0].numpy(), np.sin(ids[..., None] * np.arange(1, 65) / 64).astype(np.float32))
    recipe = load_recipe("w8a8").model_copy(
        update={"calibration": load_recipe("w8a8").calibration.model_copy(update={"prompts": 2})}
    )
    job = QuantizationJob(model, plan, recipe, PROMPTS, 3.0)
    (tmp_path / "checkpoint").mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), tmp_path / "checkpoint")
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    artist, fp = checkpoint_artist("waves", checkpoint), model_artist(model, plan, 3.0)
    drawn, expected = (draw(one, PROMPTS[0], 1, "a rose").latents for one in (artist, fp))
    # Eight bits everywhere, as in the tests of the built-in families.
    assert 0 < np.abs(drawn - expected).max() < 0.1 * np.abs(expected).max()
    result = evaluate(open_evaluation(tmp_path / "checkpoint", model), PROMPTS, metrics=["psnr"])
    assert result.count == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FAMILIES, "_loaded", {})
        patch.setitem(vars(FAMILIES), "_plugins", {})
        with pytest.raises(S2PError, match="unknown family 'waves'; there are sd1, sd2, sdxl"):
            checkpoint_components(checkpoint)
        patch.setattr(DENOISERS, "_loaded", {})
        patch.setitem(vars(DENOISERS), "_plugins", {})
        with pytest.raises(S2PError, match="unknown denoiser 'WaveUNet'; there are UNet2DConditionModel"):
            open_checkpoint(tmp_path / "checkpoint")


def test_families_from_outside_are_asked_first(family_models: dict[str, Path], install: Callable[..., None]) -> None:
    source = (
        "import dataclasses\nfrom s2p_mobile.sources.families.stable_diffusion import SD1\n"
        "OWN = dataclasses.replace(SD1, name='own', guidance=2.0, matches=lambda c: c['unet'].get('cross_attention_dim') == 64)\n"
    )
    install("own_family", source, "own = own_family:OWN")
    assert [family.name for family in families_in_order()] == ["own", "sd1", "sd2", "sdxl"]
    assert Model(family_models["sd1"]).family.name == "own" and Model(family_models["sd1"]).guidance == 2.0


def test_a_family_that_cannot_be_imported_is_left_out(family_models: dict[str, Path], install: Callable[..., None]) -> None:
    install("broken_family", "raise RuntimeError('not today')\n", "broken = broken_family:NONE")
    assert Model(family_models["sd2"]).family.name == "sd2"
    assert "broken_family" in FAMILIES.broken["broken"] and "not today" in FAMILIES.broken["broken"]
