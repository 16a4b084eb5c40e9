"""Everything that a package from outside can bring, in every command that should see it, with a broken package beside it.

The packages lie in a folder of their own that is put on the path of the processes which run the commands: no environment is changed.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import REPOSITORY

if TYPE_CHECKING:
    from s2p_mobile.sources.model import Model

GROUPS = tuple(f"s2p_mobile.{kind}" for kind in ("targets", "methods", "families", "estimators", "schedulers", "recipes"))
BROKEN = "s2p-plugin-broken"
REASON = "made for another version"
PROMPT = "a red apple on a blue background"

RUN_ALL = """
import contextlib, io, json, sys
from s2p_mobile.cli.app import run

results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(arguments)
    results.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
"""Several commands in one process: loading torch takes longer than most of them."""


@dataclass(frozen=True)
class Result:
    """Of one command."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages as pip would install them."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    how = ["--no-deps", "--no-index", "--no-build-isolation", "--target", folder]
    subprocess.run([*pip, *how, REPOSITORY / "tests" / "plugin"], check=True)
    (folder / "s2p_plugin_broken.py").write_text(f"raise RuntimeError({REASON!r})\n")
    about = folder / "s2p_plugin_broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {BROKEN}\nVersion: 1.0\n")
    groups = (*GROUPS, "s2p_runtime.hosts")
    (about / "entry_points.txt").write_text("".join(f"[{group}]\nbroken = s2p_plugin_broken:THING\n" for group in groups))
    return folder


@pytest.fixture(scope="module")
def folder(make_small_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: a small model of the plug-in's family, and prompts."""
    place = tmp_path_factory.mktemp("plugin")
    source = make_small_model("of-the-plug-in", (16, 16), 5, one_transformer=True).folder
    model = place / "model"
    source.rename(model)
    for name, key, value in (
        ("model_index.json", "_class_name", "ToyDiffusionPipeline"),
        ("text_encoder/config.json", "hidden_act", "relu"),
    ):
        config = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(config | {key: value}))
    (place / "prompts.txt").write_text(f"{PROMPT}\na yellow star\n")
    return place


@pytest.fixture(scope="module")
def commands(site: Path, folder: Path) -> Callable[..., list[Result]]:
    """Run several command lines of s2p-mobile with the packages on the path."""

    def run(*lines: str) -> list[Result]:
        path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        arguments = json.dumps([shlex.split(line) for line in lines])
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL, arguments], cwd=folder, env=os.environ | {"PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [Result(*each) for each in json.loads(done.stdout.splitlines()[-1])]

    return run


@pytest.fixture(scope="module")
def session(commands: Callable[..., list[Result]]) -> dict[str, Result]:
    """The way from the model to a picture, each command once, by its name."""
    lines = {
        "models": "models",
        "forecast": "quantize model --method toy --recipe toy --scheduler toy --steps 3 --dry-run --prompts prompts.txt --out none",
        "sensitivity": "sensitivity model --estimator toy --steps 3 --prompts prompts.txt --out sensitivity.json",
        "quantize": "quantize model --method toy --scheduler toy --steps 3 --prompts prompts.txt --out checkpoint",
        "convert": "convert checkpoint --target toy --greeting hello --out toy.s2pmobile",
        "verify": "verify toy.s2pmobile",
        "generate": f"generate toy.s2pmobile '{PROMPT}' --seed 1 --out apple.png",
        "inspect": "inspect toy.s2pmobile",
    }
    return dict(zip(lines, commands(*lines.values()), strict=True))


def test_models_lists_what_came_from_outside(session: dict[str, Result]) -> None:
    listed = session["models"]
    assert listed.status == 0, listed.err
    for words in (
        "text encoder computes with ReLU",
        "6-bit weights, the most sensitive tenth",
        "scales that are powers of two",
        "relative rounding error of the weights",
        "programs of torch.export",
    ):
        assert words in listed.out
    (line,) = (line for line in listed.out.splitlines() if line.startswith("schedulers:"))
    assert "toy" in line.replace(",", " ").split()


def test_a_broken_plug_in_is_named_once_for_each_kind_and_left_out(session: dict[str, Result]) -> None:
    listed = session["models"]
    named = [line for line in (listed.out + listed.err).splitlines() if BROKEN in line]
    assert len(named) == len(GROUPS) and all(REASON in line for line in named)


def test_commands_run_what_the_plug_in_brings(session: dict[str, Result], folder: Path) -> None:
    assert {name: result.err for name, result in session.items() if result.status != 0} == {}
    checkpoint = json.loads((folder / "checkpoint" / "s2p.json").read_text())
    assert (checkpoint["method"], checkpoint["family"], checkpoint["recipe"]["name"]) == ("toy", "toy", "toy")
    assert checkpoint["plan"]["scheduler"] == "QuadraticEulerScheduler"
    manifest = json.loads((folder / "toy.s2pmobile" / "manifest.json").read_text())
    assert manifest["target"] == "toy" and manifest["components"]["unet"]["backend"] == "toy hello"
    assert json.loads((folder / "sensitivity.json").read_text())["estimator"] == "toy"
    assert "rounding to powers of two" in session["forecast"].out
    assert "nodes in the U-Net's graph" in session["inspect"].out
    assert (folder / "apple.png").read_bytes().startswith(b"\x89PNG")


NAMED = {
    "target": "convert --target {}",
    "method": "quantize model --method {} --out none",
    "recipe": "quantize model --recipe {} --out none",
    "scheduler": "quantize model --scheduler {} --out none",
    "estimator": "sensitivity model --estimator {} --out none",
}


@pytest.fixture(scope="module")
def refusals(commands: Callable[..., list[Result]]) -> dict[str, list[Result]]:
    """Of each kind, an unknown name and the broken plug-in's."""
    done = iter(commands(*(line.format(name) for line in NAMED.values() for name in ("nothing", "broken"))))
    return {kind: [next(done), next(done)] for kind in NAMED}


@pytest.mark.parametrize("kind", NAMED)
def test_an_unknown_name_lists_the_plug_in_and_a_broken_one_says_why(refusals: dict[str, list[Result]], kind: str) -> None:
    unknown, broken = refusals[kind]
    assert unknown.status == broken.status == 2
    (message,) = unknown.err.splitlines()
    assert message.startswith(f"error: unknown {kind} 'nothing'; ") and "toy" in message
    assert f"broken (plug-in {BROKEN} fails)" in message
    (message,) = broken.err.splitlines()
    assert message.startswith(f"error: {kind} 'broken' of the plug-in {BROKEN} cannot be imported (RuntimeError: {REASON}); ")
