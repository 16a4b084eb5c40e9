"""SDXL from a folder to pictures: trajectories, training, both targets, drawing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from safetensors.numpy import load_file, save_file

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.plan import plan_for
from s2p_converters.core.reference import checkpoint_unet
from s2p_mobile.cli.app import run
from s2p_mobile.judge.evaluation.drawing import draw
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import Recipe, load_recipe
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.torch_artist import TorchArtist
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.bundle import MANIFEST_NAME, open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.verify import verify

PROMPTS = ("a red apple on a blue background", "a panda on a yellow background")
STEPS = 3
SAME = 1e-3
"""Of the largest value. float32 networks with sums in another order differ by about 1e-5; other time ids, another padding or the
empty text in place of zeros change these random models by several per cent."""


@pytest.fixture(scope="module")
def model(family_models: dict[str, Path]) -> Model:
    return Model(family_models["sdxl"])


@pytest.fixture(scope="module")
def plan(model: Model) -> SamplingPlan:
    return plan_for(model.folder / "scheduler", "ddim", STEPS)


def quick(name: str = "w4a8", **training: Any) -> Recipe:
    recipe = load_recipe(name)
    calibration = recipe.calibration.model_copy(update={"prompts": 2})
    start = recipe.training.start.model_copy(update={"calls": 8, "iterations": 8})
    rule = recipe.training.model_copy(update={"iterations": 2, "prompts": 2, "batch": 2, "start": start, **training})
    baselines = recipe.baselines.model_copy(update={"samples": 8, "factor": 20_000.0})
    return recipe.model_copy(update={"training": rule, "calibration": calibration, "baselines": baselines})


@pytest.fixture(scope="module")
def job(model: Model, plan: SamplingPlan) -> QuantizationJob:
    return QuantizationJob(model, plan, quick(), PROMPTS, model.guidance, seed=4, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(job: QuantizationJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl") / "checkpoint"
    folder.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), folder)
    return folder


@torch.no_grad()
def final_latents(pipe: Any, model: Model, prompt: str, seed: int) -> np.ndarray:
    """Final state of diffusers' own pipeline, from the same noise."""
    noise = torch.from_numpy(gaussian(seed, model.latent_shape))
    latents: np.ndarray = pipe(
        prompt, latents=noise, num_inference_steps=STEPS, guidance_scale=5.0, output_type="latent", height=16, width=16
    ).images.numpy()
    return latents


def test_trajectories_end_where_diffusers_ends(
    model: Model, plan: SamplingPlan, diffusers_pipeline: Callable[..., Any], tmp_path: Path
) -> None:
    scheduler = DDIMScheduler.from_pretrained(model.folder / "scheduler")
    pipe = diffusers_pipeline(model, StableDiffusionXLPipeline, scheduler)
    latents = write_latents(LatentJob(model, plan, PROMPTS, model.guidance, seed=4), tmp_path / "latents")
    for k, prompt in enumerate(PROMPTS):
        expected = final_latents(pipe, model, prompt, 4 + k)
        assert np.abs(latents.final([k]) - expected).max() < SAME * np.abs(expected).max()
    texts, pooled = latents.conditions([1, 0])
    assert texts.shape == (2, 2, 16, 64) and pooled.shape == (2, 2, 24)
    assert not pooled[:, 0].any()  # the unconditional branch
    _, own = model.conditioner.embed(model.conditioner.token_ids([PROMPTS[1]]))
    # Two texts in a batch, or one: float32 with another order of sums.
    np.testing.assert_allclose(pooled[0, 1].numpy(), own[0], atol=1e-5)
    assert latents.manifest.request.conditions == ("embeddings", "pooled")
    other = LatentJob(Model(model.folder, PixelSize(16, 24)), plan, PROMPTS, model.guidance, seed=4)
    with pytest.raises(S2PError, match=r"another latent size|other time ids"):
        latents.require(other)


