"""Batched drawing against diffusers' own loop and against one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from transformers import CLIPTokenizer

from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.judge.evaluation import EvaluationSource, open_evaluation
from s2p_mobile.judge.evaluation.drawing import draw
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.session import open_session
from s2p_mobile.sources.torch_artist import TorchArtist
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian

PROMPTS = ["a red apple on a blue background", "a panda on a yellow background", "a small fox on a black background"]
SEEDS = [11, 12, 2**40]
STEPS = 3

# float32 networks whose sums are taken in another order: relative errors of 1e-6 to 1e-5 of the range, 100 to 120 dB.
SAME_DB = 90.0


def decibels(value: np.ndarray, reference: np.ndarray) -> float:
    error = np.square(value.astype(np.float64) - reference).mean()
    return np.inf if error == 0 else 10 * np.log10(np.ptp(reference) ** 2 / error)


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(None)


@pytest.fixture(scope="module")
def source(model: Model) -> EvaluationSource:
    return open_evaluation(open_session(model, steps=STEPS, device="cpu"))


@torch.no_grad()
def diffusers_states(model: Model, prompt: str, seed: int) -> list[np.ndarray]:
    """x_1 to x_T of one prompt by the original U-Net, text encoder and scheduler."""
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer", local_files_only=True)
    ids = tokenizer(["", prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
    hidden = model.conditioner.text_encoder(input_ids=ids).last_hidden_state
    scheduler = DDIMScheduler.from_pretrained(DEMO_MODEL / "scheduler", local_files_only=True)
    scheduler.set_timesteps(STEPS)
    x = torch.from_numpy(gaussian(seed, (1, 4, 16, 16)))
    states = []
    for timestep in scheduler.timesteps:
        without, given = model.unet(torch.cat([x, x]), timestep, encoder_hidden_states=hidden).sample.chunk(2)
        x = scheduler.step(without + 4.0 * (given - without), timestep, x).prev_sample
        states.append(x.numpy())
    return states


def test_states_and_pictures_are_diffusers(model: Model, source: EvaluationSource) -> None:
    drawn = draw(source.artist, PROMPTS, SEEDS)
    assert drawn.states.shape == (3, STEPS, 4, 16, 16) and drawn.states.dtype == np.float32
    assert drawn.pictures.shape == (3, 64, 64, 3) and drawn.pictures.dtype == np.uint8
    for k, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        states = diffusers_states(model, prompt, seed)
        for call in range(STEPS):
            assert decibels(drawn.states[k, call], states[call][0]) > SAME_DB
        with torch.no_grad():
            image = model.vae.decode(torch.from_numpy(states[-1]) / model.vae.config.scaling_factor).sample[0]
        expected = ((image / 2 + 0.5).clamp(0, 1) * 255).numpy().transpose(1, 2, 0)
        assert np.abs(drawn.pictures[k] - expected).max() < 0.51  # rounding to 8 bits, and the noise above


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_ancestral_noise_comes_from_each_prompts_seed(model: Model, guidance: float) -> None:
    plan = plan_for(model.folder / "scheduler", "euler-a", 2)
    assert any(call.noise for call in plan.calls)
    unet = float_unet(model, plan)
    drawn = draw(TorchArtist("fp", model, unet, plan, guidance), PROMPTS[:2], SEEDS[:2])
    for k in range(2):
        prompt = encode_prompt(model, PROMPTS[k], SEEDS[k], guidance)
        assert decibels(drawn.states[k, -1], draw_latents(unet, plan, prompt, guidance, (1, 4, 16, 16))[0]) > SAME_DB


class Broken(TorchArtist):
    """Its third prompt fails in the second call."""

    def predict(self, sample: np.ndarray, call: int, *conditions: np.ndarray) -> np.ndarray:
        output = np.zeros_like(sample)
        if call == 1:
            output[2 * 2] = np.nan  # two branches a prompt
        return output


def test_a_nan_is_named(model: Model) -> None:
    plan = plan_for(model.folder / "scheduler", None, STEPS)
    artist = Broken("a checkpoint", model, float_unet(model, plan), plan, 4.0)
    with pytest.raises(S2PError, match="a checkpoint gives a NaN or infinity at call 1 of 'a small fox"):
        draw(artist, PROMPTS, SEEDS)
