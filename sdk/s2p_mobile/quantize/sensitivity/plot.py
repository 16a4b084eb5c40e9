"""A plot of several estimators, layer by layer. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from s2p_mobile.quantize.sensitivity.comparison import compare
from s2p_mobile.quantize.sensitivity.estimators import ESTIMATORS
from s2p_mobile.quantize.sensitivity.result import Sensitivity
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file


def require_plots() -> None:
    """Raise :class:`S2PError` when there is no matplotlib: to be asked before the measurements, which take long."""
    if find_spec("matplotlib") is None:
        raise S2PError("a plot needs matplotlib, which is not installed", "run pip install 's2p-mobile[evaluate]'")


def plot_comparison(results: Sequence[Sensitivity], bits: int, path: Path, share: float = 0.05, *, force: bool = False) -> None:
    """Write a picture (format by the file's suffix, e.g. .png, .svg): each estimator's share of the whole sensitivity, layer by
    layer on a logarithmic axis with its most sensitive layers marked, and the matrix of Spearman correlations.

    Raises:
        S2PError: matplotlib missing, an unknown suffix, the place cannot be written, or results that cannot be compared.
    """
    require_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    comparison = compare(results, bits, share)
    names = [result.estimator for result in results]
    layers = [layer.name for layer in results[0].layers]
    # One inch for every ten layers keeps the smallest legible label at any model size.
    figure = Figure(figsize=(max(12.0, len(layers) / 8), 8.0), layout="constrained")
    suffixes = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in suffixes:
        raise S2PError(f"cannot draw a plot as {path.name}", f"end its name in one of .{', .'.join(sorted(suffixes))}")
    curves, matrix = figure.subplots(1, 2, width_ratios=(4, 1))
    for result in results:
        values = result.at(bits)
        total = sum(values.values()) or 1.0
        top = [layers.index(name) for name in comparison.top[result.estimator]]
        line = curves.plot(
            [value / total for value in values.values()], label=ESTIMATORS.get(result.estimator).title, linewidth=1
        )
        curves.plot(top, [values[layers[k]] / total for k in top], "o", color=line[0].get_color())
    curves.set_yscale("log")
    curves.set_ylabel(f"share of the sum over layers, {bits} bits")
    curves.set_xticks(range(len(layers)), layers, rotation=90, fontsize=5)
    curves.set_title(f"dots: most sensitive {share:.0%}")
    curves.legend()
    rho = [[1.0] * len(names) for _ in names]
    for pair in comparison.pairs:
        first, second = names.index(pair.first), names.index(pair.second)
        rho[first][second] = rho[second][first] = float("nan") if pair.spearman is None else pair.spearman
    matrix.imshow(rho, vmin=-1, vmax=1, cmap="RdBu")
    matrix.set_xticks(range(len(names)), names, rotation=45)
    matrix.set_yticks(range(len(names)), names)
    for row, line_values in enumerate(rho):
        for column, value in enumerate(line_values):
            matrix.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if abs(value) > 0.5 else "black")
    matrix.set_title("Spearman")
    with atomic_file(path, force=force) as scratch:
        figure.savefig(scratch, dpi=150)
