"""Programs of text encoders and VAE are written once for a model, and again for everything else that they depend on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets import kept_programs
from s2p_converters.targets.float_components import FloatComponent, decoder_component, encoder_component, prompt_components
from s2p_converters.targets.kept_programs import lower_and_keep, take
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes, Target
from s2p_converters.targets.registry import TARGETS, read_options
from s2p_converters.targets.task import Task
from s2p_runtime.component import Component
from s2p_runtime.files import list_files

NAMED_OTHERWISE: dict[str, list[dict[str, Any]]] = {
    "coreml": [
        {"palette": "per-channel", "eight_bit": "palette", "activations": "float16", "attention": "split"},
        {"size": ((48, 64),)},
        {"chunks": 2, "image_to_image": True},
    ],
    "coreai": [{"weights": "integers", "activations": "float"}],
    "executorch": [{"scheme": "static", "self_check": False}],
}
"""By target: options that say nothing of programs beside the U-Net's, each once; several conversions where they exclude each other.
Those that every target has are tried with one."""


class Counting(Target[TargetOptions]):
    """Writes a file and a folder, and counts."""

    name = "counting"
    title = "Counting"
    options = TargetOptions
    keeps_programs = True

    def __init__(self) -> None:
        self.lowered: list[str] = []

    def memory(self, checkpoint: Checkpoint, options: TargetOptions) -> int:
        return 0

    def disk(self, checkpoint: Checkpoint, options: TargetOptions) -> int:
        return 0

    def lower(self, checkpoint: Any, options: TargetOptions, folder: Path, methods: Any) -> Component:
        own: FloatComponent = next(iter(methods.values()))
        self.lowered.append(own.name)
        (folder / own.name / "weights").mkdir(parents=True)
        (folder / own.name / "weights" / "all.bin").write_bytes(bytes(1000))
        (folder / f"{own.name}.json").write_text("{}")
        return Component(path=own.name, precision="float32", inputs=own.inputs, outputs=own.outputs, backend="none")

    def lower_unet(self, checkpoint: Any, options: TargetOptions, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        pytest.fail("only components that stay in float are asked for")

    def constants(self, options: TargetOptions) -> Any:
        pytest.fail("only components that stay in float are asked for")

    def self_check_tolerance(self, options: TargetOptions, component: str) -> float | None:
        return None


class Place:
    """A cache, and conversions of one component each with it."""

    def __init__(self, folder: Path, target: Target[Any]) -> None:
        self.folder, self.target, self.number = folder, target, 0

    def convert(self, checkpoint: Checkpoint, component: FloatComponent, **options: Any) -> tuple[bool, Path]:
        """Whether an earlier program was taken, and the folder that it lies in."""
        self.number += 1
        out = self.folder.with_name(f"{self.folder.name}-{self.number}")
        out.mkdir()
        given = self.target.options(**options)
        task, methods = Task(checkpoint, self.target, given, out, {"main": (8, 8)}, self.folder), {"main": component}
        taken = take(task, methods) is not None
        if not taken:
            lower_and_keep(task, methods)
        return taken, out


@pytest.fixture
def target() -> Counting:
    return Counting()


@pytest.fixture
def place(tmp_path: Path, target: Counting) -> Place:
    return Place(tmp_path / "cache", target)


def text(checkpoint: Checkpoint) -> FloatComponent:
    return prompt_components(checkpoint)[0]


def test_another_quantization_of_the_model_takes_them(
    place: Place, target: Counting, checkpoint: Checkpoint, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    other = make_checkpoint(weight_bits=8, mixed=False)
    assert other.folder != checkpoint.folder
    first, out = place.convert(checkpoint, text(checkpoint))
    again, copy = place.convert(other, text(other))
    assert (first, again) == (False, True) and target.lowered == ["text_encoder"]
    assert list_files(out) == list_files(copy) == ["text_encoder.json", "text_encoder/weights/all.bin"]
    assert all((out / name).read_bytes() == (copy / name).read_bytes() for name in list_files(out))


def test_what_they_depend_on(place: Place, checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert not place.convert(checkpoint, text(checkpoint))[0]
    assert not place.convert(checkpoint, decoder_component(checkpoint, (8, 8)))[0]
    assert not place.convert(checkpoint, encoder_component(checkpoint, (8, 8)))[0]
    assert not place.convert(checkpoint, decoder_component(checkpoint, (8, 12)))[0], "another size"
    # One weight of the text encoder, or of the VAE, with the checksum that a whole checkpoint has of it.
    for name, touched in (("text_encoder/model.safetensors", True), ("vae/diffusion_pytorch_model.safetensors", False)):
        manifest = checkpoint.manifest
        entry = manifest.files[name].model_copy(update={"sha256": "0" * 64})
        changed = manifest.model_copy(update={"files": {**manifest.files, name: entry}})
        found, _ = place.convert(dataclasses.replace(checkpoint, manifest=changed), text(checkpoint))
        assert found is not touched
    longer = checkpoint.manifest.tokenizer.model_copy(update={"pad_id": 1})
    other = dataclasses.replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"tokenizer": longer}))
    assert not place.convert(other, text(checkpoint))[0]


def test_other_versions_and_sources(place: Place, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not place.convert(checkpoint, text(checkpoint))[0]
    for name in ("_installed", "_sources"):
        with monkeypatch.context() as patch:
            patch.setattr(kept_programs, name, lambda *_, name=name: [name])
            assert not place.convert(checkpoint, text(checkpoint))[0]
    assert place.convert(checkpoint, text(checkpoint))[0]


def test_targets_say_that_they_may_be_kept(
    place: Place, target: Counting, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "keeps_programs", False)
    for _ in range(2):
        assert not place.convert(checkpoint, text(checkpoint))[0]
    monkeypatch.undo()
    of_the_unet = dataclasses.replace(text(checkpoint), sources=())
    for _ in range(2):
        assert not place.convert(checkpoint, of_the_unet)[0]
    assert not place.folder.exists()


@pytest.mark.parametrize("damage", ["byte", "gone", "manifest", "outside"])
def test_a_damaged_entry_is_made_again(place: Place, target: Counting, checkpoint: Checkpoint, damage: str) -> None:
    place.convert(checkpoint, text(checkpoint))
    (entry,) = place.folder.iterdir()
    weights, manifest = entry / "text_encoder" / "weights" / "all.bin", entry / "kept.json"
    if damage == "byte":
        weights.write_bytes(bytes(999) + b"\1")
    elif damage == "gone":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        document = json.loads(manifest.read_text())
        document["files"] = {"../escaped": document["files"]["text_encoder.json"]}
        shutil.copyfile(entry / "text_encoder.json", entry.parent / "escaped")
        manifest.write_text(json.dumps(document))
    found, out = place.convert(checkpoint, text(checkpoint))
    assert not found and target.lowered == ["text_encoder"] * 2
    assert list_files(out) == ["text_encoder.json", "text_encoder/weights/all.bin"] and not (out.parent / "escaped").exists()
    assert place.convert(checkpoint, text(checkpoint))[0]


def test_the_longest_unused_go(place: Place, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(8, 8), (8, 12), (8, 16)]
    parts = [decoder_component(checkpoint, size) for size in sizes]
    for age, part in enumerate(parts[:2]):
        place.convert(checkpoint, part)
        for manifest in place.folder.glob("*/kept.json"):
            os.utime(manifest, (1000 + age, 1000 + age))
    assert place.convert(checkpoint, parts[0])[0]  # now the other one is the older
    entry = sum(path.stat().st_size for path in next(place.folder.iterdir()).rglob("*") if path.is_file())
    monkeypatch.setattr(kept_programs, "LIMIT", int(2.5 * entry))
    place.convert(checkpoint, parts[2])
    assert len(list(place.folder.iterdir())) == 2
    assert place.convert(checkpoint, parts[0])[0] and place.convert(checkpoint, parts[2])[0]
    monkeypatch.setattr(kept_programs, "LIMIT", 0)
    assert not place.convert(checkpoint, parts[1])[0]
    assert len(list(place.folder.iterdir())) == 1, "the newest stays"


def test_a_cache_that_cannot_be_written_stops_nothing(target: Counting, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out").mkdir()
    below, methods = tmp_path / "file" / "below", {"main": text(checkpoint)}
    task = Task(checkpoint, target, TargetOptions(), tmp_path / "out", {"main": (8, 8)}, below)
    assert take(task, methods) is None
    assert lower_and_keep(task, methods).path == "text_encoder"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "executorch")) for name in NAMED_OTHERWISE]
)
def test_options_of_the_unet_change_no_other_program(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Every option that is said to be of the U-Net alone, at another value than its default."""
    if name == "coreai":
        pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed")
    target = TARGETS.get(name)
    marked, everywhere = (
        set(options.model_fields) - options().beside_the_unet().keys() for options in (target.options, TargetOptions)
    )
    assert {field for options in NAMED_OTHERWISE[name] for field in options} == (
        marked if name == "coreml" else marked - everywhere
    )
    files = []
    for number, options in enumerate([{}, *NAMED_OTHERWISE[name]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        target.lower(checkpoint, read_options(target, options), folder, {target.host.default_method: text(checkpoint)})
        files.append({path: (folder / path).read_bytes() for path in list_files(folder)})
    assert files[0] and all(other == files[0] for other in files[1:])
