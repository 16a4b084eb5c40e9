"""Bundles whose U-Net is several programs: the same numbers as the whole, in parts as small as they can be."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import UNetStructure
from s2p_converters.core.graph.splitting import UNetChunk, best_cuts, chunk_inputs, chunk_tables, plan_chunks
from s2p_converters.core.reference import reference_unet
from s2p_converters.targets.coreml.chunk_packages import convert_chunks
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.executorch.archive import write_archive
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.xnnpack.unet_facts import read_unet_facts
from s2p_mobile import inspect
from s2p_mobile.cli.app import run
from s2p_runtime.archive import unpack_archive
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, component_bytes, open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.noise import gaussian
from s2p_runtime.unet_programs import run_programs
from s2p_runtime.verify import verify

COREML = CoreMLOptions(precision="fp32", chunks=2)
OPTIONS = {"coreml": COREML, "executorch": ExecuTorchOptions(chunks=3)}


@pytest.fixture(scope="module")
def bundles(
    checkpoint: Checkpoint,
    convert: Callable[..., Path],
    coreml_bundle: Path,
    executorch_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Bundle, Bundle]]:
    """Target -> the whole bundle and the one in programs."""
    folder = tmp_path_factory.mktemp("chunks")
    for name in ("coreml", "executorch"):
        convert(checkpoint, OPTIONS[name], folder / name)
    return {
        "coreml": (open_bundle(coreml_bundle), open_bundle(folder / "coreml")),
        "executorch": (open_bundle(executorch_bundle), open_bundle(folder / "executorch")),
    }


def output(bundle: Bundle, backend: Backend, call: int = 1) -> np.ndarray:
    unet = {port.name: port.shape for port in bundle.manifest.unet.inputs}
    conditions = {"encoder_hidden_states": gaussian(6, unet["encoder_hidden_states"])}
    return backend.predict(gaussian(5, unet["sample"]), call, conditions)


@pytest.mark.parametrize(("target", "compute"), [("coreml", "declared"), ("coreml", "float64"), ("executorch", "declared")])
def test_programs_equal_the_whole_bit_for_bit(bundles: Any, target: str, compute: Any) -> None:
    whole, parts = bundles[target]
    count = {"coreml": 2, "executorch": 3}[target]
    assert parts.manifest.chunks == tuple(f"unet_{k + 1}" for k in range(count))
    want = output(whole, open_backend(whole, compute))
    assert want.std() > 0.01
    # The same operations on the same numbers: nothing is rounded at a cut.
    np.testing.assert_array_equal(output(parts, open_backend(parts, compute)), want)
    np.testing.assert_array_equal(output(parts, open_backend(parts, compute, release_chunks=True)), want)


def test_programs_in_float16(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Three programs whose tensors between them are float16, against the whole."""
    whole = convert_unet(checkpoint, CoreMLOptions(), tmp_path).components["unet"]
    feeds = {port.name: gaussian(7, port.shape) for port in whole.inputs if port.name != "step"}
    feeds["step"] = np.array([2], np.int32)  # type: ignore[assignment]
    components = convert_chunks(checkpoint, CoreMLOptions(chunks=3), tmp_path).components
    programs = {name: load_program(tmp_path / component.path) for name, component in components.items()}
    for later in ("unet_2", "unet_3"):
        assert {port.dtype for port in components[later].inputs if port.name.startswith("hidden")} == {"float16"}
    program = load_program(tmp_path / whole.path)
    modes: tuple[Any, ...] = ("declared", "float64")
    for compute in modes:
        found = run_programs(components, feeds, lambda name, given, how=compute: programs[name].run(given, compute=how))
        np.testing.assert_array_equal(found, program.run(feeds, compute=compute)["noise_pred"])


