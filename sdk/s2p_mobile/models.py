"""Source models: a diffusers folder, recognised by its own configuration and checked before anything heavy is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from s2p_converters.unet import UNetStructure
from s2p_mobile.components import COMPONENT_FOLDERS, Components, load_module, read_json
from s2p_mobile.demo import DEMO_MODEL
from s2p_runtime.bundle import LatentSpec, TokenizerSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import

DEMO_NAME = "demo"
_FOLDERS = ("unet", *COMPONENT_FOLDERS)
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclass(frozen=True)
class Family:
    """A kind of Stable Diffusion.

    Attributes:
        needs: what a model folder of this family holds.
        guidance: default classifier-free guidance.
        matches: decides from (unet config, text encoder config).
    """

    name: str
    title: str
    needs: str
    guidance: float
    matches: Callable[[dict[str, Any], dict[str, Any]], bool]


_NEEDS = "diffusers folder with unet, text_encoder, vae, tokenizer and scheduler, weights as .safetensors"
FAMILIES = (
    Family(
        "sd1",
        "Stable Diffusion 1.x and its relatives (CLIP-L text encoder)",
        _NEEDS,
        7.5,
        lambda unet, text: text.get("hidden_act") == "quick_gelu",
    ),
    Family(
        "sd2",
        "Stable Diffusion 2.x (OpenCLIP-H text encoder, linear projections)",
        _NEEDS,
        7.5,
        lambda unet, text: text.get("hidden_act") == "gelu",
    ),
)


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise S2PError(
            f"{folder} has pickled weights only, which are never read; save the model with safe_serialization=True first"
        )
    raise S2PError(f"{folder} has no .safetensors file; export the model again with diffusers")


class Model(Components):
    """An FP Stable Diffusion model. Weights are loaded at first use, in float32."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            S2PError: folder missing or empty, no diffusers pipeline, another kind of pipeline, pickled weights, unknown family.
        """
        if not folder.exists():
            raise S2PError(
                f"model folder {folder} does not exist; give a diffusers folder, or leave MODEL out for the demo model"
            )
        if not folder.is_dir() or not any(folder.iterdir()):
            what = "is empty" if folder.is_dir() else "is not a folder"
            raise S2PError(f"model folder {folder} {what}; give a diffusers folder, or leave MODEL out for the demo model")
        if not (folder / "model_index.json").is_file():
            raise S2PError(
                f"{folder} has no model_index.json, so it is no diffusers model; give the folder that holds model_index.json"
            )
        index = read_json(folder / "model_index.json")
        kind = index.get("_class_name")
        if kind != "StableDiffusionPipeline":
            raise S2PError(f"{folder} holds a {kind}; supported is StableDiffusionPipeline")
        for name in _FOLDERS:
            if not (folder / name).is_dir():
                raise S2PError(f"{folder} lacks {name}/; export the model again with diffusers")
        for name in ("unet", "text_encoder", "vae"):
            _check_weights(folder / name)
        self.name = DEMO_NAME if folder == DEMO_MODEL else folder.resolve().name
        self.unet_config = read_json(folder / "unet" / "config.json")
        self.vae_config = read_json(folder / "vae" / "config.json")
        text_config = read_json(folder / "text_encoder" / "config.json")
        self.structure = UNetStructure.from_config(self.unet_config)
        self.family = next((f for f in FAMILIES if f.matches(self.unet_config, text_config)), None) or _unknown(folder)
        height, width = self.structure.sample_size
        latents = LatentSpec(
            channels=self.structure.in_channels,
            height=height,
            width=width,
            scaling_factor=self.vae_config.get("scaling_factor", 0.18215),
            shift_factor=self.vae_config.get("shift_factor") or 0.0,
        )
        spec = tokenizer_spec(folder / "tokenizer", text_config.get("max_position_embeddings", 77))
        super().__init__(folder, spec, latents)

    @property
    def guidance(self) -> float:
        """Default guidance: the family's, 4 for the demo model."""
        return 4.0 if self.folder == DEMO_MODEL else self.family.guidance

    @cached_property
    def unet(self) -> Any:
        """diffusers UNet2DConditionModel, float32."""
        with quiet_import():
            from diffusers import UNet2DConditionModel
        return load_module(UNet2DConditionModel, self.folder / "unet")

    def load(self) -> None:
        """Load every component now, so that damage is found before anything is written.

        Raises:
            S2PError: a component's weights are damaged or do not belong to its configuration.
        """
        assert self.text_encoder and self.vae and self.unet

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


def _unknown(folder: Path) -> Family:
    raise S2PError(f"the text encoder of {folder} belongs to no known family; known are {', '.join(f.name for f in FAMILIES)}")


def tokenizer_spec(folder: Path, positions: int) -> TokenizerSpec:
    """Tokenizer settings of a diffusers ``tokenizer`` folder; file names are relative to a bundle.

    Raises:
        S2PError: vocabulary or a special token missing.
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise S2PError(f"{folder} lacks {name}; export the model again with diffusers")
    vocab = read_json(folder / "vocab.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}

    def token_id(key: str, default: str) -> int:
        token = config.get(key, default)
        text = token["content"] if isinstance(token, dict) else token
        if text not in vocab:
            raise S2PError(f"{folder}/vocab.json lacks the {key} {text!r}; export the model again with diffusers")
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


def open_model(source: str | Path | None) -> Model:
    """Open a model folder; None or ``demo`` is the built-in demo model."""
    return Model(DEMO_MODEL if source is None or str(source) == DEMO_NAME else Path(source))
