"""Two ExecuTorch bundles, a tiny one with random weights and the demo model's, and the C++ tools linked to the pip package's
runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from s2p_runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    BundleManifest,
    GoldenRun,
    PictureSize,
    file_entries,
    open_bundle,
)
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.hosts.executorch.delegates import installed_version
from s2p_runtime.tensors import write_tensors
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.walker import denoise, guide, initial_latents

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "android_harness"
FIXTURE = REPOSITORY / "tests" / "fixtures" / "replay.s2pmobile"
PROMPT, SEED = "a red apple", 11
WIDTH = 8
# What checks a size is for `verify`, and no test here asks that: any listed file will do.
OTHER_SIZE = PictureSize(
    width=48, height=32, latent_width=6, latent_height=4, method="size_48x32", check="golden/first.safetensors"
)


@pytest.fixture(scope="session")
def runner_folder(folder_lock: Callable[[Path], AbstractContextManager[None]]) -> Path:
    """Folder of s2p-run and s2p-bench, built from this tree with the ExecuTorch of this environment."""
    build = HARNESS / "build"
    with folder_lock(build):
        command = [HARNESS / "scripts" / "build_wheel.sh", sys.executable]
        # The arithmetic is ExecuTorch's; what is compiled here is quick as it is.
        environment = os.environ | {"S2P_OPTIMIZE": "-O1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "missing packages" in done.stderr:
        pytest.skip(done.stderr)  # only where this user may not install them
    assert done.returncode == 0, done.stderr
    return build / "wheel"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An ExecuTorch bundle on the plan, latents and tokenizer of the shared fixture.

    Its golden run comes from the torch modules in float32, so that the two ExecuTorch runs are compared with a third party.
    """
    folder = tmp_path_factory.mktemp("bundle") / "tiny.s2pmobile"
    _export_programs(folder)
    return open_bundle(folder)


@pytest.fixture(scope="session")
def sizes_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a second picture size, as ``convert --size`` lays it out: a method of U-Net and decoder for each."""
    folder = tmp_path_factory.mktemp("sizes") / "sizes.s2pmobile"
    _export_programs(folder, (OTHER_SIZE,))
    return open_bundle(folder)


@pytest.fixture(scope="session")
def compile_for_chips() -> Callable[..., Path]:
    """``compile_for_chips(source, folder, chips)``: a copy of a bundle whose every program is there for each chip, as ``convert``
    lays them out, with what ONNX Runtime takes beside them. The files hold a line each: nothing here can run them."""

    def compile_for(source: Path, folder: Path, chips: tuple[str, ...] = ("SM8650", "SM8750")) -> Path:
        shutil.copytree(source, folder)
        manifest = read_contract(folder / MANIFEST_NAME, BundleManifest, "s2p-bundle", 1)
        parts = {}
        for name, part in manifest.components.items():
            (folder / part.path).unlink()
            for chip in chips:
                (folder / chip / "onnxruntime").mkdir(parents=True, exist_ok=True)
                (folder / chip / f"{name}.pte").write_text(f"{name} of {chip}")
                (folder / chip / "onnxruntime" / f"{name}.bin").write_text(f"a context of {chip}")
            paths = {chip: f"{chip}/{name}.pte" for chip in chips}
            changes = {"path": paths[chips[0]], "chips": paths, "backend": "qnn executorch 1.4.1 qairt 2.51.0"}
            parts[name] = part.model_copy(update=changes)
        (folder / MANIFEST_NAME).unlink()
        changed = manifest.model_copy(update={"components": parts, "files": file_entries(folder)})
        write_contract(folder / MANIFEST_NAME, changed)
        return folder

    return compile_for


@pytest.fixture(scope="session", params=["tiny", "demo"])
def any_bundle(request: pytest.FixtureRequest) -> Bundle:
    """The tiny and the demo model's bundle."""
    bundle = request.getfixturevalue(f"{request.param}_bundle")
    assert isinstance(bundle, Bundle)
    return bundle


