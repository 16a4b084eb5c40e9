"""A miniature training of every stage, stopped after every step or killed, ends in the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from demo_training.captions import EmojiObject
from demo_training.config import ClipConfig, Cycle, DiffusionConfig, TrainConfig, VaeConfig
from demo_training.stages import Training
from demo_training.state import Clock, Paused
from s2p_runtime.errors import S2PError

TOOLS = Path(__file__).parents[3] / "tools"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TOOLS)}  # the package is in no distribution

TINY = TrainConfig(
    vae=VaeConfig(channels=(8, 8, 8), batch=2, steps=3, decoder_steps=3, statistics_batches=2),
    diffusion=DiffusionConfig(
        channels=(8, 8, 16),
        heads=2,
        groups=4,
        text_width=16,
        text_layers=1,
        batch=2,
        cycles=(Cycle(1e-3, 2), Cycle(5e-4, 2)),
        caption_drop=0.5,
    ),
    clip=ClipConfig(text_width=16, text_layers=1, vision_width=16, vision_layers=1, heads=2, projection=8, batch=4, steps=3),
)


def disc(item: EmojiObject) -> Image.Image:
    """A disc whose colour comes from the name: a picture that needs no font."""
    picture = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(picture).ellipse((0, 0, 31, 31), fill="#" + hashlib.sha256(item.name.encode()).hexdigest()[:6])
    return picture


def training(out: Path, clock: Clock, config: TrainConfig = TINY) -> Training:
    return Training(out, config, lambda: disc, torch.device("cpu"), clock)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are added in another order with another number of threads; the claim is about equal circumstances."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    seen: list[tuple[str, int]] = []
    training(out, Clock(on_step=lambda phase, done, steps, loss: seen.append((phase, done)))).all()
    assert seen == [
        (phase, n + 1) for phase, steps in (("vae", 3), ("vae_decoder", 3), ("unet", 4), ("clip", 3)) for n in range(steps)
    ]
    return out


def test_no_pickle_anywhere(undisturbed: Path) -> None:
    names = digests(undisturbed)
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".txt"}
    assert {name for name in names if name.startswith("state/")} == {
        f"state/{phase}.safetensors" for phase in ("vae", "vae_decoder", "unet", "clip")
    }


def test_stopped_after_every_step(undisturbed: Path, tmp_path: Path) -> None:
    pauses = 0
    while True:
        try:
            training(tmp_path, Clock(minutes=0.0)).all()
            break
        except Paused as paused:
            assert paused.exit_status == 3
            pauses += 1
            assert pauses < 50
    assert pauses == 9  # 2 + 2 + 3 + 2: the last step of a phase ends it
    assert digests(tmp_path / "model") == digests(undisturbed / "model")


@pytest.mark.slow
def test_killed_between_two_saves(undisturbed: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import importlib.util, os, signal, sys
        import torch
        from demo_training.state import Clock
        spec = importlib.util.spec_from_file_location("resume", sys.argv[1])
        module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
        torch.set_num_threads(1)
        def kill(phase, done, steps, loss):
            if phase == "unet" and done == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        module.training(module.Path(sys.argv[2]), Clock(save_seconds=0.0, on_step=kill)).all()
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, __file__, str(tmp_path)], capture_output=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (tmp_path / "model").exists()
    steps: list[tuple[str, int]] = []
    training(tmp_path, Clock(on_step=lambda phase, n, _, loss: steps.append((phase, n)))).all()
    assert steps[0] == ("unet", 3)  # two steps were saved; the third was lost with the process
    assert digests(tmp_path / "model") == digests(undisturbed / "model")


def test_another_seed_makes_another_model(undisturbed: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    training(tmp_path, Clock(), replace(TINY, seed=1)).all()
    ours, theirs = digests(tmp_path / "model"), digests(undisturbed / "model")
    assert all(ours[name] != theirs[name] for name in ours if name.endswith(".safetensors"))


def test_result_loads_with_diffusers(undisturbed: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(undisturbed / "model", local_files_only=True).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a fox on a red background", num_inference_steps=2, height=64, width=64, output_type="np").images[0]
    assert image.shape == (64, 64, 3)


@pytest.mark.parametrize("damage", ["other settings", "torn file"])
def test_a_state_that_does_not_fit_is_refused(undisturbed: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "state").mkdir()
    whole = (undisturbed / "state" / "vae.safetensors").read_bytes()
    if damage == "torn file":
        (tmp_path / "state" / "vae.safetensors").write_bytes(whole[: len(whole) // 2])
        match, config = "not a training state", TINY
    else:
        (tmp_path / "state" / "vae.safetensors").write_bytes(whole)
        match, config = "other settings", TINY.scaled(2.0)
    with pytest.raises(S2PError, match=match):
        training(tmp_path, Clock(), config).vae()


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo_training", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--font", str(tmp_path / "no.ttf"), "--stage", "data"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 2
    assert "error: font" in done.stderr and "--font" in done.stderr
    assert "Traceback" not in done.stderr
