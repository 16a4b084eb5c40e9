"""All picture metrics of a run, batch by batch, so that memory holds features instead of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from s2p_mobile.judge.metrics.frechet import Gaussian, frechet_distance
from s2p_mobile.judge.metrics.networks import FeatureNetwork, Missing, Networks, PerceptualDistance, PromptScorer
from s2p_mobile.judge.metrics.similarity import Pictures, psnr, ssim
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError

METRIC_NAMES = ("fid_to_fp", "sfid_to_fp", "ssim", "lpips", "psnr", "psnr_mean", "clip_score", "clip_score_fp")
"""``psnr`` is the median over the pictures; ``clip_score_fp`` is the FP pictures' own score, to read ``clip_score`` against."""

_FEATURES, _PERCEPTUAL, _CLIP = {"fid_to_fp", "sfid_to_fp"}, {"lpips"}, {"clip_score", "clip_score_fp"}
NETWORK_METRICS = frozenset(_FEATURES | _PERCEPTUAL | _CLIP)


class MetricValue(Contract):
    """One figure. Null with a reason when it could not be measured or is infinite."""

    value: float | None
    network: str | None = Field(description="the network that the figure depends on; null when none takes part")
    reason: str | None = None


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, in the order of :data:`METRIC_NAMES`; all of them for None.

    Raises:
        S2PError: unknown name, or none at all.
    """
    if names is None:
        return METRIC_NAMES
    unknown = [name for name in names if name not in METRIC_NAMES]
    if unknown or not names:
        what = f"unknown metric {unknown[0]!r}" if unknown else "no metric given"
        raise S2PError(f"{what}", f"metrics are {', '.join(METRIC_NAMES)}")
    return tuple(name for name in METRIC_NAMES if name in names)


class PictureMetrics:
    """Feed with :meth:`update`, read with :meth:`values`."""

    def __init__(self, names: Sequence[str], networks: Networks | None) -> None:
        """
        Args:
            names: as returned by :func:`check_metrics`.
            networks: may be None when no metric of :data:`NETWORK_METRICS` is asked for.
        """
        self.names = tuple(names)
        none = Missing("no network was resolved")
        self._networks = networks or Networks(none, none, none)
        self._rows: dict[str, list[NDArray[np.floating]]] = {}

    def update(self, pictures: Pictures, reference: Pictures, prompts: Sequence[str]) -> None:
        """Add a batch: uint8 [N, H, W, 3] twice and the N prompts."""
        wanted = set(self.names)
        if "ssim" in wanted:
            self._add("ssim", ssim(pictures, reference))
        if wanted & {"psnr", "psnr_mean"}:
            self._add("psnr", psnr(pictures, reference))
        features, perceptual, clip = self._networks.features, self._networks.perceptual, self._networks.clip
        if wanted & _FEATURES and not isinstance(features, Missing):
            for side, batch in (("quantized", pictures), ("fp", reference)):
                pooled, spatial = features.features(batch)
                self._add(f"fid_to_fp {side}", pooled)
                self._add(f"sfid_to_fp {side}", spatial)
        if wanted & _PERCEPTUAL and not isinstance(perceptual, Missing):
            self._add("lpips", perceptual.distances(pictures, reference))
        if not isinstance(clip, Missing):
            for name, batch in (("clip_score", pictures), ("clip_score_fp", reference)):
                if name in wanted:
                    self._add(name, clip.scores(batch, prompts))

    def values(self) -> dict[str, MetricValue]:
        """Every metric asked for, by name."""
        return {name: self._value(name) for name in self.names}

    def each(self, name: str) -> NDArray[np.floating]:
        """``psnr``, ``ssim`` or ``lpips`` of every picture so far, [N], for what compares pictures one by one.

        Raises:
            KeyError: it was not asked for, or lacks its network.
        """
        return self._all(name)

    def _add(self, key: str, rows: NDArray[np.floating]) -> None:
        self._rows.setdefault(key, []).append(rows)

    def _all(self, key: str) -> NDArray[np.floating]:
        return np.concatenate(self._rows[key])

    def _value(self, name: str) -> MetricValue:
        network: FeatureNetwork | PerceptualDistance | PromptScorer | Missing | None = None
        if name in NETWORK_METRICS:
            kinds = (_FEATURES, self._networks.features), (_PERCEPTUAL, self._networks.perceptual), (_CLIP, self._networks.clip)
            network = next(found for names, found in kinds if name in names)
        if isinstance(network, Missing):
            return MetricValue(value=None, network=None, reason=network.reason)
        label = None if network is None else network.name
        if name in _FEATURES:
            quantized, reference = self._all(f"{name} quantized"), self._all(f"{name} fp")
            if len(quantized) < 2:
                return MetricValue(value=None, network=label, reason="needs at least two pictures")
            distance = frechet_distance(Gaussian.of_samples(quantized), Gaussian.of_samples(reference))
            return MetricValue(value=distance, network=label)
        average: Callable[[NDArray[np.floating]], float] = np.median if name == "psnr" else np.mean
        value = float(average(self._all("psnr" if name == "psnr_mean" else name)))
        if not np.isfinite(value):
            return MetricValue(value=None, network=label, reason="infinite: pictures equal the FP pictures")
        return MetricValue(value=value, network=label)
