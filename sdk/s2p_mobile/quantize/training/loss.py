"""The training loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars of one micro-batch: ``total = output + weight * features``."""

    total: Tensor
    output: Tensor
    features: Tensor


def output_error(output: Tensor, fp_output: Tensor, guidance: float, guided_share: float) -> Tensor:
    """Squared error of U-Net outputs, one number for each (prompt, call) pair.

    With guidance g the sampler goes on with ``g c - (g - 1) u``, whose error is ``g d_c - (g - 1) d_u``: errors that
    both branches share pass once, others g times. The result is ``share * |that|^2 / (g^2 + (g - 1)^2) + (1 - share) *
    (|d_c|^2 + |d_u|^2) / 2``, each term averaged over the elements; the divisor makes both terms equal for independent errors.

    Args:
        output, fp_output: [n, B, C, H, W], unconditional first.

    Returns:
        float32 [n].
    """
    difference = output.float() - fp_output.float()
    alone = difference.square().flatten(1).mean(dim=1)
    if difference.shape[1] == 1 or guided_share == 0.0:
        return alone
    guided = guidance * difference[:, 1] - (guidance - 1) * difference[:, 0]
    together = guided.square().flatten(1).mean(dim=1) / (guidance**2 + (guidance - 1) ** 2)
    return guided_share * together + (1 - guided_share) * alone


def feature_error(features: Mapping[str, Tensor], fp_features: Mapping[str, Tensor], pairs: int) -> Tensor:
    """Mean over blocks and branches of ``|f - f_fp|^2 / |f_fp|^2``, one number for each (prompt, call) pair.

    Normalised for each sample alone, so that the loss of a batch is the mean of the losses of its pairs, however they are shared out.

    Args:
        features, fp_features: block -> [n B, ...].
        pairs: n.

    Returns:
        float32 [n].
    """
    terms = []
    for name, target in fp_features.items():
        target = target.float().flatten(1)
        error = (features[name].float().flatten(1) - target).square().sum(dim=1)
        terms.append((error / target.square().sum(dim=1).clamp(min=1e-12)).unflatten(0, (pairs, -1)).mean(dim=1))
    return torch.stack(terms).mean(dim=0)


def combined(output: Tensor, features: Tensor | None, importance: Tensor, feature_weight: float) -> Losses:
    """Means over the pairs of ``importance * (output + feature_weight * features)``.

    Args:
        output: of :func:`output_error`, [n].
        features: of :func:`feature_error`, [n]; None without distillation.
        importance: of each pair, [n].
    """
    by_output = (importance * output).mean()
    if features is None:
        return Losses(by_output, by_output.detach(), torch.zeros_like(by_output))
    by_features = (importance * features).mean()
    return Losses(by_output + feature_weight * by_features, by_output.detach(), by_features.detach())
