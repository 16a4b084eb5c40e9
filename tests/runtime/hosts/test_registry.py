"""Which host runs a bundle, and what is said where none does."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts import HOSTS, Host, host_of
from s2p_runtime.verify import verify

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Nowhere(Host):
    """A host of a plug-in."""

    target = "nowhere"
    title = "Nowhere"
    default_method = "run"

    def open(self, bundle: Bundle, compute: Any = "declared", release_chunks: bool = False) -> Any:
        return (bundle.folder.name, compute, release_chunks)

    def tolerance(self, manifest: Any, component: str) -> float:
        return 0.0


class _Point(EntryPoint):
    def load(self) -> Any:
        return {"nowhere": Nowhere(), "broken": None}[self.name] or 1 / 0


@pytest.fixture()
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: _Point(name=name, value=f"plugin:{name}", group=HOSTS.group) for name in ("nowhere", "broken")}
    monkeypatch.setitem(HOSTS.__dict__, "_plugins", found)
    monkeypatch.setattr(HOSTS, "_loaded", {})


def for_target(name: str, place: Path) -> Bundle:
    folder = place / "there.s2pmobile"
    shutil.copytree(FIXTURES / "chunked.s2pmobile", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "target": name}))
    return open_bundle(folder)


def test_every_built_in_host_says_what_it_is() -> None:
    for name in HOSTS.names[:2]:
        host = HOSTS.get(name)
        assert host.target == name and host.title and host.default_method
    assert {name: HOSTS.get(name).exact for name in ("coreml", "executorch")} == {"coreml": True, "executorch": False}


def test_a_plug_in_runs_its_bundles(plugins: None, tmp_path: Path) -> None:
    bundle = for_target("nowhere", tmp_path)
    assert isinstance(host_of(bundle), Nowhere)
    opened: Any = open_backend(bundle, "float64", release_chunks=True)
    assert opened == ("there.s2pmobile", "float64", True)


@pytest.mark.parametrize("run", [open_backend, verify])
def test_a_target_without_a_host_is_refused_by_its_name(plugins: None, run: Any, tmp_path: Path) -> None:
    with pytest.raises(S2PError) as caught:
        run(for_target("elsewhere", tmp_path))
    message = str(caught.value)
    assert message.startswith("there.s2pmobile is a bundle for elsewhere, and this s2p-mobile runs coreml, executorch, ")
    assert "nowhere" in message and "broken (plug-in plugin:broken fails)" in message
    assert message.endswith("; install the package that brings elsewhere, or convert the checkpoint for one of these")


def test_a_plug_in_that_fails_is_named_and_the_others_stay(plugins: None, tmp_path: Path) -> None:
    with pytest.raises(S2PError, match=r"is a bundle for broken, .* cannot be imported \(ZeroDivisionError"):
        host_of(for_target("broken", tmp_path))
    assert "broken" not in HOSTS.entries and "nowhere" in HOSTS.entries


@pytest.mark.parametrize(("name", "package"), [("coreml", "coremltools"), ("executorch", "executorch")])
def test_a_missing_engine_is_named_with_its_extra(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HOSTS, "_loaded", {})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(S2PError) as caught:
        open_backend(for_target(name, tmp_path))
    assert f"needs {package}, which is not installed" in caught.value.problem
    assert caught.value.remedy == f"run pip install 's2p-runtime[{name}]'"
    assert name not in HOSTS.entries and f"{name} (pip install 's2p-runtime[{name}]')" in HOSTS.listing


def test_nothing_to_release(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="is one program; leave `release_chunks` out"):
        open_backend(open_bundle(FIXTURES / "replay.s2pmobile"), release_chunks=True)
