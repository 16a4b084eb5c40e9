"""Programs around the U-Net that another process lowers: the same files, and errors as if there were one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets import beside, lowering
from s2p_converters.targets.beside import Beside, room_beside
from s2p_converters.targets.conversion import convert_checkpoint
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.target import CoreMLTarget
from s2p_converters.targets.lowering import Lowered, float_parts, lower_all
from s2p_converters.targets.protocol import ConvertedUNet
from s2p_converters.targets.registry import TARGETS
from s2p_converters.targets.task import Task
from s2p_runtime.component import Component
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import list_files, sha256_file
from s2p_runtime.progress import Silent

NAMES = ("text_encoder", "vae_decoder", "vae_encoder")
ANSWERING = """
import json, os, pathlib, sys, time
print("a library says something")
told = os.fdopen(int(sys.argv[1]), "w")
request = json.loads(sys.stdin.readline())
for line in sys.stdin:
    name = line.strip()
    {do}
    folder = pathlib.Path(request["folder"], name, "programs")
    folder.mkdir(parents=True)
    (folder / f"{{name}}.bin").write_text("from beside")
    component = {{"path": f"programs/{{name}}.bin", "backend": "none", "precision": "float32", "inputs": [], "outputs": []}}
    print(json.dumps({{"component": component}}), file=told, flush=True)
"""
"""In place of the real process: writes a file for each component."""


@pytest.fixture(autouse=True)
def nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that would not end is killed soon."""
    monkeypatch.setattr(beside, "_PATIENCE", 2.0)


class Here(CoreMLTarget):
    """Lowers nothing but words, and counts."""

    def __init__(self, seconds: float = 0.0, error: BaseException | None = None) -> None:
        self.seconds, self.error, self.lowered = seconds, error, list[str]()

    def lower(self, checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, methods: Mapping[str, Any]) -> Component:
        name = next(iter(methods.values())).name
        self.lowered.append(name)
        (folder / "programs").mkdir(exist_ok=True)
        (folder / "programs" / f"{name}.bin").write_text("from here")
        return Component(path=f"programs/{name}.bin", backend="none", precision="float32", inputs=(), outputs=())

    def lower_unet(self, checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, shapes: Any) -> ConvertedUNet:
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return ConvertedUNet({}, ())


def worker(monkeypatch: pytest.MonkeyPatch, do: str = "pass") -> None:
    monkeypatch.setattr(beside, "WORKER", (sys.executable, "-c", ANSWERING.format(do=do)))
    monkeypatch.setattr(lowering, "room_beside", lambda task: True)


def lowered(checkpoint: Checkpoint, target: CoreMLTarget, folder: Path, names: Sequence[str] = NAMES) -> Lowered:
    options, shapes = CoreMLOptions(precision="fp32", image_to_image=True), {"main": (8, 8)}
    folder.mkdir()
    task = Task(checkpoint, target, options, folder, shapes, None)
    parts = float_parts(checkpoint, shapes, options)
    return lower_all(task, {name: parts[name] for name in names}, Silent())


