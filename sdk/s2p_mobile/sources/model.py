"""Source models: a diffusers folder, recognised by its own configuration and checked before anything heavy is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s2p_converters.core.graph import UNetStructure
from s2p_converters.core.resources import load_bytes, parameter_count, require_disk, require_memory
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.defaults import ModelDefaults, read_defaults
from s2p_mobile.sources.families import FAMILIES, LCM_GUIDANCE, LCM_STEPS, Family, recognise, refuse_folder, refuse_pipeline
from s2p_mobile.sources.guidance import fold_guidance
from s2p_mobile.sources.lora import COMPONENTS, fuse, parse_lora
from s2p_mobile.sources.modules import check_weights, load_module, read_json
from s2p_mobile.sources.picture_size import PictureSize, SizeLike, latent_size, vae_factor
from s2p_mobile.sources.single_file import unpack
from s2p_runtime.bundle import Conditioning, LatentSpec, TokenizerSpec, size_ids
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import

__all__ = ["FAMILIES", "Family", "Model", "open_model", "tokenizer_spec"]

_GIVE = "give a diffusers folder or a .safetensors file, or none for the built-in model"


class Model(Components):
    """An FP Stable Diffusion model. Weights are loaded at first use, in float32."""

    def __init__(
        self,
        folder: Path,
        size: PictureSize | None = None,
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
        if not folder.exists():
            raise S2PError(f"model folder {folder} does not exist", _GIVE)
        if not folder.is_dir() or not any(folder.iterdir()):
            what = "is empty" if folder.is_dir() else "is not a folder"
            raise S2PError(f"model folder {folder} {what}", _GIVE)
        if not (folder / "model_index.json").is_file():
            raise refuse_folder(folder, read_json(folder / "config.json") if (folder / "config.json").is_file() else {})
        self.index = read_json(folder / "model_index.json")
        refuse_pipeline(folder, self.index)
        for part in ("unet", "text_encoder", "vae"):
            if not (folder / part).is_dir():
                raise S2PError(f"{folder} lacks {part}/", "export the model again with diffusers")
        self.defaults = read_defaults(folder) if defaults is None else defaults
        self.name = name or self.defaults.name or folder.resolve().name
        self.unet_config = read_json(folder / "unet" / "config.json")
        self.vae_config = read_json(folder / "vae" / "config.json")
        text_config = read_json(folder / "text_encoder" / "config.json")
        self.structure = UNetStructure.from_config(self.unet_config)
        self.family = recognise(str(folder), self.unet_config, text_config)
        if self.index["_class_name"] not in self.family.pipelines:
            raise S2PError(
                f"{folder} says {self.index['_class_name']} but its U-Net is one of {self.family.name}",
                "correct model_index.json or get the model again",
            )
        for part in self.family.folders:
            if not (folder / part).is_dir():
                raise S2PError(f"{folder} lacks {part}/", "export the model again with diffusers")
        for part in ("unet", "vae", *self.family.text_encoders):
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
        spec = tokenizer_spec(folder / "tokenizer", text_config.get("max_position_embeddings", 77))
        self.scratch: TemporaryDirectory[str] | None = None
        """Keeps the folder of a model that was unpacked or fused; removed with the model."""
        super().__init__(folder, spec, latents, self._conditioning(folder, spec, latents))
        for part in self.family.text_encoders:
            _require_words(folder, part)

    def _conditioning(self, folder: Path, spec: TokenizerSpec, latents: LatentSpec) -> Conditioning | None:
        """SDXL's settings.

        Raises:
            S2PError: the second tokenizer differs in more than its padding.
        """
        if self.structure.text_time is None:
            return None
        other = tokenizer_spec(folder / "tokenizer_2", spec.max_length)
        own = {name: (folder / "tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
        same_files = all((folder / "tokenizer_2" / name).read_bytes() == content for name, content in own.items())
        if not same_files or other.model_copy(update={"pad_id": spec.pad_id}) != spec:
            raise S2PError(
                f"the tokenizers of {folder} differ in more than their padding",
                "give a model whose tokenizer_2 has the vocabulary, the length and the special tokens of tokenizer",
            )
        factor = vae_factor(self.vae_config)
        return Conditioning(
            second_pad_id=other.pad_id,
            zero_unconditional=bool(self.index.get("force_zeros_for_empty_prompt", True)),
            time_ids=size_ids(latents.width * factor, latents.height * factor),
        )

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
    def picture_size(self) -> PictureSize:
        """Of the pictures that the model draws."""
        factor = vae_factor(self.vae_config)
        return PictureSize(width=self.latents.width * factor, height=self.latents.height * factor)

    @cached_property
    def unet(self) -> Any:
        """diffusers UNet2DConditionModel, float32; the guidance of a latent consistency model is built in."""
        with quiet_import():
            from diffusers import UNet2DConditionModel
        unet = load_module(UNet2DConditionModel, self.folder / "unet")
        if self.embedded_guidance is not None:
            fold_guidance(unet, self.embedded_guidance)
        return unet

    def load(self) -> None:
        """Load every component now, so that damage is found before anything is written.

        Raises:
            S2PError: a component's weights are damaged, do not belong to its configuration or have an infinity or NaN; too little
            memory for all of them.
        """
        parts = ("unet", "vae", *self.family.text_encoders)
        require_memory(load_bytes(self.folder, parts), f"{self.name} in float32")
        assert self.text_encoder and self.vae and self.unet
        assert self.text_encoder_2 is None or self.family.name == "sdxl"

    @property
    def unet_sha256(self) -> str:
        """SHA-256 over the U-Net's weight files, in the order of their names."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / "unet").glob("*.safetensors")):
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    @property
    def unet_fp32_bytes(self) -> int:
        """Parameters of the U-Net, time path included, at four bytes each."""
        return sum(p.numel() for p in self.unet.parameters()) * 4