def test_apples_pipeline_gets_two_programs_by_its_names(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "Resources").mkdir()
    options = CoreMLOptions(layout="apple", precision="fp32", chunks=2)
    first, second = convert_chunks(checkpoint, options, tmp_path).components.values()
    assert (first.path, second.path) == ("Resources/UnetChunk1.mlpackage", "Resources/UnetChunk2.mlpackage")
    own = {port.name for port in first.inputs}
    # Its Unet.swift gives the second program the U-Net's inputs and the first one's outputs, and reads one output of the last.
    given = {"sample", "timestep", "encoder_hidden_states"}
    assert own <= given and {port.name for port in second.inputs} <= given | {port.name for port in first.outputs}
    assert [port.name for port in second.outputs] == ["noise_pred"] and "sample" in own
    whole = convert_unet(checkpoint, CoreMLOptions(layout="apple", precision="fp32"), tmp_path).components["unet"]
    timestep = checkpoint.manifest.plan.timesteps[1]
    feeds = {port.name: gaussian(3, port.shape) for port in whole.inputs}
    feeds["timestep"] = np.full(feeds["timestep"].shape, timestep, np.float32)
    want = load_program(tmp_path / whole.path).run(feeds, compute="float64")["noise_pred"]
    programs = {"unet_1": first, "unet_2": second}
    found = run_programs(
        programs, feeds, lambda name, given: load_program(tmp_path / programs[name].path).run(given, compute="float64")
    )
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("target", ["coreml", "executorch"])
def test_released_programs_are_gone(bundles: Any, target: str) -> None:
    bundle = bundles[target][1]
    kept, released = open_backend(bundle), open_backend(bundle, release_chunks=True)
    for backend in (kept, released):
        backend.load("unet")
        output(bundle, backend)
    assert set(bundle.manifest.chunks) <= set(kept._programs)  # type: ignore[attr-defined]
    assert not set(bundle.manifest.chunks) & set(released._programs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["coreml", "executorch"])
def test_such_bundles_verify_and_draw(bundles: Any, target: str, tmp_path: Path) -> None:
    bundle = bundles[target][1]
    assert verify(bundle).ok
    pictures = []
    for options in ([], ["--release-chunks"]):
        place = tmp_path / f"{len(options)}.png"
        assert run(["generate", str(bundle.folder), "a red apple", "--out", str(place), *options]) == 0
        pictures.append(place.read_bytes())
    assert pictures[0] == pictures[1]


def test_inspect_names_every_program(bundles: Any) -> None:
    whole, parts = (inspect(bundle.folder) for bundle in bundles["executorch"])
    assert {"unet_1", "unet_2"} <= set(parts.facts) and parts.layers == whole.layers
    of_whole, of_parts = (read_unet_facts(bundle) for bundle in bundles["executorch"])
    assert of_parts.integer_layers == of_whole.integer_layers and of_parts.nodes == of_whole.nodes
    assert parts.detail["unet_program"]["nodes"] == of_whole.nodes


def test_the_archive_packs_every_program(bundles: Any, tmp_path: Path) -> None:
    bundle = bundles["executorch"][1]
    write_archive(bundle, tmp_path / "a.s2pmobile.zip")
    unpack_archive(tmp_path / "a.s2pmobile.zip", tmp_path / "b.s2pmobile")
    assert open_bundle(tmp_path / "b.s2pmobile").manifest == bundle.manifest


@pytest.mark.parametrize("target", ["coreml", "executorch"])
def test_no_program_is_much_larger_than_its_share(bundles: Any, target: str) -> None:
    whole, parts = bundles[target]
    stored = {layer.name: layer.bytes for layer in parts.manifest.quantization.layers}
    assert stored == {layer.name: layer.bytes for layer in whole.manifest.quantization.layers}
    sizes = [component_bytes(parts.manifest)[name] for name in parts.manifest.chunks]
    assert sum(sizes) == parts.manifest.quantization.unet_bytes
    assert max(sizes) < 0.75 * whole.manifest.quantization.unet_bytes


