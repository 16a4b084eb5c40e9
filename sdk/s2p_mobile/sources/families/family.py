"""What a family of models is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from s2p_converters.core.graph import DENOISERS, Denoiser
from s2p_mobile.sources.families.conditioner import Conditioner

Config = Mapping[str, Any]
Configs = Mapping[str, Config]
"""Component (a folder of the model) -> content of its ``config.json``."""

LCM_GUIDANCE = 8.5
"""Guidance that diffusers' LatentConsistencyModelPipeline embeds by default."""
LCM_STEPS = 4

_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_CLASSES = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": _TOKENIZERS,
    "tokenizer_2": _TOKENIZERS,
}


def text_to_image(pipeline: str) -> str:
    """The pipeline that draws from texts with the components of another one, as ``AutoPipelineForText2Image`` of diffusers pairs
    them: a folder saved from image-to-image holds the same model."""
    return pipeline.replace("Img2Img", "")


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
        takes_statistics: its pipeline decodes with the VAE's ``latents_mean`` and ``latents_std``, where it has both.
        takes_shift: its pipeline decodes with the VAE's ``shift_factor``.
        component_classes: folder -> classes that its component may be of, the usual one first; others are not looked at.
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
    takes_statistics: bool = False
    takes_shift: bool = False
    component_classes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _CLASSES)

    @property
    def denoiser(self) -> Denoiser:
        """The network that draws."""
        return DENOISERS.get(self.denoiser_kind)

    @property
    def components(self) -> tuple[str, ...]:
        """Folders of a model, the denoiser's first."""
        return (self.denoiser.folder, *self.folders)

    def classes(self, component: str) -> tuple[str, ...]:
        """Classes that a component may be of; none: whatever it is."""
        if component == self.denoiser.folder:
            return (self.denoiser.kind,)
        return self.component_classes.get(component, ())

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Folders of the text encoders."""
        return tuple(name for name in self.folders if name.startswith("text_encoder"))
