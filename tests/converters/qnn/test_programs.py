"""Bundles for Snapdragon's NPU: what their files hold, and what Qualcomm's emulator makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.reference import reference_unet
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.qnn.lowering import lower_unet, unet_form
from s2p_converters.targets.executorch.qnn.unet import UNetWriter
from s2p_converters.targets.executorch.target import TARGET
from s2p_converters.targets.golden import reference_call
from s2p_converters.targets.interface import unet_inputs
from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_runtime.bundle import Bundle, BundleManifest, open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.hosts.executorch.qnn.backend import QnnBackend
from s2p_runtime.hosts.executorch.qnn.program import compiled_program
from s2p_runtime.hosts.executorch.qnn.socs import SOCS
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import psnr_db, relative_error, to_picture
from s2p_runtime.verify import MINIMUM_LATENT_PSNR_DB, MINIMUM_PICTURE_PSNR_DB, read_golden, verify

CHIPS = ("SM8650", "SM8750")
CALL = 1
APP = """
import sys
import numpy as np
import onnxruntime, onnxruntime_qnn

stub, soc, arch, folder = sys.argv[1:]
onnxruntime.register_execution_provider_library("QNN", onnxruntime_qnn.get_library_path())
device = next(device for device in onnxruntime.get_ep_devices() if "QNN" in device.ep_name)
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": soc, "htp_arch": arch}
options.add_provider_for_devices([device], settings)
session = onnxruntime.InferenceSession(stub, sess_options=options)
(found,) = session.run(["noise_pred"], dict(np.load(f"{folder}/given.npz")))
np.save(f"{folder}/found.npy", found)
"""


@pytest.fixture(scope="module")
def bundle(qnn_bundle: Path) -> Bundle:
    return open_bundle(qnn_bundle)


@pytest.fixture(scope="module")
def given(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Noise for every input of the U-Net but the step."""
    ports = [port for port in unet_inputs(checkpoint, "int32") if port.name != "step"]
    return {port.name: gaussian(5, port.shape, stream=place) for place, port in enumerate(ports)}


@pytest.fixture(scope="module")
def wanted(checkpoint: Checkpoint, given: dict[str, np.ndarray]) -> np.ndarray:
    """The checkpoint's weights with activations as they are, in float64."""
    sample, *told = given.values()
    unet = reference_unet(checkpoint, TARGET.constants(ExecuTorchOptions(backend="qnn")))
    return reference_call(unet, sample, CALL, dict(enumerate(told)))  # type: ignore[arg-type]


def predicted(backend: QnnBackend, given: dict[str, np.ndarray]) -> np.ndarray:
    sample, *told = given.items()
    return backend.predict(sample[1], CALL, dict(told))


def test_the_bundle_is_what_the_emulator_computes(bundle: Bundle) -> None:
    found = verify(bundle)
    assert found.ok
    assert {"unet", "text_encoder", "vae_decoder"} <= set(found.components)


