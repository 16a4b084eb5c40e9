"""Settings of every training stage. The defaults are the recipe of the shipped model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

IMAGE_SIZE = 64
"""Pixels; pictures are square RGB."""

LATENT_SIZE = 16
LATENT_CHANNELS = 4

SCALING_FACTOR = 0.18215
"""Stable Diffusion's latent factor, kept by folding the latents' own mean and deviation into the autoencoder."""


@dataclass(frozen=True)
class DataConfig:
    """Sprite sizes in pixels (longest side) and how far a sprite may stand from the centre."""

    normal_size: int = 56
    small_size: int = 32
    normal_jitter: int = 4
    small_jitter: int = 16

    def __post_init__(self) -> None:
        for size, jitter in ((self.normal_size, self.normal_jitter), (self.small_size, self.small_jitter)):
            if size < 1 or jitter < 0 or size + 2 * jitter > IMAGE_SIZE:
                raise ValueError(f"a sprite of {size} pixels shifted by {jitter} does not stay inside {IMAGE_SIZE} pixels")


@dataclass(frozen=True)
class VaeConfig:
    """AutoencoderKL: blocks of ``channels``, f4; joint training, then the decoder alone against a frozen encoder.

    Here and below ``seconds`` ends a training that has not made all its steps by then; see :class:`~demo_training.state.Phase`.
    """

    channels: tuple[int, int, int] = (16, 32, 64)
    layers: int = 1
    groups: int = 4
    batch: int = 8
    steps: int = 6_000
    learning_rate: float = 2e-3
    gradient_weight: float = 0.5
    kl_weight: float = 3e-4
    log_variance_bias: float = -5.0
    decoder_steps: int = 13_900
    decoder_learning_rate: float = 1e-3
    decoder_latent_noise: float = 0.05
    statistics_batches: int = 64
    seconds: float | None = None
    decoder_seconds: float | None = None


@dataclass(frozen=True)
class Cycle:
    """One warm restart: ``steps`` with the learning rate flat for the first 30%, then down a cosine to zero."""

    learning_rate: float
    steps: int


@dataclass(frozen=True)
class DiffusionConfig:
    """UNet2DConditionModel and CLIPTextModel, trained together on epsilon prediction."""

    channels: tuple[int, int, int] = (64, 96, 128)
    layers: int = 1
    heads: int = 4
    groups: int = 16
    text_width: int = 128
    text_layers: int = 2
    batch: int = 16
    cycles: tuple[Cycle, ...] = (Cycle(1e-3, 3_220), Cycle(6e-4, 1_510), Cycle(5e-4, 2_460))
    snr_limit: float = 5.0
    offset_noise: float = 0.1
    caption_drop: float = 0.1
    ema: float = 0.995
    autocast: bool = True
    seconds: float | None = None


@dataclass(frozen=True)
class ClipConfig:
    """CLIPModel, the judge: contrastive loss over distinct captions."""

    text_width: int = 96
    text_layers: int = 2
    vision_width: int = 128
    vision_layers: int = 4
    patch: int = 8
    heads: int = 4
    projection: int = 64
    batch: int = 128
    steps: int = 3_000
    learning_rate: float = 1e-3
    seconds: float | None = None


@dataclass(frozen=True)
class TrainConfig:
    """All stages; ``seed`` settles every random choice."""

    seed: int = 0
    vocabulary: int = 1026
    token_length: int = 16
    data: DataConfig = field(default_factory=DataConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)

    def scaled(self, factor: float) -> TrainConfig:
        """The same recipe with every number of steps multiplied by ``factor`` (at least one step each)."""

        def times(steps: int) -> int:
            return max(1, round(steps * factor))

        return replace(
            self,
            vae=replace(self.vae, steps=times(self.vae.steps), decoder_steps=times(self.vae.decoder_steps)),
            diffusion=replace(
                self.diffusion, cycles=tuple(Cycle(c.learning_rate, times(c.steps)) for c in self.diffusion.cycles)
            ),
            clip=replace(self.clip, steps=times(self.clip.steps)),
        )

    def fingerprint(self) -> str:
        """Hash of all settings; a saved state goes on only under the settings it was made with."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
