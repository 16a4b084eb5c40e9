"""Kinds of networks that draw, by the class that their configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from s2p_converters.core.graph.operators import Operators
from s2p_converters.core.graph.step_unet import StepUNet
from s2p_converters.core.graph.structure import UNetStructure
from s2p_runtime.registry import Registry


@dataclass(frozen=True)
class Denoiser:
    """A network whose step graph can be built.

    The graph is called with (sample [B, C, H, W], call indices [1] or [B], conditions of B entries each); the first condition is for
    its blocks, the others are for its step tables.

    Attributes:
        kind: the class, ``_class_name`` of its configuration.
        folder: of a model in diffusers layout.
        structure: reads a configuration; raises S2PError naming what cannot be built.
        graph: builds the step graph from (structure, step tables, operators); its layers have the names of the diffusers class.
        time_path: beginnings of the names, or of parts of the names, of weights that step tables stand in for.
        module: where the class is; it is loaded as diffusers' own are.
    """

    kind: str
    folder: str
    structure: Callable[[Mapping[str, Any]], UNetStructure]
    graph: Callable[[UNetStructure, nn.Module, Operators], StepUNet]
    time_path: tuple[str, ...]
    module: str = "diffusers"

    def is_time_path(self, name: str) -> bool:
        """Whether a weight belongs to the time path, so that the graph does not have it."""
        return any(name.startswith(mark) or f".{mark}" in name for mark in self.time_path)


UNET_2D = Denoiser(
    kind="UNet2DConditionModel",
    folder="unet",
    structure=UNetStructure.from_config,
    graph=StepUNet,
    time_path=("time_embedding.", "time_proj.", "add_embedding.", "time_emb_proj."),
)

DENOISERS: Registry[Denoiser] = Registry(
    "denoiser", "s2p_mobile.denoisers", {"UNet2DConditionModel": "s2p_converters.core.graph.denoiser:UNET_2D"}
)


def denoiser_of(config: Mapping[str, Any]) -> Denoiser:
    """The kind of network that a diffusers configuration is of.

    Raises:
        S2PError: an unknown kind.
    """
    return DENOISERS.get(str(config.get("_class_name", UNET_2D.kind)))
