"""The one table of all names by which a file may call a layer of a model, made from the model's own layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from s2p_mobile.sources.lora.original_names import original_unet_names
from s2p_runtime.errors import S2PError

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_PREFIXES = {
    "unet": ("unet", "lora_unet", "diffusion_model", "model.diffusion_model"),
    "text_encoder": ("text_encoder", "lora_te", "lora_te1", "clip_l", "clip_l.transformer", "text_encoders.clip_l.transformer"),
    "text_encoder_2": ("text_encoder_2", "lora_te2", "clip_g", "clip_g.transformer", "text_encoders.clip_g.transformer"),
}
"""diffusers and peft; kohya's sd-scripts and OneTrainer; ComfyUI."""
_ANY = ("", "lycoris")
"""No prefix: older diffusers, and what peft saves of one network alone. LyCORIS without kohya's scripts has its own."""


@dataclass(frozen=True)
class Layer:
    """A layer of a model, named as in its component's files."""

    component: str
    name: str
    has_bias: bool = False

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        return f"{self.name}.bias"


Spellings = dict[str, tuple[Layer, ...]]
"""Name in a file -> the layer that it means; more than one where it does not say of which text encoder."""


def spellings(source: Path) -> Spellings:
    """Every name, with dots and, as kohya writes it, with underscores, of every layer that has a weight.

    Args:
        source: model in diffusers layout.

    Raises:
        S2PError: a damaged weight file.
    """
    table: Spellings = {}
    for component in COMPONENTS:
        layers = _layers(source / component)
        original = original_unet_names(layers) if component == "unet" else {}
        for name, has_bias in layers.items():
            layer = Layer(component, name, has_bias)
            for spelled in {*_variants(component, name), original.get(name, name)}:
                for prefix in (*_PREFIXES[component], *_ANY):
                    dotted = f"{prefix}.{spelled}" if prefix else spelled
                    for key in {dotted, dotted.replace(".", "_") if prefix else dotted}:
                        known = table.get(key, ())
                        table[key] = known if layer in known else (*known, layer)
    return table


def _layers(folder: Path) -> dict[str, bool]:
    """Name of a layer with a weight -> whether it has a bias."""
    keys: dict[str, None] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as handle:
                keys |= dict.fromkeys(handle.keys())
        except (OSError, SafetensorError) as error:
            raise S2PError(f"{file} cannot be read as safetensors ({error})", "get the file again") from error
    names = [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]
    return {name: f"{name}.bias" in keys for name in names}


def _variants(component: str, name: str) -> Iterator[str]:
    """Names of a layer in the several generations of diffusers and transformers."""
    if component == "unet":
        yield name
        inner, dot, projection = name.rpartition(".to_")
        if dot and inner.endswith(("attn1", "attn2")):
            # Older diffusers: the attention's processor held the LoRA, and the output was no list.
            for place in (inner, f"{inner}.processor"):
                yield f"{place}.to_{projection}"
                yield f"{place}.to_{projection.removesuffix('.0')}"
        return
    # Text encoders are saved with and without the model's own prefix.
    bare = name.removeprefix("text_model.")
    for spelled in (bare, f"text_model.{bare}"):
        yield spelled
        inner, dot, projection = spelled.rpartition(".self_attn.")
        if dot:
            yield f"{inner}.self_attn.to_{projection.removesuffix('_proj')}"
