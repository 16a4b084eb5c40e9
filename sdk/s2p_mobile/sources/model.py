"""Source models: a diffusers folder, recognised by its own configuration and checked before anything heavy is loaded."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s2p_converters.core.resources import load_bytes, require_memory
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.defaults import ModelDefaults, read_defaults
from s2p_mobile.sources.families import (
    LCM_GUIDANCE,
    LCM_STEPS,
    Family,
    families_in_order,
    recognise,
    refuse_folder,
    refuse_pipeline,
)
from s2p_mobile.sources.guidance import fold_guidance
from s2p_mobile.sources.modules import load_module, read_json
from s2p_mobile.sources.pixel_size import PixelSize, latent_size, pixel_size
from s2p_mobile.sources.weight_folder import check_weights
from s2p_runtime.bundle import LatentSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import

_GIVE = "give a diffusers folder or a .safetensors file, or none for the built-in model"


class Model(Components):
    """An FP Stable Diffusion model. Weights are loaded at first use, in float32."""

    def __init__(
        self,
        folder: Path,
        size: PixelSize | None = None,
        name: str | None = None,
        *,
        embedded_guidance: float = LCM_GUIDANCE,
        defaults: ModelDefaults | None = None,
    ) -> None:
        """
        Args:
            folder: in diffusers layout.
            size: of the pictures; the configuration's when None.
            name: the model's; what its defaults say, or the folder's, when None.
            embedded_guidance: of a latent consistency model, whose time path takes the guidance; others ignore it.
            defaults: what the model says about itself; read from the folder when None.

        Raises:
            S2PError: folder missing or empty, no diffusers pipeline, another kind of pipeline, pickled weights, unknown family,
                a size that the U-Net cannot draw, defaults that are not valid.
        """
        self.index = _pipeline_index(folder)
        self.defaults = read_defaults(folder) if defaults is None else defaults
        self.name = name or self.defaults.name or folder.resolve().name
        self.family = _family(folder, self.index)
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
        latents = LatentSpec(
            channels=self.structure.in_channels,
            height=height,
            width=width,
            scaling_factor=self.vae_config.get("scaling_factor", self.family.scaling_factor),
            shift_factor=self.vae_config.get("shift_factor") or 0.0,
        )
        self.embedded_guidance = None if self.structure.guidance_dim is None else embedded_guidance
        """Of a latent consistency model, built into the time path; else None."""
        self.scratch: TemporaryDirectory[str] | None = None
        """Keeps the folder of a model that was unpacked or fused; removed with the model."""
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

    @property
    def guidance(self) -> float:
        """Default classifier-free guidance: the model's own, else the family's; 1 (none) where it is embedded (LCM)."""
        if self.embedded_guidance is not None:
            return 1.0
        return self.family.guidance if self.defaults.guidance is None else self.defaults.guidance

    def with_embedded_guidance(self, guidance: float) -> Model:
        """The same latent consistency model with another guidance in its time path; nothing of it is loaded yet."""
        other = Model(self.folder, self.picture_size, self.name, embedded_guidance=guidance, defaults=self.defaults)
        other.scratch = self.scratch
        return other

    @property
    def steps(self) -> int:
        """Default denoising steps."""
        return self.family.steps if self.embedded_guidance is None else LCM_STEPS

    @property
    def picture_size(self) -> PixelSize:
        """Of the pictures that the model draws."""
        return pixel_size(self.latents, self.vae_config)

    @cached_property
    def unet(self) -> Any:
        """The denoiser itself, float32; the guidance of a latent consistency model is built in."""
        with quiet_import():
            kind = getattr(importlib.import_module(self.denoiser.module), self.denoiser.kind)
        unet = load_module(kind, self.folder / self.denoiser.folder)
        if self.embedded_guidance is not None:
            fold_guidance(unet, self.embedded_guidance)
        return unet

    def load(self) -> None:
        """Load every component now, so that damage is found before anything is written.

        Raises:
            S2PError: a component's weights are damaged, do not belong to its configuration or have an infinity or NaN; too little
            memory for all of them.
        """
        require_memory(load_bytes(self.folder, self.weighty_folders), f"{self.name} in float32")
        self.conditioner.load()
        assert self.vae and self.unet

    @property
    def unet_sha256(self) -> str:
        """SHA-256 over the U-Net's weight files, in the order of their names."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / self.denoiser.folder).glob("*.safetensors")):
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    @property
    def unet_fp32_bytes(self) -> int:
        """Parameters of the U-Net, time path included, at four bytes each."""
        return sum(p.numel() for p in self.unet.parameters()) * 4


def _pipeline_index(folder: Path) -> dict[str, Any]:
    """Content of ``model_index.json``.

    Raises:
        S2PError: no folder of a pipeline that an installed family knows.
    """
    if not folder.exists():
        raise S2PError(f"model folder {folder} does not exist", _GIVE)
    if not folder.is_dir() or not any(folder.iterdir()):
        what = "is empty" if folder.is_dir() else "is not a folder"
        raise S2PError(f"model folder {folder} {what}", _GIVE)
    if not (folder / "model_index.json").is_file():
        raise refuse_folder(folder, read_json(folder / "config.json") if (folder / "config.json").is_file() else {})
    index = read_json(folder / "model_index.json")
    refuse_pipeline(folder, index)
    return index


def _family(folder: Path, index: Mapping[str, Any]) -> Family:
    """The family of a pipeline's folder.

    Raises:
        S2PError: a component missing, an unknown family, or one that is not of the pipeline.
    """
    pipeline = str(index["_class_name"])
    candidates = [family.components for family in families_in_order() if pipeline in family.pipelines]
    shared = [part for part in candidates[0] if all(part in others for others in candidates)]
    _require_folders(folder, shared)
    described = [part for part in shared if not part.startswith(("tokenizer", "scheduler"))]
    family = recognise(str(folder), {part: read_json(folder / part / "config.json") for part in described})
    if pipeline not in family.pipelines:
        raise S2PError(
            f"{folder} says {pipeline} but its U-Net is one of {family.name}",
            "correct model_index.json or get the model again",
        )
    _require_folders(folder, family.components)
    return family


def _require_folders(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise S2PError(f"{folder} lacks {part}/", "export the model again with diffusers")
