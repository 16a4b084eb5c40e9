"""The Swift harness, built here, measures the fixture bundles by replay; Python reads what it wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from s2p_runtime.bundle import Bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.files import sha256_file
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "ios_harness"
FIXTURES = REPOSITORY / "tests/fixtures"
GOLDEN = {"replay": "first", "ancestral": "only"}

pytestmark = pytest.mark.skipif(shutil.which("swift") is None, reason="swift is not installed")


@pytest.fixture(scope="module")
def tool() -> Path:
    build = ["swift", "build", "--package-path", str(PACKAGE), "--product", "s2p-bench", "-j", "1"]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    place = subprocess.run([*build, "--show-bin-path"], check=True, capture_output=True, text=True)
    return Path(place.stdout.strip()) / "s2p-bench"


def run(tool: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", GOLDEN)
def test_replayed_run_writes_a_valid_report(tool: Path, tmp_path: Path, name: str) -> None:
    bundle = FIXTURES / f"{name}.s2pmobile"
    quick = ["--runs", "3", "--warmup", "0", "--cooldown", "0", "--minimum", "0", "--pictures", "drawn"]
    done = run(tool, tmp_path, "run", str(bundle), "--replay", *quick)
    assert done.returncode == 0, done.stderr
    report = read_contract(tmp_path / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
    assert report.bundle_sha256 == sha256_file(bundle / "manifest.json")
    assert report.protocol.runs == 3
    assert [len(calls) for calls in report.timings_ms.unet_call] == [6, 6, 6]
    assert report.summary_ms["image"].count == 3
    # The bound of the harness: its loop ends in the latents of s2p_runtime's.
    assert [f.golden_id for f in report.fidelity] == [GOLDEN[name]]
    assert report.fidelity[0].latent_max_abs <= 1e-5
    assert report.validity.fidelity_ok
    # Nearest rank of three samples: the second, the third, the third.
    image = sorted(report.timings_ms.image)
    assert (report.summary_ms["image"].p50, report.summary_ms["image"].p90) == (image[1], image[2])

    recorded = load_file(bundle / f"golden/{GOLDEN[name]}.safetensors")["image"][0]
    expected = np.rint(np.clip(recorded / 2 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    with Image.open(tmp_path / f"drawn/{GOLDEN[name]}.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), expected)


def test_the_library_draws_the_demo_bundles_golden_picture(tool: Path, tmp_path: Path, demo_bundle: Bundle) -> None:
    """Tokenizer, noise, sampler and pipeline are Swift's; what the programs answer is the golden run's."""
    (golden, *_) = demo_bundle.manifest.golden
    done = run(
        tool,
        tmp_path,
        "draw",
        str(demo_bundle.folder),
        golden.prompt,
        "--seed",
        str(golden.seed),
        "--replay",
        "--out",
        "demo.png",
    )
    assert done.returncode == 0, done.stderr
    recorded = load_file(demo_bundle.folder / golden.path)["image"][0]
    expected = np.rint(np.clip(recorded / 2 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    with Image.open(tmp_path / "demo.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), expected)


def test_memory_is_measured_in_a_process_of_its_own(tool: Path, tmp_path: Path) -> None:
    bundle = str(FIXTURES / "replay.s2pmobile")
    done = run(tool, tmp_path, "run", bundle, "--replay", "--runs", "1", "--warmup", "0", "--cooldown", "0", "--minimum", "0")
    assert done.returncode == 0, done.stderr
    report = read_contract(tmp_path / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
    assert report.memory.own_launch is True and report.memory.peak_bytes
    # Whoever reads the times of a replay is told what they are.
    assert "replayed: no program ran" in done.stdout


def test_every_null_of_the_schema_has_a_reason(tool: Path, tmp_path: Path) -> None:
    done = run(tool, tmp_path, "run", str(FIXTURES / "replay.s2pmobile"), "--replay", "--cooldown", "0", "--minimum", "0")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "report.json").read_text())
    for name in ("device", "memory", "validity", "protocol"):
        for field, value in document[name].items():
            assert value is not None or document["missing"].get(f"{name}.{field}"), f"{name}.{field}"
    for name in ("thermal", "energy"):
        assert document[name] or document["missing"].get(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "absent.s2pmobile"],
        ["run", str(FIXTURES)],
        ["draw", str(FIXTURES / "replay.s2pmobile"), "a text that was not recorded", "--replay"],
        ["run", str(FIXTURES / "replay.s2pmobile"), "--replay", "--runs", "0"],
        ["run", str(FIXTURES / "replay.s2pmobile"), "--replay", "--cooldown", "0", "--out", "/proc/none/report.json"],
        ["sing"],
    ],
)
def test_bad_input_gives_one_line_and_status_2(tool: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = run(tool, tmp_path, *arguments, *(["--minimum", "0"] if "--replay" in arguments and "run" in arguments else []))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "; " in lines[0]
    assert not (tmp_path / "report.json").exists()
