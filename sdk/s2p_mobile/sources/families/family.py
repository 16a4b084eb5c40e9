"""Families of models, and which one a model belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s2p_converters.core.graph import DENOISERS, Denoiser
from s2p_mobile.sources.families.conditioner import Conditioner
from s2p_runtime.errors import S2PError
from s2p_runtime.registry import Registry

Config = Mapping[str, Any]
Configs = Mapping[str, Config]
"""Component (a folder of the model) -> content of its ``config.json``."""

LCM_GUIDANCE = 8.5
"""Guidance that diffusers' LatentConsistencyModelPipeline embeds by default."""
LCM_STEPS = 4


@dataclass(frozen=True)
class Family:
    """A kind of Stable Diffusion.

    Attributes:
        needs: what a model folder of this family holds, for people.
        pipelines: diffusers classes in ``model_index.json``.
        denoiser_kind: diffusers class of its denoiser, one of :data:`DENOISERS`.
        folders: components beside the denoiser, all needed; text encoders are those whose names begin so.
        conditioner: how texts become what the denoiser is told.
        guidance: default classifier-free guidance.
        steps: default denoising steps, with the model's own scheduler.
        recipe: default recipe.
        scaling_factor: of the latents, where the VAE's configuration does not say.
        matches: decides from the configurations of the components.
    """

    name: str
    title: str
    needs: str
    pipelines: tuple[str, ...]
    folders: tuple[str, ...]
    conditioner: type[Conditioner]
    guidance: float
    scaling_factor: float
    matches: Callable[[Configs], bool]
    denoiser_kind: str = "UNet2DConditionModel"
    steps: int = 25
    recipe: str = "w4a8-mixed"

    @property
    def denoiser(self) -> Denoiser:
        """The network that draws."""
        return DENOISERS.get(self.denoiser_kind)

    @property
    def components(self) -> tuple[str, ...]:
        """Folders of a model, the denoiser's first."""
        return (self.denoiser.folder, *self.folders)

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Folders of the text encoders."""
        return tuple(name for name in self.folders if name.startswith("text_encoder"))


_BUILT_IN = {
    "sd1": "s2p_mobile.sources.families.stable_diffusion:SD1",
    "sd2": "s2p_mobile.sources.families.stable_diffusion:SD2",
    "sdxl": "s2p_mobile.sources.families.stable_diffusion:SDXL",
}
FAMILIES: Registry[Family] = Registry("family", "s2p_mobile.families", _BUILT_IN)


def families_in_order() -> list[Family]:
    """Every installed family in the order in which they are asked: those of plug-ins by name, which may be more particular, then the
    built-in ones."""
    entries = FAMILIES.entries
    return [entries[name] for name in sorted(set(entries) - set(_BUILT_IN))] + [entries[name] for name in _BUILT_IN]


def recognise(name: str, configs: Configs) -> Family:
    """The family of a model: the first of :func:`families_in_order` that says so.

    Args:
        name: of the model, for the message.

    Raises:
        S2PError: no family knows it.
    """
    families = families_in_order()
    for family in families:
        if family.matches(configs):
            return family
    text = configs.get("text_encoder", {})
    kind, act = (text.get("architectures") or ["unknown"])[0], text.get("hidden_act")
    raise S2PError(
        f"{name} belongs to no known family (its text encoder is a {kind} with hidden_act {act!r})",
        f"known are {', '.join(family.name for family in families)}",
    )
