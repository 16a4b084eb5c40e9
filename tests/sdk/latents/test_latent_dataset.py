"""Latent data sets: content, resuming, refusals, memory."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.quantize.interruption import Interrupted
from s2p_mobile.quantize.latents import LatentJob, open_latents, partial_folder, write_latents
from s2p_mobile.quantize.latents import writer as writer_module
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.walker import initial_latents

PROMPTS = tuple(f"a {thing} on a {colour} background" for thing in ("cat", "fox", "rose") for colour in ("red", "blue", "pink"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order here and in the child processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(tiny_model: Model, tiny_plan: SamplingPlan) -> LatentJob:
    return LatentJob(tiny_model, tiny_plan, PROMPTS, guidance=4.0, seed=5, features=True)


@pytest.fixture(scope="module")
def whole(job: LatentJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed set: nine prompts are two shards."""
    folder = tmp_path_factory.mktemp("latents") / "whole"
    write_latents(job, folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


class At:
    """A listener that does something after some prompts."""

    def __init__(self, prompts: int, action: object) -> None:
        self.left, self.action = prompts, action

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[object]:
        def advance(detail: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                self.action()  # type: ignore[operator]

        yield advance


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_content_is_the_trajectory_of_each_prompt(
    tiny_model: Model, tiny_plan: SamplingPlan, tmp_path: Path, guidance: float
) -> None:
    latents = write_latents(LatentJob(tiny_model, tiny_plan, PROMPTS, guidance, seed=5), tmp_path / "set")
    unet = float_unet(tiny_model, tiny_plan)
    for k in (0, 8):
        prompt = encode_prompt(tiny_model, PROMPTS[k], 5 + k, guidance)
        calls: list[tuple[np.ndarray, ...]] = []
        final = draw_latents(unet, tiny_plan, prompt, guidance, (1, 4, 8, 8), lambda _, *pair, calls=calls: calls.append(pair))
        steps = range(len(tiny_plan.calls))
        # Only the batch size differs: float32 sums in another order, over five calls of a contraction.
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(latents.states([k] * 5, steps), np.concatenate([s for s, _ in calls]), **close)
        np.testing.assert_allclose(latents.outputs([k] * 5, steps), np.stack([o for _, o in calls]), **close)
        np.testing.assert_allclose(latents.final([k]), final, **close)
        (texts,), (embeddings,) = latents.conditions([k]), prompt.conditions
        np.testing.assert_array_equal(texts[0], embeddings)
    scaled = np.float32(tiny_plan.calls[0].input_scale) * initial_latents(tiny_plan, 5 + 8, (1, 4, 8, 8))
    np.testing.assert_array_equal(latents.states([8], [0]), scaled)


def test_features_are_the_block_outputs(job: LatentJob, whole: Path) -> None:
    latents = open_latents(whole)
    unet = float_unet(job.model, job.plan)
    sample = torch.from_numpy(latents.states([3], [2])).repeat(2, 1, 1, 1)
    _, features = unet.with_features(sample, torch.tensor([2]), latents.conditions([3])[0][0])
    assert latents.block_names == sorted(features)
    for name, value in features.items():
        # Stored as float16: half a unit in the last of 11 bits.
        np.testing.assert_allclose(latents.features(name, [3], [2])[0], value.numpy(), rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize("prompts", [3, 8])
def test_killed_and_resumed_is_byte_identical(job: LatentJob, whole: Path, tmp_path: Path, prompts: int) -> None:
    """Killed while the first shard is drawn (its prompts are reported when it lies on the disk), and right after it."""
    code = f"""
import os, signal, sys, torch
from contextlib import contextmanager
from pathlib import Path
from s2p_mobile.quantize.latents import LatentJob, write_latents, writer
from s2p_mobile.sources.model import Model
from s2p_converters.core.plan.schedulers import plan_for
torch.set_num_threads(1)
model = Model(Path({str(job.model.folder)!r}))
left = [{prompts}]
draw = writer.encode_prompt
def encode(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(*arguments)
writer.encode_prompt = encode
plan = plan_for(model.folder / "scheduler", "ddim", 5)
write_latents(LatentJob(model, plan, {PROMPTS!r}, 4.0, 5, True), Path({str(tmp_path / "set")!r}))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not (tmp_path / "set").exists()
    shards = len(list(partial_folder(tmp_path / "set").glob("shard-*")))
    assert shards == prompts // 8
    with pytest.raises(S2PError, match=r"unfinished latent set lies in .*`resume`"):
        write_latents(job, tmp_path / "set")
    write_latents(job, tmp_path / "set", resume=True)
    assert digests(tmp_path / "set") == digests(whole)
    assert not partial_folder(tmp_path / "set").exists()


@pytest.mark.parametrize("allowed", [3, 7])
def test_calls_of_an_unfinished_shard_are_not_made_again(
    job: LatentJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """Stopped in the middle of a walk, and the set is made of the calls before and those after."""
    plain = replace(job, features=False)
    write_latents(plain, tmp_path / "whole")
    made = 0

    class Counting(writer_module.Predictor):
        def __call__(self, scaled: np.ndarray, call: int) -> np.ndarray:
            nonlocal made
            made += 1
            if made == allowed + 1:
                raise KeyboardInterrupt
            return super().__call__(scaled, call)

    monkeypatch.setattr(writer_module, "Predictor", Counting)
    monkeypatch.setattr(writer_module, "_SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        write_latents(plain, tmp_path / "set")
    made, before = -1000, made
    write_latents(plain, tmp_path / "set", resume=True)
    shards = len(list((tmp_path / "set").glob("shard-*")))
    assert made + 1000 == shards * len(plain.plan.calls) - (before - 1)
    assert digests(tmp_path / "set") == digests(tmp_path / "whole")


def test_ctrl_c_keeps_the_finished_shards(job: LatentJob, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="`resume`") as caught:
        write_latents(job, tmp_path / "set", progress=At(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert caught.value.exit_status == 3
    assert len(list(partial_folder(tmp_path / "set").glob("shard-*"))) == 1
    write_latents(job, tmp_path / "set", resume=True)
    assert digests(tmp_path / "set") == digests(whole)


def test_full_disk_is_one_line_and_resumable(
    job: LatentJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writer_module.write_tensors

    def full(path: Path, tensors: dict[str, np.ndarray]) -> None:
        if "shard-00001" in path.name:
            path.write_bytes(b"half a sh")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, tensors)

    monkeypatch.setattr(writer_module, "write_tensors", full)
    with pytest.raises(S2PError, match=r"no space left to write .*shard-00001"):
        write_latents(job, tmp_path / "set")
    monkeypatch.undo()
    write_latents(job, tmp_path / "set", resume=True)
    assert digests(tmp_path / "set") == digests(whole)


def difference_cases(job: LatentJob, other: Model) -> dict[str, LatentJob]:
    return {
        "another model": replace(job, model=other),
        "another sampling plan .*5 steps, not .*6 steps": replace(
            job, plan=plan_for(job.model.folder / "scheduler", "ddim", 6)
        ),
        r"another guidance .4, not 7.5": replace(job, guidance=7.5),
        "another seed .5, not 6": replace(job, seed=6),
        "the first to differ is prompt 2": replace(job, prompts=(PROMPTS[0], "a dog", *PROMPTS[2:])),
        "other prompts .9, not 8": replace(job, prompts=PROMPTS[:-1]),
    }


@pytest.mark.parametrize("number", range(6))
def test_a_set_of_another_job_is_refused(
    job: LatentJob, other_tiny_model: Model, whole: Path, tmp_path: Path, number: int
) -> None:
    words, other = list(difference_cases(job, other_tiny_model).items())[number]
    with pytest.raises(S2PError, match=words):
        open_latents(whole).require(other)
    with pytest.raises(S2PError, match=words):
        write_latents(other, whole, resume=True)
    # An unfinished set is judged alike.
    with pytest.raises(Interrupted):
        write_latents(job, tmp_path / "set", progress=At(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(S2PError, match=words):
        write_latents(other, tmp_path / "set", resume=True)


def test_a_set_of_another_text_encoder_is_refused(job: LatentJob, whole: Path, tmp_path: Path) -> None:
    """As a LoRA or a learned word makes it: the U-Net is the same."""
    shutil.copytree(job.model.folder, tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {name: 2 * tensors[name] for name in list(tensors)[:1]}, file, metadata={"format": "pt"})
    other = replace(job, model=Model(tmp_path / "model", job.model.picture_size))
    with pytest.raises(S2PError, match="other weights of a text encoder"):
        open_latents(whole).require(other)


def test_features_are_required_only_where_wanted(job: LatentJob, whole: Path, tmp_path: Path) -> None:
    open_latents(whole).require(replace(job, features=False))
    bare = write_latents(replace(job, features=False), tmp_path / "bare")
    with pytest.raises(S2PError, match="no stored features"):
        bare.require(job)


def test_existing_folder_and_no_prompts_are_refused(job: LatentJob, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="exists"):
        write_latents(job, whole)
    with pytest.raises(S2PError, match="no prompts"):
        write_latents(replace(job, prompts=()), tmp_path / "set")


def test_an_altered_shard_is_refused(job: LatentJob, tmp_path: Path) -> None:
    write_latents(replace(job, features=False), tmp_path / "set")
    shard = tmp_path / "set" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(S2PError, match=r"shard-00001.safetensors .*altered"):
        open_latents(tmp_path / "set")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of anonymous memory")
def test_reading_everything_takes_flat_memory(job: LatentJob, whole: Path) -> None:
    """A set of 128 MiB is read through; the process's own memory may not grow by a tenth of it."""
    code = f"""
import numpy as np, re
from pathlib import Path
from s2p_mobile.quantize.latents.dataset import LatentDataset, open_latents
from s2p_runtime.tensors import write_tensors
import tempfile
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
source = open_latents(Path({str(whole)!r}))
with tempfile.TemporaryDirectory() as folder:
    request = source.manifest.request.model_copy(update={{"prompts": ("x",) * 64}})
    shards = tuple(source.manifest.shards[0].model_copy(update={{"file": f"shard-{{i:05d}}.safetensors"}}) for i in range(8))
    for shard in shards:
        write_tensors(Path(folder) / shard.file, {{"states": np.ones((8, 5, 4, 160, 160), np.float32)}})
    (Path(folder) / "unconditional.safetensors").write_bytes((source.folder / "unconditional.safetensors").read_bytes())
    latents = LatentDataset(Path(folder), source.manifest.model_copy(update={{"request": request, "shards": shards}}))
    assert latents.states([0], [0]).sum() == 4 * 160 * 160
    before, total = anonymous(), 0
    for prompt in range(64):
        for call in range(5):
            total += int(latents.states([prompt], [call]).sum())
    assert total == 64 * 5 * 4 * 160 * 160
    print(anonymous() - before)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout.split()[-1]) < 64 * 5 * 4 * 160 * 160 * 4 / 10
