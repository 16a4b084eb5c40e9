"""k-means against exact solutions and scipy; widths by PSNR against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.grids import Palette
from s2p_mobile.quantize.rounding.palettes import kmeans, palettize_weight, widths_by_psnr
from s2p_mobile.sources.model import Model


def inertia(values: np.ndarray, centres: np.ndarray) -> float:
    return float(((values[:, None] - centres[None]) ** 2).min(axis=1).sum())


@pytest.mark.parametrize("count", [4, 16, 64])
def test_centres_are_as_good_as_those_of_scipy(count: int) -> None:
    values = np.random.default_rng(count).standard_t(5, 3000)
    centres = kmeans(values, count)
    assert (np.diff(centres) >= 0).all()
    best = min(inertia(values, kmeans2(values, count, seed=s, minit="++", iter=100)[0]) for s in range(5))
    # Local optima of k-means differ by a few percent; ours is not to be worse than the best of five starts by more.
    assert inertia(values, centres) <= 1.03 * best
    # A fixed point: every centre is the mean of what is nearest to it.
    nearest = np.abs(values[:, None] - centres[None]).argmin(axis=1)
    np.testing.assert_allclose(centres, [values[nearest == k].mean() for k in range(count)], rtol=0, atol=1e-9)


def test_separated_groups_are_found_exactly() -> None:
    groups = [np.full(n, v) for n, v in ((5, -3.0), (1, -1.0), (9, 0.5), (2, 8.0))]
    np.testing.assert_allclose(kmeans(np.concatenate(groups), 4), [-3.0, -1.0, 0.5, 8.0], atol=1e-12)


def test_each_weight_has_its_nearest_entry() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float32)
    palette = palettize_weight(weight, 4)
    entries = palette.entries[0].astype(np.float64)
    best = np.abs(weight.reshape(-1, 1).astype(np.float64) - entries).min(axis=1)
    np.testing.assert_allclose(np.abs(palette.values - weight).reshape(-1), best, rtol=0, atol=1e-12)


def test_groups_of_channels_have_palettes_of_their_own() -> None:
    entries = np.array([[0, 1, 2, 3], [10, 11, 12, 13]], np.float16)
    indices = np.array([[0, 1], [2, 3], [0, 1], [2, 3]], np.uint8)
    assert Palette(2, indices, entries).values.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]


def test_one_threshold_for_all_layers_and_the_highest_that_fits() -> None:
    rng = np.random.default_rng(4)
    candidates = (2, 4, 6, 8)
    psnr = {f"l{k}": dict(zip(candidates, np.sort(rng.uniform(10, 60, 4)), strict=True)) for k in range(9)}
    weights = {name: int(n) for name, n in zip(psnr, rng.integers(10, 1000, 9), strict=True)}
    for average in (2.0, 3.7, 5.0, 8.0):
        widths = widths_by_psnr(psnr, weights, candidates, average)
        used = sum(widths[name] * weights[name] for name in psnr) / sum(weights.values())
        assert used <= average + 1e-9
        fitting = []
        for threshold in itertools.chain([-1.0], (v for values in psnr.values() for v in values.values())):
            chosen = {name: min((b for b in candidates if values[b] >= threshold), default=8) for name, values in psnr.items()}
            mean = sum(chosen[name] * weights[name] for name in psnr) / sum(weights.values())
            if mean <= average + 1e-9:
                fitting.append(mean)
        assert used == pytest.approx(max(fitting))


def test_palettes_in_a_checkpoint(baseline_checkpoint: Callable[..., Checkpoint], tiny_model: Model) -> None:
    checkpoint = baseline_checkpoint("palettize")
    source = tiny_model.unet.state_dict()
    assert checkpoint.manifest.average_weight_bits <= 4.0
    for name, layer in checkpoint.general.items():
        assert layer.is_palette and layer.activation_bits is None
        assert len(np.unique(layer.weights)) <= 2**layer.weight_bits
        weight = source[f"{name}.weight"].numpy().astype(np.float64).reshape(-1)
        # Not worse than the even grid of the same width: the start of one of the two runs.
        even = np.linspace(weight.min(), weight.max(), 2 * 2**layer.weight_bits + 1)[1::2]
        assert ((layer.weights.reshape(-1) - weight) ** 2).sum() <= inertia(weight, even) * (1 + 1e-3)
