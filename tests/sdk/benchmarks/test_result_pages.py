"""Pages of the benchmarks: made again, they keep what was written by hand."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from s2p_mobile.quantize.methods import METHODS
from s2p_mobile.quantize.recipes import load_recipe

SOURCE = Path(__file__).parents[3] / "benchmarks" / "result_tables.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """Benchmarks are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("result_tables", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_below_the_mark_outlive_the_figures_above_it(tables: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    tables.write_page(page, "old\n")
    page.write_text(page.read_text() + "What it says.\n")
    for figures in ("new\n", "newer\n"):
        tables.write_page(page, figures)
        assert page.read_text() == f"{figures}\n{tables.BY_HAND}\nWhat it says.\n"


def test_every_page_of_these_benchmarks_has_the_mark(tables: ModuleType) -> None:
    pages = [SOURCE.parents[1] / "docs" / f"results-{name}.md" for name in ("ablation", "ablation-top5", "baselines")]
    assert [page.read_text().count(tables.BY_HAND) for page in pages] == [1, 1, 1]


def test_page_of_baselines_shows_the_rows_that_lie_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE.parent))
    baselines = importlib.import_module("baselines")
    docs = SOURCE.parents[1] / "docs"
    rows = baselines.read_rows(docs / "results-baselines.json")
    assert rows and len({(row.label, row.setting, row.steps, row.seed) for row in rows}) == len(rows)
    page = (docs / "results-baselines.md").read_text()
    assert baselines.table(rows) in page and baselines.withdrawn(rows) in page


def test_every_row_of_baselines_has_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE.parent))
    baselines = importlib.import_module("baselines")
    budget = baselines.Budget(count=256, prompts=512, iterations=300, factor=20.0, samples=1024)
    for setting, (weights, activations) in baselines.SETTINGS.items():
        for method, entry in baselines.METHODS.items():
            recipe = baselines.recipe_of(method, setting, budget)
            assert (recipe.weights.bits, recipe.activations.bits) == (weights, activations)
            assert entry.method in METHODS.names
            # Rows of one setting share their average width, by whichever rule.
            if weights < 8 and entry.by_layer:
                assert recipe.mixed is not None and recipe.mixed.average_bits == pytest.approx(weights + 0.06)
    own = baselines.recipe_of("s2p", "W4A8", budget).model_dump(exclude={"name", "description", "baselines"})
    assert own == load_recipe("w4a8-mixed").model_dump(exclude={"name", "description", "baselines"})
