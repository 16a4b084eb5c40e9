"""What a prompt becomes: with one text encoder, and with two and a time table of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_runtime.artist import draw
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.conditioning import bundle_tokenizers, components_of, conditioner_of, encode_prompt
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.tensors import read_tensors
from s2p_runtime.verify import read_golden

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZE_IDS = (64.0, 96.0, 0.0, 0.0, 64.0, 96.0)


class Encoders:
    """A backend whose outputs are noise that depends on every input."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.calls = bundle, list[tuple[str, dict[str, np.ndarray]]]()

    def run(self, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        spec, _ = self.bundle.component(component)
        for port in spec.inputs:
            assert inputs[port.name].shape == port.shape and inputs[port.name].dtype == port.dtype
        self.calls.append((component, dict(inputs)))
        seed = int(sum(np.abs(value).sum() * (k + 1) for k, value in enumerate(inputs.values())) * 64)
        return {port.name: gaussian(seed, port.shape, stream=k) for k, port in enumerate(spec.outputs)}

    def predict(self, sample: np.ndarray, step: int, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        assert list(conditions) == [port.name for port in self.bundle.manifest.unet.inputs][2:]
        return sample * np.float32(conditions["encoder_hidden_states"].mean())

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return np.zeros((1, 3, 8 * latents.shape[2], 8 * latents.shape[3]), np.float32)


@pytest.fixture()
def plain() -> Bundle:
    return open_bundle(FIXTURES / "replay.s2pmobile")


@pytest.fixture()
def pooled() -> Bundle:
    return open_bundle(FIXTURES / "pooled.s2pmobile")


def conditions(bundle: Bundle, *arguments: Any, **more: Any) -> dict[str, np.ndarray]:
    backend: Any = Encoders(bundle)
    return dict(encode_prompt(bundle, backend, bundle_tokenizers(bundle), *arguments, **more).inputs)


def test_components_and_tensors(plain: Bundle, pooled: Bundle) -> None:
    assert components_of(plain) == ("text_encoder", "unet", "vae_decoder")
    assert components_of(pooled) == ("text_encoder", "time_table", "unet", "vae_decoder")
    for bundle in (plain, pooled):
        own = conditioner_of(bundle.manifest)
        assert set(own.components) == set(bundle.manifest.components) - {"unet", "vae_decoder"}
        # What golden runs of the fixtures hold besides what all of them do.
        tensors = set(read_tensors(bundle.path(bundle.manifest.golden[0].path)))
        assert set(own.tensors) == tensors & {"text_embeddings", "pooled_text", "time_ids", "time_table"}
        assert list(own.inputs) == [port.name for port in bundle.manifest.unet.inputs][2:]


def test_the_unconditional_branch_is_the_empty_text(plain: Bundle) -> None:
    found = conditions(plain, "a red apple")["encoder_hidden_states"]
    assert found.shape[0] == 2
    np.testing.assert_array_equal(found, conditions(plain, "a red apple", negative_prompt="")["encoder_hidden_states"])
    alone = conditions(plain, "blurry")["encoder_hidden_states"]
    told = conditions(plain, "a red apple", negative_prompt="blurry")["encoder_hidden_states"]
    np.testing.assert_array_equal(told, np.concatenate([alone[1:], found[1:]]))
    assert not np.array_equal(told[0], found[0])


def test_zeros_where_no_negative_prompt_is_given(pooled: Bundle) -> None:
    """As diffusers' StableDiffusionXLPipeline: ``zero_out_negative_prompt = negative_prompt is None and force_zeros...``."""
    conditioning = pooled.manifest.conditioning
    assert conditioning is not None and conditioning.zero_unconditional
    found = {text: conditions(pooled, "a red apple", negative_prompt=text) for text in (None, "", "blurry")}
    assert not found[None]["encoder_hidden_states"][0].any()
    assert found[""]["encoder_hidden_states"][0].any()
    alone = conditions(pooled, "blurry")["encoder_hidden_states"]
    np.testing.assert_array_equal(found["blurry"]["encoder_hidden_states"][0], alone[1])
    for each in found.values():
        np.testing.assert_array_equal(each["encoder_hidden_states"][1], found[None]["encoder_hidden_states"][1])


def test_the_time_table_is_told_pooled_texts_and_the_size(pooled: Bundle) -> None:
    backend: Any = Encoders(pooled)
    own = conditioner_of(pooled.manifest)
    ids = read_golden(pooled, pooled.manifest.golden[0])
    size = pooled.manifest.sizes[0].model_copy(update={"width": 96, "height": 64, "latent_width": 12, "latent_height": 8})
    assert not size.fits(pooled.manifest.latents.shape)
    for asked, wanted in ((None, pooled.manifest.conditioning.time_ids), (size, SIZE_IDS)):  # type: ignore[union-attr]
        backend.calls.clear()
        encoded = own.encode(backend.run, ids, asked)
        component, inputs = backend.calls[-1]
        assert component == "time_table" and [name for name, _ in backend.calls] == ["text_encoder"] * 2 + ["time_table"]
        np.testing.assert_array_equal(inputs["time_ids"], np.array([wanted] * 2, np.float32))
        np.testing.assert_array_equal(inputs["pooled_text"], encoded["pooled_text"])
        np.testing.assert_array_equal(own.conditions(encoded).inputs["time_table"], encoded["time_table"])


@pytest.mark.parametrize("name", ["replay", "pooled"])
def test_errors_are_those_of_the_recorded_tensors(name: str) -> None:
    bundle = open_bundle(FIXTURES / f"{name}.s2pmobile")
    own, backend = conditioner_of(bundle.manifest), Encoders(bundle)
    golden = read_golden(bundle, bundle.manifest.golden[0])
    ids = {tensor: golden[tensor] for tensor in own.token_inputs.values()}
    tensors = {**ids, **own.encode(backend.run, ids)}
    errors = list(own.errors(backend.run, tensors))
    assert {component for component, _ in errors} == set(own.components) and all(error == 0 for _, error in errors)
    for tensor, component in own.made_by.items():
        changed = {**tensors, tensor: tensors[tensor] * np.float32(1.25)}
        worst = max(error for name, error in own.errors(backend.run, changed) if name == component)
        # |x - 1.25 x| / |1.25 x|; a changed pooled text is also another input of the time table.
        assert worst == pytest.approx(0.2, rel=1e-6) or tensor == "pooled_text"


def test_a_negative_prompt_needs_guidance(tmp_path: Path) -> None:
    bundle = open_bundle(FIXTURES / "ancestral.s2pmobile")
    assert bundle.manifest.guidance <= 1
    backend: Any = Encoders(bundle)
    with pytest.raises(S2PError, match=r"no effect at guidance .*; leave `negative_prompt` out") as caught:
        draw(BundleArtist(bundle, backend), "a cat", 1, negative_prompt="blurry")
    assert caught.value.field == "negative_prompt" and not backend.calls
    assert draw(BundleArtist(bundle, backend), "a cat", 1).picture.any()


def test_draw_tells_what_was_left_out_of_both_texts(plain: Bundle) -> None:
    backend: Any = Encoders(plain)
    long = "apple " * 200
    drawing = draw(BundleArtist(plain, backend), "a cat", 1, negative_prompt=long)
    assert (
        drawing.tokens_dropped == 0
        and drawing.negative_tokens_dropped == draw(BundleArtist(plain, backend), long, 1).tokens_dropped > 0
    )
    other = draw(BundleArtist(plain, backend), "a cat", 1)
    assert not np.array_equal(drawing.latents, other.latents) and other.negative_tokens_dropped == 0
