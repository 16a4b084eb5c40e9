"""Settings of the whole suite, and the small models of its parts."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.targets.options import TargetOptions
    from s2p_mobile.sources.model import Model
    from s2p_runtime.bundle import Bundle

# Tests run in parallel processes; with more than one thread in each, OpenMP's threads wait for each other in busy loops.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is kept for the next time, of the commands that tests run too, does not go into the cache of whoever runs them. The processes
# of a run share theirs: they inherit the variable from the one that started them.
if "S2P_TESTS_CACHE" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="s2p-tests-")
    os.environ["S2P_TESTS_CACHE"] = _CACHE.name
os.environ["S2P_CACHE"] = os.environ["S2P_TESTS_CACHE"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--times FILE`` appends a line for each test: processor seconds, of its processes too, and its name. What a fixture takes
    counts for the test that came first. The clock says little of tests that run side by side."""
    parser.addoption("--times", metavar="FILE", help="append processor seconds and name of each test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count what a test takes."""
    path: str | None = item.config.getoption("--times")
    before = _processor_seconds()
    result = yield
    if path is not None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{_processor_seconds() - before:.2f} {item.nodeid}\n")
    return result


def _processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


@pytest.fixture(scope="session")
def make_small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """``make_small_model(name, channels, seed)``: the demo model with a random U-Net of 8x8 latents, about 100,000 weights and every
    kind of layer and block. With ``one_transformer=True``, that of the middle block, in place of four: every kind of layer, a third
    of the operators."""

    def make(name: str, channels: tuple[int, int], seed: int, one_transformer: bool = False) -> Model:
        # Imported here: torch counts its threads when it is loaded, and many tests do without it.
        import torch
        from diffusers import UNet2DConditionModel

        from s2p_mobile.demo import DEMO_MODEL
        from s2p_mobile.sources.model import Model

        folder = tmp_path_factory.mktemp("models") / name
        special = {"clip", "unet", "MODEL_CARD.md", "s2p_defaults.json", "prompts", "w4a8-mixed"}
        shutil.copytree(DEMO_MODEL, folder, ignore=lambda _, names: special & set(names))
        torch.manual_seed(seed)
        crossed = "" if one_transformer else "CrossAttn"
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=(f"{crossed}DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", f"{crossed}UpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        unet.save_pretrained(folder / "unet")
        return Model(folder)

    return make


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Workers of one test run share a folder: one fills it, the others wait."""
    folder.mkdir(exist_ok=True, parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def folder_lock() -> Callable[[Path], AbstractContextManager[None]]:
    """For what the workers of a test run make once."""
    return _locked


@pytest.fixture(scope="session")
def convert() -> Callable[..., Path]:
    """``convert(checkpoint, CoreMLOptions(), folder)``: the folder, a bundle of the target whose options these are. Programs of text
    encoders and VAE are an earlier test's, where that had the same, unless ``kept`` is false."""

    def write(checkpoint: Checkpoint, options: TargetOptions, folder: Path, kept: bool = True) -> Path:
        from s2p_converters.targets.conversion import convert_checkpoint
        from s2p_converters.targets.registry import TARGETS
        from s2p_mobile.sources.cache_folder import cache_folder
        from s2p_runtime.progress import Silent

        (target,) = (each for each in TARGETS.entries.values() if each.options is type(options))
        folder.mkdir(exist_ok=True)
        convert_checkpoint(checkpoint, target, options, folder, Silent(), cache_folder("programs") if kept else None)
        return folder

    return write


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo model as ``s2p-mobile convert`` makes it, converted once for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-bundle"
    bundle = shared / "demo.s2pmobile"
    with _locked(shared):
        if not bundle.exists():
            command = [sys.executable, "-m", "s2p_mobile", "convert", "--target", "executorch", "--out", bundle]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    from s2p_runtime.bundle import open_bundle

    return open_bundle(bundle)
