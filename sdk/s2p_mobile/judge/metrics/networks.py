"""Which networks judge on this machine."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_mobile.judge.metrics.clip import ClipScorer
from s2p_mobile.judge.metrics.efficientnet_lite import (
    EfficientNetDistance,
    EfficientNetFeatures,
    load_network,
    weights_file,
)
from s2p_mobile.judge.metrics.reference_networks import inception_features, lpips_distance
from s2p_mobile.judge.metrics.similarity import Pictures
from s2p_runtime.errors import S2PError

CLIP_VARIABLE = "S2P_MOBILE_CLIP"


class FeatureNetwork(Protocol):
    """Features for FID and sFID."""

    @property
    def name(self) -> str:
        """What the output calls it."""
        ...

    def features(self, pictures: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 [N, H, W, 3] -> pooled [N, D] and spatial [N, S] features."""
        ...


class PerceptualDistance(Protocol):
    """A distance of two pictures, 0 when they are equal."""

    @property
    def name(self) -> str:
        """What the output calls it."""
        ...

    def distances(self, pictures: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """uint8 [N, H, W, 3] twice -> float64 [N]."""
        ...


class PromptScorer(Protocol):
    """How well pictures fit their prompts."""

    @property
    def name(self) -> str:
        """What the output calls it."""
        ...

    def scores(self, pictures: Pictures, prompts: Sequence[str]) -> NDArray[np.float64]:
        """uint8 [N, H, W, 3] and N prompts -> float64 [N]."""
        ...


@dataclass(frozen=True)
class Missing:
    """No network of a kind is on this machine."""

    reason: str


@dataclass(frozen=True)
class Networks:
    """The judges."""

    features: FeatureNetwork | Missing
    perceptual: PerceptualDistance | Missing
    clip: PromptScorer | Missing


def resolve_networks(model_folder: Path, clip: Path | None = None, device: torch.device | str = "cpu") -> Networks:
    """The best networks at hand: the reference networks when their weights are here, the packaged ones otherwise.

    Args:
        model_folder: of the FP model; its own ``clip/``, when there is one, is the last choice for the CLIP score.
        clip: a CLIP folder; when left out, the environment variable ``S2P_MOBILE_CLIP``.
        device: where the packaged networks and CLIP run; another one rounds differently. The reference networks stay on the
            processor.

    Raises:
        S2PError: a network that was asked for cannot be loaded.
    """
    path = weights_file()
    # A copy: what was loaded is shared by all who ask for it.
    lite = None if path is None else copy.deepcopy(load_network(path)).to(device)
    no_lite = Missing("no feature network here; run pip install 's2p-mobile[evaluate]'")
    return Networks(
        features=inception_features() or (no_lite if lite is None else EfficientNetFeatures(lite)),
        perceptual=lpips_distance() or (no_lite if lite is None else EfficientNetDistance(lite)),
        clip=_clip(model_folder, clip, device),
    )


def _clip(model_folder: Path, folder: Path | None, device: torch.device | str) -> ClipScorer | Missing:
    named = os.environ.get(CLIP_VARIABLE)
    if folder is None and named:
        folder = Path(named)
    if folder is not None:
        if not folder.is_dir():
            raise S2PError(f"CLIP folder {folder} does not exist", "give a folder saved by transformers")
        return ClipScorer(folder, device=device)
    if (model_folder / "clip").is_dir():
        return ClipScorer(model_folder / "clip", own_judge=True, device=device)
    return Missing(f"no CLIP model here; set {CLIP_VARIABLE} to a folder saved by transformers")
