"""The runtime's wheel in an environment with the four packages that it requires and nothing else: no torch, no engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from s2p_runtime import __version__

from .conftest import REPOSITORY
from .environments import Environment

FIXTURES = REPOSITORY / "tests" / "fixtures"
BUNDLES = {"replay": "coreml", "ancestral": "executorch", "chunked": "executorch", "pooled": "executorch"}
"""Fixture -> its target."""

WALK = """
from pathlib import Path
import numpy as np
from s2p_runtime.bundle import open_bundle
from s2p_runtime.conditioning import bundle_tokenizers
from s2p_runtime.walker import denoise, guide, initial_latents
from s2p_runtime.tensors import read_tensors

bundle = open_bundle(Path("replay.s2pmobile"))
manifest, run = bundle.manifest, bundle.manifest.golden[0]
tensors = read_tensors(bundle.path(run.path))
tokenizer = bundle_tokenizers(bundle)["token_ids"]
assert [tokenizer.encode(text) for text in ("", run.prompt)] == tensors["token_ids"].tolist()
start = initial_latents(manifest.plan, run.seed, manifest.latents.shape)
assert np.array_equal(start, tensors["initial_latents"])
end = denoise(manifest.plan, lambda _, call: guide(tensors["noise_pred"][call], manifest.guidance), start, run.seed)
# Sums in double, rounded to float32 once: a unit in the last place is 1.2e-7 of a value.
assert np.allclose(end, tensors["quantized_latents"], rtol=2.4e-7, atol=2.4e-7)
print(len(manifest.plan.calls), "calls")
"""

REPORT = """
from pathlib import Path
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

write_contract(Path("copy.json"), read_contract(Path("report.json"), BenchReport, REPORT_FORMAT, REPORT_VERSION))
"""

ENGINE = """
import sys
from pathlib import Path
from s2p_runtime.bundle import open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError

try:
    open_backend(open_bundle(Path(sys.argv[1]))).start()
except S2PError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def runtime(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environments") / "runtime", wheels)
    environment.install("s2p-runtime")
    return environment


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for name in BUNDLES:
        shutil.copytree(FIXTURES / f"{name}.s2pmobile", tmp_path / f"{name}.s2pmobile")
    shutil.copy(FIXTURES / "report.json", tmp_path)
    return tmp_path


def test_it_is_alone_with_what_it_requires(runtime: Environment) -> None:
    found = runtime.modules()
    assert {"s2p_runtime", "numpy", "pydantic", "safetensors", "PIL"} <= found
    assert not found & {
        "torch",
        "coremltools",
        "executorch",
        "diffusers",
        "transformers",
        "s2p_converters",
        "s2p_mobile",
        "pytest",
    }


def test_tokens_noise_and_plan_give_the_recorded_latents(runtime: Environment, folder: Path) -> None:
    assert runtime.run("-c", WALK, cwd=folder).stdout == "6 calls\n"


@pytest.mark.parametrize("name", BUNDLES)
def test_the_command_says_what_a_bundle_is_and_replays_it(runtime: Environment, folder: Path, name: str) -> None:
    lines = runtime.run("-m", "s2p_runtime", f"{name}.s2pmobile", cwd=folder).stdout
    assert "as recorded" in lines and "FAILED" not in lines
    assert f"pip install 's2p-runtime[{BUNDLES[name]}]'" in lines, "the engine is not here"
    figures = json.loads(runtime.run("-m", "s2p_runtime", "--json", f"{name}.s2pmobile", cwd=folder).stdout)
    assert figures["ok"] and figures["target"] == BUNDLES[name]
    assert any(run["latents_error"] is not None for run in figures["golden"])


def test_what_was_altered_is_refused_in_one_line(runtime: Environment, folder: Path) -> None:
    program = folder / "ancestral.s2pmobile" / "unet.pte"
    program.write_bytes(program.read_bytes()[::-1])
    done = runtime.run("-m", "s2p_runtime", "ancestral.s2pmobile", cwd=folder, status=2)
    assert done.stderr == "error: unet.pte in ancestral.s2pmobile was altered (sha256 differs); get the folder again\n"


def test_a_report_is_read_and_written(runtime: Environment, folder: Path) -> None:
    runtime.run("-c", REPORT, cwd=folder)
    assert json.loads((folder / "copy.json").read_text()) == json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("name", ["replay", "ancestral"])
def test_a_bundle_that_needs_an_engine_names_the_extra(runtime: Environment, folder: Path, name: str) -> None:
    (line,) = runtime.run("-c", ENGINE, f"{name}.s2pmobile", cwd=folder).stdout.splitlines()
    assert "not installed; " in line and line.endswith(f"pip install 's2p-runtime[{BUNDLES[name]}]'")


def test_the_script_is_installed(runtime: Environment, folder: Path) -> None:
    done = runtime.run(runtime.python.with_name("s2p-runtime"), "--version", cwd=folder)
    assert done.stdout == f"s2p-runtime {__version__}\n"
