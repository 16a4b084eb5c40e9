"""Checkpoints, bundles and models as sources, and the FP model that belongs to them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from s2p_converters.core.graph import StepUNet
from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.judge.evaluation import evaluate, open_evaluation
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.recipes import ActivationRule, Recipe, WeightRule
from s2p_mobile.sources.defaults import DEFAULTS_NAME
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.session import Session
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.bundle import Bundle, BundleManifest, GoldenRun, PictureSize, QuantizationSummary, file_entries
from s2p_runtime.contract import write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.tensors import write_tensors
from s2p_runtime.walker import denoise, guide, initial_latents

PROMPTS = ["a red apple on a blue background", "a panda on a yellow background"]
PLAIN = ["psnr", "ssim"]
GUIDANCE = 4.0  # the demo model's


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(None)


@pytest.fixture(scope="module")
def plan(model: Model) -> SamplingPlan:
    return plan_for(model.folder / "scheduler", None, 2)


@pytest.fixture(scope="module")
def checkpoint(model: Model, plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4-bit weights by plain rounding, float activations, two steps."""
    rules = {"weights": WeightRule(bits=4, search="absmax"), "activations": ActivationRule(bits=None)}
    job = QuantizationJob(model, plan, Recipe(name="w4", description="-", **rules), tuple(PROMPTS), GUIDANCE)
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(job, "rtn", run_method("rtn", job), folder)
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The demo model with an eighth taken off one convolution of its U-Net."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(DEMO_MODEL, folder, ignore=lambda *_: {DEFAULTS_NAME})
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = (tensors["conv_in.weight"] * 0.875).astype(tensors["conv_in.weight"].dtype)
    save_file(tensors, path)
    return open_model(folder)


def test_checkpoint_is_drawn_with_its_integers(checkpoint: Path, model: Model, plan: SamplingPlan) -> None:
    """Against the FP graph with its weights replaced by scale times integer, as they stand in the files."""
    result = evaluate(open_evaluation(checkpoint), PROMPTS, seed=3, metrics=PLAIN)
    stored = load_file(checkpoint / "unet.safetensors")
    original = float_unet(model, plan)
    # A copy: FP graphs share the model's tensors.
    rounded = copy.deepcopy(float_unet(model, plan, replace(model.structure, split_shortcuts=True)))
    layers = 0
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            packed = stored.get(name.replace(".weight", ".weight_q"))
            if name.endswith(".weight") and packed is not None:
                nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1).astype(np.int8)
                integers = torch.from_numpy(np.where(nibbles > 7, nibbles - 16, nibbles)[: parameter.numel()].copy())
                scale = torch.from_numpy(stored[name.replace(".weight", ".weight_scale")].astype(np.float32))
                parameter.copy_(integers.reshape(parameter.shape) * scale.reshape(-1, *[1] * (parameter.dim() - 1)))
                layers += 1
    assert layers > 100
    expected = []
    for k, prompt in enumerate(PROMPTS):
        final = [one_by_one(unet, model, plan, prompt, 3 + k) for unet in (rounded, original)]
        expected.append(20 * np.log10(np.ptp(final[1]) / np.sqrt(np.square(final[0] - final[1]).mean())))
    # Two float32 evaluations of networks that differ by 5%: the rounding of 1e-5 shows in the third digit of the dB.
    assert result.latent_psnr_db_per_call[-1] == pytest.approx(np.median(expected), abs=0.01)
    assert 10 < expected[0] < 60
    assert (result.source, result.count, result.steps) == (str(checkpoint), 2, 2)
    assert {name: value.network for name, value in result.metrics.items()} == {"ssim": None, "psnr": None}


def one_by_one(unet: StepUNet, model: Model, plan: SamplingPlan, prompt: str, seed: int) -> np.ndarray:
    read = model.conditioner
    hidden = torch.from_numpy(np.concatenate([read.embed(read.token_ids([text]))[0] for text in ("", prompt)]))

    def predict(sample: np.ndarray, call: int) -> np.ndarray:
        with torch.no_grad():
            output = unet(torch.from_numpy(np.repeat(sample, 2, axis=0)), torch.tensor([call]), hidden)
        return guide(output.numpy(), GUIDANCE)

    return denoise(plan, predict, initial_latents(plan, seed, (1, 4, 16, 16)), seed)


def test_model_against_itself(model: Model, plan: SamplingPlan) -> None:
    result = evaluate(open_evaluation(Session(model, plan, GUIDANCE, torch.device("cpu"))), PROMPTS)
    values = {name: value.value for name, value in result.metrics.items()}
    assert values["psnr"] is None and values["ssim"] == pytest.approx(1)
    assert values["clip_score"] == values["clip_score_fp"]
    assert result.source == "demo" and result.steps == 2
    assert result.latent_psnr_db_per_call == (None, None)


