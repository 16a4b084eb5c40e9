"""What a family of models is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s2p_converters.core.graph import DENOISERS, Denoiser
from s2p_mobile.sources.families.conditioner import Conditioner

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
