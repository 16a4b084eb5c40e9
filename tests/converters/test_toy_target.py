"""A target from outside: its entry points are all that it takes to convert, verify, inspect and draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, Constants, reference_unet
from s2p_converters.targets.conversion import convert_checkpoint
from s2p_converters.targets.float_components import FloatComponent, SourceNetworks
from s2p_converters.targets.golden import reference_call
from s2p_converters.targets.interface import unet_inputs, unet_output
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Archive, ConvertedUNet, Inspection, LatentShapes, Notes, Target
from s2p_converters.targets.registry import TARGETS, read_options
from s2p_mobile import inspect
from s2p_mobile.cli.app import run
from s2p_runtime.bundle import Bundle, BundleManifest, LayerSummary, open_bundle
from s2p_runtime.component import Component
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.hosts import HOSTS, Host
from s2p_runtime.hosts.programs import ProgramBackend
from s2p_runtime.pictures import psnr_db
from s2p_runtime.progress import Silent
from s2p_runtime.tensors import read_tensors
from s2p_runtime.verify import verify
from s2p_runtime.walker import denoise, guide

OURS = ", ".join(name for name in ("coreml", "executorch", "coreai") if name != "coreai" or find_spec("coreai_torch"))
"""Targets of ours whose packages are installed; Apple has none of its for some machines."""


class ToyOptions(TargetOptions):
    colour: Literal["red", "green"] = Field("green", description="of the toy")
    wheels: int = Field(4, ge=1, description="how many it runs on")
    loud: bool = Field(False, description="whether it is heard")
    fault: str = Field("none", description="which program is wrong", json_schema_extra={"hidden": True})


class ToyArchive(Archive):
    def unet_bytes(self, folder: Path, unet: ConvertedUNet) -> int:
        return 7

    def write(self, bundle: Bundle, path: Path, *, force: bool = False) -> None:
        path.write_text(f"download form of {bundle.manifest.name}")


class ToyTarget(Target[ToyOptions]):
    """A program is a file that says where the checkpoint lies and which of its networks it is."""

    name = "toy"
    title = "Toy"
    options = ToyOptions
    archive = ToyArchive()

    def describe(self, options: ToyOptions) -> str:
        return f"a {options.colour} toy"

    def check(self, checkpoint: Checkpoint, options: ToyOptions) -> None:
        if options.wheels == 3:
            raise S2PError("`wheels=3` topples", "give another number", "wheels")

    def notes(self, checkpoint: Checkpoint, options: ToyOptions) -> Notes:
        return Notes(("mind the steps",), ("wind it up",), {"wheels": options.wheels})

    def memory(self, checkpoint: Checkpoint, options: ToyOptions) -> int:
        return 1 << 20

    def disk(self, checkpoint: Checkpoint, options: ToyOptions) -> int:
        return 1 << 20

    def _write(self, checkpoint: Checkpoint, options: ToyOptions, folder: Path, name: str, *ports: Any) -> Component:
        program = {"checkpoint": str(checkpoint.folder), "wrong": options.fault == name}
        (folder / f"{name}.toy").write_text(json.dumps(program))
        return Component(path=f"{name}.toy", precision="float32", inputs=ports[0], outputs=ports[1], backend="toy 1")

    def lower(
        self, checkpoint: Checkpoint, options: ToyOptions, folder: Path, methods: Mapping[str, FloatComponent]
    ) -> Component:
        own = next(iter(methods.values()))
        return self._write(checkpoint, options, folder, own.name, own.inputs, own.outputs)

    def lower_unet(self, checkpoint: Checkpoint, options: ToyOptions, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        ports = unet_inputs(checkpoint, self.step), (unet_output(checkpoint),)
        layers = tuple(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=32,
                activation_bits=None,
                scheme="toy",
                weights=spec.weights,
                bytes=1,
            )
            for spec in checkpoint.specs
        )
        return ConvertedUNet({"unet": self._write(checkpoint, options, folder, "unet", *ports)}, layers)

    def constants(self, options: ToyOptions) -> Constants:
        return CHECKPOINT_CONSTANTS

    def self_check_tolerance(self, options: ToyOptions, component: str) -> float | None:
        return 1e-6

    def inspect(self, bundle: Bundle) -> Inspection:
        program = json.loads(bundle.component("unet")[1].read_text())
        return Inspection({"maker": "a child"}, {"toy": program})


class ToyBackend(ProgramBackend):
    """The reference itself, and the source's networks."""

    def start(self, threads: int | None = None) -> None:
        pass

    def describe(self, component: str) -> str:
        return "toy"

    def _load(self, component: str, method: str) -> None:
        self.program = json.loads(self.bundle.component(component)[1].read_text())

    def _let_go(self, component: str) -> None:
        raise AssertionError("its U-Net is one program")

    def _call(self, component: str, method: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        assert method == ("go" if component not in ("unet", "vae_decoder") or inputs_are_own(inputs) else "size_48x32")
        checkpoint = open_checkpoint(Path(self.program["checkpoint"]))
        factor = np.float32(1.01 if self.program["wrong"] else 1)
        if component != "unet":
            return {name: value * factor for name, value in SourceNetworks(checkpoint).run(component, inputs).items()}
        sample, step, *told = inputs.values()
        assert step.dtype == np.int32
        conditions = dict(zip(list(inputs)[2:], told, strict=True))
        return {"noise_pred": reference_call(reference_unet(checkpoint), sample, int(step[0]), conditions) * factor}


def inputs_are_own(inputs: Mapping[str, Any]) -> bool:
    return next(iter(inputs.values())).shape[-2:] == (8, 8)


class ToyHost(Host):
    target = "toy"
    title = "Toy"
    default_method = "go"
    exact = True
    altered: tuple[str, ...] = ()

    def open(self, bundle: Bundle, compute: Any = "declared", release_chunks: bool = False) -> Any:
        return ToyBackend(bundle, self.default_method, release_chunks)

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        return 1e-6

    def record_constants(self, folder: Path, components: Mapping[str, Component]) -> None:
        (folder / "golden" / "constants.txt").write_text(" ".join(components))

    def altered_constants(self, bundle: Bundle) -> tuple[str, ...]:
        return () if bundle.path("golden/constants.txt").read_text() == " ".join(bundle.manifest.components) else ("all",)


class _Point(EntryPoint):
    """An entry point whose module is this one."""

    def load(self) -> Any:
        return {"target": ToyTarget, "host": ToyHost}[self.value]()


class _Fails(EntryPoint):
    def load(self) -> Any:
        raise ImportError("no module named wheels")


@pytest.fixture()
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Install the plug-in, or one that cannot be imported."""

    def install(works: bool) -> None:
        kind = _Point if works else _Fails
        for registry, place in ((TARGETS, "target"), (HOSTS, "host")):
            monkeypatch.setitem(registry.__dict__, "_plugins", {"toy": kind(name="toy", value=place, group=registry.group)})
            monkeypatch.setattr(registry, "_loaded", {})

    return install


@pytest.fixture()
def toy(installed: Callable[[bool], None]) -> None:
    installed(True)


@pytest.fixture()
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit status of a command, and what it printed."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return call


def test_the_whole_way(
    toy: None, checkpoint: Checkpoint, lines: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = lines(
        "convert", checkpoint.folder, "--target", "toy", "--colour", "red", "--size", "48x32", "--loud", "--wheels", "6",
        "--out", "car.s2pmobile", "--archive", "car.zip", "--json", "figures.json",
    )  # fmt: skip
    assert status == 0, said
    assert "for a red toy" in said and "note: mind the steps" in said and "wind it up" in said and "7 bytes" in said
    assert Path("car.zip").read_text() == f"download form of {checkpoint.manifest.source.name}"
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["target"], figures["wheels"], figures["unet"]["download_bytes"]) == ("toy", 6, 7)

    bundle = open_bundle(tmp_path / "car.s2pmobile")
    manifest = bundle.manifest
    assert [size.title for size in manifest.sizes] == ["32x32", "48x32"] and manifest.target == "toy"
    assert verify(bundle).ok
    status, said = lines("verify", "car.s2pmobile")
    assert status == 0 and "verified" in said
    status, said = lines("inspect", "car.s2pmobile", "--json", "layers.json")
    assert status == 0 and "a child" in said
    assert json.loads(Path("layers.json").read_text())["toy"]["wrong"] is False
    status, said = lines("generate", "car.s2pmobile", "a red apple", "--size", "48x32")
    assert status == 0 and Path("picture.png").is_file()

    # The exact call is what the checkpoint computes in plain torch, float64, at the state that the recorded outputs lead to; what
    # they lead to in the end is what the loop gives, up to activations that fall on the next integer in float32.
    golden, unet = read_tensors(bundle.path("golden/1.safetensors")), reference_unet(checkpoint)
    context = {"encoder_hidden_states": golden["text_embeddings"]}

    def predict(sample: np.ndarray, call: int) -> np.ndarray:
        return guide(reference_call(unet, np.repeat(sample, 2, axis=0), call, context), manifest.guidance)

    states: list[np.ndarray] = []

    def recorded(sample: np.ndarray, call: int) -> np.ndarray:
        states.append(sample)
        return guide(golden["noise_pred"][call], manifest.guidance)

    seed = manifest.golden[0].seed
    np.testing.assert_array_equal(
        denoise(manifest.plan, recorded, golden["initial_latents"], seed), golden["quantized_latents"]
    )
    (call,) = golden["exact_calls"].tolist()
    assert call == len(manifest.plan.calls) // 2
    last = {name: value[-1:] for name, value in context.items()}
    np.testing.assert_array_equal(golden["exact_noise_pred"][0], reference_call(unet, states[call], call, last))
    final = denoise(manifest.plan, predict, golden["initial_latents"], seed)
    assert (psnr_db(golden["quantized_latents"], final) or np.inf) > 30.0


def test_help_and_words(toy: None, lines: Callable[..., tuple[int, str]]) -> None:
    status, said = lines("convert", "--help")
    words = " ".join(said.split())
    assert status == 0 and f"Where it will run: {OURS}, toy." in words
    assert "--colour WORD Toy: of the toy [red, green (default)]." in words
    assert "--loud / --no-loud Toy: whether it is heard." in words
    assert "--wheels WORD Toy: how many it runs on [default 4]." in words and "--fault" not in words
    # What every target has says so by naming none.
    assert "--chunks N Split the U-Net into so many programs" in words
    assert "--minimum-os WORD Core ML:" in words and "--backend WORD ExecuTorch:" in words


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--target", "nonsense"), f"unknown target 'nonsense'; there are {OURS}, toy"),
        (("--target", "coreml", "--colour", "red"), "--colour is an option of the target toy; leave it out for coreml"),
        (("--target", "toy", "--backend", "vulkan"), "--backend is an option of the target executorch; leave it out for toy"),
        (("--target=toy", "--colour", "blue"), "unknown colour 'blue'; choose from red, green"),
        (("--target", "toy", "--wheels", "0"), "--wheels 0 is out of range; give 1 or more"),
        (("--target", "toy", "--wheels", "many"), "--wheels many is not valid; give a valid integer"),
        (("--target", "toy", "--wheels", "3"), "--wheels 3 topples; give another number"),
        (("--target", "toy", "--chunks", "2"), "--chunks: the target toy takes the U-Net whole; leave it out"),
    ],
)
def test_bad_words_are_one_line(
    toy: None, checkpoint: Checkpoint, lines: Callable[..., tuple[int, str]], given: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    status, found = lines("convert", checkpoint.folder, "--out", tmp_path / "b", *given)
    errors = [line for line in found.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and errors[0].startswith(f"error: {said}"), found
    assert not list(tmp_path.iterdir())


def test_a_plug_in_that_fails_is_named_and_nothing_else_breaks(
    installed: Callable[[bool], None], lines: Callable[..., tuple[int, str]]
) -> None:
    installed(False)
    status, said = lines("convert", "--target", "toy")
    assert status == 2 and "target 'toy' of the plug-in target cannot be imported (ImportError: no module named wheels)" in said
    status, said = lines("convert", "--target", "nonsense")
    assert status == 2 and f"there are {OURS}; not usable: " in said and "toy (plug-in target fails)" in said
    assert "--layout is an option of the target coreml" in lines("convert", "--target", "executorch", "--layout", "apple")[1]
    assert lines("convert", "--help")[0] == 0


@pytest.mark.parametrize(
    ("fault", "title"), [("unet", "U-Net"), ("text_encoder", "text encoder"), ("vae_decoder", "VAE decoder")]
)
def test_a_program_that_computes_something_else_is_found(
    toy: None, checkpoint: Checkpoint, fault: str, title: str, tmp_path: Path
) -> None:
    target = TARGETS.get("toy")
    # 1.01 in place of 1 is a relative error of 0.01, whatever the network.
    with pytest.raises(CheckFailed, match=rf"the emitted {title} differs from its reference \(relative error 1\.00e-02"):
        convert_checkpoint(checkpoint, target, read_options(target, {"fault": fault}), tmp_path, Silent())


def test_bundles_of_a_target_that_is_gone(
    checkpoint: Checkpoint, installed: Callable[[bool], None], lines: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """They are refused by name by what would run them, and still described."""
    with pytest.MonkeyPatch.context() as patch:
        for registry, place in ((TARGETS, "target"), (HOSTS, "host")):
            patch.setitem(registry.__dict__, "_plugins", {"toy": _Point(name="toy", value=place, group=registry.group)})
        folder = tmp_path / "old.s2pmobile"
        folder.mkdir()
        convert_checkpoint(checkpoint, TARGETS.get("toy"), ToyOptions(), folder, Silent())
    TARGETS._loaded.pop("toy")
    HOSTS._loaded.pop("toy")
    for command in (("verify", folder), ("generate", folder, "a cat"), ("bench", folder)):
        status, said = lines(*command)
        # What is not installed is named behind the semicolon.
        assert status == 2 and f"old.s2pmobile is a bundle for toy, and this s2p-mobile runs {OURS};" in said
    description = inspect(folder)
    assert "unknown target 'toy'" in description.facts["programs"] and len(description.layers) == len(checkpoint.specs)


def test_options_are_read_as_words_and_as_values() -> None:
    wanted = ToyOptions(size=((48, 32),), wheels=2, loud=True)
    target = ToyTarget()
    assert read_options(target, {"size": ["48x32"], "wheels": "2", "loud": "true"}) == wanted
    assert read_options(target, {"size": "48x32", "wheels": 2, "loud": True}) == wanted
    assert hash(wanted) == hash(read_options(target, {"size": [(48, 32)], "wheels": 2, "loud": True}))
    for given, field in (
        ({"size": "big"}, "size"),
        ({"size": 5}, "size"),
        ({"loud": "perhaps"}, "loud"),
        ({"horn": 1}, "horn"),
    ):
        with pytest.raises(S2PError) as caught:
            read_options(target, given)
        assert caught.value.field == field and "\n" not in str(caught.value)
    with pytest.raises(S2PError, match="there are `size`, `chunks`, `image_to_image`, `colour`"):
        ToyOptions(horn=1)  # type: ignore[call-arg]


def test_torch_is_not_needed_to_know_the_options() -> None:
    """The command line asks every target for its options before it knows what is to be done."""
    import subprocess
    import sys

    code = (
        "import sys; from s2p_converters.targets.registry import TARGETS; "
        "[target.options.model_fields for target in TARGETS.entries.values()]; "
        "print(len(TARGETS.entries), sorted({'torch', 'coremltools', 'executorch', 'coreai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3 []", done.stderr
    assert torch is not None