def test_checkpoint_of_another_model_is_refused(checkpoint: Path, other_model: Model, tmp_path: Path) -> None:
    with pytest.raises(S2PError, match=r"another U-Net than that of other .* folder of demo with `model`"):
        open_evaluation(checkpoint, other_model)
    # The weights decide and not the name: a checkpoint of another model called as the built-in one is not taken for its own.
    renamed, foreign = (Path(shutil.copytree(checkpoint, tmp_path / name)) for name in ("renamed", "foreign"))
    for folder, change in ((renamed, {"name": "my-model"}), (foreign, {"unet_sha256": "0" * 64})):
        manifest = json.loads((folder / "s2p.json").read_text())
        manifest["source"] |= change
        (folder / "s2p.json").write_text(json.dumps(manifest))
    assert open_evaluation(renamed).model.name == "demo"
    with pytest.raises(S2PError, match="made from the model demo; give that model's folder with `model`"):
        open_evaluation(foreign)
    with pytest.raises(S2PError, match="another U-Net than that of other"):
        open_evaluation(foreign, other_model.folder)


def test_a_model_is_its_own_reference(model: Model) -> None:
    with pytest.raises(S2PError, match="leave it out for a model"):
        open_evaluation(model, model)


class FpBackend:
    """A bundle's three programs, here the FP model in torch; takes one prompt at a time as a program of fixed shape does."""

    def __init__(self, model: Model, plan: SamplingPlan) -> None:
        self.model, self.unet = model, float_unet(model, plan)

    def run(self, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert component == "text_encoder" and list(inputs) == ["input_ids"]
        input_ids = inputs["input_ids"]
        assert input_ids.shape == (1, 16) and input_ids.dtype == np.int32
        return {"last_hidden_state": self.model.conditioner.embed({"token_ids": input_ids})[0]}

    @torch.no_grad()
    def predict(self, sample: np.ndarray, step: int, conditions: dict[str, np.ndarray]) -> np.ndarray:
        (embeddings,) = conditions.values()
        assert sample.shape == (2, 4, 16, 16) and embeddings.shape == (2, 16, 128)
        return self.unet(torch.from_numpy(sample), torch.tensor([step]), torch.from_numpy(embeddings)).numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        assert latents.shape == (1, 4, 16, 16)
        return self.model.vae.decode(torch.from_numpy(latents)).sample.numpy()


@pytest.fixture(scope="module")
def make_bundle(model: Model, plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Model], Path]:
    """A bundle whose golden run a given FP model drew; its programs are for a backend that reads none."""

    def make(drawer: Model) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        shutil.copytree(DEMO_MODEL / "tokenizer", folder / "tokenizer")
        final = one_by_one(float_unet(drawer, plan), drawer, plan, PROMPTS[0], 1)
        (folder / "golden").mkdir()
        write_tensors(folder / "golden" / "1.safetensors", {"fp_latents": final})
        height, width = model.latents.height, model.latents.width
        own = PictureSize(width=4 * width, height=4 * height, latent_width=width, latent_height=height, method=None, check=None)
        sizes = {"average_weight_bits": 4.0, "unet_bytes": 0, "unet_download_bytes": 0, "unet_fp32_bytes": 0}
        manifest = BundleManifest(
            name="test",
            family="sd1",
            target="executorch",
            producer="test",
            checkpoint_sha256="0" * 64,
            components={},
            chunks=(),
            plan=plan,
            guidance=GUIDANCE,
            latents=model.latents,
            sizes=(own,),
            tokenizer=model.conditioner.tokenizer_spec,
            conditioning=None,
            quantization=QuantizationSummary(method="rtn", recipe="w4", layers=(), **sizes),
            golden=(GoldenRun(id="1", prompt=PROMPTS[0], seed=1, path="golden/1.safetensors"),),
            files=file_entries(folder),
        )
        write_contract(folder / "manifest.json", manifest)
        return folder

    return make


def test_bundle_goes_through_its_backend(make_bundle: Callable[[Model], Path], model: Model, plan: SamplingPlan) -> None:
    folder = make_bundle(model)
    opened: list[Bundle] = []

    def backend(bundle: Bundle) -> FpBackend:
        opened.append(bundle)
        return FpBackend(model, plan)

    result = evaluate(open_evaluation(folder, backend=backend), PROMPTS, metrics=PLAIN)
    assert [bundle.folder for bundle in opened] == [folder]
    # The same float32 network one prompt at a time: see test_drawing_trajectories on the 90 dB.
    assert all(value is None or value > 90 for value in result.latent_psnr_db_per_call)
    assert result.metrics["ssim"].value == pytest.approx(1, abs=1e-3)


def test_bundle_of_another_model_is_refused(
    make_bundle: Callable[[Model], Path], other_model: Model, plan: SamplingPlan
) -> None:
    folder = make_bundle(other_model)
    with pytest.raises(S2PError, match=r"was not made from the model demo; give the folder of its FP model with `model`"):
        open_evaluation(folder, backend=lambda _: FpBackend(other_model, plan))
    opened = open_evaluation(folder, other_model, backend=lambda _: FpBackend(other_model, plan))
    assert opened.model is other_model
