"""Source models: a diffusers folder, recognised by its own configuration and checked before anything heavy is loaded."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s2p_converters.core.plan import own_scheduler
from s2p_converters.core.resources import load_bytes, parameter_count, require_disk, require_memory
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.defaults import ModelDefaults, read_defaults
from s2p_mobile.sources.families import LCM_GUIDANCE
from s2p_mobile.sources.few_steps import FewSteps, few_steps
from s2p_mobile.sources.guidance import guided_unet
from s2p_mobile.sources.latents import latent_spec
from s2p_mobile.sources.lora import COMPONENTS, fuse, parse_lora
from s2p_mobile.sources.modules import check_weights, load_module, read_json
from s2p_mobile.sources.pipeline_index import complete_index, family_of, read_index
from s2p_mobile.sources.pixel_size import PixelSize, SizeLike, latent_size, pixel_size
from s2p_mobile.sources.single_file import unpack
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import

__all__ = ["Model", "as_model", "open_model"]


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
        self.embedded_guidance = None if self.structure.guidance_dim is None else embedded_guidance
        """Of a latent consistency model, built into the time path; else None."""
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
                f"{folder} has an inpainting U-Net (9 input channels: latents, mask, masked picture)",
                "give a text-to-image model, whose U-Net takes the 4 of the latents",
            )
        if found != latent or self.structure.out_channels != latent:
            raise S2PError(
                f"the U-Net of {folder} takes {found} channels and gives {self.structure.out_channels} but the VAE has {latent}",
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


def open_model(
    source: str | Path | None, size: PixelSize | None = None, loras: Sequence[str | Path] | str | Path = ()
) -> Model:
    """Open a model: a diffusers folder, or a single ``.safetensors`` file; None is the built-in demo model.

    A single file, and a model with LoRA, is written as a diffusers folder in the system's temporary folder (``TMPDIR``) and
    removed with the model.

    Args:
        size: of the pictures; the model's own when None.
        loras: ``FILE[:scale]`` each, fused in their order.

    Raises:
        S2PError: as :class:`Model`; a bad file; too little disk.
    """
    path = DEMO_MODEL if source is None else Path(source)
    files = [loras] if isinstance(loras, str | Path) else loras
    parsed = [parse_lora(str(text)) for text in files]
    single = path.is_file() and path.suffix == ".safetensors"
    if not single and not parsed:
        return Model(path, size)
    given = None if single else Model(path, size)
    name = path.stem if given is None else given.name
    # A finished checkpoint in the folder is of the weights without LoRA.
    defaults = None if given is None else replace(given.defaults, checkpoint=None)
    scratch = TemporaryDirectory(prefix="s2p-mobile-")
    try:
        if single:
            where, remedy = Path(scratch.name), "set TMPDIR to a folder on a larger disk"
            require_disk(where, path.stat().st_size, f"unpacking {path.name}", remedy)
            path = _stage(scratch, "model")
            unpack(Path(str(source)), path)
            complete_index(path)
        for index, (file, scale) in enumerate(parsed):
            fused = _stage(scratch, f"lora-{index}")
            needed = 4 * sum(parameter_count(path / part) for part in COMPONENTS)
            require_disk(fused, needed, f"fusing {file.name}", "set TMPDIR to a folder on a larger disk")
            fuse(path, fused, file, scale)
            path, name = fused, f"{name}+{file.stem}"
        model = Model(path, size, name, defaults=defaults)
    except BaseException:
        scratch.cleanup()
        raise
    model.scratch = scratch
    model.sources = ((DEMO_MODEL if source is None else Path(source), ""), *((file, str(scale)) for file, scale in parsed))
    return model


def as_model(
    source: Model | str | Path | None, size: SizeLike | None = None, lora: Sequence[str | Path] | str | Path = ()
) -> Model:
    """A model, opened unless it is.

    Raises:
        S2PError: as :func:`open_model`; another size, or LoRA, for a model that is open already.
    """
    wanted = PixelSize.of(size)
    if not isinstance(source, Model):
        return open_model(source, wanted, lora)
    if lora or (wanted is not None and wanted != source.picture_size):
        what = "lora" if lora else "size"
        raise S2PError(f"the model {source.name} is open already", f"give `{what}` where it is loaded", what)
    return source


def _stage(scratch: TemporaryDirectory[str], name: str) -> Path:
    folder = Path(scratch.name) / name
    folder.mkdir()
    return folder
