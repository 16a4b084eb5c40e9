"""Imports point one way and in no circle, lazy ones too, and the runtime stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from import_graph import PACKAGES, Graph, circles, module_files, neighbours, read_graph

LEVELS = (
    ("s2p_mobile.__main__",),
    ("s2p_mobile.cli",),
    ("s2p_mobile",),
    ("s2p_mobile.api",),
    ("s2p_mobile.quantize", "s2p_mobile.judge", "s2p_mobile.devices", "s2p_converters.targets"),
    ("s2p_mobile.sources",),
    ("s2p_mobile.demo", "s2p_converters.core"),
    ("s2p_converters",),
    ("s2p_runtime",),
)
"""Rooms, from the top: each imports from itself and from those below its level."""
RUNTIME_NEEDS = {"numpy", "pydantic", "safetensors", "PIL"}
# Folders of the runtime that are backends, imported only when one is used, and what they may need besides.
BACKENDS = ("hosts",)
BACKENDS_NEED = {"torch", "coremltools", "executorch", "coreai"}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of the packages that import statements among ``nodes`` name; relative imports stay inside."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value.split(".")[0])
    return names


def module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: bodies of functions and of ``if TYPE_CHECKING`` are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from module_level(node)


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def room(module: str) -> str:
    """The longest name in :data:`LEVELS` that a module lies in."""
    rooms = [name for level in LEVELS for name in level if f"{module}.".startswith(f"{name}.")]
    return max(rooms, key=len)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph()


def test_every_module_has_a_room() -> None:
    """A new folder beside the known ones is put on a level first; only a package itself may count as the room of its name."""
    for module in module_files():
        assert room(module) not in PACKAGES or module in PACKAGES or room(module) == "s2p_runtime", module


def test_imports_point_down(graph: Graph) -> None:
    level = {name: depth for depth, names in enumerate(LEVELS) for name in names}
    wrong = [
        f"{module} imports {other}"
        for module, imported in graph.items()
        for other in imported
        if room(module) != room(other) and level[room(module)] >= level[room(other)]
    ]
    assert not wrong


def test_no_circle_of_modules(graph: Graph) -> None:
    assert circles(graph) == []


def test_no_circle_of_packages(graph: Graph) -> None:
    """What lies side by side in a package, modules and sub-packages as wholes, does not import in a circle."""
    packages = {module.rpartition(".")[0] for module in graph if "." in module}
    assert {package: found for package in sorted(packages) if (found := circles(neighbours(graph, package)))} == {}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    # No module imports itself in the end, but the packages x and y do.
    modules = {"p.x.one": {"p.y.two"}, "p.y.two": set(), "p.y.three": {"p.x.four"}, "p.x.four": set()}
    assert circles(modules) == [] and circles(neighbours(modules, "p")) == [["p.x", "p.y"]]


def test_lazy_imports_and_registries_are_seen(graph: Graph) -> None:
    assert "s2p_mobile.quantize.jobs" in graph["s2p_mobile.api.quantizing"], "imported inside of a function"
    assert "s2p_converters.core.checkpoint" in graph["s2p_mobile.sources.open_source"]
    assert "s2p_mobile.quantize.sensitivity" in graph["s2p_mobile.quantize.jobs"], "runs when a module in it is imported"


def test_runtime_needs_four_packages() -> None:
    for path in sources("s2p_runtime"):
        allowed = RUNTIME_NEEDS | {"s2p_runtime"} | set(sys.stdlib_module_names)
        if path.relative_to(PACKAGES["s2p_runtime"]).parts[0] in BACKENDS:
            allowed |= BACKENDS_NEED
        found = imported(module_level(ast.parse(path.read_text(encoding="utf-8"))))
        assert found <= allowed, path


def test_the_walk_sees_what_it_should() -> None:
    text = (
        "import a.x\nfrom b import y\ntry:\n    import c\nexcept ImportError:\n    pass\n"
        "if TYPE_CHECKING:\n    import d\nclass K:\n    import e\n    def f(self):\n        import g\n"
        "h = importlib.import_module('i.j')\nfrom . import k\n"
    )
    tree = ast.parse(text)
    assert imported(module_level(tree)) == {"a", "b", "c", "e", "i"}
    assert imported(ast.walk(tree)) == {"a", "b", "c", "d", "e", "g", "i"}


def test_runtime_imports_without_heavy_packages() -> None:
    """All modules outside of the backends, and the hosts themselves, in a fresh interpreter in which the heavy packages cannot be
    imported at all."""
    modules = sorted(path.stem for path in PACKAGES["s2p_runtime"].glob("*.py") if path.stem not in ("__init__", "__main__"))
    assert {"bundle", "noise", "plan", "report", "tokenizer"} <= set(modules)
    hosts = sorted(path.parent.name for path in PACKAGES["s2p_runtime"].glob("hosts/*/host.py"))
    modules += ["conditioning", "hosts", *(f"hosts.{name}.host" for name in hosts)]
    assert len(hosts) >= 3
    script = (
        "import sys\n"
        "for name in ('torch', 'coremltools', 'coreai', 'executorch', 'diffusers', 'transformers', 'scipy', 'regex', 'tokenizers'):\n"
        "    sys.modules[name] = None\n" + "".join(f"import s2p_runtime.{module}\n" for module in modules)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
