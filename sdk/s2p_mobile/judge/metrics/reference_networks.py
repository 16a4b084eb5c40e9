"""The networks that published figures use, where they are on this machine: Inception-v3 of torch-fidelity, and LPIPS.

Neither package is a dependency (both pull in torchvision) and nothing is ever downloaded: each is used only when the package
imports and its weight file lies where PyTorch keeps downloads (``torch.hub``), or, for Inception, where
``S2P_MOBILE_INCEPTION`` points.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_mobile.judge.metrics.similarity import Pictures
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

INCEPTION_VARIABLE = "S2P_MOBILE_INCEPTION"
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET_WEIGHTS = "alexnet-owt-7be5be79.pth"

_SPATIAL_CHANNELS = 7


def _hub_file(name: str) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    return path if path.is_file() else None


def _import(name: str) -> ModuleType | None:
    """A package, or None when it is missing or broken: a torchvision built for another torch raises RuntimeError on import."""
    try:
        with quiet_import():
            return importlib.import_module(name)
    except Exception:
        return None


class InceptionFeatures:
    """Inception-v3 (TensorFlow's of 2015-12-05) as FID uses it, through torch-fidelity's port."""

    name = "Inception-v3 (torch-fidelity)"

    def __init__(self, module: ModuleType, weights: Path) -> None:
        """
        Raises:
            S2PError: the file does not hold these weights.
        """
        # torch-fidelity downloads its weights, or unpickles a local file without restriction. Its download is answered with
        # tensors read by the restricted unpickler, so that neither happens.
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            with mock.patch.object(module, "load_state_dict_from_url", lambda *_, **__: state):
                self.extractor: Any = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except Exception as error:  # whatever torch raises for a damaged or foreign file
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise S2PError(f"{weights} does not hold torch-fidelity's Inception weights ({reason})", "remove it") from error
        self.extractor.eval()

    @torch.no_grad()
    def features(self, pictures: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features [N, 2048], and for sFID the first 7 channels of the 17 x 17 map ``mixed_6/conv``, [N, 2023].

        ``mixed_6/conv`` of the TensorFlow graph is the 1x1 branch of what the port calls ``Mixed_6d``.
        """
        seen: list[torch.Tensor] = []
        hook = self.extractor.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            batch = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
            pooled = self.extractor(batch)[0]
        finally:
            hook.remove()
        spatial = seen[0][:, :_SPATIAL_CHANNELS].flatten(1)
        return pooled.float().numpy(), spatial.float().numpy()


class LpipsDistance:
    """LPIPS v0.1 with AlexNet, the package's default."""

    name = "LPIPS 0.1 (AlexNet)"

    def __init__(self, module: ModuleType) -> None:
        with quiet_import():
            self.network: Any = module.LPIPS(net="alex", verbose=False).eval()

    @torch.no_grad()
    def distances(self, pictures: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """float64 [N]"""
        first, second = (
            torch.from_numpy(p.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1.0 for p in (pictures, reference)
        )
        distance: NDArray[np.float64] = self.network(first, second).flatten().double().numpy()
        return distance


def inception_features() -> InceptionFeatures | None:
    """Inception-v3, or None when torch-fidelity or its weights are not here.

    Raises:
        S2PError: ``S2P_MOBILE_INCEPTION`` is set, but its file or torch-fidelity is not here; or the weights are foreign.
    """
    named = os.environ.get(INCEPTION_VARIABLE)
    weights = Path(named) if named else _hub_file(INCEPTION_WEIGHTS)
    if weights is None:
        return None
    if not weights.is_file():
        raise S2PError(f"{INCEPTION_VARIABLE} names {weights}, which does not exist", "mend or unset it")
    module = _import("torch_fidelity.feature_extractor_inceptionv3")
    if module is None:
        if named:
            raise S2PError(
                f"{INCEPTION_VARIABLE} is set, but torch-fidelity cannot be imported", "install it or unset the variable"
            )
        return None
    return InceptionFeatures(module, weights)


def lpips_distance() -> LpipsDistance | None:
    """LPIPS, or None when the lpips package or AlexNet's weights are not here."""
    if _hub_file(ALEXNET_WEIGHTS) is None:
        return None
    module = _import("lpips")
    return None if module is None else LpipsDistance(module)
