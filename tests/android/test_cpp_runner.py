"""The C++ runner with a real engine, from prompt to PNG, beside ExecuTorch's own Python runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2p_runtime.artist import FromPicture, draw
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, BundleManifest, file_entries, open_bundle
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.pictures import from_picture, relative_error, to_picture
from s2p_runtime.plan import skipped_steps
from s2p_runtime.report import BenchReport
from s2p_runtime.tensors import read_tensors
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.verify import MINIMUM_LATENT_PSNR_DB
from s2p_runtime.walker import Walker, guide, picture_latents

# The two sides run the same kernels on the same inputs; what may differ is the order of sums when threads share a kernel:
# a few roundings (2**-24 relative each) in every call, over some dozens of calls.
TOLERANCE = 1e-4

# VmHWM and not getrusage, which counts the memory of the process that forked, too.
PYTHON_RUN = """
import sys
from executorch.runtime import Runtime
loaded = [Runtime.get().load_program(path).load_method("forward") for path in sys.argv[1:]]
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def _python_picture(bundle: Bundle, prompt: str, seed: int, image: FromPicture | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Final latents and decoder output through ExecuTorch's Python runtime."""
    import torch
    from executorch.runtime import Runtime

    def load(name: str):  # type: ignore[no-untyped-def]
        method = Runtime.get().load_program(bundle.component(name)[1]).load_method("forward")
        return lambda *inputs: method.execute(list(inputs))[0].numpy().copy()

    manifest = bundle.manifest
    text_encoder, unet, decoder = load("text_encoder"), load("unet"), load("vae_decoder")
    spec = manifest.tokenizer
    tokenizer = ClipTokenizer.load(bundle.path(spec.vocab), bundle.path(spec.merges), spec)
    texts = ["", prompt] if manifest.guidance > 1 else [prompt]
    embeddings = [text_encoder(torch.tensor([tokenizer.encode(text)], dtype=torch.int32)) for text in texts]
    hidden = torch.from_numpy(np.concatenate(embeddings))

    def predict(scaled: np.ndarray, call: int) -> np.ndarray:
        batch = torch.from_numpy(np.repeat(scaled, len(texts), axis=0))
        return guide(unet(batch, torch.tensor([call]), hidden), manifest.guidance)

    shape = (1, manifest.latents.channels, manifest.latents.height, manifest.latents.width)
    if image is None:
        walker = Walker.from_seeds(manifest.plan, [seed], shape)
    else:
        assert manifest.image_starts is not None
        start = manifest.image_starts[skipped_steps(manifest.plan.steps, image.strength)]
        encoded = manifest.latents.encoded(load("vae_encoder")(torch.from_numpy(from_picture(image.picture))))
        walker = Walker(manifest.plan, picture_latents(start, encoded, seed), [seed], start)
    final = walker.run(predict)
    return final, decoder(torch.from_numpy(manifest.latents.decoder_input(final)))


def _pixels(image: np.ndarray) -> np.ndarray:
    """Decoder output [1, 3, H, W] in [-1, 1] as grey levels [H, W, 3]."""
    return np.rint(np.clip(image[0] / 2 + 0.5, 0, 1) * 255).transpose(1, 2, 0)


def _draw(runner: Path, bundle: Bundle, out: Path, *options: str) -> tuple[np.ndarray, np.ndarray]:
    """Final latents and picture [H, W, 3] of s2p-run for the bundle's first golden run."""
    golden = bundle.manifest.golden[0]
    command = [runner / "s2p-run", bundle.folder, "--prompt", golden.prompt, "--seed", str(golden.seed), "--threads", "1"]
    subprocess.run(
        [*command, "--out", out / "a.png", "--latents", out / "a.safetensors", *options], check=True, capture_output=True
    )
    return read_tensors(out / "a.safetensors")["latents"], np.asarray(Image.open(out / "a.png"))


def test_draws_what_python_draws(runner_folder: Path, any_bundle: Bundle, tmp_path: Path) -> None:
    golden = any_bundle.manifest.golden[0]
    latents, picture = _draw(runner_folder, any_bundle, tmp_path)
    expected, image = _python_picture(any_bundle, golden.prompt, golden.seed)
    scale = float(np.ptp(expected))
    np.testing.assert_allclose(latents, expected, rtol=0, atol=TOLERANCE * scale)
    # Differences of that size move a value to the next grey level at most.
    assert np.abs(picture.astype(float) - _pixels(image)).max() <= 1


@pytest.mark.parametrize("title", ["64x64", "48x32"])
def test_draws_any_size_of_the_bundle_as_python_does(
    runner_folder: Path, sizes_bundle: Bundle, tmp_path: Path, title: str
) -> None:
    golden, size = sizes_bundle.manifest.golden[0], sizes_bundle.manifest.size_named(title)
    latents, picture = _draw(runner_folder, sizes_bundle, tmp_path, "--size", title)
    expected = draw(BundleArtist(sizes_bundle, open_backend(sizes_bundle), size), golden.prompt, golden.seed)
    np.testing.assert_allclose(latents, expected.latents, rtol=0, atol=TOLERANCE * np.ptp(expected.latents))
    assert size.fits(latents.shape) and picture.shape == (size.height, size.width, 3)
    assert np.abs(picture.astype(float) - expected.picture).max() <= 1


def test_draws_the_picture_that_generate_draws(runner_folder: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    """Prompt to PNG through both command lines, a prompt that the bundle has not recorded."""
    prompt, seed = "a green apple on a yellow background", "20250"
    cpp, python = tmp_path / "cpp.png", tmp_path / "python.png"
    options = ["--seed", seed, "--out"]
    subprocess.run([runner_folder / "s2p-run", demo_bundle.folder, "--prompt", prompt, *options, cpp], check=True)
    command = [sys.executable, "-m", "s2p_mobile", "generate", demo_bundle.folder, prompt, *options, python]
    subprocess.run(command, check=True)
    difference = np.abs(np.asarray(Image.open(cpp), float) - np.asarray(Image.open(python), float))
    assert difference.max() <= 1


def test_reaches_the_golden_latents(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The golden run of the tiny bundle comes from torch: other kernels, the same arithmetic in float32."""
    latents, picture = _draw(runner_folder, tiny_bundle, tmp_path)
    golden = read_tensors(tiny_bundle.path(tiny_bundle.manifest.golden[0].path))
    np.testing.assert_allclose(
        latents, golden["quantized_latents"], rtol=0, atol=TOLERANCE * np.ptp(golden["quantized_latents"])
    )
    assert picture.shape == (64, 64, 3)


def test_reaches_the_demo_models_golden_runs(runner_folder: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    """As close as ``verify`` asks of the Python runtime: the golden run is float64, where other activations are rounded up."""
    out = tmp_path / "run.json"
    options = ["--runs", "1", "--warmup", "0", "--minimum-seconds", "0", "--threads", "1", "--out", out]
    subprocess.run([runner_folder / "s2p-bench", demo_bundle.folder, *options], check=True, capture_output=True)
    report = read_contract(out, BenchReport, "s2p-report", 2)
    assert [fidelity.golden_id for fidelity in report.fidelity] == [golden.id for golden in demo_bundle.manifest.golden]
    assert report.validity.fidelity_ok
    for golden, fidelity in zip(demo_bundle.manifest.golden, report.fidelity, strict=True):
        assert fidelity.latent_psnr_db is not None and fidelity.latent_psnr_db >= MINIMUM_LATENT_PSNR_DB
        # The report's figures are those of the pictures that lie beside it.
        recorded = _pixels(read_tensors(demo_bundle.path(golden.path))["image"])
        error = np.asarray(Image.open(tmp_path / f"run-{golden.id}.png"), float) - recorded
        assert fidelity.image_max_abs == np.abs(error).max()
        assert fidelity.image_psnr_db == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)))


def test_one_component_at_a_time_draws_the_same(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    latents, picture = _draw(runner_folder, tiny_bundle, tmp_path)
    frugal_latents, frugal_picture = _draw(runner_folder, tiny_bundle, tmp_path, "--low-memory")
    np.testing.assert_array_equal(latents, frugal_latents)
    np.testing.assert_array_equal(picture, frugal_picture)


def test_report_is_valid_and_faithful(runner_folder: Path, any_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    options = ["--runs", "2", "--warmup", "1", "--minimum-seconds", "0", "--threads", "1", "--cores", "0", "--out", out]
    subprocess.run([runner_folder / "s2p-bench", any_bundle.folder, *options], check=True, capture_output=True)
    report = read_contract(out, BenchReport, "s2p-report", 2)
    assert report.harness == "linux"
    assert report.validity.fidelity_ok
    assert set(report.summary_ms) == {"text_encoder", "unet_call", "vae_decoder", "image"}
    assert [len(calls) for calls in report.timings_ms.unet_call] == [len(any_bundle.manifest.plan.calls)] * 2
    assert set(report.timings_ms.load) == {"text_encoder", "unet", "vae_decoder"}
    assert report.memory.peak_bytes is not None and report.memory.baseline_bytes is not None
    assert report.memory.peak_bytes >= report.memory.baseline_bytes > 0
    for calls, image in zip(report.timings_ms.unet_call, report.timings_ms.image, strict=True):
        assert sum(calls) <= image


def test_needs_less_memory_than_python(runner_folder: Path, any_bundle: Bundle, tmp_path: Path) -> None:
    """Against a Python process that only loads the programs, which is less than it would need to run them."""
    paths = [str(any_bundle.component(name)[1]) for name in ("text_encoder", "unet", "vae_decoder")]
    python = subprocess.run([sys.executable, "-c", PYTHON_RUN, *paths], check=True, capture_output=True, text=True)
    out = tmp_path / "report.json"
    options = ["--runs", "1", "--warmup", "0", "--minimum-seconds", "0", "--out", out]
    subprocess.run([runner_folder / "s2p-bench", any_bundle.folder, *options], check=True, capture_output=True)
    peak = read_contract(out, BenchReport, "s2p-report", 2).memory.peak_bytes
    assert peak is not None and peak < int(python.stdout.split()[-1]) * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "error: no prompt given; add --prompt TEXT\n"),
        (["--prompt", "x", "--seed", "-1"], "error: --seed '-1' is not a whole number in range; give another\n"),
        (["--prompt", b"\xff"], "error: the text is not valid UTF-8; give it in UTF-8\n"),
        (
            ["--prompt", "x", "--size", "big"],
            "error: --size 'big' is no picture size; give width and height in pixels, like 512x768\n",
        ),
        (
            ["--prompt", "x", "--size", "48x32"],
            "error: the bundle draws 64x64, not 48x32; choose one of these, or convert again with --size 48x32\n",
        ),
        (["--prompt", "x", "--out", "/nowhere/a.png"], "error: cannot write /nowhere/a.png; choose another place with --out\n"),
    ],
)
def test_bad_input_gets_one_line(
    runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path, options: list[str], message: str
) -> None:
    done = subprocess.run(
        [runner_folder / "s2p-run", tiny_bundle.folder, *options], capture_output=True, text=True, cwd=tmp_path
    )
    # ExecuTorch's libraries may have spoken before.
    assert done.returncode == 2 and done.stderr.endswith(message) and done.stderr.count("error: ") == 1


PICTURE = Path(__file__).resolve().parents[1] / "fixtures" / "picture.s2pmobile"


def test_starts_from_a_picture(runner_folder: Path, tmp_path: Path) -> None:
    """The recorded outputs from the recorded picture, three of five steps, as a PPM of Pillow."""
    bundle = open_bundle(PICTURE)
    golden = read_tensors(bundle.path(bundle.manifest.golden[0].path))
    Image.fromarray(to_picture(golden["image"])).save(tmp_path / "start.ppm")
    latents, _ = _draw(runner_folder, bundle, tmp_path, "--replay", "--image", str(tmp_path / "start.ppm"), "--strength", "0.6")
    assert relative_error(latents, golden["from_picture_latents"]) <= 1e-6


@pytest.fixture(scope="session")
def picture_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a VAE encoder, and the starts of the shared fixture, which has the same plan."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path_factory.mktemp("picture") / "picture.s2pmobile"))
    spec, size = tiny_bundle.manifest.latents, tiny_bundle.manifest.sizes[0]
    torch.manual_seed(1)
    encoder = torch.nn.Conv2d(3, 2 * spec.channels, 8, stride=8)
    shape = (1, 3, size.height, size.width)
    exported = torch.export.export(encoder.eval(), (torch.zeros(shape),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (folder / "vae_encoder.pte").write_bytes(lowered.to_executorch().buffer)
    component = Component(
        path="vae_encoder.pte",
        precision="float32",
        inputs=(TensorSpec(name="image", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="moments", dtype="float32", shape=(1, 2 * spec.channels, spec.height, spec.width)),),
        backend="xnnpack",
    )
    manifest = read_contract(PICTURE / MANIFEST_NAME, BundleManifest, "s2p-bundle", 1)
    assert manifest.plan == tiny_bundle.manifest.plan
    (folder / MANIFEST_NAME).unlink()
    changes = {
        "components": {**tiny_bundle.manifest.components, "vae_encoder": component},
        "image_starts": manifest.image_starts,
        "files": file_entries(folder),
    }
    write_contract(folder / MANIFEST_NAME, tiny_bundle.manifest.model_copy(update=changes))
    return open_bundle(folder)


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_starts_from_a_picture_as_python_does(
    runner_folder: Path, picture_bundle: Bundle, tmp_path: Path, strength: float
) -> None:
    golden = picture_bundle.manifest.golden[0]
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "start.ppm")
    options = ["--image", str(tmp_path / "start.ppm"), "--strength", str(strength), "--low-memory"]
    latents, drawn = _draw(runner_folder, picture_bundle, tmp_path, *options)
    expected, image = _python_picture(picture_bundle, golden.prompt, golden.seed, FromPicture(picture, strength))
    np.testing.assert_allclose(latents, expected, rtol=0, atol=TOLERANCE * np.ptp(expected))
    assert np.abs(drawn.astype(float) - _pixels(image)).max() <= 1
    from_noise, _ = _draw(runner_folder, picture_bundle, tmp_path)
    assert np.abs(from_noise - expected).max() > 100 * TOLERANCE * np.ptp(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "0.5"], "error: --strength has no effect without --image; add one, or leave it out\n"),
        (
            ["--image", "small.ppm"],
            "error: small.ppm is 8x8, no binary PPM (P6, 8 bits) of 48x32; make one with: magick PICTURE ",
        ),
        (
            ["--image", "a.png"],
            "error: a.png is no binary PPM (P6, 8 bits) of 48x32; make one with: magick PICTURE -resize 48x32^ ",
        ),
        (["--image", "missing.ppm"], "error: cannot read missing.ppm (No such file or directory); check the path\n"),
        (["--image", "right.ppm", "--strength", "2"], "error: strength 2 is out of range; give a number above 0, at most 1\n"),
        (["--image", "right.ppm", "--strength", "0.1"], "error: strength 0.1 leaves none of 5 steps; give 0.2 or more\n"),
    ],
)
def test_a_picture_to_start_from_is_refused_in_one_line(
    runner_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    for name, size in (("small.ppm", (8, 8)), ("right.ppm", (48, 32)), ("a.png", (48, 32))):
        Image.new("RGB", size).save(tmp_path / name)
    command = [runner_folder / "s2p-run", PICTURE, "--prompt", "x", "--replay", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    # ExecuTorch's libraries may have spoken before.
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert message.rstrip() in done.stderr.splitlines()[-1]


def test_a_bundle_without_an_encoder_says_how_to_get_one(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    command = [runner_folder / "s2p-run", tiny_bundle.folder, "--prompt", "x", "--image", "nowhere.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    message = "error: tiny.s2pmobile has no VAE encoder, so it cannot start from a picture; convert with --image-to-image\n"
    assert done.returncode == 2 and done.stderr.endswith(message), done.stderr


def test_the_one_method_is_found_whoever_named_it(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The same programs with their methods renamed, in place: the other name is as long."""
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "renamed.s2pmobile"))
    for program in folder.glob("*.pte"):
        assert b"forward" in program.read_bytes()
        program.write_bytes(program.read_bytes().replace(b"forward", b"graph_7"))
    (folder / "manifest.json").unlink()
    write_contract(folder / "manifest.json", tiny_bundle.manifest.model_copy(update={"files": file_entries(folder)}))
    latents, picture = _draw(runner_folder, open_bundle(folder), tmp_path)
    expected_latents, expected_picture = _draw(runner_folder, tiny_bundle, tmp_path)
    np.testing.assert_array_equal(latents, expected_latents)
    np.testing.assert_array_equal(picture, expected_picture)


def test_a_bundle_for_an_npu_is_refused_by_its_chips(
    runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path, compile_for_chips: Callable[..., Path]
) -> None:
    folder = compile_for_chips(tiny_bundle.folder, tmp_path / "npu.s2pmobile")
    is_for = "error: npu.s2pmobile is for the NPU of SM8650, SM8750, "
    no_engine = "whose engine this program does not bring; measure it with the app, or convert with --backend xnnpack\n"
    other_chip = "and this device has SM8550; convert the checkpoint for that chip, or with --backend xnnpack\n"
    for command in (["s2p-run", "--prompt", "x"], ["s2p-bench", "--runs", "1"]):
        for more, reason in ([], no_engine), (["--chip", "SM8750"], no_engine), (["--chip", "SM8550", "--replay"], other_chip):
            words = [runner_folder / command[0], folder, *command[1:], *more]
            done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
            assert done.returncode == 2 and done.stderr.endswith(is_for + reason), done.stderr


def test_a_program_that_is_no_program_is_refused(runner_folder: Path, tmp_path: Path) -> None:
    """The dummy programs of the shared fixture have right checksums, but ExecuTorch cannot read them."""
    bundle = Path(__file__).resolve().parents[1] / "fixtures" / "ancestral.s2pmobile"
    done = subprocess.run([runner_folder / "s2p-run", bundle, "--prompt", "x"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "error: ExecuTorch could not read component text_encoder" in done.stderr


@pytest.mark.parametrize("offset", [0, 4, 32, 36, 40, 60, 784, 792, 1200])
def test_a_damaged_program_with_a_right_checksum_is_refused(
    runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path, offset: int
) -> None:
    """Offsets of the file's structure that point far away; at 784 and 792 stand places of inputs and outputs among its values."""
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "damaged.s2pmobile"))
    data = bytearray((folder / "text_encoder.pte").read_bytes())
    data[offset : offset + 4] = (0x7FFFFF00).to_bytes(4, "little")
    (folder / "text_encoder.pte").write_bytes(data)
    (folder / "manifest.json").unlink()
    write_contract(folder / "manifest.json", tiny_bundle.manifest.model_copy(update={"files": file_entries(folder)}))
    done = subprocess.run(
        [runner_folder / "s2p-run", folder, "--prompt", "x", "--out", tmp_path / "x.png"], capture_output=True, text=True
    )
    # Some of these numbers are of no account to a reader. None may end the process otherwise than with a line.
    assert done.returncode in (0, 2), done.stderr
    assert done.returncode == 0 or "error: ExecuTorch could not " in done.stderr


def test_memory_has_a_process_of_its_own_and_threads_are_told(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    options = ["--runs", "1", "--warmup", "0", "--minimum-seconds", "0", "--out", out]
    subprocess.run([runner_folder / "s2p-bench", tiny_bundle.folder, *options], check=True, capture_output=True)
    report = read_contract(out, BenchReport, "s2p-report", 2)
    assert report.memory.own_launch and report.memory.peak_bytes is not None and report.memory.samples
    assert report.protocol.threads == max(1, (os.cpu_count() or 2) // 2), "half the processors, as ExecuTorch's library has it"
    assert report.timings_ms.load_phases is not None
    for name, phases in report.timings_ms.load_phases.items():
        assert phases["first"] == report.timings_ms.load[name] and phases["cached"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report-first.png", "report.json"]
    subprocess.run([runner_folder / "s2p-bench", tiny_bundle.folder, *options, "--cores", "0"], check=True, capture_output=True)
    assert read_contract(out, BenchReport, "s2p-report", 2).protocol.threads == 1


def test_a_negative_prompt_draws_what_python_draws(runner_folder: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    prompt, negative, seed = "a red apple", "a green background", "7"
    cpp, python = tmp_path / "cpp.png", tmp_path / "python.png"
    options = ["--negative-prompt", negative, "--seed", seed, "--out"]
    subprocess.run([runner_folder / "s2p-run", demo_bundle.folder, "--prompt", prompt, *options, cpp], check=True)
    command = [sys.executable, "-m", "s2p_mobile", "generate", demo_bundle.folder, prompt, *options, python]
    subprocess.run(command, check=True)
    assert np.abs(np.asarray(Image.open(cpp), float) - np.asarray(Image.open(python), float)).max() <= 1
