"""One checkpoint on four engines: torch, Core ML (reference interpreter), Core AI (Apple's runtime) and ExecuTorch (its own)."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import reference_unet
from s2p_converters.targets.coreml.components import program_constants as coreml_constants
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.golden import reference_call
from s2p_mobile.cli.app import run
from s2p_runtime.artist import draw, final_states
from s2p_runtime.backends import Array32
from s2p_runtime.bundle import open_bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import psnr_db, relative_error, to_picture
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport
from s2p_runtime.verify import read_golden
from s2p_runtime.walker import denoise, guide

EPSILON = 2.0**-24
"""Unit roundoff of float32."""

CHAOS = 3.0
"""How much further one float32 evaluation may be from the exact one than another. Each flips its own roundings of activations;
the numbers of flips, and so the errors, are of one order but not equal."""


@pytest.fixture(scope="module")
def exact(checkpoint: Checkpoint) -> StepUNet:
    return reference_unet(checkpoint)


@pytest.fixture(scope="module")
def single(checkpoint: Checkpoint) -> StepUNet:
    return reference_unet(checkpoint).float()


@pytest.fixture(scope="module")
def inputs(checkpoint: Checkpoint) -> tuple[Array32, Array32]:
    """Sample [2, C, H, W] and embeddings [2, N, D]."""
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    return gaussian(21, (2, *shape[1:])), gaussian(22, (2, tokens, checkpoint.structure.context_dim))


@torch.no_grad()
def single_call(unet: StepUNet, sample: Array32, call: int, embeddings: Array32) -> Array32:
    output: Array32 = unet(torch.from_numpy(sample), torch.tensor([call]), torch.from_numpy(embeddings)).numpy()
    return output


CALLS = range(3)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_at_equal_inputs(
    call: int,
    checkpoint: Checkpoint,
    coreml_bundle: Path,
    executorch_bundle: Path,
    exact: StepUNet,
    single: StepUNet,
    inputs: tuple[Array32, Array32],
) -> None:
    assert len(checkpoint.manifest.plan.calls) == len(CALLS)
    sample, embeddings = inputs
    conditions = {"encoder_hidden_states": embeddings}
    want = reference_call(exact, sample, call, conditions)

    # A float32 build stores weights and tables as the checkpoint has them (palettes and scales are exact in float32), and the
    # interpreter evaluates it in float64: the rounding of both outputs to float32 is left.
    core = open_backend(open_bundle(coreml_bundle), "float64")
    assert relative_error(core.predict(sample, call, conditions), want) <= 2 * EPSILON

    # In float32 a difference in the last place flips some roundings of activations to the neighbouring integer, which moves an
    # output by whole grid steps: no bound near 1e-5 can hold for any float32 engine. The yardstick is torch's own float32
    # evaluation of the same function. A single one may happen to flip nothing: its input is also changed by the plain noise of
    # about 60 layers, which is what engines differ by in front of a rounding.
    noise = 60 * 4 * EPSILON
    rng = np.random.default_rng(call)
    changed = [(sample * (1 + noise * rng.uniform(-1, 1, sample.shape))).astype(np.float32) for _ in range(8)]
    errors = [relative_error(single_call(single, x, call, embeddings), want) for x in (sample, *changed)]
    yardstick = max(*errors, noise)
    for backend in (open_backend(open_bundle(coreml_bundle)), open_backend(open_bundle(executorch_bundle))):
        error = relative_error(backend.predict(sample, call, conditions), want)
        assert error <= CHAOS * yardstick, backend.describe("unet")


NEARNESS = 1.5
"""How much further Core AI may be from the exact result than torch in float32 at worst."""


@pytest.mark.parametrize("call", CALLS)
def test_core_ai_at_equal_inputs(
    call: int, coreai_bundle: Path, exact: StepUNet, single: StepUNet, inputs: tuple[Array32, Array32]
) -> None:
    sample, embeddings = inputs
    conditions = {"encoder_hidden_states": embeddings}
    want = reference_call(exact, sample, call, conditions)
    # See above: one evaluation in float32 may happen to flip nothing, so the yardstick is the worst of several.
    noise = 60 * 4 * EPSILON
    rng = np.random.default_rng(call)
    changed = [(sample * (1 + noise * rng.uniform(-1, 1, sample.shape))).astype(np.float32) for _ in range(8)]
    yardstick = max(noise, *(relative_error(single_call(single, x, call, embeddings), want) for x in (sample, *changed)))
    found = open_backend(open_bundle(coreai_bundle)).predict(sample, call, conditions)
    assert relative_error(found, want) <= NEARNESS * yardstick


def test_final_latents_of_core_ai(coreai_bundle: Path, coreml_bundle: Path, checkpoint: Checkpoint) -> None:
    """Its picture is the one of the Core ML bundle, which the test below holds to float64."""
    bundles = open_bundle(coreai_bundle), open_bundle(coreml_bundle)
    recorded = checkpoint.manifest.golden[0]
    golden = [read_golden(bundle, recorded) for bundle in bundles]
    assert relative_error(golden[0]["text_embeddings"], golden[1]["text_embeddings"]) < 1e-5
    start, embeddings = golden[1]["initial_latents"], golden[1]["text_embeddings"]
    finals = [
        final_states(BundleArtist(bundle, open_backend(bundle)), [embeddings], [recorded.seed], None, start)
        for bundle in bundles
    ]
    assert (psnr_db(finals[0], finals[1]) or np.inf) >= 30.0


def test_float32_build_stores_the_checkpoints_constants(checkpoint: Checkpoint, exact: StepUNet) -> None:
    """Why the test above may compare with the checkpoint itself and not with a target's version of it."""
    stored = reference_unet(checkpoint, coreml_constants(CoreMLOptions(precision="fp32")))
    for (name, a), (_, b) in zip(stored.state_dict().items(), exact.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_final_latents(
    checkpoint: Checkpoint, coreml_bundle: Path, executorch_bundle: Path, single: StepUNet, exact: StepUNet
) -> None:
    bundles = {"coreml": open_bundle(coreml_bundle), "executorch": open_bundle(executorch_bundle)}
    recorded = checkpoint.manifest.golden[0]
    golden = {name: read_golden(bundle, recorded) for name, bundle in bundles.items()}
    embeddings, start = golden["executorch"]["text_embeddings"], golden["executorch"]["initial_latents"]
    # Both bundles record their own text encoders' embeddings, which are float32 evaluations of the same network in another order;
    # those embeddings are compared here and one of them is used for all that follows.
    assert relative_error(golden["coreml"]["text_embeddings"], embeddings) < 1e-5
    context = {"encoder_hidden_states": embeddings}

    def exactly(sample: Array32, call: int) -> Array32:
        return guide(reference_call(exact, np.repeat(sample, 2, axis=0), call, context), checkpoint.manifest.guidance)

    want = denoise(checkpoint.manifest.plan, exactly, start, recorded.seed)
    # The checkpoint's own record is a float32 evaluation of the same: both bundles have it.
    for name in bundles:
        assert (psnr_db(golden[name]["quantized_latents"], want) or np.inf) > 30.0
        np.testing.assert_array_equal(golden[name]["noise_pred"], golden["coreml"]["noise_pred"])

    def predict(sample: Array32, call: int) -> Array32:
        return guide(single_call(single, np.repeat(sample, 2, axis=0), call, embeddings), checkpoint.manifest.guidance)

    torch_db = psnr_db(denoise(checkpoint.manifest.plan, predict, start, recorded.seed), want)
    exact_db = psnr_db(
        final_states(
            BundleArtist(bundles["coreml"], open_backend(bundles["coreml"], "float64")),
            [embeddings],
            [recorded.seed],
            None,
            start,
        ),
        want,
    )
    # In float64 only the states' rounding to float32, once a call, is left: 2^-24 of values up to four times the range's half.
    assert exact_db is None or exact_db > -20 * np.log10(8 * len(CALLS) * EPSILON)
    for name, bundle in bundles.items():
        artist = BundleArtist(bundle, open_backend(bundle))
        got = psnr_db(final_states(artist, [embeddings], [recorded.seed], None, start), want)
        # CHAOS times torch's error in float32 is 9.5 dB less; without a flip in torch, one in the engine costs at most to 40 dB.
        floor = min(40.0, (torch_db or np.inf) - 20 * np.log10(CHAOS))
        assert got is None or got >= floor, name


@pytest.mark.parametrize("target", ["coreml", "coreai", "executorch"])
def test_bench_measures_what_generate_draws(
    target: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(f"{target}_bundle")
    out = tmp_path / "report.json"
    status = run(["bench", str(folder), "--runs", "2", "--warmup", "0", "--minimum", "0", "--threads", "1", "--out", str(out)])
    errors = capfd.readouterr().err
    report = read_contract(out, BenchReport, REPORT_FORMAT, REPORT_VERSION)
    assert status == (0 if report.validity.fidelity_ok else 1)
    assert report.harness == "host" and report.target == target and report.protocol.threads == 1
    expected = {
        "coreml": lambda: "MIL reference interpreter on torch, float32",
        "coreai": lambda: f"Apple's Core AI runtime on the CPU, float32, coreai {version('coreai-core')}",
        "executorch": lambda: f"xnnpack executorch {version('executorch')}",
    }
    assert set(report.backend.values()) == {expected[target]()}
    # Once, and of the engine alone that is Apple's own and runs here on another processor.
    told = [line for line in errors.splitlines() if "says nothing about a phone" in line]
    assert len(told) == (target == "coreai" and sys.platform != "darwin")
    assert [len(calls) for calls in report.timings_ms.unet_call] == [len(CALLS)] * 2
    for text, calls, decoder, image in zip(
        report.timings_ms.text_encoder,
        report.timings_ms.unet_call,
        report.timings_ms.vae_decoder,
        report.timings_ms.image,
        strict=True,
    ):
        assert 0 < text + sum(calls) + decoder <= image
    memory = report.memory
    assert memory.baseline_bytes is not None and memory.peak_bytes is not None, report.missing
    assert memory.peak_bytes >= memory.baseline_bytes > 0 and len(memory.samples) >= 2
    bundle = open_bundle(folder)
    assert [one.golden_id for one in report.fidelity] == [golden.id for golden in bundle.manifest.golden]
    for golden, fidelity in zip(bundle.manifest.golden, report.fidelity, strict=True):
        drawing = draw(BundleArtist(bundle, open_backend(bundle)), golden.prompt, golden.seed)
        picture = np.asarray(Image.open(tmp_path / f"report-{golden.id}.png"))
        np.testing.assert_array_equal(picture, drawing.picture)
        want = to_picture(read_golden(bundle, golden)["image"])
        # skimage's own PSNR; it divides by zero for equal pictures, where the report has none.
        if fidelity.image_psnr_db is not None:
            assert fidelity.image_psnr_db == pytest.approx(peak_signal_noise_ratio(want, picture, data_range=255), rel=1e-9)
        assert fidelity.image_max_abs == np.abs(picture.astype(int) - want.astype(int)).max()
