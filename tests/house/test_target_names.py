"""Nothing but a target's own folder, its host and its line in a registry knows its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from s2p_converters.targets.registry import TARGETS
from s2p_runtime.hosts import HOSTS

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("sdk/s2p_mobile", "converters/s2p_converters", "runtime_py/s2p_runtime")
REGISTRIES = {"converters/s2p_converters/targets/registry.py", "runtime_py/s2p_runtime/hosts/registry.py"}
DRIVERS = "sdk/s2p_mobile/devices/"
"""Drivers of phones compare a manifest's target with that of their harness."""


def named(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of every string that is a target's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names:
            yield node.lineno, node.value


def own_folder(name: str) -> tuple[str, str]:
    return f"converters/s2p_converters/targets/{name}/", f"runtime_py/s2p_runtime/hosts/{name}/"


def test_only_its_own_folders_know_a_target() -> None:
    names = {*TARGETS.names, *HOSTS.names}
    assert {"coreml", "executorch"} <= names
    seen: set[tuple[str, str]] = set()
    for room in ROOMS:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            place = path.relative_to(REPOSITORY).as_posix()
            for line, name in named(ast.parse(path.read_text(encoding="utf-8")), names):
                seen.add((place, name))
                own = place.startswith(own_folder(name)) or place in REGISTRIES or place.startswith(DRIVERS)
                # Core ML is a backend of ExecuTorch, too, and called the same there.
                inside = place.startswith("converters/s2p_converters/targets/executorch/")
                assert own or inside, f"{place}:{line} names the target {name}"
    # The walk sees what it should: every registry line, and the drivers.
    assert {(place, name) for place in REGISTRIES for name in names} <= seen
    assert any(place.startswith(DRIVERS) for place, _ in seen)


def test_every_target_has_a_host_of_its_name() -> None:
    for name, target in TARGETS.entries.items():
        assert target.name == name == target.host.target
