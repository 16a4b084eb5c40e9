"""The whole U-Net as a .pte: one delegate, the checkpoint's integers, the reference's function."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, reference_unet
from s2p_converters.targets.executorch.archive import write_archive
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.xnnpack.inspection import read_program, stored_integers
from s2p_converters.targets.executorch.xnnpack.lowering import convert_unet
from s2p_converters.targets.executorch.xnnpack.operators import FloatSymbolLayer, XnnpackOperators
from s2p_converters.targets.executorch.xnnpack.program import build_program
from s2p_converters.targets.executorch.xnnpack.unet import UNetProgram, unet_columns, unet_subgraph
from s2p_converters.targets.executorch.xnnpack.unet_facts import read_unet_facts
from s2p_mobile import inspect
from s2p_runtime.bundle import open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

STEP = 1


def inputs(checkpoint: Checkpoint, stream: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents, tokens = checkpoint.manifest.latents, checkpoint.manifest.tokenizer.max_length
    sample = torch.from_numpy(gaussian(stream, (2, latents.channels, latents.height, latents.width)))
    context = torch.from_numpy(gaussian(stream + 1, (2, tokens, checkpoint.structure.context_dim)))
    return sample, torch.tensor([STEP]), context


def program(checkpoint: Checkpoint, layers: dict[str, QuantizedLayer], floats: dict[str, np.ndarray]) -> bytes:
    sample, step, context = inputs(checkpoint)
    columns = unet_columns(checkpoint.time_tables, layers, "pinned")
    graph = unet_subgraph(checkpoint.structure, layers, floats, columns, tuple(sample.shape), tuple(context.shape), "pinned")
    return build_program({"forward": (UNetProgram(columns, graph), (sample, step, context))})


def run(source: bytes | Path, feeds: tuple[torch.Tensor, ...]) -> np.ndarray:
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(source)
    return loaded.load_method("forward").execute(list(feeds))[0].numpy().copy()


def test_float_program_equals_torch(checkpoint: Checkpoint) -> None:
    floats = {name: np.asarray(value, np.float32) for name, value in checkpoint.floats.items()}
    for name, layer in checkpoint.layers.items():
        scale = layer.scale.astype(np.float32).reshape(-1, *[1] * (layer.integers.ndim - 1))
        floats[f"{name}.weight"] = scale * layer.integers
        if layer.bias is not None:
            floats[f"{name}.bias"] = layer.bias
    feeds = inputs(checkpoint)
    float_constants = type(CHECKPOINT_CONSTANTS)(CHECKPOINT_CONSTANTS.stored, CHECKPOINT_CONSTANTS.weight, activations=False)
    reference = reference_unet(checkpoint, float_constants)
    want = reference(feeds[0].double(), feeds[1], feeds[2].double()).numpy()
    # About 60 layers in a row, each with a few roundings of 2^-24 = 6e-8 of its output.
    assert relative_error(run(program(checkpoint, {}, floats), feeds), want) < 60 * 4 * 2.0**-24


def test_integer_program_computes_the_reference(checkpoint: Checkpoint, executorch_bundle: Path) -> None:
    exact = reference_unet(checkpoint)
    errors = []
    for seed in range(5):
        feeds = inputs(checkpoint, 2 * seed)
        want = exact(feeds[0].double(), feeds[1], feeds[2].double()).numpy()
        errors.append(relative_error(run(executorch_bundle / "unet.pte", feeds), want))
    # About 60 layers in a row, each with a few roundings of 2^-24. Now and then one of them moves an activation across the middle
    # of two integers, by a whole grid step, as it does in torch in float32: not in most of the inputs.
    assert np.median(errors) < 60 * 4 * 2.0**-24


def test_program_loaded_from_a_file_keeps_its_constants(executorch_bundle: Path, checkpoint: Checkpoint) -> None:
    path, feeds = executorch_bundle / "unet.pte", inputs(checkpoint)
    assert np.array_equal(run(path, feeds), run(path.read_bytes(), feeds))


def test_one_delegate_and_one_lookup(executorch_bundle: Path) -> None:
    summary = read_program((executorch_bundle / "unet.pte").read_bytes())
    assert summary.delegates == ("XnnpackBackend",)
    assert summary.operators == ("aten::index_select",)


def test_every_layer_holds_the_checkpoints_integers(executorch_bundle: Path, checkpoint: Checkpoint) -> None:
    summary = read_program((executorch_bundle / "unet.pte").read_bytes())
    names = [spec.name for spec in checkpoint.specs]
    found: dict[str, list[np.ndarray]] = {}
    for node in summary.layers:
        if node.place and node.scale is not None:
            assert node.datatypes[0] == "qdint8" and node.datatypes[2] == "fp32"
            found.setdefault(names[node.place - 1], []).append(stored_integers(node)[..., :-2])
    assert found.keys() == checkpoint.layers.keys()
    for name, layer in checkpoint.layers.items():
        stored = np.concatenate(found[name])
        stored = stored if layer.spec.kind == "linear" else stored.transpose(0, 3, 1, 2)
        assert np.array_equal(stored, layer.integers), name


def test_bundle_describes_its_layers(executorch_bundle: Path, checkpoint: Checkpoint) -> None:
    layers = {layer.name: layer for layer in open_bundle(executorch_bundle).manifest.quantization.layers}
    assert layers["conv_in"].scheme == "float32" and layers["conv_in"].weight_bits == 32
    for name, layer in checkpoint.layers.items():
        assert layers[name].weight_bits == layer.weight_bits
        four = layer.spec.kind == "linear" and layer.weight_bits == 4
        assert layers[name].scheme == f"pinned int8 activations, {'int4' if four else 'int8'} weights"


def test_bad_inputs_are_named(executorch_bundle: Path, checkpoint: Checkpoint) -> None:
    backend = open_backend(open_bundle(executorch_bundle))
    sample, _, context = (x.numpy() for x in inputs(checkpoint))
    assert backend.predict(sample, STEP, {"encoder_hidden_states": context}).shape == sample.shape
    with pytest.raises(S2PError, match="step 3 is outside of the plan's 3 calls"):
        backend.predict(sample, 3, {"encoder_hidden_states": context})
    with pytest.raises(S2PError, match="unet takes sample as float32"):
        backend.predict(sample.astype(np.float64), STEP, {"encoder_hidden_states": context})
    with pytest.raises(S2PError, match="unet takes encoder_hidden_states as float32"):
        backend.predict(sample, STEP, {"encoder_hidden_states": context[:1]})
    with pytest.raises(S2PError, match="text_encoder takes input_ids as int32"):
        backend.run("text_encoder", {"input_ids": np.zeros((1, 16), np.int64)})


def test_a_program_altered_after_the_bundle_was_opened_is_refused(executorch_bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.s2pmobile"
    shutil.copytree(executorch_bundle, copy)
    backend = open_backend(open_bundle(copy))
    with (copy / "vae_decoder.pte").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(S2PError, match=r"vae_decoder\.pte .* was altered"):
        backend.decode(np.zeros((1, 4, 8, 8), np.float32))


@pytest.mark.parametrize("data", [b"", b"not a program", b"\0" * 4096], ids=["empty", "text", "zeros"])
def test_what_is_no_program_is_refused_by_inspection(data: bytes) -> None:
    with pytest.raises(S2PError, match=r"no readable \.pte"):
        read_program(data)


def test_inspect_reads_the_file(executorch_bundle: Path, checkpoint: Checkpoint) -> None:
    description, program = inspect(executorch_bundle), read_unet_facts(open_bundle(executorch_bundle))
    assert program.delegates == ("XnnpackBackend",) and program.operators == ("aten::index_select",)
    assert set(program.integer_layers) == {name for name, layer in checkpoint.layers.items() if layer.activation_bits}
    assert program.float_layers == ("conv_in", "conv_out")
    # A feed-forward's first layer computes its two halves as nodes of their own.
    halves = [name for name in checkpoint.layers if name.endswith(".ff.net.0.proj")]
    four = [name for name, layer in checkpoint.layers.items() if layer.spec.kind == "linear" and layer.weight_bits == 4]
    assert program.nodes["qdint8 x qcint4 -> fp32"] == len(four) + len(set(four) & set(halves))
    assert sum(program.nodes.values()) == len(checkpoint.specs) + len(halves)
    assert description.facts["U-Net"].startswith(f"{(executorch_bundle / 'unet.pte').stat().st_size} bytes resident")
    archive = executorch_bundle.parent / "small.zip"
    write_archive(open_bundle(executorch_bundle), archive, force=True)
    with zipfile.ZipFile(archive) as members:
        packed = sum(info.compress_size for info in members.infolist() if info.filename.startswith("unet.pte"))
    # A zip stores bare deflate streams, zlib adds six bytes to each of the two.
    assert description.facts["download"].startswith(f"{packed + 12} bytes")


def test_a_layer_that_falls_back_to_float_is_an_error(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(name for name in checkpoint.layers if name.endswith("attn2.to_k"))
    make = XnnpackOperators.layer

    def forget(operators: XnnpackOperators, spec: LayerSpec) -> nn.Module:
        layer = checkpoint.layers.get(spec.name)
        if spec.name != name or layer is None:
            return make(operators, spec)
        return FloatSymbolLayer(spec, layer.integers * layer.scale.astype(np.float32)[:, None], layer.bias)

    monkeypatch.setattr(XnnpackOperators, "layer", forget)
    with pytest.raises(CheckFailed, match=f"layer {name} runs as fp32, fp32, fp32 instead of qdint8, qcint"):
        convert_unet(checkpoint, ExecuTorchOptions(self_check=False), tmp_path)