def test_the_real_process_writes_what_this_one_writes(
    checkpoint: Checkpoint, coreml_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "room_beside", lambda task: True)
    monkeypatch.setattr(Beside, "another", lambda self: None)
    target, folder = Here(), tmp_path / "bundle"
    found = lowered(checkpoint, target, folder, ["text_encoder"])
    assert tuple(found.others) == ("text_encoder",) and not target.lowered
    whole = [name for name in list_files(coreml_bundle) if name.startswith("text_encoder.")]
    assert {name: sha256_file(folder / name) for name in list_files(folder)} == {
        name: sha256_file(coreml_bundle / name) for name in whole
    }
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_whoever_is_free_takes_the_next(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The process is still at its first when the U-Net is done; the rest is done here, from the end.
    worker(monkeypatch, f"until = pathlib.Path({str(tmp_path / 'go')!r})\n    while not until.exists(): time.sleep(0.01)")
    target = Here()
    original = target.lower

    def lower(*arguments: Any) -> Component:
        component = original(*arguments)
        if len(target.lowered) == 2:
            (tmp_path / "go").touch()
        return component

    monkeypatch.setattr(target, "lower", lower)
    found = lowered(checkpoint, target, tmp_path / "bundle")
    assert target.lowered == ["vae_encoder", "vae_decoder"] and tuple(found.others) == NAMES
    texts = [(tmp_path / "bundle" / found.others[name].path).read_text() for name in NAMES]
    assert texts == ["from beside", "from here", "from here"]


def test_it_takes_them_all_while_the_unet_lasts(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch)
    target = Here()

    def lower_unet(*_: Any) -> ConvertedUNet:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*beside*/*/programs/*.bin"))) < len(NAMES) and time.monotonic() < deadline:
            time.sleep(0.01)
        return ConvertedUNet({}, ())

    monkeypatch.setattr(target, "lower_unet", lower_unet)
    found = lowered(checkpoint, target, tmp_path / "bundle")
    assert not target.lowered and tuple(found.others) == NAMES


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ({"problem": "no", "remedy": "go", "field": "size"}, S2PError, "no; go"),
        ({"problem": "no", "failed": True}, CheckFailed, "no"),
        ({"system": [28, "No space left", "/a/b"]}, OSError, "No space left"),
    ],
)
def test_its_errors_are_those_of_the_conversion(
    answer: dict[str, Any], kind: type[Exception], message: str, checkpoint: Checkpoint, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    worker(monkeypatch, f"told.write(json.dumps(dict(error={answer!r})) + chr(10)); told.flush(); break")
    target = Here()
    waited = target.lower_unet

    def lower_unet(*arguments: Any) -> ConvertedUNet:
        time.sleep(1.0)  # the answer is there by then, most likely; where it is not, it is met later
        return waited(*arguments)

    monkeypatch.setattr(target, "lower_unet", lower_unet)
    with pytest.raises(kind, match=message) as caught:
        lowered(checkpoint, target, tmp_path / "bundle")
    assert type(caught.value) is kind
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "do", ["os.abort()", "sys.exit('words')", "os.kill(os.getpid(), 9)", "told.write('half a li'); told.flush(); os._exit(0)"]
)
@pytest.mark.parametrize("begun", [0, 1])
def test_what_it_leaves_undone_is_done_here(
    do: str, begun: int, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch, f"if name == {NAMES[begun]!r}: {do}")
    target = Here()

    def lower_unet(*_: Any) -> ConvertedUNet:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*beside*/*/programs/*.bin"))) < begun and time.monotonic() < deadline:
            time.sleep(0.01)
        return ConvertedUNet({}, ())

    monkeypatch.setattr(target, "lower_unet", lower_unet)
    found = lowered(checkpoint, target, tmp_path / "bundle")
    assert tuple(found.others) == NAMES and NAMES[begun] in target.lowered
    texts = [(tmp_path / "bundle" / component.path).read_text() for component in found.others.values()]
    assert texts == ["from here" if name in target.lowered else "from beside" for name in NAMES]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [S2PError("the U-Net cannot be lowered", "no"), KeyboardInterrupt()])
def test_an_error_here_ends_it(
    error: BaseException, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    monkeypatch.setattr(beside, "_PATIENCE", 0.2)
    target = Here(error=error)

    def lower_unet(*_: Any) -> ConvertedUNet:
        deadline = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        raise error

    monkeypatch.setattr(target, "lower_unet", lower_unet)
    with pytest.raises(type(error)):
        lowered(checkpoint, target, tmp_path / "bundle")
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists() or sys.platform != "linux"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "pid"]


def test_the_real_process_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError\n")
    answers, told = os.pipe()
    command = [*beside.WORKER, str(told)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[told], cwd=tmp_path)
    os.close(told)
    # A module of the user's own, where the command runs, is not what the process imports.
    _, said = started.communicate(b"", timeout=120)
    assert started.returncode == 0, said
    with os.fdopen(answers, "rb") as pipe:
        assert pipe.read() == b""


def test_there_is_room_for_small_models_on_several_cores(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def room(target: str, **changes: Any) -> bool:
        entry = TARGETS.get(target)
        return room_beside(Task(checkpoint, entry, entry.options(**changes), Path("out"), {"main": (8, 8)}, None))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(beside, "available_memory", lambda: 8 << 30)
    assert room("coreml") and room("executorch")
    assert not room("coreai")  # Apple's library has a process of its own already
    assert not room_beside(Task(checkpoint, Here(), CoreMLOptions(), Path("out"), {"main": (8, 8)}, None))
    with monkeypatch.context() as context:
        context.setattr(CoreMLTarget, "memory", lambda *_: beside.TOGETHER)
        assert not room("coreml")
    with monkeypatch.context() as context:
        context.setattr(beside, "available_memory", lambda: 1 << 30)
        assert not room("coreml")
    monkeypatch.setattr(beside, "available_memory", lambda: None)
    assert room("coreml")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not room("coreml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coreml", {"layout": "apple"}),
        ("coreml", {"size": ((48, 64),), "image_to_image": True}),
        ("executorch", {"size": ((48, 64),), "image_to_image": True}),
        ("executorch", {"backend": "qnn", "soc": ("SM8650", "SM8750"), "self_check": False}),
    ],
    ids=str,
)
def test_bundles_are_the_same_bytes(
    name: str, options: dict[str, Any], checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one process and of two. Qualcomm's compiler writes the time of day into what it makes: there the same files lie."""
    target = TARGETS.get(name)
    bundles = []
    for several in (False, True):
        monkeypatch.setattr(lowering, "room_beside", lambda task, several=several: several)
        folder = tmp_path / str(several)
        folder.mkdir()
        kept = tmp_path / f"kept-{several}"
        convert_checkpoint(checkpoint, target, target.options(**options), folder, Silent(), kept)
        stamped = options.get("backend") == "qnn"
        bundles.append({path: "" if stamped else sha256_file(folder / path) for path in list_files(folder)})
    assert bundles[0] == bundles[1]
    assert {path.name for path in (tmp_path / "kept-True").iterdir()} == {
        path.name for path in (tmp_path / "kept-False").iterdir()
    }
