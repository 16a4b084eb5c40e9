"""The shared fixtures: regenerating gives the same bytes, the valid ones open, each malformed one gives its own error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, load_file
from transformers import CLIPTokenizer

from s2p_runtime.bundle import open_bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.files import list_files
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

FIXTURES = Path(__file__).parent.parent / "fixtures"
INDEX = json.loads((FIXTURES / "malformed/index.json").read_text())
WRITTEN = (
    "replay.s2pmobile",
    "ancestral.s2pmobile",
    "chunked.s2pmobile",
    "pooled.s2pmobile",
    "picture.s2pmobile",
    "malformed",
    "noise.safetensors",
    "sizes.safetensors",
    "report.json",
    "report-1.json",
    "report.schema.json",
)

MESSAGES = {
    "not_found": r"does not exist|has no manifest\.json",
    "not_json": r"is not readable JSON",
    "wrong_format": r"is not of format",
    "bad_version": r"has no valid version number",
    "future_version": r"has format version (2, this s2p-mobile reads 1|3, this s2p-mobile reads 2); update with pip",
    "invalid": r"is invalid \(",
    "outside": r"points outside its folder",
    "missing_file": r" lacks ",
    "wrong_size": r"bytes instead of",
    "altered": r"was altered \(sha256 differs\)",
    "wrong_target": r"replay\.s2pmobile is a bundle for [a-z0-9-]+, and this s2p-mobile runs ",
}
"""What Python says for each kind of error of the index."""


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["case"] for case in cases]


def names_kind(error: S2PError, kinds: list[str]) -> bool:
    return any(re.search(MESSAGES[kind], str(error)) for kind in kinds)


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FIXTURES / "make_fixtures.py", "--out", tmp_path], check=True)
    made = list_files(tmp_path)
    kept = [name for name in list_files(FIXTURES) if name.split("/")[0] in WRITTEN]
    assert made == kept
    different = [name for name in made if (tmp_path / name).read_bytes() != (FIXTURES / name).read_bytes()]
    if "report.schema.json" in different and "propertyNames" not in (tmp_path / "report.schema.json").read_text():
        # pydantic 2.9 does not write that keyword, writes an enum of one beside a const, and 0.0 for 0.
        old, new = (json.loads((folder / "report.schema.json").read_text()) for folder in (tmp_path, FIXTURES))
        assert plain(old) == plain(new)
        different.remove("report.schema.json")
    assert different == []


def plain(value: Any) -> Any:
    """A JSON schema without what only some versions of pydantic write."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        idle = {"propertyNames", "enum"} if "const" in value else {"propertyNames"}
        return {name: plain(each) for name, each in value.items() if name not in idle}
    return value


