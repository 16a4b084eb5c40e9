"""The teacher's training: autoencoder, text encoder and U-Net, judge, and the diffusers folder that all of them end in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from demo_training.clip import train_clip
from demo_training.diffusion import Diffusion, NoiseLoss, new_diffusion, noise_phase, stratified_timesteps, token_ids
from demo_training.pipeline import write_pipeline
from demo_training.state import Clock, generator, run
from demo_training.tokenizer import build_tokenizer, save_tokenizer
from demo_training.vae import train_autoencoder
from midsize.counts import Counts
from midsize.journal import Journal
from midsize.rendering import ShapePictures
from midsize.scenes import Scene, distinct_scenes, words
from s2p_mobile.sources.defaults import DEFAULTS_NAME, DefaultsFile
from s2p_runtime.contract import write_contract
from s2p_runtime.files import atomic_folder

_CALIBRATION, _HELD_OUT = "calibration prompts", "held-out prompts"
_POOL_BATCH = 256
_TRIES = 2
"""Passes that compile: the second has what the first one left behind."""


@dataclass(frozen=True)
class Pool:
    """What the U-Net is shown: pictures that were encoded beforehand, so that a step costs the network's own time alone.

    Attributes:
        latents: float16 [N, 4, h, w], means of the posteriors, scaled.
        ids: int64 [N, length], tokens of the captions.
    """

    latents: Tensor
    ids: Tensor


def calibration_scenes(counts: Counts) -> list[Scene]:
    """What the teacher is quantized with: nothing that was kept out of its training, as many as ``prompts``."""
    return distinct_scenes(counts.prompts, generator(counts.seed, _CALIBRATION, 0))


def held_out_scenes(counts: Counts) -> list[Scene]:
    """What it is judged with: each shows something that its training never saw."""
    return distinct_scenes(max(counts.count, counts.gate_count), generator(counts.seed, _HELD_OUT, 0), 1.0)


@dataclass
class Teacher:
    """One training in one folder: ``tokenizer/``, ``state/`` and, at the end, ``model/``. What is finished is not done again.

    Attributes:
        clock: when to save, when to stop.
        journal: hears of progress.
    """

    counts: Counts
    folder: Path
    device: torch.device
    clock: Clock
    journal: Journal

    @property
    def model(self) -> Path:
        """Folder of the finished pipeline, with its judge, prompts and defaults."""
        return self.folder / "model"

    @property
    def pictures(self) -> ShapePictures:
        """The world."""
        return ShapePictures(self.counts.size, self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """CLIP's, with merges that make a token of every word."""
        folder = self.folder / "tokenizer"
        if not folder.exists():
            config = self.counts.training
            with atomic_folder(folder) as scratch:
                save_tokenizer(build_tokenizer(words(), config.vocabulary, config.token_length), scratch)
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def make(self) -> Path:
        """Everything; the model's folder.

        Raises:
            Paused: the clock ran out; the state is saved.
        """
        if self.model.exists():
            return self.model
        config, state = self.counts.training, self.folder / "state"
        with self.journal.part("autoencoder"):
            vae = train_autoencoder(config, self.pictures, state, self.device, self.clock)
        with self.journal.part("text encoder and U-Net"):
            networks = self._train_diffusion(vae, state)
        with self.journal.part("judge"):
            clip = train_clip(config, self.pictures, self.tokenizer, state, self.device, self.clock)
        with self.journal.part("writing the model"), atomic_folder(self.model) as scratch:
            write_pipeline(scratch, {**networks.modules, "vae": vae, "clip": clip}, self.folder / "tokenizer")
            self.write_prompts(scratch)
        return self.model

    def write_prompts(self, folder: Path) -> None:
        """Write the prompts to quantize and to judge with into a model's folder, which says so as any model's may."""
        (folder / "prompts").mkdir()
        held_out = held_out_scenes(self.counts)
        for name, scenes in (("calibration", calibration_scenes(self.counts)), ("held_out", held_out)):
            (folder / "prompts" / f"{name}.txt").write_text("".join(f"{scene.text}\n" for scene in scenes), "utf-8")
        defaults = DefaultsFile(
            name="midsize",
            guidance=self.counts.guidance,
            calibration_prompts="prompts/calibration.txt",
            held_out_prompts="prompts/held_out.txt",
            golden_prompts=(held_out[0].text,),
        )
        write_contract(folder / DEFAULTS_NAME, defaults)

    @torch.no_grad()
    def _pool(self, vae: Any) -> Pool:
        counts, pictures = self.counts, self.pictures
        latents = torch.empty(counts.pool, 4, counts.latent_size, counts.latent_size, dtype=torch.float16, device=self.device)
        ids = torch.empty(counts.pool, self.tokenizer.model_max_length, dtype=torch.int64)
        for first in range(0, counts.pool, _POOL_BATCH):
            random = generator(counts.seed, "pool", first)
            scenes = pictures.draw(min(_POOL_BATCH, counts.pool - first), random)
            part = slice(first, first + len(scenes))
            with torch.autocast(self.device.type, torch.bfloat16):
                mean = vae.encode(pictures.compose(scenes, random)).latent_dist.mean
            latents[part] = (mean.float() * vae.config.scaling_factor).half()
            ids[part] = token_ids(self.tokenizer, [scene.text for scene in scenes])
        return Pool(latents, ids.to(self.device))

    def _train_diffusion(self, vae: Any, folder: Path) -> Diffusion:
        counts, settings = self.counts, self.counts.training.diffusion
        began = time.monotonic()
        pool = self._pool(vae)
        self.journal.say(f"{counts.pool} pictures encoded in {time.monotonic() - began:.1f} s")
        networks = new_diffusion(counts.training, self.tokenizer, self.device, counts.latent_size)
        networks.unet.to(memory_format=torch.channels_last)
        error = NoiseLoss(settings, networks, self.device)
        empty = token_ids(self.tokenizer, [""]).to(self.device)
        shown = settings.batch // counts.parts

        def part_of_step(step: int, part: int) -> Tensor:
            on_host = generator(counts.seed, "unet", step * counts.parts + part)
            here = torch.Generator(self.device).manual_seed(on_host.initial_seed())
            chosen = torch.randint(counts.pool, (shown,), generator=here, device=self.device)
            dropped = torch.rand(shown, 1, generator=here, device=self.device) < settings.caption_drop
            timesteps = stratified_timesteps(shown, error.timesteps, on_host).to(self.device)
            latents = pool.latents[chosen].float()
            return error(latents, torch.where(dropped, empty, pool.ids[chosen]), error.noise(latents, here), timesteps)

        def loss_of_step(step: int) -> Tensor:
            # All parts but the last are run backward here; the loop does the last one, and its loss stands for the step's.
            for part in range(counts.parts - 1):
                (part_of_step(step, part) / counts.parts).backward()
            return part_of_step(step, counts.parts - 1) / counts.parts

        phase = noise_phase(settings, networks)
        if self.device.type == "cuda" and phase.seconds is not None:
            taken = compile_if_possible(networks.unet, lambda: loss_of_step(0), self.journal.say)
            phase = replace(phase, seconds=max(1.0, phase.seconds - taken))
        run(phase, loss_of_step, folder, counts.training.fingerprint(), self.clock)
        # Files of weights know one order of numbers.
        networks.unet.to(memory_format=torch.contiguous_format)
        return networks.finished()


def compile_if_possible(network: Any, loss: Callable[[], Tensor], say: Callable[[str], None]) -> float:
    """Compile a network in place, forward and backward; where that fails it stays as it is. Gives the seconds it took."""
    began = time.monotonic()
    network.compile()
    try:
        for _ in range(_TRIES):
            value = loss()
            value.backward()
            if not math.isfinite(float(value.detach())):
                raise ValueError("the compiled network gives a loss that is not finite")
        words = "compiled"
    except Exception as error:  # whatever a compiler may raise
        network._compiled_call_impl = None
        words = f"not compiled ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    network.zero_grad(set_to_none=True)
    taken = time.monotonic() - began
    say(f"U-Net {words} in {taken:.1f} s")
    return taken
