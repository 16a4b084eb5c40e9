"""The shipped pipeline: whole, small, safe to load, and it draws what it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from demo_training.captions import BACKGROUNDS
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.defaults import read_defaults
from s2p_runtime.noise import gaussian

SIZE_LIMIT = 25_000_000


def files() -> list[Path]:
    """Of the model; the finished checkpoint beside them has other kinds of numbers."""
    checkpoint = read_defaults(DEMO_MODEL).checkpoint
    assert checkpoint is not None
    return sorted(path for path in DEMO_MODEL.rglob("*") if path.is_file() and not path.is_relative_to(checkpoint))


def test_size_and_kinds_of_files() -> None:
    assert sum(path.stat().st_size for path in files()) <= SIZE_LIMIT
    assert {path.suffix for path in files()} <= {".json", ".safetensors", ".txt", ".md"}
    assert (DEMO_MODEL / "MODEL_CARD.md").is_file()


def test_all_floating_weights_are_fp16() -> None:
    weights = [path for path in files() if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {"text_encoder", "unet", "vae", "clip"}
    for path in weights:
        with safe_open(path, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                tensor = handle.get_tensor(name)
                assert tensor.dtype == torch.float16, (path, name)
                assert torch.isfinite(tensor).all(), (path, name)


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """One picture a background, float [64, 64, 3] in [0, 1], by diffusers' own pipeline without a network."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    pipe = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, local_files_only=True).to(torch.float32)
    patch.undo()
    pipe.set_progress_bar_config(disable=True)
    prompts = [f"a fox on a {background} background" for background in BACKGROUNDS]
    latents = torch.cat([torch.from_numpy(gaussian(seed, (1, 4, 16, 16))) for seed in range(len(prompts))])
    images = pipe(
        prompts, latents=latents, num_inference_steps=25, guidance_scale=4.0, height=64, width=64, output_type="np"
    ).images
    return dict(zip(prompts, images, strict=True))


def test_scheduler_is_the_default_plan() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, local_files_only=True)
    pipe.scheduler.set_timesteps(25)
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    # Trailing spacing: 1000/25 apart, from the last timestep down (Lin et al. 2023, table 2).
    assert pipe.scheduler.timesteps.tolist() == list(range(999, -1, -40))


def test_backgrounds_are_the_colours_asked_for(drawn: dict[str, np.ndarray]) -> None:
    # The nearest of the seven ideal screen colours; pink and red, the closest pair, are 0.7 apart in RGB.
    ideal = {
        "white": (1, 1, 1),
        "black": (0, 0, 0),
        "red": (1, 0, 0),
        "green": (0, 0.6, 0),
        "blue": (0, 0.3, 1),
        "yellow": (1, 1, 0),
        "pink": (1, 0.6, 0.8),
    }
    for prompt, image in drawn.items():
        corner = np.median(image[[1, 1, -2, -2], [1, -2, 1, -2]], axis=0)
        nearest = min(ideal, key=lambda name: float(np.linalg.norm(corner - np.array(ideal[name]))))
        assert nearest == prompt.split()[-2]


def test_pictures_are_of_the_object(drawn: dict[str, np.ndarray]) -> None:
    clip = CLIPModel.from_pretrained(DEMO_MODEL / "clip", local_files_only=True).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "clip", local_files_only=True)
    names = ["fox", "panda", "rocket", "pizza", "octopus", "sailboat", "purple heart", "guitar"]
    hits = 0
    for prompt, image in drawn.items():
        texts = [prompt.replace("fox", name) for name in names]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() * 2 - 1
        with torch.no_grad():
            hits += int(clip(input_ids=ids, pixel_values=pixels).logits_per_image.argmax() == 0)
    # Chance is 1 in 8 per picture; 5 of 7 or more by chance happens less than once in 1,000 runs.
    assert hits >= 5
