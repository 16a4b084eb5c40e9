"""Source models: a diffusers folder, recognised by its own configuration and checked before anything heavy is loaded."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s2p_converters.core.plan import own_scheduler
from s2p_converters.core.resources import load_bytes, require_memory
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.defaults import ModelDefaults, read_defaults
from s2p_mobile.sources.families import LCM_GUIDANCE
from s2p_mobile.sources.few_steps import FewSteps, few_steps
from s2p_mobile.sources.guidance import guided_unet
from s2p_mobile.sources.latents import latent_spec
from s2p_mobile.sources.modules import load_module, read_json
from s2p_mobile.sources.origin import title
from s2p_mobile.sources.pipeline_index import family_of, read_index
from s2p_mobile.sources.pixel_size import PixelSize, latent_size, pixel_size
from s2p_mobile.sources.weight_folder import check_weights
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import


class Model(Components):
    """An FP Stable Diffusion model. Weights are loaded at first use, in float32."""

    def __init__(
        self,
        folder: Path,
        size: PixelSize | None = None,
        name: str | None = None,
        *,
        embedded_guidance: float | None = None,
        defaults: ModelDefaults | None = None,
    ) -> None:
        """
        Args:
            folder: in diffusers layout.
            size: of the pictures; the configuration's when None.
            name: the model's; what its defaults say, or the folder's, when None.
            embedded_guidance: of a latent consistency model, whose time path takes the guidance; others ignore it. What its
                defaults say, else that of diffusers' pipeline, when None.
            defaults: what the model says about itself; read from the folder when None.

        Raises:
            S2PError: folder missing or empty, no diffusers pipeline, another kind of pipeline, pickled weights, unknown family,
                a size that the U-Net cannot draw, defaults that are not valid.
        """
        self.index = read_index(folder)
        self.defaults = read_defaults(folder) if defaults is None else defaults
        self.name = name or self.defaults.name or folder.resolve().name
        self.family = family_of(folder, self.index)
        self.denoiser = self.family.denoiser
        self.unet_config = read_json(folder / self.denoiser.folder / "config.json")
        self.vae_config = read_json(folder / "vae" / "config.json")
        self.structure = self.denoiser.structure(self.unet_config)
        for part in self.weighty_folders:
            check_weights(folder / part)
        self._refuse_other_inputs(folder)
        height, width = latent_size(self.structure, self.vae_config, size)
        self.structure = replace(self.structure, sample_size=(height, width))
        self.unet_config["sample_size"] = [height, width] if height != width else height
        latents = latent_spec(folder, self.family, self.structure, self.vae_config)
        told = LCM_GUIDANCE if self.defaults.guidance is None else self.defaults.guidance
        taken = told if embedded_guidance is None else embedded_guidance
        self.embedded_guidance = None if self.structure.guidance_dim is None else taken
        """Of a latent consistency model, built into the time path; else None."""
        self._loaded = False
        self.scratch: TemporaryDirectory[str] | None = None
        """Keeps the folder of a model that was unpacked or fused; removed with the model."""
        self.sources: tuple[tuple[Path, str], ...] = ((folder, ""),)
        """Where the weights come from: files or folders, each with what was said about it, such as a LoRA's scale."""
        drawn = pixel_size(latents, self.vae_config)
        super().__init__(folder, self.family.conditioner.of_model(folder, self.index, self.structure, drawn), latents)

    def _refuse_other_inputs(self, folder: Path) -> None:
        latent = self.vae_config.get("latent_channels", 4)
        found = self.structure.in_channels
        if found == 9 and latent == 4:
            raise S2PError(
                f"{title(folder)} has an inpainting U-Net (9 input channels: latents, mask, masked picture)",
                "give a text-to-image model, whose U-Net takes the 4 of the latents",
            )
        if found != latent or self.structure.out_channels != latent:
            raise S2PError(
                f"the U-Net of {title(folder)} takes {found} channels and gives {self.structure.out_channels} "
                f"but the VAE has {latent}",
                "give a text-to-image model",
            )

    @property
    def weighty_folders(self) -> tuple[str, ...]:
        """Components with weights, the denoiser first."""
        return (self.denoiser.folder, "vae", *self.family.text_encoders)

    @cached_property
    def few_steps(self) -> FewSteps | None:
        """What a model that was trained for few steps is meant to be run with; None: it is not one of these, or does not say so.

        Raises:
            S2PError: a scheduler that is not part of diffusers, or one with EDM's preconditioning.
        """
        return few_steps(own_scheduler(self.folder / "scheduler"), self.index, self.unet_config, self.name)

    @property
    def guidance(self) -> float:
        """Default classifier-free guidance: the model's own, else the family's; 1 (none) where it is embedded (LCM)."""
        if self.embedded_guidance is not None:
            return 1.0
        if self.defaults.guidance is not None:
            return self.defaults.guidance
        return self.family.guidance if self.few_steps is None else self.few_steps.guidance

    def with_embedded_guidance(self, guidance: float) -> Model:
        """The same latent consistency model with another guidance in its time path; nothing of it is loaded yet."""
        other = Model(self.folder, self.picture_size, self.name, embedded_guidance=guidance, defaults=self.defaults)
        other.scratch, other.sources = self.scratch, self.sources
        return other

    @property
    def steps(self) -> int:
        """Default denoising steps."""
        return self.family.steps if self.few_steps is None else self.few_steps.steps

    @property
    def picture_size(self) -> PixelSize:
        """Of the pictures that the model draws."""
        return pixel_size(self.latents, self.vae_config)

    @cached_property
    def diffusers_unet(self) -> Any:
        """The denoiser as diffusers has it, float32."""
        with quiet_import():
            kind = getattr(importlib.import_module(self.denoiser.module), self.denoiser.kind)
        return load_module(kind, self.folder / self.denoiser.folder)

    @cached_property
    def unet(self) -> Any:
        """The same with the guidance of a latent consistency model built in; the weights are those of :attr:`diffusers_unet`."""
        guidance = self.embedded_guidance
        return self.diffusers_unet if guidance is None else guided_unet(self.diffusers_unet, guidance)

    def load(self) -> None:
        """Load every component now, so that damage is found before anything is written.

        Raises:
            S2PError: a component's weights are damaged, do not belong to its configuration or have an infinity or NaN; too little
            memory for all of them.
        """
        if self._loaded:
            return
        require_memory(load_bytes(self.folder, self.weighty_folders), f"{self.name} in float32")
        self.conditioner.load()
        assert self.vae and self.unet
        self._loaded = True

    def import_classes(self) -> None:
        """Import the classes of the components: of a small model, most of the time that loading takes."""
        entries = [(self.denoiser.module, self.denoiser.kind), *(self.index.get(part) for part in self.weighty_folders[1:])]
        with quiet_import():
            for entry in filter(None, entries):
                library, kind = entry
                getattr(importlib.import_module(library), kind)

    def release(self) -> None:
        """Let go of the denoiser's weights, which are loaded again when they are asked for."""
        for name in ("unet", "diffusers_unet"):
            self.__dict__.pop(name, None)

    @cached_property
    def unet_sha256(self) -> str:
        """SHA-256 over the U-Net's weight files, in the order of their names."""
        return self._sha256(self.denoiser.folder)

    @cached_property
    def text_sha256(self) -> tuple[str, ...]:
        """The same over weights and configuration of each text encoder: a LoRA or a learned word may change these alone."""
        return tuple(self._sha256(name, "config.json") for name in self.family.text_encoders)

    def _sha256(self, component: str, *others: str) -> str:
        digest, folder = hashlib.sha256(), self.folder / component
        for path in (*sorted(folder.glob("*.safetensors")), *(folder / name for name in others)):
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    @property
    def unet_fp32_bytes(self) -> int:
        """Parameters of the U-Net, time path included, at four bytes each."""
        return sum(p.numel() for p in self.unet.parameters()) * 4