def test_several_prompts_to_a_call_are_each_alone(model: Model, plan: SamplingPlan) -> None:
    unet = float_unet(model, plan)
    drawn = draw(TorchArtist("fp", model, unet, plan, model.guidance), PROMPTS, [11, 12])
    for k, prompt in enumerate(PROMPTS):
        alone = draw_latents(unet, plan, encode_prompt(model, prompt, 11 + k, 5.0), 5.0, model.latent_shape)
        assert np.abs(drawn.states[k, -1] - alone[0]).max() < SAME * np.abs(alone).max()


@pytest.mark.parametrize("method", ["gptq", "s2p", "ptq4dm", "q-diffusion", "pcr"])
def test_methods_see_each_prompts_own_rows(job: QuantizationJob, method: str, tmp_path: Path) -> None:
    """With 8-bit weights and float activations a method's network is close to FP, if every prompt has its own time rows."""
    recipe = quick("w4a16", iterations=1)
    recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"bits": 8})})
    mine = replace(job, recipe=recipe)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    manifest = write_checkpoint(mine, method, run_method(method, mine), folder)
    assert manifest.family == "sdxl" and manifest.conditioning == job.model.conditioner.settings
    opened = open_checkpoint(folder)
    fp, quantized = float_unet(job.model, job.plan), checkpoint_unet(opened).float()
    prompt = encode_prompt(job.model, PROMPTS[0], 7, job.guidance)
    expected, found = (draw_latents(unet, job.plan, prompt, job.guidance, job.latent_shape) for unet in (fp, quantized))
    # Rounding to 8 bits is an error of 2^-8 / sqrt(3) of a weight's range a layer; a hundred layers and guidance 5 amplify it.
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_training_goes_through_the_time_network(job: QuantizationJob) -> None:
    """What all prompts share is learned, the network is not."""
    unet = run_method("s2p", replace(job, recipe=quick(iterations=4)))
    before = {name: table.numpy() for name, table in _rows(job).items()}
    assert unet.time_tables.keys() == before.keys()
    assert any(np.abs(unet.time_tables[name] - before[name]).max() > 0 for name in before)
    with pytest.raises(S2PError, match="which sdxl computes in float for every prompt; use time: table"):
        run_method("s2p", replace(job, recipe=quick().model_copy(update={"time": "quantized"})))


def _rows(job: QuantizationJob) -> dict[str, torch.Tensor]:
    """Biases of the projections, at every call, from diffusers' own modules."""
    resnets = {name: m for name, m in job.model.unet.named_modules() if type(m).__name__ == "ResnetBlock2D"}
    return {f"{name}.time": m.time_emb_proj.bias.expand(STEPS, -1) for name, m in resnets.items()}


