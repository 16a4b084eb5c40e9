"""Every number of the run, and what it is in miniature."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from demo_training.config import ClipConfig, Cycle, DiffusionConfig, TrainConfig, VaeConfig

LATENT_FACTOR = 4
"""Pixels of a side for each latent number."""
TOKENS = 36
"""Of a caption: three things of four words, two relations of two words or three, the background, and the ends."""


def _of(default: Any, miniature: Any, words: str) -> Any:
    return field(default=default, metadata={"miniature": miniature, "help": words})


@dataclass(frozen=True)
class Counts:
    """The plan's numbers. Seconds end a training that has not made all its steps by then."""

    seed: int = _of(0, 0, "settles every random choice")
    size: int = _of(128, 32, "pixels of a side")
    vae_channels: tuple[int, int, int] = _of((32, 64, 128), (8, 8, 8), "autoencoder: channels of its three blocks")
    vae_groups: int = _of(8, 4, "autoencoder: groups of its norms")
    vae_batch: int = _of(32, 4, "autoencoder: pictures of a step")
    vae_steps: int = _of(4000, 2, "autoencoder: steps at most")
    vae_seconds: float = _of(30.0, 600.0, "autoencoder: seconds at most")
    decoder_steps: int = _of(2000, 2, "its decoder alone: steps at most")
    decoder_seconds: float = _of(10.0, 600.0, "its decoder alone: seconds at most")
    pool: int = _of(131_072, 24, "pictures that the U-Net learns from, encoded beforehand")
    channels: tuple[int, int, int] = _of((128, 256, 384), (8, 8, 16), "U-Net: channels of its three resolutions")
    layers: int = _of(2, 1, "U-Net: resnets of a down block")
    heads: int = _of(4, 2, "U-Net and text encoder: attention heads")
    groups: int = _of(32, 4, "U-Net: groups of its norms")
    text_width: int = _of(256, 16, "text encoder: width")
    text_layers: int = _of(4, 1, "text encoder: layers")
    batch: int = _of(256, 8, "U-Net: pictures of a step")
    parts: int = _of(1, 2, "U-Net: a step's pictures are shown in so many parts, where memory is short")
    unet_steps: int = _of(8000, 2, "U-Net: steps at most")
    unet_seconds: float = _of(270.0, 600.0, "U-Net: seconds at most, compiling included")
    rate: float = _of(4e-4, 4e-4, "U-Net: learning rate")
    ema: float = _of(0.999, 0.9, "U-Net: decay of the averaged weights")
    judge_batch: int = _of(192, 8, "judge: pictures of a step")
    judge_width: int = _of(192, 16, "judge: width of both towers")
    judge_layers: int = _of(4, 1, "judge: layers of the picture's tower, twice those of the caption's")
    judge_steps: int = _of(2000, 2, "judge: steps at most")
    judge_seconds: float = _of(30.0, 600.0, "judge: seconds at most")
    gate_count: int = _of(256, 2, "held-out captions that the gate draws")
    gate: float = _of(0.5, 0.0, "share of them that has to be among the first five which the judge finds")
    prompts: int = _of(512, 2, "training captions to quantize with")
    calls: int = _of(25, 2, "calls of the sampling plan")
    guidance: float = _of(4.0, 4.0, "classifier-free guidance")
    pairs: int = _of(32, 2, "pairs of a micro-batch")
    accumulate: int = _of(1, 1, "micro-batches of an optimizer step")
    iterations: int = _of(300, 2, "optimizer steps of the s2p row")
    samples: int = _of(1024, 4, "U-Net calls that AdaRound and Q-Diffusion learn from")
    rounding: int = _of(400, 2, "AdaRound: iterations of each part")
    factor: float = _of(50.0, 10_000.0, "Q-Diffusion: published iteration counts are divided by this")
    rounds: int = _of(2, 1, "turns in which the paces of the trainings are measured")
    count: int = _of(256, 2, "held-out pictures of a seed set")
    seeds: int = _of(3, 1, "seed sets")
    together: int = _of(64, 2, "pictures that are drawn at a time")

    @property
    def latent_size(self) -> int:
        """Of a side."""
        return self.size // LATENT_FACTOR

    @property
    def training(self) -> TrainConfig:
        """Settings of the teacher's training."""
        return TrainConfig(
            seed=self.seed,
            token_length=TOKENS,
            vae=VaeConfig(
                channels=self.vae_channels,
                groups=self.vae_groups,
                batch=self.vae_batch,
                steps=self.vae_steps,
                decoder_steps=self.decoder_steps,
                statistics_batches=8,
                seconds=self.vae_seconds,
                decoder_seconds=self.decoder_seconds,
            ),
            diffusion=DiffusionConfig(
                channels=self.channels,
                layers=self.layers,
                heads=self.heads,
                groups=self.groups,
                text_width=self.text_width,
                text_layers=self.text_layers,
                batch=self.batch,
                cycles=(Cycle(self.rate, self.unet_steps),),
                ema=self.ema,
                seconds=self.unet_seconds,
            ),
            clip=ClipConfig(
                text_width=self.judge_width,
                text_layers=max(1, self.judge_layers // 2),
                vision_width=self.judge_width,
                vision_layers=self.judge_layers,
                patch=8,
                heads=self.heads,
                projection=self.judge_width // 2,
                batch=self.judge_batch,
                steps=self.judge_steps,
                seconds=self.judge_seconds,
            ),
        )


MINIATURE = replace(Counts(), **{each.name: each.metadata["miniature"] for each in fields(Counts)})
"""The whole chain in seconds on a processor; nothing is learned."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for every number."""
    parser.add_argument("--miniature", action="store_true", help="start from the numbers of the rehearsal")
    for each in fields(Counts):
        default: Any = each.default
        several = isinstance(default, tuple)
        kind = type(default[0]) if several else type(default)
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=kind,
            nargs=len(default) if several else None,
            help=f"{each.metadata['help']} (default: {default})",
        )


def counts_of(options: argparse.Namespace) -> Counts:
    """What was asked for; everything else from the preset."""
    given = {each.name: getattr(options, each.name) for each in fields(Counts)}
    chosen = {name: _plain(value) for name, value in given.items() if value is not None}
    return replace(MINIATURE if options.miniature else Counts(), **chosen)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
