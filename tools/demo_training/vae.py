"""The autoencoder: joint training, the decoder's fine-tuning, and folding the latent statistics into its 1x1 convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from demo_training.config import IMAGE_SIZE, LATENT_CHANNELS, SCALING_FACTOR, TrainConfig, VaeConfig
from demo_training.data import PictureSource, Shown
from demo_training.state import Clock, Phase, flat_then_cosine, generator, run


def new_autoencoder(config: VaeConfig, size: int = IMAGE_SIZE) -> Any:
    """An untrained AutoencoderKL for pictures of ``size`` pixels whose posterior starts narrow.

    With the usual zero bias the first latents are almost pure noise and the decoder learns the mean picture for a long
    while; a log-variance near -5 (deviation 0.08) lets it see the latents from the first step.
    """
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=config.groups,
        sample_size=size,
        scaling_factor=SCALING_FACTOR,
    )
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] += config.log_variance_bias
    return vae


def _edges(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return pictures[..., 1:, :] - pictures[..., :-1, :], pictures[..., 1:] - pictures[..., :-1]


def reconstruction_loss(decoded: Tensor, pictures: Tensor, gradient_weight: float) -> Tensor:
    """L1 + MSE + ``gradient_weight`` times L1 of the vertical and horizontal differences; scalar."""
    edges = sum(
        (functional.l1_loss(a, b) for a, b in zip(_edges(decoded), _edges(pictures), strict=True)),
        torch.zeros((), device=decoded.device),
    )
    return functional.l1_loss(decoded, pictures) + functional.mse_loss(decoded, pictures) + gradient_weight * edges


def _noise(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random).to(like.device)


def fold_statistics(vae: Any, mean: Tensor, deviation: Tensor) -> None:
    """Give the latents mean 0 and deviation 1 after ``scaling_factor``, changing no reconstruction.

    With ``z`` the old latents, ``z' = (z - mean) / (deviation * s)`` and ``s`` the scaling factor: the encoder's last
    1x1 convolution answers ``z'`` (and its log-variance less ``2 log(deviation * s)``), the decoder's first undoes it.

    Args:
        vae: changed in place.
        mean: float32 [4], of the old latents' channels.
        deviation: float32 [4], positive.
    """
    channels = mean.numel()
    scale = deviation * vae.config.scaling_factor
    with torch.no_grad():
        quant, post = vae.quant_conv, vae.post_quant_conv
        post.bias += post.weight[:, :, 0, 0] @ mean
        post.weight *= scale.view(1, -1, 1, 1)
        quant.weight[:channels] /= scale.view(-1, 1, 1, 1)
        quant.bias[:channels] = (quant.bias[:channels] - mean) / scale
        quant.bias[channels:] -= 2.0 * scale.log()


def train_autoencoder(
    config: TrainConfig, pictures: PictureSource[Shown], folder: Path, device: torch.device, clock: Clock
) -> Any:
    """The finished autoencoder, float32, in evaluation mode. States ``vae`` and ``vae_decoder`` in ``folder``.

    Raises:
        Paused: the clock ran out; the state is saved.
    """
    settings, seed = config.vae, config.seed
    torch.manual_seed(seed)
    vae = new_autoencoder(settings, pictures.size).to(device)

    def batch(phase: str, step: int) -> tuple[Tensor, torch.Generator]:
        random = generator(seed, phase, step)
        return pictures.compose(pictures.draw(settings.batch, random), random).to(device), random

    def joint_loss(step: int) -> Tensor:
        images, random = batch("vae", step)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.mean + posterior.std * _noise(posterior.mean, random)).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()  # per latent number, as the other terms are per pixel
        return reconstruction_loss(decoded, images, settings.gradient_weight) + settings.kl_weight * divergence

    def cosine(peak: float, steps: int, flat: float) -> Any:
        return lambda step: peak * flat_then_cosine(step / steps, flat)

    rate = cosine(settings.learning_rate, settings.steps, 0.0)
    joint = Phase("vae", {"vae": vae}, settings.steps, rate, seconds=settings.seconds)
    run(joint, joint_loss, folder, config.fingerprint(), clock)

    # Before the decoder's fine-tuning: folding changes no reconstruction, and the encoder is frozen from here on.
    with torch.no_grad():
        latents = torch.cat(
            [vae.encode(batch("statistics", i)[0]).latent_dist.mean for i in range(settings.statistics_batches)]
        )
    fold_statistics(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))

    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)

    def decoder_loss(step: int) -> Tensor:
        images, random = batch("vae_decoder", step)
        with torch.no_grad():
            mean = vae.encode(images).latent_dist.mean
        # Light noise in units of the normalised latents: what the sampler hands over is never exactly an encoding.
        noisy = mean + settings.decoder_latent_noise / vae.config.scaling_factor * _noise(mean, random)
        return reconstruction_loss(vae.decode(noisy).sample, images, settings.gradient_weight)

    rate = cosine(settings.decoder_learning_rate, settings.decoder_steps, 0.0)
    tuning = Phase("vae_decoder", {"vae": vae}, settings.decoder_steps, rate, seconds=settings.decoder_seconds)
    run(tuning, decoder_loss, folder, config.fingerprint(), clock)
    return vae.requires_grad_(False).eval()