@pytest.fixture(scope="module")
def light(write_model: Callable[..., Path], plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A model with two transformer layers in place of eight, which converters take seconds for, and a checkpoint of it."""
    unet = {"up_block_types": ("UpBlock2D", "UpBlock2D"), "transformer_layers_per_block": 1}
    model = Model(write_model(tmp_path_factory.mktemp("light") / "sdxl", "sdxl", {}, **unet))
    job = QuantizationJob(model, plan, quick(), PROMPTS, model.guidance, seed=4, device="cpu")
    folder = tmp_path_factory.mktemp("light") / "checkpoint"
    folder.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), folder)
    return model, folder


def convert(checkpoint: Path, target: str, out: Path, *options: str) -> Path:
    assert run(["convert", str(checkpoint), "--target", target, "--out", str(out), *options]) == 0
    return out


QNN = (pytest.mark.slow, pytest.mark.skipif(find_spec("onnxruntime_qnn") is None, reason="no onnxruntime-qnn"))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("coreml", ()),
        ("executorch", ()),
        pytest.param("executorch", ("--size", "16x32"), marks=pytest.mark.slow),
        pytest.param("executorch", ("--backend", "qnn"), marks=QNN),
        pytest.param("coreai", (), marks=pytest.mark.skipif(find_spec("coreai_torch") is None, reason="no coreai-torch")),
    ],
)
def test_every_target(light: tuple[Model, Path], target: str, options: tuple[str, ...], tmp_path: Path) -> None:
    model, checkpoint = light
    folder = convert(checkpoint, target, tmp_path / "painter.s2pmobile", *options)
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    # But for where the second tokenizer's files lie.
    second = manifest.conditioning.second_tokenizer.model_copy(
        update={name: f"tokenizer_2/{name}.{kind}" for name, kind in (("vocab", "json"), ("merges", "txt"))}
    )
    assert manifest.conditioning.model_copy(update={"second_tokenizer": second}) == model.conditioner.settings
    table = manifest.components["time_table"]
    assert [port.shape for port in table.inputs] == [(2, 24), (2, 6)]
    # Snapdragon's NPU computes floats in float16; of the table it is told what float16 does not know.
    assert table.precision == ("float16" if "qnn" in options else "float32")
    assert manifest.components["unet"].inputs[-1] == table.outputs[0]
    result = verify(bundle)
    assert result.ok and {"text_encoder", "time_table", "unet", "vae_decoder"} < set(result.components)
    golden = load_file(folder / "golden" / "1.safetensors")
    # Against diffusers: both encoders' penultimate states, zeros for the unconditional branch. Text encoders of Core ML are in fp16.
    rows = {name: golden[name][1:] for name in ("token_ids", "second_token_ids")}
    # One vocabulary, which the bundle holds once.
    assert manifest.conditioning.second_tokenizer.vocab == manifest.tokenizer.vocab
    hidden, pooled = model.conditioner.embed(rows)
    scale = 1e-4 if target == "executorch" else 2e-2
    assert np.abs(golden["text_embeddings"][1] - hidden[0]).max() < scale * np.abs(hidden).max()
    assert np.abs(golden["pooled_text"][1] - pooled[0]).max() < scale * np.abs(pooled).max()
    assert not golden["text_embeddings"][0].any() and not golden["pooled_text"][0].any()
    np.testing.assert_array_equal(golden["time_ids"], [[16, 16, 0, 0, 16, 16]] * 2)
    assert run(["generate", str(folder), "a cat", "--out", str(tmp_path / "a.png")]) == 0
    if "--size" in options:
        assert run(["generate", str(folder), "a cat", "--size", "16x32", "--out", str(tmp_path / "b.png")]) == 0
        check = load_file(folder / "golden" / "size-16x32.safetensors")
        # The size is told to the network: another table, of the same prompt.
        assert np.abs(check["time_table"] - golden["time_table"]).max() > 0
    golden["time_table"][0, 1] += np.abs(golden["time_table"]).max()
    _replace(folder, "golden/1.safetensors", golden)
    assert not verify(open_bundle(folder)).ok


def test_the_prompts_table_is_looked_up_once_on_snapdragon(light: tuple[Model, Path], tmp_path: Path) -> None:
    """Time rows are the prompt's; scales of layers that round by the call stand in a table of the program."""
    onnx = pytest.importorskip("onnx", reason="no onnx")
    from s2p_converters.targets.executorch.qnn.layers import LayerGrids
    from s2p_converters.targets.executorch.qnn.onnx_graph import Grid
    from s2p_converters.targets.executorch.qnn.unet import Form, UNetWriter

    opened = open_checkpoint(light[1])
    wide, narrow = (dict.fromkeys(opened.layers, LayerGrids(Grid(bits, 1.0, 0), Grid(bits, 1.0, 0))) for bits in (16, 8))
    for form, tables in ((Form(wide, {}), ["turned"]), (Form({}, narrow), ["step_table", "turned"])):
        UNetWriter(opened, form).whole(tmp_path / "unet.onnx")
        nodes = onnx.load(tmp_path / "unet.onnx", load_external_data=False).graph.node
        turned = {node.output[0]: "turned" for node in nodes if node.op_type == "Transpose" and node.input[0] == "time_table"}
        assert [turned.get(node.input[0], node.input[0]) for node in nodes if node.op_type == "Gather"] == tables


def _replace(folder: Path, name: str, tensors: dict[str, np.ndarray]) -> None:
    import hashlib

    save_file(tensors, folder / name)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def test_apples_layout_is_refused(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.s2pmobile")
    assert run(["convert", str(checkpoint), "--target", "coreml", "--layout", "apple", "--out", out]) == 2
    assert "--layout apple: the model has two text encoders" in capfd.readouterr().err
