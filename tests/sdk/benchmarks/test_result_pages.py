"""Pages of the benchmarks: made again, they keep what was written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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
    pages = [SOURCE.parents[1] / "docs" / f"results-{name}.md" for name in ("ablation", "ablation-top5", "rivals")]
    assert [page.read_text().count(tables.BY_HAND) for page in pages] == [1, 1, 1]
