"""How close pictures are to the FP model's: Frechet distances, SSIM, PSNR, perceptual distance, CLIP score."""

from s2p_mobile.judge.metrics.frechet import Gaussian, frechet_distance
from s2p_mobile.judge.metrics.networks import CLIP_VARIABLE, Missing, Networks, resolve_networks
from s2p_mobile.judge.metrics.similarity import psnr, ssim
from s2p_mobile.judge.metrics.suite import METRIC_NAMES, NETWORK_METRICS, MetricValue, PictureMetrics, check_metrics

__all__ = [
    "CLIP_VARIABLE",
    "METRIC_NAMES",
    "NETWORK_METRICS",
    "Gaussian",
    "MetricValue",
    "Missing",
    "Networks",
    "PictureMetrics",
    "check_metrics",
    "frechet_distance",
    "psnr",
    "resolve_networks",
    "ssim",
]
