"""Grids with zero points against torch's affine fake quantization and an exhaustive search."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2p_mobile.quantize.grid import CLIP_RATIOS
from s2p_mobile.quantize.histogram import Histogram, activation_scale
from s2p_mobile.quantize.zero_points import SHARES, SignedHistogram, merge_signed, range_scale, zero_point

BINS = 1024


def histogram(values: Tensor) -> SignedHistogram:
    reach = float(values.abs().max())
    sides = [values[values < 0].neg(), values[values >= 0]]
    negative, positive = (
        Histogram(torch.histc(side, BINS, 0.0, reach), reach, float(side.max()) if side.numel() else 0.0) for side in sides
    )
    return SignedHistogram(negative, positive)


def error(values: Tensor, scale: float, zero: int, bits: int) -> float:
    """Mean squared error, by torch's own fake quantization."""
    top = 2 ** (bits - 1)
    return float((torch.fake_quantize_per_tensor_affine(values, scale, zero, -top, top - 1) - values).square().mean())


def behind_silu(spread: float, seed: int) -> Tensor:
    return F.silu(torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) * spread)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_zero_point_is_the_best_of_its_candidates_over_all_calls(bits: int) -> None:
    calls = [behind_silu(spread, seed) for seed, spread in enumerate((0.7, 2.0, 5.0))]
    top = 2 ** (bits - 1)

    def least(zero: int) -> float:
        low, high = -top - zero, top - 1 - zero
        total = 0.0
        for values in calls:
            whole = max(float(values.max()) / high if high else 0.0, float(values.min()) / low if low else 0.0)
            total += min(error(values, whole * float(ratio), zero, bits) for ratio in CLIP_RATIOS)
        return total

    zeros = {zero: least(zero) for zero in {-top + round(share * 2**bits) for share in SHARES}}
    found = zero_point([histogram(values) for values in calls], bits)
    # A bin is a small part of a grid step at 8 bits and the search tries every tenth clipping ratio: near the best, not always it.
    assert zeros[found] <= 1.1 * min(zeros.values())
    # Nearly all of the range is above zero: a grid without zero point has half the integers, four times the error.
    assert found < 0 and zeros[found] < 0.5 * zeros[0]


def test_symmetric_values_get_symmetric_grids() -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    both = histogram(torch.cat([values, -values]))
    assert zero_point([both], 8) == 0
    for search in ("mse", "absmax", "percentile"):
        assert torch.equal(range_scale(both, 0, 8, search), activation_scale(both.magnitudes, 8, search))


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_use_nearly_all_integers(sign: int) -> None:
    values = sign * torch.rand(20_000, generator=torch.Generator().manual_seed(2))
    found = zero_point([histogram(values)], 8)
    assert found == -128 if sign > 0 else found >= 51  # at most a share of 0.7 of the integers lies below zero


def test_scale_covers_the_extremes_or_the_percentile() -> None:
    values = torch.cat([behind_silu(2.0, 3), torch.tensor([40.0])])
    signed, zero = histogram(values), -108
    assert float(range_scale(signed, zero, 8, "absmax")) == pytest.approx(40.0 / 235, rel=2**-10)
    bin_width = 40.0 / BINS
    edge = float(values.abs().quantile(0.999)) / 235
    # The scale is rounded to fp16's reciprocal, the percentile to a bin.
    assert abs(float(range_scale(signed, zero, 8, "percentile", 99.9)) - edge) <= bin_width / 235 + edge * 2**-10
    with_mse = float(range_scale(signed, zero, 8))
    assert error(values, with_mse, zero, 8) <= error(values, 40.0 / 235, zero, 8)


def test_merged_calls_count_together() -> None:
    parts = [behind_silu(1.0, 4), behind_silu(3.0, 5)]
    merged = merge_signed([histogram(values) for values in parts])
    assert float(merged.magnitudes.counts.sum()) == sum(values.numel() for values in parts)
    assert merged.positive.largest == float(torch.cat(parts).max()) and merged.negative.largest == -float(
        torch.cat(parts).min()
    )


def test_silence_has_a_scale() -> None:
    silent = histogram(torch.zeros(10))
    assert zero_point([silent], 8) == 0 and float(range_scale(silent, -7, 8)) > 0