@pytest.mark.slow
def test_whole_loops_in_the_emulator(bundle: Bundle, tmp_path: Path) -> None:
    """``verify --full``: every recorded call, and both golden runs from noise to the end."""
    assert run(["verify", str(bundle.folder), "--full", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["golden"]
    assert [check["id"] for check in found] == [golden.id for golden in bundle.manifest.golden]
    for check in found:
        assert check["loop"]
        # The same bound as for every engine, and no equality: the golden runs are not the emulator's own.
        assert MINIMUM_LATENT_PSNR_DB < check["latent_psnr_db"] < 100


@pytest.mark.slow
def test_pictures_are_drawn_and_judged_in_the_emulator(bundle: Bundle, small_model: Model, tmp_path: Path) -> None:
    golden = bundle.manifest.golden[0]
    seed = ["--seed", str(golden.seed)]
    assert run(["generate", str(bundle.folder), golden.prompt, *seed, "--out", str(tmp_path / "a.png")]) == 0
    drawn = np.asarray(Image.open(tmp_path / "a.png"), np.float32)
    recorded = to_picture(read_golden(bundle, golden)["image"])
    near = psnr_db(drawn, recorded.astype(np.float32), 255.0)
    assert near is None or near > MINIMUM_PICTURE_PSNR_DB
    (tmp_path / "prompts.txt").write_text(f"{golden.prompt}\n")
    command = ["evaluate", str(bundle.folder), "--model", str(small_model.folder), "--prompts", str(tmp_path / "prompts.txt")]
    command += [*seed, "--metrics", "psnr", "--cache", str(tmp_path), "--json", str(tmp_path / "found.json")]
    assert run(command) == 0
    value = json.loads((tmp_path / "found.json").read_text())["metrics"]["psnr"]["value"]
    # Weights of 4 bits, three steps: neither another picture nor the float model's.
    assert 10 < value < 60


@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip_is_as_near_to_the_weights_as_its_roundings_allow(
    chip: str, bundle: Bundle, given: dict[str, np.ndarray], wanted: np.ndarray
) -> None:
    error = relative_error(predicted(QnnBackend(bundle, "forward", chip=chip), given), wanted)
    # Not exact either: an engine that computes in float would be nearer than float16's half unit in the last place.
    assert 2.0**-14 < error < TARGET.host.tolerance(bundle.manifest, "unet")


@pytest.mark.parametrize("name", ["unet", "text_encoder", "vae_decoder"])
def test_programs_are_one_delegate_under_the_name_of_its_graph(name: str, bundle: Bundle) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    component = bundle.manifest.components[name]
    assert component.chips is not None and tuple(component.chips) == CHIPS
    for chip, path in component.chips.items():
        found = compiled_program(bundle.path(path))
        (plan,) = deserialize_pte_binary(bundle.path(path).read_bytes()).program.execution_plan
        assert plan.name == found.graph and plan.name.encode() in found.context
        (chain,) = plan.chains
        assert len(chain.instructions) == 1, "nothing runs beside the delegate"
        sizes = [tuple(plan.values[place].val.sizes) for place in plan.inputs]
        assert sizes == [port.shape for port in component.inputs]
        stub = onnx.load(bundle.folder / chip / "onnxruntime" / f"{name}.onnx", load_external_data=False)
        (node,) = stub.graph.node
        facts = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert facts["partition_name"].decode() == found.graph
        assert (bundle.folder / chip / "onnxruntime" / facts["ep_cache_context"].decode()).read_bytes() == found.context
        assert list(node.input) == [port.name for port in component.inputs]


def test_apps_on_onnx_runtime_compute_what_the_program_computes(
    bundle: Bundle, given: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The files as they are shipped, opened by ONNX Runtime alone as an app opens them, in a process of its own."""
    feeds = {**given, "step": np.array([CALL], np.int32)}
    np.savez(tmp_path / "given.npz", **feeds)
    stub = bundle.folder / CHIPS[0] / "onnxruntime" / "unet.onnx"
    command = [sys.executable, "-c", APP, str(stub), str(SOCS[CHIPS[0]].model), str(SOCS[CHIPS[0]].arch), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    found = np.load(tmp_path / "found.npy")
    assert np.array_equal(found, predicted(QnnBackend(bundle, "forward", chip=CHIPS[0]), given))


def test_the_interface_says_what_made_it_and_how_layers_rest(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest = bundle.manifest
    assert manifest.unet.backend.startswith("qnn executorch ") and " qairt " in manifest.unet.backend
    assert next(port for port in manifest.unet.inputs if port.name == "step").dtype == "int32"
    rows = {row.name: row for row in manifest.quantization.layers}
    assert set(checkpoint.layers) == {name for name, row in rows.items() if row.activation_bits == 16}
    facts = TARGET.inspect(bundle).facts
    assert [title for title in facts if "SM8750" in title] == ["context binaries for SM8750"]


def test_chunks_compute_what_the_whole_computes(
    checkpoint: Checkpoint, bundle: Bundle, given: dict[str, np.ndarray], wanted: np.ndarray, tmp_path: Path
) -> None:
    options = ExecuTorchOptions(backend="qnn", chunks=2, self_check=False)
    made = lower_unet(checkpoint, options, tmp_path)
    parts = {**made.components, **{k: v for k, v in bundle.manifest.components.items() if k != "unet"}}
    files = {
        path: bundle.manifest.files["manifest"] if path == "manifest" else _entry(tmp_path / path)
        for part in made.components.values()
        for path in (part.chips or {}).values()
    }
    manifest = BundleManifest.model_construct(
        **{**dict(bundle.manifest), "components": parts, "chunks": tuple(made.components), "files": files}
    )
    backend = open_backend(Bundle(tmp_path, manifest))
    error = relative_error(predicted(backend, given), wanted)  # type: ignore[arg-type]
    assert len(made.components) == 2
    assert error < TARGET.host.tolerance(bundle.manifest, "unet")


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["uint16", "uint8"])
def test_a_bundle_in_chunks(activations: str, checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path: Path) -> None:
    """Converted and verified as a whole."""
    made = open_bundle(convert(checkpoint, ExecuTorchOptions(backend="qnn", chunks=2, activations=activations), tmp_path))
    assert len(made.manifest.chunks) == 2
    bits = {row.activation_bits for row in made.manifest.quantization.layers if row.name in checkpoint.layers}
    assert bits == {int(activations.removeprefix("uint"))}
    assert verify(made).ok


def _entry(path: Path) -> object:
    from s2p_runtime.bundle import FileEntry
    from s2p_runtime.files import sha256_file

    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def test_the_same_checkpoint_gives_the_same_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    form = unet_form(checkpoint, ExecuTorchOptions(backend="qnn"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        UNetWriter(checkpoint, form).whole(tmp_path / name / "unet.onnx")
    for file in ("unet.onnx", "unet.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