def _require_words(folder: Path, encoder: str) -> None:
    """Refuse a tokenizer with ids that its text encoder has no embedding of.

    Raises:
        S2PError: as described.
    """
    words = read_json(folder / encoder / "config.json").get("vocab_size")
    vocabulary = folder / encoder.replace("text_encoder", "tokenizer") / "vocab.json"
    if words is None or not vocabulary.is_file():
        return
    needed = 1 + max((number for number in read_json(vocabulary).values() if isinstance(number, int)), default=-1)
    if needed > words:
        raise S2PError(
            f"the vocabulary of {vocabulary.parent} has {needed} words but {encoder}/ knows {words}",
            "export the model again with diffusers, tokenizer and text encoder together",
        )


def tokenizer_spec(folder: Path, positions: int) -> TokenizerSpec:
    """Tokenizer settings of a diffusers ``tokenizer`` folder; file names are relative to a bundle.

    Raises:
        S2PError: vocabulary or a special token missing.
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise S2PError(f"{folder} lacks {name}", "export the model again with diffusers")
    vocab = read_json(folder / "vocab.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}

    def token_id(key: str, default: str) -> int:
        token = config.get(key, default)
        text = token["content"] if isinstance(token, dict) else token
        if text not in vocab:
            raise S2PError(f"{folder}/vocab.json lacks the {key} {text!r}", "export the model again with diffusers")
        return int(vocab[text])

    eos = token_id("eos_token", "<|endoftext|>")
    return TokenizerSpec(
        kind="clip",
        vocab="tokenizer/vocab.json",
        merges="tokenizer/merges.txt",
        max_length=min(int(config.get("model_max_length", positions)), positions),
        bos_id=token_id("bos_token", "<|startoftext|>"),
        eos_id=eos,
        pad_id=token_id("pad_token", "<|endoftext|>"),
    )


def open_model(
    source: str | Path | None, size: PictureSize | None = None, loras: Sequence[str | Path] | str | Path = ()
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
    return model


def as_model(
    source: Model | str | Path | None, size: SizeLike | None = None, lora: Sequence[str | Path] | str | Path = ()
) -> Model:
    """A model, opened unless it is.

    Raises:
        S2PError: as :func:`open_model`; another size, or LoRA, for a model that is open already.
    """
    wanted = PictureSize.of(size)
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
