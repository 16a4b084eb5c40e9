"""What defines each method, seen in the checkpoints they write."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from coremltools.optimize._utils import compute_qparams
from safetensors.numpy import load_file

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.grids import AffineWeight
from s2p_converters.core.reference import reference_unet
from s2p_converters.targets.conversion import convert_checkpoint
from s2p_converters.targets.registry import TARGETS
from s2p_mobile.api.description import describe
from s2p_mobile.judge.evaluation import evaluate, open_evaluation
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.methods.baselines import coreml_presets
from s2p_mobile.quantize.methods.baselines.coreml_presets import int4_blocks
from s2p_mobile.quantize.methods.baselines.pcr import published_share, relaxed_calls
from s2p_mobile.sources.components import checkpoint_components
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Silent

MakeCheckpoint = Callable[..., Checkpoint]
PROMPTS = ("a cat on a red background", "a fox on a blue background")


def test_ptq4dm_has_one_symmetric_scale_for_all_calls(baseline_checkpoint: MakeCheckpoint) -> None:
    checkpoint = baseline_checkpoint("ptq4dm", "own")
    assert checkpoint.manifest.version == 1 and not checkpoint.general
    assert all(layer.activation_scale is not None for layer in checkpoint.layers.values())
    assert all(len(np.unique(layer.activation_scale)) == 1 for layer in checkpoint.layers.values())
    edges = {name: layer.weight_bits for name, layer in checkpoint.layers.items() if layer.weight_bits != 4}
    assert edges == {"conv_in": 8, "conv_out": 8}


def test_q_diffusion_splits_shortcuts_and_has_one_grid_for_all_calls(baseline_checkpoint: MakeCheckpoint) -> None:
    checkpoint = baseline_checkpoint("q-diffusion", "own")
    split = {name: layer for name, layer in checkpoint.general.items() if len(layer.parts) == 2}
    assert split and all(name.startswith("up_blocks.") and name.endswith(".conv_shortcut") for name in split)
    for layer in split.values():
        first, second = layer.parts
        assert first.activation is not None and second.activation is not None
        assert first.activation.scale[0] != second.activation.scale[0]
        assert (first.weight.scale != second.weight.scale).any()
    for layer in checkpoint.general.values():
        for part in layer.parts:
            assert part.activation is not None and len(np.unique(part.activation.scale)) == 1
    # The operands of attention are rounded, its softmax at 16 bits with zero at zero.
    rounded = {name.rsplit(".", 1)[1] for name, layer in checkpoint.general.items() if layer.output is not None}
    assert rounded == {"to_q", "to_k", "to_v"} and checkpoint.manifest.softmax_bits == 16


def test_pcr_relaxes_its_calls_and_gives_each_call_its_grid(baseline_checkpoint: MakeCheckpoint) -> None:
    checkpoint = baseline_checkpoint("pcr")
    for name, layer in checkpoint.general.items():
        grid = layer.parts[0].activation
        assert grid is not None and grid.bits.tolist() == [8, 8, 8, 8, 10] and len(layer.parts) == 1
        # Text goes into to_k and to_v of attn2, the same at every call.
        if not name.endswith(("attn2.to_k", "attn2.to_v")):
            assert len(np.unique(grid.scale)) == 5, name
    assert "conv_in" not in checkpoint.general and "conv_out" not in checkpoint.general


def test_pcr_calibrates_a_call_on_states_of_the_quantized_calls_before(baseline_checkpoint: MakeCheckpoint) -> None:
    """The input of the first quantized layer depends on the state alone, so its grid tells which states were seen."""
    checkpoint = baseline_checkpoint("pcr")
    manifest = checkpoint.manifest
    name = "down_blocks.0.resnets.0.conv1"
    components = checkpoint_components(checkpoint)
    shape = (1, manifest.latents.channels, manifest.latents.height, manifest.latents.width)
    unet = reference_unet(checkpoint).float()
    seen: dict[int, list[torch.Tensor]] = {}
    calls: list[torch.Tensor] = []
    unet.get_submodule(name).register_forward_pre_hook(lambda module, args: calls.append(args[0]))
    for k, text in enumerate(PROMPTS):
        prompt = encode_prompt(components, text, manifest.seed + k, manifest.guidance)
        calls.clear()
        draw_latents(unet, manifest.plan, prompt, manifest.guidance, shape)
        for call, value in enumerate(calls):
            seen.setdefault(call, []).append(value)
    grid = checkpoint.general[name].parts[0].activation
    assert grid is not None
    for call, values in seen.items():
        x = torch.cat(values)
        top = 2 ** int(grid.bits[call]) - 1
        expected = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / top
        # Two prompts fit into one batch, so the range is that of all values. The states differ by float32's sums over four
        # calls only; those of the FP model differ by percents (4-bit weights).
        assert float(grid.scale[call]) == pytest.approx(expected, rel=1e-3), call


def test_pcr_relaxes_what_its_code_relaxes(baseline_job: Callable[..., QuantizationJob]) -> None:
    """A transcription of its rule: ``timestep`` counts the calls from 0 at noise; SD relaxes from 0.8 of them on, SDXL up to 0.2."""

    def by_the_code(steps: int, is_xl: bool) -> set[int]:
        return {timestep for timestep in range(steps) if (timestep < 0.2 * steps if is_xl else timestep >= 0.8 * steps)}

    job = baseline_job()
    for steps in (10, 25, 50):
        assert relaxed_calls(steps, published_share(job)) == by_the_code(steps, is_xl=False)
    pooled = SimpleNamespace(structure=SimpleNamespace(text_time=object()))
    assert relaxed_calls(25, published_share(cast(QuantizationJob, pooled))) == by_the_code(25, is_xl=True)


def test_ptq4dm_with_reconstruction_learns_on_its_own_grids(baseline_job: Callable[..., QuantizationJob]) -> None:
    plain, learned = (run_method("ptq4dm", baseline_job({"reconstruction": asked, "factor": 200})) for asked in (False, True))
    moved = 0
    for name, layer in learned.layers.items():
        other = plain.layers[name]
        np.testing.assert_array_equal(layer.scale, other.scale)
        assert layer.activation_scale is not None and other.activation_scale is not None
        np.testing.assert_array_equal(layer.activation_scale, other.activation_scale)
        step = layer.integers.astype(int) - other.integers
        assert np.abs(step).max() <= 1
        moved += int((step != 0).sum())
    assert moved > 100


def test_int4_blocks_are_those_of_core_ml_tools() -> None:
    rng = np.random.default_rng(0)
    for shape in ((8, 64), (6, 96, 3, 3)):
        weight = rng.standard_normal(shape).astype(np.float32)
        weight[0, :32] = 0.0
        found = int4_blocks(weight)
        assert found is not None
        sizes = [1, 32, *[0] * (len(shape) - 2)]
        theirs = compute_qparams(weight, 4, True, "LINEAR_SYMMETRIC", np.int8, sizes)
        assert theirs is not None
        integers, scale, _ = theirs
        ours = found.integers.astype(int) - found.zero.reshape(-1, *[1] * (len(shape) - 1))
        inside = np.ones(shape, bool)
        inside[0, :32] = False  # theirs divides by zero there
        np.testing.assert_array_equal(ours[inside], integers[inside])
        every = np.repeat(scale.reshape(shape[0], -1), 32, axis=1).reshape(shape[:2] + (1,) * (len(shape) - 2))
        # Scales are stored as float16.
        np.testing.assert_allclose(found.values[inside], (integers * every)[inside], rtol=2**-10)
        assert (found.values[0, :32] == 0).all()
    assert int4_blocks(np.zeros((4, 40), np.float32)) is None


def test_presets_come_back_from_a_checkpoint_and_are_near_to_fp(
    baseline_checkpoint: MakeCheckpoint, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 8: the tiny model's layers are narrow."""
    monkeypatch.setattr(coreml_presets, "TOGETHER", 8)
    for method in ("int4-blocks", "grouped-palettes"):
        checkpoint = baseline_checkpoint(method)
        assert checkpoint.general and not checkpoint.layers
        for name, layer in checkpoint.general.items():
            weight = tiny_model.unet.state_dict()[f"{name}.weight"].double().numpy()
            assert layer.activation_bits is None and layer.weight_bits == 4
            part = layer.parts[0].weight
            if isinstance(part, AffineWeight):
                assert part.scale.shape == (weight.shape[0], weight.shape[1] // 8)
                steps = np.repeat(part.scale.astype(float), 8, axis=1).reshape(weight.shape[:2] + (1,) * (weight.ndim - 2))
                assert (np.abs(layer.weights - weight) <= (0.5 + 7 * 2**-11) * steps).all()  # scales are float16
            else:
                assert part.entries.shape == (weight.shape[0] // 8, 16)
            assert np.square(layer.weights - weight).sum() < 0.02 * np.square(weight).sum(), name


def test_without_relaxing_all_calls_have_the_same_bits(baseline_job: Callable[..., QuantizationJob]) -> None:
    unet = run_method("pcr", baseline_job({"relaxing": False, "samples": 4, "factor": 2000}))
    grids = [part.activation for layer in unet.general.values() for part in layer.parts]
    assert all(grid is not None and set(grid.bits.tolist()) == {8} for grid in grids)


def test_evaluate_takes_them(baseline_checkpoint: MakeCheckpoint, tiny_model: Model) -> None:
    source = open_evaluation(baseline_checkpoint("q-diffusion", "own").folder, tiny_model)
    result = evaluate(source, PROMPTS, count=1, metrics=["psnr"])
    value = result.metrics["psnr"].value
    # Pictures of 4-bit weights are near the FP ones and not equal to them.
    assert value is not None and 10 < value < 60


@pytest.mark.parametrize(("method", "reason"), [("pcr", "has zero points"), ("palettize", "has a palette of its own")])
def test_targets_refuse_them_with_a_reason(
    baseline_checkpoint: MakeCheckpoint, tmp_path: Path, method: str, reason: str
) -> None:
    checkpoint = baseline_checkpoint(method)
    asked = [(target, target.options()) for target in TARGETS.entries.values()]
    if find_spec("onnxruntime_qnn") is not None:
        executorch = TARGETS.get("executorch")
        asked.append((executorch, executorch.options(backend="qnn")))
    for target, options in asked:
        with pytest.raises(S2PError, match=rf"\({method}\) cannot be converted exactly: layer \S+ {reason}"):
            convert_checkpoint(checkpoint, target, options, tmp_path, Silent())
    assert not list(tmp_path.iterdir())


def test_inspect_names_their_grids(baseline_checkpoint: MakeCheckpoint) -> None:
    for method, word in (("q-diffusion", "asymmetric per-channel, split input"), ("palettize", "palette")):
        folder = baseline_checkpoint(method, "own" if method == "q-diffusion" else "same").folder
        described = describe(folder)
        assert any(layer.scheme.startswith(word) for layer in described.layers)
        tensors = load_file(folder / "unet.safetensors")
        for layer in described.layers:
            if layer.scheme != "float32":
                parts = [v.nbytes for k, v in tensors.items() if k.startswith(f"{layer.name}.") and not k.endswith(".bias")]
                assert layer.bytes == sum(parts)


def test_narrow_average_is_refused(baseline_job: Callable[..., QuantizationJob]) -> None:
    with pytest.raises(S2PError, match=r"1\.5 bits on average are impossible"):
        run_method("palettize", baseline_job({"palettes": {"average_bits": 1.5}}))