def scalar_noise(seed: int, stream: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Philox noise in Python integers, after the Random123 paper (not the vectorized code under test); double, rounded once."""

    def block(counter: list[int], key: list[int]) -> list[int]:
        low = 0xFFFFFFFF
        for _ in range(10):
            p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            counter = [(p1 >> 32) ^ counter[1] ^ key[0], p1 & low, (p0 >> 32) ^ counter[3] ^ key[1], p0 & low]
            key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
        return counter

    count = int(np.prod(shape))
    words = [w for n in range(-(-count // 4)) for w in block([n, 0, stream, 0], [seed & 0xFFFFFFFF, seed >> 32])]
    u = (torch.tensor(words, dtype=torch.float64) + 0.5) / 2**32
    radius, angle = torch.sqrt(-2 * torch.log(u[0::2])), 2 * torch.pi * u[1::2]
    normal = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).reshape(-1)[:count]
    return normal.float().double().reshape(shape)


@pytest.mark.parametrize("name", ["replay", "ancestral", "chunked", "pooled"])
def test_golden_tensors_belong_together(name: str) -> None:
    """Rows applied anew, in torch float64, to the recorded outputs end in the recorded latents; ids come from transformers."""
    bundle = open_bundle(FIXTURES / f"{name}.s2pmobile")
    manifest = bundle.manifest
    tokenizers = {"token_ids": CLIPTokenizer.from_pretrained(bundle.folder / "tokenizer")}
    if manifest.conditioning is not None:
        tokenizers["second_token_ids"] = CLIPTokenizer.from_pretrained(bundle.folder / "tokenizer", pad_token="!")
        for each in tokenizers.values():
            each.add_tokens(["<hat>", "<hat>_1"])
    golden = {run.id: load_file(bundle.path(run.path)) for run in manifest.golden}
    for run in manifest.golden:
        texts = ["", run.prompt] if manifest.guidance > 1 else [run.prompt]
        for name, tokenizer in tokenizers.items():
            # What diffusers' maybe_convert_prompt makes of a learned word of two vectors.
            written = [text.replace("<hat>", "<hat> <hat>_1") for text in texts]
            length = manifest.tokenizer.max_length
            framed = tokenizer(written, padding="max_length", max_length=length, truncation=True)["input_ids"]
            assert golden[run.id][name].tolist() == framed
    first = golden[manifest.golden[0].id]
    assert first["noise_pred_calls"].tolist() == list(range(len(manifest.plan.calls)))
    shape = first["initial_latents"].shape
    noise = [scalar_noise(manifest.golden[0].seed, index + 1, shape) for index in range(len(manifest.plan.calls))]
    raw = torch.from_numpy(first["noise_pred"])
    outputs = raw[:, 0:1] + manifest.guidance * (raw[:, 1:] - raw[:, 0:1]) if raw.shape[1] == 2 else raw
    states = [torch.from_numpy(first["initial_latents"]).double()]
    for call, z in zip(manifest.plan.calls, noise, strict=True):
        row = sum(a * states[k] for k, a in call.states) + sum(b * outputs[k].double() for k, b in call.outputs)
        states.append((row + call.noise * z).float().double())
    # Guidance in float32 may round differently by one unit in the last place of values below 64: 4e-6, times rows below 10.
    assert torch.allclose(states[-1].float(), torch.from_numpy(first["quantized_latents"]), rtol=0, atol=4e-5)
    assert np.abs(first["quantized_latents"] - first["fp_latents"]).max() > 1e-3


@pytest.mark.parametrize("case", INDEX["bundles"], ids=ids(INDEX["bundles"]))
def test_malformed_bundle(case: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "replay.s2pmobile"
    shutil.copytree(FIXTURES / "replay.s2pmobile", folder)
    if "manifest" in case:
        shutil.copy(FIXTURES / "malformed" / case["manifest"], folder / "manifest.json")
    else:
        action, name = case["edit"]
        path = folder / name
        content = path.read_bytes()
        if action == "remove":
            path.unlink()
        else:
            path.write_bytes({"truncate": content[:3], "flip": content[:-1] + bytes([content[-1] ^ 1])}[action])
    with pytest.raises(S2PError) as raised:
        open_bundle(folder)
    assert names_kind(raised.value, case["kinds"]), raised.value


@pytest.mark.parametrize("case", INDEX["engines"], ids=ids(INDEX["engines"]))
def test_bundle_for_another_engine(case: dict[str, Any], tmp_path: Path) -> None:
    """The reader knows no names of targets; what runs bundles refuses those that it does not run."""
    folder = tmp_path / "replay.s2pmobile"
    shutil.copytree(FIXTURES / "replay.s2pmobile", folder)
    shutil.copy(FIXTURES / "malformed" / case["manifest"], folder / "manifest.json")
    bundle = open_bundle(folder)
    with pytest.raises(S2PError) as raised:
        open_backend(bundle)
    assert names_kind(raised.value, case["kinds"]), raised.value
    assert bundle.manifest.target in str(raised.value)


@pytest.mark.parametrize("name", ["coreml", "tflite", "x", "a-9"])
def test_reports_of_any_target_open(name: str, tmp_path: Path) -> None:
    report = json.loads((FIXTURES / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**report, "target": name}))
    assert read_contract(tmp_path / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION).target == name


def test_several_sizes() -> None:
    """The first is that of the latents; calls at the others are recorded in files whose shapes fit."""
    bundle = open_bundle(FIXTURES / "ancestral.s2pmobile")
    own, other = bundle.manifest.sizes
    assert (own.title, own.method, own.check) == ("48x32", None, None)
    assert (other.title, other.method) == ("32x48", "size_32x48") and other.check is not None
    recorded = load_file(bundle.path(other.check))
    assert recorded["sample"].shape == recorded["latents"].shape == (1, 4, 6, 4)
    assert bundle.manifest.size_of(recorded["sample"].shape) == other == bundle.manifest.size_named("32x48")
    assert recorded["image"].shape == (1, 3, 48, 32)


@pytest.mark.parametrize("case", INDEX["reports"], ids=ids(INDEX["reports"]))
def test_malformed_report(case: dict[str, Any]) -> None:
    with pytest.raises(S2PError) as raised:
        read_contract(FIXTURES / "malformed" / case["file"], BenchReport, REPORT_FORMAT, REPORT_VERSION)
    assert names_kind(raised.value, case["kinds"]), raised.value


def test_valid_report_opens() -> None:
    report = read_contract(FIXTURES / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
    assert report.timings_ms.unet_call[1] == (21.0, 20.0, 20.75)


@pytest.mark.parametrize("case", INDEX["tensors"], ids=ids(INDEX["tensors"]))
def test_malformed_tensors(case: dict[str, Any]) -> None:
    """The safetensors package refuses each of them too (numpy's front end meets some with its own KeyError)."""
    content = (FIXTURES / "malformed" / case["file"]).read_bytes()
    with pytest.raises((SafetensorError, KeyError, TypeError, ValueError)):
        load(content)


def test_noise_is_scalar_philox() -> None:
    """Equal up to one unit in the last place: torch's log and cosine need not round as numpy's do."""
    tensors = load_file(FIXTURES / "noise.safetensors")
    assert len(tensors) == 7
    for name, recorded in tensors.items():
        seed, stream = (int(part.split("=")[1]) for part in name.split(","))
        expected = scalar_noise(seed, stream, recorded.shape).float().numpy()
        np.testing.assert_array_max_ulp(recorded, expected, maxulp=1)
