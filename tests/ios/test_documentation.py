"""The Swift library's documentation: docc builds it without a warning, and everything that is public has words of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHECK = REPOSITORY / "ios_harness/AppleStubs/check.sh"
LIBRARY = Path("ios_harness/Sources/S2PMobile")

pytestmark = pytest.mark.skipif(
    shutil.which("swiftc") is None or shutil.which("docc") is None, reason="swift with docc is not installed"
)


def symbols(root: Path, folder: Path) -> Path:
    """The folder with the public symbols of the library below ``root``, as iOS has them."""
    done = subprocess.run([CHECK, root, folder], capture_output=True, text=True, timeout=900)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def built(root: Path, graphs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What docc says of the library's documentation; a warning fails it."""
    command = ["docc", "convert", root / LIBRARY / "S2PMobile.docc", "--additional-symbol-graph-dir", graphs]
    command += ["--output-path", out, "--analyze", "--warnings-as-errors"]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def without_words(graphs: Path) -> set[str]:
    """Public symbols that somebody wrote and nobody explained. What the compiler adds stands in no file."""
    graph = json.loads((graphs / "S2PMobile.symbols.json").read_text())
    written = [
        symbol
        for symbol in graph["symbols"]
        if "location" in symbol and "::SYNTHESIZED::" not in symbol["identifier"]["precise"]
    ]
    assert len(written) > 50
    return {".".join(symbol["pathComponents"]) for symbol in written if "docComment" not in symbol}


def test_it_builds_and_explains_all_that_is_public(tmp_path: Path) -> None:
    graphs = symbols(REPOSITORY, tmp_path / "symbols")
    assert without_words(graphs) == set()
    done = built(REPOSITORY, graphs, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (tmp_path / "out/data/documentation/s2pmobile").glob("*.json")}
    assert {"gettingabundle", "pipeline", "step", "picture", "computeunit", "bundlestore", "s2perror"} <= pages


def test_mistakes_are_found(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / LIBRARY, tmp_path / LIBRARY)
    step, page = tmp_path / LIBRARY / "API/Step.swift", tmp_path / LIBRARY / "S2PMobile.docc/S2PMobile.md"
    text = (
        step.read_text()
        .replace("    /// In the last step alone.\n", "")
        .replace("``Pipeline/callCount``", "``Pipeline/count``")
    )
    step.write_text(text)
    page.with_name("GettingABundle.md").rename(page.with_name("Bundles.md"))
    page.write_text(page.read_text().replace("<doc:GettingABundle>", "<doc:Bundles>"))
    graphs = symbols(tmp_path, tmp_path / "symbols")
    assert without_words(graphs) == {"Step.picture"}
    done = built(tmp_path, graphs, tmp_path / "out")
    assert done.returncode != 0
    # An article with the name of a heading, and a property that is not there.
    said = done.stdout + done.stderr
    assert "'Bundles' is ambiguous" in said and "'count' doesn't exist at '/S2PMobile/Pipeline'" in said