def _export_programs(folder: Path, others: tuple[PictureSize, ...] = ()) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch import nn

    class TextEncoder(nn.Module):
        def __init__(self, vocabulary: int) -> None:
            super().__init__()
            self.embedding, self.linear = nn.Embedding(vocabulary, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.tanh(self.linear(self.embedding(input_ids)))

    class UNet(nn.Module):
        """Convolutions, a row of a time table chosen by the step, and attention over the text."""

        def __init__(self, calls: int, channels: int) -> None:
            super().__init__()
            self.conv_in, self.conv_out = nn.Conv2d(channels, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, channels, 3, padding=1)
            self.register_buffer("table", torch.randn(calls, WIDTH))

        def forward(self, sample: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            hidden = self.conv_in(sample) + self.table.index_select(0, step)[:, :, None, None]
            query = hidden.flatten(2).transpose(1, 2)
            weights = torch.softmax(query @ encoder_hidden_states.transpose(1, 2), dim=-1)
            attended = (weights @ encoder_hidden_states).transpose(1, 2).reshape(hidden.shape)
            return torch.tanh(self.conv_out(torch.sigmoid(hidden + attended)))

    class Decoder(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 3, 3, padding=1)

        def forward(self, latents: Tensor) -> Tensor:
            return torch.tanh(self.conv(nn.functional.interpolate(latents, scale_factor=8.0, mode="nearest")))

    source = BundleManifest.model_validate_json((FIXTURE / MANIFEST_NAME).read_text())
    plan, latents, spec = source.plan, source.latents, source.tokenizer
    shutil.copytree(FIXTURE / "tokenizer", folder / "tokenizer")
    vocabulary = len(json.loads((folder / spec.vocab).read_text()))
    shape = (latents.channels, latents.height, latents.width)
    torch.manual_seed(0)
    unet = UNet(len(plan.calls), latents.channels)
    text_encoder, decoder = TextEncoder(vocabulary), Decoder(latents.channels)
    ids_in = torch.zeros(1, spec.max_length, dtype=torch.int32)
    inputs: dict[str, tuple[nn.Module, dict[str, Tensor], str]] = {
        "text_encoder": (text_encoder, {"input_ids": ids_in}, "last_hidden_state"),
        "unet": (
            unet,
            {
                "sample": torch.randn(2, *shape),
                "step": torch.zeros(1, dtype=torch.int64),
                "encoder_hidden_states": torch.randn(2, spec.max_length, WIDTH),
            },
            "noise_pred",
        ),
        "vae_decoder": (decoder, {"latents": torch.randn(1, *shape)}, "image"),
    }
    components: dict[str, Component] = {}
    for name, (module, arguments, output) in inputs.items():
        with torch.no_grad():
            result = module(*arguments.values())
        methods = {"forward": arguments}
        for size in others if name != "text_encoder" else ():
            methods[str(size.method)] = {key: _resized(value, size) for key, value in arguments.items()}
        exported = {method: torch.export.export(module.eval(), tuple(given.values())) for method, given in methods.items()}
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        (folder / f"{name}.pte").write_bytes(lowered.to_executorch().buffer)
        components[name] = Component(
            path=f"{name}.pte",
            precision="float32",
            inputs=tuple(_tensor_spec(key, value) for key, value in arguments.items()),
            outputs=(_tensor_spec(output, result),),
            backend=f"xnnpack executorch {installed_version()}",
        )

    tokenizer = ClipTokenizer.load(folder / spec.vocab, folder / spec.merges, spec)
    token_ids = np.array([tokenizer.encode(""), tokenizer.encode(PROMPT)], np.int32)
    raw: list[np.ndarray] = []
    with torch.no_grad():
        text = torch.cat([text_encoder(torch.from_numpy(row[None])) for row in token_ids])

        def predict(scaled: np.ndarray, call: int) -> np.ndarray:
            batch = torch.from_numpy(np.repeat(scaled, 2, axis=0))
            raw.append(unet(batch, torch.tensor([call]), text).numpy())
            return guide(raw[-1], source.guidance)

        start = initial_latents(plan, SEED, (1, *shape))
        final = denoise(plan, predict, start, SEED)
        image = decoder(torch.from_numpy(latents.decoder_input(final))).numpy()
    (folder / "golden").mkdir()
    write_tensors(
        folder / "golden" / "first.safetensors",
        {
            "token_ids": token_ids,
            "text_embeddings": text.numpy(),
            "initial_latents": start,
            "noise_pred_calls": np.arange(len(plan.calls), dtype=np.int32),
            "noise_pred": np.stack(raw),
            "quantized_latents": final,
            "fp_latents": final,
            "image": image,
            "fp_image": image,
        },
    )
    manifest = source.model_copy(
        update={
            "name": "tiny",
            "target": "executorch",
            "components": components,
            "sizes": (*source.sizes, *others),
            "golden": (GoldenRun(id="first", prompt=PROMPT, seed=SEED, path="golden/first.safetensors"),),
            "files": file_entries(folder),
        }
    )
    write_contract(folder / MANIFEST_NAME, manifest)


def _resized(tensor: Tensor, size: PictureSize) -> Tensor:
    """Latents [B, C, H, W] of another size; other tensors as they are."""
    return tensor.new_zeros(*tensor.shape[:2], size.latent_height, size.latent_width) if tensor.dim() == 4 else tensor


def _tensor_spec(name: str, tensor: object) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")  # type: ignore[attr-defined]
    return TensorSpec(name=name, dtype=dtype, shape=tuple(tensor.shape))  # type: ignore[arg-type,attr-defined]
