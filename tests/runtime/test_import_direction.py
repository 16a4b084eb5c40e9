"""Imports point one way, s2p_mobile -> s2p_converters -> s2p_runtime, and the runtime stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "s2p_runtime": REPOSITORY / "runtime_py" / "s2p_runtime",
    "s2p_converters": REPOSITORY / "converters" / "s2p_converters",
    "s2p_mobile": REPOSITORY / "sdk" / "s2p_mobile",
}
FORBIDDEN = {"s2p_runtime": {"s2p_converters", "s2p_mobile"}, "s2p_converters": {"s2p_mobile"}, "s2p_mobile": set()}
RUNTIME_NEEDS = {"numpy", "pydantic", "safetensors", "PIL"}
# Folders of the runtime that are backends, imported only when one is used, and what they may need besides.
BACKENDS = ("hosts",)
BACKENDS_NEED = {"torch", "coremltools", "executorch"}


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


@pytest.mark.parametrize("package", list(PACKAGES))
def test_direction(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        found = imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not found & FORBIDDEN[package], path


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
    assert len(hosts) >= 2
    script = (
        "import sys\n"
        "for name in ('torch', 'coremltools', 'executorch', 'diffusers', 'transformers', 'scipy', 'regex', 'tokenizers'):\n"
        "    sys.modules[name] = None\n" + "".join(f"import s2p_runtime.{module}\n" for module in modules)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