def largest(costs: list[int], starts: tuple[int, ...]) -> int:
    bounds = [0, *starts, len(costs)]
    return max(sum(costs[a:b]) for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_cuts_are_the_best_of_all(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    costs, crossing = rng.integers(1, 9, 9).tolist(), rng.integers(1, 99, 9).tolist()
    every = list(itertools.combinations(range(1, 9), count - 1))
    best = min((largest(costs, starts), sum(crossing[start - 1] for start in starts)) for starts in every)
    found = tuple(best_cuts(costs, crossing, count))
    assert (largest(costs, found), sum(crossing[start - 1] for start in found)) == best


CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 12, 16),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 23])
def test_chunks_of_a_random_unet_in_torch(count: int) -> None:
    from s2p_converters.core.graph import Operators, StepTables, StepUNet, layer_specs, resnet_names

    structure = UNetStructure.from_config(CONFIG)
    torch.manual_seed(count)
    columns = {f"{name}.time": torch.randn(3, width) for name, width in resnet_names(structure).items()}
    unet = StepUNet(structure, StepTables(columns), Operators())
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sample, step, context = torch.randn(2, 4, 8, 8), torch.tensor([2]), torch.randn(2, 5, 24)
    costs = {spec.name: spec.weights for spec in layer_specs(structure)}
    known = {"sample": sample, "step": step, "encoder_hidden_states": context}
    seen: list[str] = []
    with torch.no_grad():
        want = unet(sample, step, context)
        for chunk in plan_chunks(structure, count, costs, sample.shape, context.shape):
            tables = chunk_tables(unet.tables, chunk)
            module = UNetChunk(unet, chunk, chunk_inputs(chunk, tables), tables)
            given = [known[name] for name in module.inputs]
            results = module(*given)
            results = results if isinstance(results, tuple) else (results,)
            known |= dict(zip(chunk.outputs, results, strict=True))
            assert all(chunk.shapes.get(name, want.shape) == known[name].shape for name in chunk.outputs)
            seen += [name for name, _ in module.named_parameters()]
    assert torch.equal(known["noise_pred"], want)
    assert sorted(seen) == sorted(name for name, _ in unet.named_parameters())


def test_programs_of_the_reference_in_double(checkpoint: Checkpoint) -> None:
    """The quantized reference in parts: tables of scales are cut as well."""
    unet = reference_unet(checkpoint)
    costs = {spec.name: spec.weights for spec in checkpoint.specs}
    tokens = checkpoint.manifest.tokenizer.max_length
    known = {
        "sample": torch.from_numpy(gaussian(1, (2, 4, 8, 8))).double(),
        "step": torch.tensor([1]),
        "encoder_hidden_states": torch.from_numpy(gaussian(2, (2, tokens, 128))).double(),
    }
    want = unet(*known.values())
    for chunk in plan_chunks(checkpoint.structure, 4, costs, (2, 4, 8, 8), (2, tokens, 128)):
        tables = chunk_tables(unet.tables, chunk)
        module = UNetChunk(unet, chunk, chunk_inputs(chunk, tables), tables)
        results = module(*(known[name] for name in module.inputs))
        known |= dict(zip(chunk.outputs, results if isinstance(results, tuple) else (results,), strict=True))
    assert torch.equal(known["noise_pred"], want)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--chunks", "0"], "1 or more"),
        (["--chunks", "99"], "1 to 12"),  # conv_in; 2 + 1 below; 2 in the middle; 3 + 2 above; conv_out
        (["--chunks", "2", "--size", "64x64", "--minimum-os", "iOS18"], "--size or --chunks"),
        (["--chunks", "3", "--layout", "apple"], "--chunks 2"),
    ],
)
def test_what_cannot_be_split_so_ends_in_one_line(
    checkpoint: Checkpoint, options: list[str], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    given = ["convert", str(checkpoint.folder), "--target", "coreml", "--out", str(tmp_path / "new"), *options]
    assert run(given) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and reason in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["chunks"].reverse(), "no program before it gives"),
        (lambda m: m.update(chunks=["unet_3"]), "must be several"),
        (lambda m: m["chunks"].append("unet_9"), "no component unet_9"),
        (lambda m: m["components"]["unet_2"]["inputs"][-1].update(shape=[1, 2, 3]), "another type or shape"),
        (lambda m: m["components"].update(unet=m["components"]["unet_1"]), "no component unet"),
    ],
)
def test_manifests_that_do_not_add_up_are_refused(bundles: Any, tmp_path: Path, change: Any, reason: str) -> None:
    folder = tmp_path / "copy.s2pmobile"
    shutil.copytree(bundles["executorch"][1].folder, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    change(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(S2PError, match=reason):
        open_bundle(folder)


def test_a_whole_unet_is_one_component(executorch_bundle: Path) -> None:
    manifest = json.loads((executorch_bundle / MANIFEST_NAME).read_text())
    assert manifest["chunks"] == [] and "unet" in manifest["components"]
