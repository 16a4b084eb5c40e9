"""The text encoder and the U-Net, trained together to predict the noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from demo_training.config import LATENT_CHANNELS, LATENT_SIZE, DiffusionConfig, TrainConfig
from demo_training.data import PictureSource, Shown
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


def new_unet(config: DiffusionConfig, size: int = LATENT_SIZE) -> Any:
    """An untrained UNet2DConditionModel for latents [4, size, size]."""
    return UNet2DConditionModel(
        sample_size=size,
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

    @property
    def modules(self) -> dict[str, Any]:
        """By name, for a :class:`~demo_training.state.Phase`."""
        return {"text_encoder": self.text_encoder, "unet": self.unet}

    def finished(self) -> Diffusion:
        """In evaluation mode."""
        return Diffusion(self.text_encoder.eval(), self.unet.eval())


def noise_phase(config: DiffusionConfig, networks: Diffusion) -> Phase:
    """The training of both; state ``unet``."""
    steps = sum(cycle.steps for cycle in config.cycles)
    rate = partial(learning_rate, config)
    return Phase("unet", networks.modules, steps, rate, ema=config.ema, seconds=config.seconds)


def new_diffusion(config: TrainConfig, tokenizer: Any, device: torch.device, size: int = LATENT_SIZE) -> Diffusion:
    """Untrained networks for latents [4, size, size], in training mode."""
    torch.manual_seed(config.seed + 1)
    text_encoder = new_text_encoder(config.diffusion, tokenizer).to(device).train()
    return Diffusion(text_encoder, new_unet(config.diffusion, size).to(device).train())


class NoiseLoss:
    """How far the networks are from the noise in latents."""

    def __init__(self, config: DiffusionConfig, networks: Diffusion, device: torch.device) -> None:
        self._config, self._networks, self._scheduler = config, networks, new_scheduler()
        self._alphas = self._scheduler.alphas_cumprod.to(device)
        self.timesteps = int(self._scheduler.config.num_train_timesteps)

    def noise(self, like: Tensor, random: torch.Generator) -> Tensor:
        """Noise for latents like these, on the device of ``random``."""
        noise = torch.randn(like.shape, generator=random, device=random.device)
        # A little noise that is constant over the picture: without it the model never learns to set the mean colour.
        constant = torch.randn((*like.shape[:2], 1, 1), generator=random, device=random.device)
        return noise + self._config.offset_noise * constant

    def __call__(self, latents: Tensor, ids: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Weighted mean square error; scalar.

        Args:
            latents: float32 [B, 4, size, size], scaled.
            ids: int64 [B, length], tokens of the captions.
            noise: as the latents.
            timesteps: int64 [B].
        """
        noisy = self._scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=self._config.autocast):
            states = self._networks.text_encoder(input_ids=ids).last_hidden_state
            predicted = self._networks.unet(noisy, timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (min_snr_weight(self._alphas, timesteps, self._config.snr_limit) * error).mean()


def train_diffusion(
    config: TrainConfig,
    pictures: PictureSource[Shown],
    tokenizer: Any,
    vae: Any,
    folder: Path,
    device: torch.device,
    clock: Clock,
) -> Diffusion:
    """Train on latents of ``vae`` (frozen). State ``unet`` in ``folder``.

    Raises:
        Paused: the clock ran out; the state is saved.
    """
    settings, seed = config.diffusion, config.seed
    networks = new_diffusion(config, tokenizer, device)
    error = NoiseLoss(settings, networks, device)

    def loss_of_step(step: int) -> Tensor:
        random = generator(seed, "unet", step)
        captions = pictures.draw(settings.batch, random)
        images = pictures.compose(captions, random).to(device)
        dropped = torch.rand(settings.batch, generator=random) < settings.caption_drop
        texts = ["" if drop else caption.text for caption, drop in zip(captions, dropped.tolist(), strict=True)]
        ids = token_ids(tokenizer, texts).to(device)
        timesteps = stratified_timesteps(settings.batch, error.timesteps, random).to(device)
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
            draw = torch.randn(posterior.mean.shape, generator=random).to(device)
            latents = (posterior.mean + posterior.std * draw) * vae.config.scaling_factor
        return error(latents, ids, error.noise(latents, random).to(device), timesteps)

    run(noise_phase(settings, networks), loss_of_step, folder, config.fingerprint(), clock)
    return networks.finished()
