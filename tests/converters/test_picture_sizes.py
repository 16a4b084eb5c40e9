"""Bundles that draw several picture sizes: equal to torch at each, and every weight in the file once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.reference import Constants, reference_unet
from s2p_converters.targets.coreml.components import program_constants
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.xnnpack.inspection import read_program
from s2p_converters.targets.float_modules import decoder_module
from s2p_converters.targets.sizes import picture_sizes
from s2p_mobile.cli.app import run
from s2p_runtime.artist import draw
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, file_entries, open_bundle
from s2p_runtime.contract import write_contract
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error
from s2p_runtime.tensors import read_tensors, write_tensors
from s2p_runtime.verify import verify

WIDE = (48, 32)
"""Pixels; 12 x 8 latents beside the small model's own 8 x 8."""

COREML = CoreMLOptions(minimum_os="iOS18", precision="fp32", size=(WIDE,))


@pytest.fixture(scope="module")
def pte_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("sizes") / "pte.s2pmobile"
    return open_bundle(convert(checkpoint, ExecuTorchOptions(size=((32, 32), WIDE)), folder))


@pytest.fixture(scope="module")
def mil_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("sizes") / "mil.s2pmobile"
    return open_bundle(convert(checkpoint, COREML, folder))


@pytest.fixture(params=["pte", "mil"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """One of each target."""
    made: Bundle = request.getfixturevalue(f"{request.param}_bundle")
    return made


@torch.no_grad()
def torch_outputs(checkpoint: Checkpoint, sample: np.ndarray, step: int, context: np.ndarray, **how: Constants) -> np.ndarray:
    unet = reference_unet(checkpoint, *how.values())
    output: np.ndarray = unet(
        torch.from_numpy(sample).double(), torch.tensor([step]), torch.from_numpy(context).double()
    ).numpy()
    return output


def feeds(checkpoint: Checkpoint) -> tuple[np.ndarray, int, np.ndarray]:
    """Sample, call and text for the other size."""
    tokens = checkpoint.manifest.tokenizer.max_length
    return gaussian(5, (2, 4, 8, 12)), 2, gaussian(6, (2, tokens, checkpoint.structure.context_dim))


def test_the_manifest_lists_the_sizes_and_their_methods(bundle: Bundle) -> None:
    assert [(size.title, size.method) for size in bundle.manifest.sizes] == [("32x32", None), ("48x32", "size_48x32")]
    assert [(size.latent_height, size.latent_width) for size in bundle.manifest.sizes] == [(8, 8), (8, 12)]


def test_the_own_size_is_listed_when_it_is_the_only_one(executorch_bundle: Path) -> None:
    assert [size.model_dump() for size in open_bundle(executorch_bundle).manifest.sizes] == [
        {"width": 32, "height": 32, "latent_width": 8, "latent_height": 8, "method": None, "check": None}
    ]


def test_executorch_unet_at_the_other_size_is_as_close_to_torch_as_float32_allows(
    checkpoint: Checkpoint, pte_bundle: Bundle
) -> None:
    sample, step, context = feeds(checkpoint)
    want = torch_outputs(checkpoint, sample, step, context)
    with torch.no_grad():
        single = reference_unet(checkpoint).float()(torch.from_numpy(sample), torch.tensor([step]), torch.from_numpy(context))
    # As for the own size: every float32 evaluation flips some roundings of activations; torch's own is the yardstick, and
    # since the two flip different ones, three times that is allowed.
    allowed = 3 * max(relative_error(single.numpy(), want), 1e-4)
    assert relative_error(open_backend(pte_bundle).predict(sample, step, {"encoder_hidden_states": context}), want) < allowed


def test_coreml_unet_at_the_other_size_equals_torch(checkpoint: Checkpoint, mil_bundle: Bundle) -> None:
    sample, step, context = feeds(checkpoint)
    want = torch_outputs(checkpoint, sample, step, context, constants=program_constants(COREML))
    # float64 on both sides with the same float32 constants; the result is rounded to float32 once (6e-8).
    assert (
        relative_error(open_backend(mil_bundle, "float64").predict(sample, step, {"encoder_hidden_states": context}), want)
        < 1e-7
    )


def test_decoder_at_the_other_size_equals_torch(checkpoint: Checkpoint, bundle: Bundle) -> None:
    latents = gaussian(9, (1, 4, 8, 12))
    with torch.no_grad():
        want = decoder_module(checkpoint)(torch.from_numpy(latents)).numpy()
    assert want.shape == (1, 3, 32, 48)
    # About 30 convolutions in float32, sums in another order: 3e-6 measured on the demo's own size, room for 30.
    assert relative_error(open_backend(bundle).decode(latents), want) < 1e-4


def test_every_weight_of_the_pte_exists_once(pte_bundle: Bundle) -> None:
    data = pte_bundle.component("unet")[1].read_bytes()
    summary = read_program(data)
    assert summary.methods == ("forward", "size_48x32")
    for method in summary.methods:
        layers = [node for node in summary.layers if node.method == method and len(node.filter_bytes) >= 256]
        assert layers
        assert {data.count(node.filter_bytes) for node in layers} == {1}


def test_both_sizes_of_the_pte_hold_the_same_integers(pte_bundle: Bundle) -> None:
    summary = read_program(pte_bundle.component("unet")[1].read_bytes())
    by_method = {
        method: [
            (node.place, node.datatypes, node.filter_bytes) for node in summary.layers if node.method == method and node.place
        ]
        for method in summary.methods
    }
    assert by_method["forward"] == by_method["size_48x32"]


@pytest.mark.parametrize("component", ["unet", "vae_decoder"])
def test_functions_of_the_ml_program_share_their_weights(mil_bundle: Bundle, component: str) -> None:
    import coremltools as ct

    path = mil_bundle.component(component)[1]
    program = load_program(path)
    assert program.functions == ("main", "size_48x32")
    stored = {name: {w.name: w.stored_bytes for w in program.weights(name)} for name in program.functions}
    compressed = [{w.name for w in program.weights(name) if w.form != "const"} for name in program.functions]
    assert compressed[0] == compressed[1]
    file = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    # Records and data are aligned to 64 bytes each. Were the weights there twice, the file would be about twice its share.
    overhead = 128 * len(stored["main"])
    assert file.stat().st_size < 1.1 * sum(stored["main"].values()) + overhead
    # coremltools' own reader of weight files finds every value, and the default function.
    spec = ct.utils.load_spec(str(path))
    from coremltools.converters.mil.frontend.milproto.load import load

    loaded = load(spec, spec.specificationVersion, str(file.parent))
    assert sorted(loaded.functions) == ["main", "size_48x32"]
    assert spec.description.defaultFunctionName == "main" and spec.specificationVersion >= 9
    shapes = {f.name: list(f.input[0].type.multiArrayType.shape) for f in spec.description.functions}
    assert [shape[-2:] for shape in shapes.values()] == [[8, 8], [8, 12]]


def test_verification_covers_every_size(bundle: Bundle, tmp_path: Path) -> None:
    assert verify(bundle).ok
    copy = tmp_path / "copy.s2pmobile"
    shutil.copytree(bundle.folder, copy)
    check = bundle.manifest.sizes[1].check
    assert check is not None
    tensors = read_tensors(copy / check)
    write_tensors(copy / check, {**tensors, "noise_pred": tensors["noise_pred"] * np.float32(1.1)})
    write_contract(copy / MANIFEST_NAME, bundle.manifest.model_copy(update={"files": file_entries(copy)}))
    result = verify(open_bundle(copy))
    assert not result.ok and not result.components["unet"].ok and result.components["vae_decoder"].ok


def test_pictures_of_both_sizes(pte_bundle: Bundle) -> None:
    backend = open_backend(pte_bundle)
    own = draw(BundleArtist(pte_bundle, backend), "a red apple", 1)
    wide = draw(BundleArtist(pte_bundle, backend, pte_bundle.manifest.size_named("48x32")), "a red apple", 1)
    assert own.picture.shape == (32, 32, 3) and wide.picture.shape == (32, 48, 3)


def test_latents_of_an_unknown_size_are_refused(bundle: Bundle, checkpoint: Checkpoint) -> None:
    _, step, context = feeds(checkpoint)
    with pytest.raises(S2PError, match="8x8 or 8x12"):
        open_backend(bundle).predict(gaussian(1, (2, 4, 12, 8)), step, {"encoder_hidden_states": context})


@pytest.mark.parametrize(
    ("asked", "reason"), [((50, 32), "multiples of 8; try 48x32"), ((32, 4), "try 32x8"), ((8192, 32), "too large")]
)
def test_sizes_that_do_not_fit_are_refused(checkpoint: Checkpoint, asked: tuple[int, int], reason: str) -> None:
    with pytest.raises(S2PError, match=reason):
        picture_sizes(checkpoint, [asked])


def test_every_size_is_there_once_and_the_own_first(checkpoint: Checkpoint) -> None:
    assert [size.title for size in picture_sizes(checkpoint, [(32, 32), WIDE, WIDE])] == ["32x32", "48x32"]


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (CoreMLOptions, {"minimum_os": "iOS17"}, "minimum_os=iOS18"),
        (CoreMLOptions, {"minimum_os": "iOS18", "layout": "apple"}, "draws one size"),
        (ExecuTorchOptions, {"backend": "vulkan"}, "backend=xnnpack"),
    ],
)
def test_targets_without_shared_weights_refuse_sizes(kind: Any, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(S2PError, match=reason):
        kind(size=(WIDE,), **settings)


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize("text", ["big", "0x32", "32", "32x32x3", "-8x8", "100x100"])
def test_bad_sizes_end_in_one_line(
    command: str, text: str, pte_bundle: Bundle, checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "new")
    given = {
        "generate": ["generate", str(pte_bundle.folder), "a cat", "--out", f"{place}.png"],
        "convert": ["convert", str(checkpoint.folder), "--target", "executorch", "--out", place],
    }[command]
    capfd.readouterr()
    assert run([*given, f"--size={text}"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "; " in errors[0] and text in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_size_needs_a_bundle(checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(checkpoint.folder), "a cat", "--size", "32x32", "--out", str(tmp_path / "a.png")]) == 2
    assert "bundle" in capfd.readouterr().err
