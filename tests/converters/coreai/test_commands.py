"""Core AI bundles at the command line: drawn and evaluated in Apple's runtime. ``bench``: tests/converters/test_parity.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2p_converters.core.checkpoint import Checkpoint
from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_runtime.pictures import psnr_db

PROMPT = "a red apple on a blue background"
OF_THE_CPU = "says nothing about a phone"
ONCE = 0 if sys.platform == "darwin" else 1
SMALL = 0.1
"""Share of the quantization's own error by which Apple's runtime may part from torch: it moves a PSNR by 20 log10(1 + 0.1) dB."""


def told(errors: str) -> int:
    return sum(OF_THE_CPU in line for line in errors.splitlines())


def test_evaluate_finds_what_the_checkpoint_gives(
    checkpoint: Checkpoint, small_model: Model, coreai_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n")
    found = {}
    for name, source in (("bundle", coreai_bundle), ("checkpoint", checkpoint.folder)):
        out = tmp_path / f"{name}.json"
        arguments = ["--prompts", str(prompts), "--model", str(small_model.folder), "--cache", str(tmp_path / "cache")]
        assert run(["evaluate", str(source), *arguments, "--metrics", "psnr", "--json", str(out)]) == 0, capfd.readouterr().err
        found[name] = json.loads(out.read_text())
        if name == "bundle":
            assert told(capfd.readouterr().err) <= ONCE
    here, there = found["bundle"], found["checkpoint"]
    assert here["count"] == there["count"] == 1 and here["source"] == str(coreai_bundle)
    largest = 20 * np.log10(1 + SMALL)
    assert abs(here["metrics"]["psnr"]["value"] - there["metrics"]["psnr"]["value"]) <= largest
    calls = np.array(here["latent_psnr_db_per_call"]) - np.array(there["latent_psnr_db_per_call"])
    assert len(calls) == len(checkpoint.manifest.plan.calls) and (np.abs(calls) <= largest).all()


def test_generate_draws_what_the_checkpoint_draws(
    checkpoint: Checkpoint, small_model: Model, coreai_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for name, source in (("bundle", coreai_bundle), ("checkpoint", checkpoint.folder)):
        out = tmp_path / f"{name}.png"
        assert run(["generate", str(source), PROMPT, "--seed", "3", "--out", str(out)]) == 0, capfd.readouterr().err
        pictures.append(np.asarray(Image.open(out), np.float32) / 255)
        assert told(capfd.readouterr().err) <= ONCE
    # In eight bits most differences round away: equal pictures have no PSNR.
    apart = psnr_db(*pictures)
    assert apart is None or apart >= 40
