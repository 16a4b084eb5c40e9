"""The text encoder and the U-Net, trained together to predict the noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from demo_training.config import LATENT_CHANNELS, LATENT_SIZE, DiffusionConfig, TrainConfig
from demo_training.data import Pictures
from demo_training.state import Clock, Phase, flat_then_cosine, generator, run


def new_scheduler() -> Any:
    """Stable Diffusion's noise schedule under DDIM with trailing spacing."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )


def new_unet(config: DiffusionConfig) -> Any:
    """An untrained UNet2DConditionModel for 16x16x4 latents."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # diffusers reads this as the number of heads
        norm_num_groups=config.groups,
    )


def new_text_encoder(config: DiffusionConfig, tokenizer: Any) -> Any:
    """An untrained CLIPTextModel for the tokenizer's vocabulary and length."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """int64 [B, length], padded and cut to the tokenizer's length."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def stratified_timesteps(count: int, total: int, random: torch.Generator) -> Tensor:
    """int64 [count] in [0, total): one from each of ``count`` equal parts, so every batch sees all noise levels."""
    places = (torch.arange(count) + torch.rand(count, generator=random)) / count
    return (places * total).long().clamp_(max=total - 1)


def min_snr_weight(alphas_cumprod: Tensor, timesteps: Tensor, limit: float) -> Tensor:
    """Loss weight min(SNR, limit) / SNR of epsilon prediction (Hang et al., "Min-SNR Weighting Strategy", ICCV 2023); [B]."""
    alpha = alphas_cumprod[timesteps]
    ratio = alpha / (1.0 - alpha)
    return ratio.clamp(max=limit) / ratio


def learning_rate(config: DiffusionConfig, step: int) -> float:
    """Learning rate of a step: the cycles one after the other."""
    for cycle in config.cycles:
        if step < cycle.steps:
            return cycle.learning_rate * flat_then_cosine(step / cycle.steps)
        step -= cycle.steps
    return 0.0


@dataclass
class Diffusion:
    """The two networks that are trained together; float32, in evaluation mode when finished."""

    text_encoder: Any
    unet: Any


def train_diffusion(
    config: TrainConfig, pictures: Pictures, tokenizer: Any, vae: Any, folder: Path, device: torch.device, clock: Clock
) -> Diffusion:
    """Train on latents of ``vae`` (frozen). State ``unet`` in ``folder``.

    Raises:
        Paused: the clock ran out; the state is saved.
    """
    settings, seed = config.diffusion, config.seed
    torch.manual_seed(seed + 1)
    text_encoder = new_text_encoder(settings, tokenizer).to(device).train()
    unet = new_unet(settings).to(device).train()
    scheduler = new_scheduler()
    alphas = scheduler.alphas_cumprod.to(device)

    def loss_of_step(step: int) -> Tensor:
        random = generator(seed, "unet", step)
        captions = pictures.draw(settings.batch, random)
        images = pictures.compose(captions, random).to(device)
        dropped = torch.rand(settings.batch, generator=random) < settings.caption_drop
        texts = ["" if drop else caption.text for caption, drop in zip(captions, dropped.tolist(), strict=True)]
        ids = token_ids(tokenizer, texts).to(device)
        timesteps = stratified_timesteps(settings.batch, scheduler.config.num_train_timesteps, random).to(device)
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
            draw = torch.randn(posterior.mean.shape, generator=random).to(device)
            latents = (posterior.mean + posterior.std * draw) * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=random)
        # A little noise that is constant over the picture: without it the model never learns to set the mean colour.
        noise += settings.offset_noise * torch.randn((*latents.shape[:2], 1, 1), generator=random)
        noise = noise.to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            states = text_encoder(input_ids=ids).last_hidden_state
            predicted = unet(noisy, timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (min_snr_weight(alphas, timesteps, settings.snr_limit) * error).mean()

    phase = Phase(
        "unet",
        {"text_encoder": text_encoder, "unet": unet},
        sum(cycle.steps for cycle in settings.cycles),
        lambda step: learning_rate(settings, step),
        ema=settings.ema,
    )
    run(phase, loss_of_step, folder, config.fingerprint(), clock)
    return Diffusion(text_encoder.eval(), unet.eval())
