"""What runs on a graphics processor stays within what Macs have: no float64, and operators that torch has for them.

No such device is needed. Every torch operation of a run is looked at together with the function of ours that asked for it; what a
function does on the processor, wherever the networks are, is named here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.methods import run_method

MakeJob = Callable[..., QuantizationJob]

SMALLEST = ComputePlan(graph="bf16", moments="bf16", recompute=True, pairs=1, waiting=0)
"""As where memory is short: an FP network that rests narrow, samples that wait on the disk."""
PACKAGES = ("s2p_mobile/", "s2p_converters/")
ON_THE_HOST = {
    "quantize/host.py": "the one place of float64",
    "quantize/rounding/gptq.py": "factors of moments, which come from host.in_double",
    "quantize/histogram.py": "histograms are kept on the processor",
    "quantize/zero_points.py": "and searched there",
    "quantize/finished.py": "what is kept on disk",
    "quantize/training/loss_scale.py": "two numbers",
    "quantize/training/batches.py": "samples are drawn before they go to the device",
    "quantize/checkpointing.py": "files",
    "quantize/time_path.py": "time tables, made from the model on the processor",
    "sources/time_tables.py": "the same",
    "sources/guidance.py": "the same",
    "core/": "checkpoints are read and turned into graphs on the processor, then moved",
}


@functools.cache
def mps_operators() -> set[str]:
    """Names of the operators that torch's own list of functions has for MPS, or builds from others."""
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    functions = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    named = {function["func"].split("(")[0]: function for function in functions}
    found = set()
    for name, function in named.items():
        source = named.get(function.get("structured_delegate", ""), function)
        keys = {key.strip() for keys in source.get("dispatch", {"CompositeImplicitAutograd": ""}) for key in keys.split(",")}
        if any(key == "MPS" or key.startswith("Composite") for key in keys):
            found.add(name)
    # In-place and out variants share the kernels of the others.
    return {name.split(".")[0].rstrip("_") for name in found}


class Rules(TorchDispatchMode):
    """Collects offences: (file, line, what)."""

    def __init__(self) -> None:
        super().__init__()
        self.offences: set[tuple[str, int, str]] = set()
        self.files: set[str] = set()
        self._seen: set[object] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        place = innermost()
        key = (function, place and (place.f_code, place.f_lineno))
        if key in self._seen:
            return found
        self._seen.add(key)
        asked = asked_by()
        (file, line), *_ = asked
        self.files.add(file)
        if is_on_the_host(file) or any(other == "quantize/host.py" for other, _ in asked):
            return found
        if any(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in tree_leaves(found)):
            self.offences.add((file, line, f"float64 of {function}"))
        name = function._schema.name.removeprefix("aten::")
        # Attention chooses its kernel by the device, and has one for each.
        if function.namespace == "aten" and "_for_cpu" not in name and name.rstrip("_") not in mps_operators():
            self.offences.add((file, line, name))
        return found


def is_on_the_host(file: str) -> bool:
    """Whether what a file of ours does with torch it does on the processor."""
    return any(file.startswith(name) if name.endswith("/") else file == name for name in ON_THE_HOST)


def innermost() -> FrameType | None:
    """The innermost of our functions on the stack."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not any(package in frame.f_code.co_filename for package in PACKAGES):
        frame = frame.f_back
    return frame


def asked_by() -> list[tuple[str, int]]:
    """Our files on the stack, below their package, and their lines; the innermost first."""
    frame = sys._getframe(2)
    found = []
    while frame is not None:
        path = frame.f_code.co_filename
        found += [(path.rsplit(package, 1)[1], frame.f_lineno) for package in PACKAGES if package in path]
        if frame.f_back is None:
            break
        frame = frame.f_back
    return found or [("a test", 0)]


@pytest.mark.parametrize(
    ("method", "ranking", "training", "compute"),
    [
        ("s2p", "linear", {"start": {"rounding": "adaround", "iterations": 2, "samples": 8}}, SMALLEST),
        ("s2p", "fisher", {"start": {"rounding": "gptq", "calls": 4}, "learn": "scales"}, ComputePlan()),
        pytest.param(
            "s2p", "sqnr", {"start": {"rounding": "gptq", "calls": 4}, "learn": "scales"}, SMALLEST, marks=pytest.mark.slow
        ),
        ("rtn", "sqnr", {}, ComputePlan()),
    ],
)
def test_every_stage_keeps_the_rules(
    make_job: MakeJob,
    latents: LatentDataset,
    tmp_path: Path,
    method: str,
    ranking: str,
    training: dict[str, Any],
    compute: ComputePlan,
) -> None:
    recipe = {"mixed": {"top": 0.01, "ranking": ranking}}
    job = make_job({"iterations": 2, **training}, recipe, latents=latents.folder, compute=compute)
    with Rules() as rules:
        unet = run_method(method, job)
        write_checkpoint(job, method, unet, tmp_path)
    assert sorted(rules.offences) == []
    assert "quantize/calibration.py" in rules.files and "quantize/golden.py" in rules.files


def test_the_rules_see_an_offence() -> None:
    """A float64 tensor, and an operator that MPS lacks, made by a function of ours that is not one of the host."""
    from s2p_mobile.quantize.training.loss import output_error

    with Rules() as rules:
        output_error(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 1.0, 0.0)
    assert not rules.offences
    assert "linalg_eig" not in mps_operators() and "convolution_backward" in mps_operators()
