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


def distillation_loss(
    output: Tensor, fp_output: Tensor, features: Mapping[str, Tensor], fp_features: Mapping[str, Tensor], weight: float
) -> Losses:
    """Output MSE plus the normalised error of the block outputs.

    ``features`` = mean over blocks and samples of ``|f - f_fp|^2 / |f_fp|^2``: normalised for each sample alone, so that
    the loss of a batch is the mean of the losses of its samples, however they are shared out.

    Args:
        output, fp_output: [n, C, H, W].
        features, fp_features: block -> [n, ...]; with weight 0 they are not looked at.
    """
    mse = (output.float() - fp_output.float()).square().mean()
    if weight == 0.0:
        return Losses(mse, mse.detach(), torch.zeros_like(mse))
    terms = []
    for name, target in fp_features.items():
        target = target.float().flatten(1)
        error = (features[name].float().flatten(1) - target).square().sum(dim=1)
        terms.append((error / target.square().sum(dim=1).clamp(min=1e-12)).mean())
    feature_error = torch.stack(terms).mean()
    return Losses(mse + weight * feature_error, mse.detach(), feature_error.detach())
