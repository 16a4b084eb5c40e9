"""The judge: a small CLIPModel over the same pictures, held-out pairs included, for it has to recognise them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from demo_training.config import IMAGE_SIZE, ClipConfig, TrainConfig
from demo_training.data import PictureSource, Shown
from demo_training.diffusion import token_ids
from demo_training.state import Clock, Phase, flat_then_cosine, generator, run


def new_clip(config: ClipConfig, tokenizer: Any, size: int = IMAGE_SIZE) -> Any:
    """An untrained CLIPModel; pictures enter as float32 [B, 3, size, size] in [-1, 1]."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "projection_dim": config.projection,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "projection_dim": config.projection,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.heads,
        "image_size": size,
        "patch_size": config.patch,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.projection))


def train_clip(
    config: TrainConfig, pictures: PictureSource[Shown], tokenizer: Any, folder: Path, device: torch.device, clock: Clock
) -> Any:
    """The finished CLIPModel, float32, in evaluation mode. State ``clip`` in ``folder``.

    Raises:
        Paused: the clock ran out; the state is saved.
    """
    settings, seed = config.clip, config.seed
    torch.manual_seed(seed + 2)
    clip = new_clip(settings, tokenizer, pictures.size).to(device).train()

    def loss_of_step(step: int) -> Tensor:
        random = generator(seed, "clip", step)
        # Distinct captions: the same caption twice in a batch would count as a mistake.
        captions = pictures.draw(settings.batch, random, held_out_too=True, distinct=True)
        images = pictures.compose(captions, random).to(device)
        ids = token_ids(tokenizer, [caption.text for caption in captions]).to(device)
        logits = clip(input_ids=ids, pixel_values=images).logits_per_image
        answers = torch.arange(len(captions), device=device)
        return (functional.cross_entropy(logits, answers) + functional.cross_entropy(logits.t(), answers)) / 2

    def rate(step: int) -> float:
        return settings.learning_rate * min(1.0, (step + 1) / 100) * flat_then_cosine(step / settings.steps)

    phase = Phase("clip", {"clip": clip}, settings.steps, rate, seconds=settings.seconds)
    run(phase, loss_of_step, folder, config.fingerprint(), clock)
    return clip.eval()
