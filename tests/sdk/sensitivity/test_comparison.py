"""Rank correlations against scipy, the overlap of top layers by hand, and the plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from s2p_mobile.quantize.sensitivity import LayerSensitivity, Sensitivity, compare, comparison_lines
from s2p_mobile.quantize.sensitivity.comparison import kendall, ranks, spearman
from s2p_mobile.quantize.sensitivity.plot import plot_comparison
from s2p_runtime.errors import S2PError


def result(estimator: str, values: list[float], **changes: object) -> Sensitivity:
    fields = {
        "estimator": estimator, "model": "m", "unet_sha256": "0" * 64, "scheduler": "ddim", "steps": 25, "guidance": 4.0,
        "embedded_guidance": None,
        "prompts": 1, "samples": 1, "seed": 0, "search": "mse", "bits": (4,),
        "layers": tuple(LayerSensitivity(name=f"l{k}", weights=1, values=(value,)) for k, value in enumerate(values)),
    }  # fmt: skip
    return Sensitivity.model_validate(fields | changes)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipys(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    a = random.normal(size=50)
    b = a + random.normal(size=50)
    if ties:
        a, b = a.round(), b.round()
    np.testing.assert_array_equal(ranks(a), scipy.stats.rankdata(a))
    # The same sums in double, in another order.
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, rel=1e-12)
    assert kendall(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic, rel=1e-12)


def test_a_constant_ranking_correlates_with_nothing() -> None:
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1, 2, 3], [5, 5, 5]) is None


def test_top_layers_and_their_overlap() -> None:
    values = [float(k) for k in range(20)]
    swapped = [*values[:16], 18.0, 17.0, 16.0, 19.0]
    compared = compare(
        [result("fisher", values), result("sqnr", swapped), result("gradient", [-v for v in values])], 4, share=0.1
    )
    assert compared.top == {"fisher": ("l19", "l18"), "sqnr": ("l19", "l16"), "gradient": ("l0", "l1")}
    assert [(p.first, p.second, p.shared_top) for p in compared.pairs] == [
        ("fisher", "sqnr", 0.5), ("fisher", "gradient", 0.0), ("sqnr", "gradient", 0.0)
    ]  # fmt: skip
    assert compared.pairs[1].spearman == pytest.approx(-1) and compared.pairs[1].kendall == pytest.approx(-1)
    text = "\n".join(comparison_lines(compared))
    assert "same top 10%" in text and "-1.000" in text and "gradient: l0, l1" in text


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result("fisher", [1.0])], "two or more"),
        ([result("fisher", [1.0]), result("fisher", [2.0])], "two or more"),
        ([result("fisher", [1.0]), result("sqnr", [1.0, 2.0])], "different models or layers"),
        ([result("fisher", [1.0]), result("sqnr", [1.0], unet_sha256="1" * 64)], "different models or layers"),
        ([result("fisher", [1.0]), result("sqnr", [1.0], bits=(8,))], "at 4 bits was not measured, only at 8"),
    ],
)
def test_what_cannot_be_compared_is_refused(results: list[Sensitivity], message: str) -> None:
    with pytest.raises(S2PError, match=message):
        compare(results, 4)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [result("fisher", [3.0, 1.0, 2.0]), result("sqnr", [1.0, 1.0, 1.0])]
    plot_comparison(results, 4, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    with pytest.raises(S2PError, match=r"end its name in one of .*\.png"):
        plot_comparison(results, 4, tmp_path / "plot.docx")
