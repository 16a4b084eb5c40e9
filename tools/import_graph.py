"""Which module imports which, lazily or not, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "s2p_runtime": REPOSITORY / "runtime_py" / "s2p_runtime",
    "s2p_converters": REPOSITORY / "converters" / "s2p_converters",
    "s2p_mobile": REPOSITORY / "sdk" / "s2p_mobile",
}
Graph = dict[str, set[str]]
"""module -> the modules that it imports"""


def module_files() -> dict[str, Path]:
    """Every module of the three packages by its full name; a package is called by its own name."""
    files = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def read_graph() -> Graph:
    """Imports between the modules of the three packages; those under ``if TYPE_CHECKING`` never run and are left out.

    Importing a module runs the ``__init__`` of every package that it lies in, so these are imported too, but for those that the
    importing module lies in itself.
    """
    files = module_files()
    graph: Graph = {}
    for name, path in files.items():
        imported = set(_imports(ast.parse(path.read_text(encoding="utf-8")), files)) - {name}
        inside = set(_packages_of(name))
        graph[name] = imported | {package for other in imported for package in _packages_of(other)} - inside - {name}
    return graph


def _packages_of(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _imports(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # What is imported from a package may be a module of it, or something that its __init__ gives.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name for name in names if name in known)
            if node.module in known and not names <= set(known):
                yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Registries name a place as "module:attribute".
            place = node.value.partition(":")[0]
            if ":" in node.value and place in known:
                yield place


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while (top := stack.pop()) != node:
                component.append(top)
            component.append(node)
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def neighbours(graph: Graph, package: str) -> Graph:
    """Imports between what lies directly in a package: its modules and its sub-packages, each as one node. Of the package's own
    ``__init__``, which may import all of them, nothing."""
    depth = package.count(".") + 1

    def child(module: str) -> str | None:
        return ".".join(module.split(".")[: depth + 1]) if module.startswith(f"{package}.") else None

    quotient: Graph = {}
    for module, imported in graph.items():
        if (source := child(module)) is not None:
            targets = {target for other in imported if (target := child(other)) is not None}
            quotient.setdefault(source, set()).update(targets - {source})
    return quotient
