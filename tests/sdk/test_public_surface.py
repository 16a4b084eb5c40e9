"""The public functions: what is there, documented and typed, the same in docs/api.md, and quick to import."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import s2p_mobile

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = {
    "bench", "compare_sensitivity", "compare_units", "convert", "evaluate", "forecast", "generate", "inspect", "latents", "load",
    "quantize", "report", "roofline", "sensitivity", "verify",
}  # fmt: skip
TYPES = {
    "BenchReport", "Bundle", "CheckFailed", "Checkpoint", "Comparison", "Description", "EvaluationResult", "Forecast",
    "Interrupted", "LatentDataset", "Model", "Progress", "ProgressEvent", "Recipe", "Residency", "Roofline", "S2PError", "S2PWarning",
    "Sensitivity", "Verification",
}  # fmt: skip
SETTINGS = {
    "size": None, "lora": (), "allow_pickle": False, "scheduler": None, "steps": None, "guidance": None, "device": "auto", "seed": 0,
}  # fmt: skip
"""What a session decides, with the defaults that are alike everywhere."""


def test_no_name_vanishes_or_appears_by_accident() -> None:
    assert set(s2p_mobile.__all__) == FUNCTIONS | TYPES | {"__version__"}
    assert len(set(s2p_mobile.__all__)) == len(s2p_mobile.__all__)
    assert set(s2p_mobile.__all__) <= set(dir(s2p_mobile))
    with pytest.raises(AttributeError, match="nothing"):
        _ = s2p_mobile.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_documented_and_annotated(name: str) -> None:
    function = getattr(s2p_mobile, name)
    assert inspect.isfunction(function)
    text = inspect.getdoc(function) or ""
    for part in ("Args:", "Returns:" if name != "load" else "Raises:", "Raises:", "Example:"):
        assert part in text, f"{name} says nothing under {part}"
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    described = re.findall(r"^    (\w+(?:, \w+)*): ", text.partition("Args:")[2].partition("Returns:")[0], re.MULTILINE)
    named = {word for words in described for word in words.split(", ")}
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        # A forecast takes what quantize takes and says so.
        assert parameter.name in named or name == "forecast", f"{name} does not describe {parameter.name}"


@pytest.mark.parametrize("name", sorted(TYPES))
def test_types_are_documented(name: str) -> None:
    kind = getattr(s2p_mobile, name)
    assert isinstance(kind, type) and kind.__doc__
    for attribute, value in vars(kind).items():
        if inspect.isfunction(value) and not attribute.startswith("_"):
            assert value.__doc__, f"{name}.{attribute}"
            assert "return" in typing.get_type_hints(value, include_extras=True) or "return" in value.__annotations__


def test_annotations_are_of_things_that_exist() -> None:
    """Names in annotations are imported for type checkers only: each is found where its module says."""
    for name in FUNCTIONS:
        function = getattr(s2p_mobile, name)
        tree = ast.parse(Path(inspect.getfile(function)).read_text(encoding="utf-8"))
        scope: dict[str, object] = {}
        for node in ast.walk(tree):
            if (isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__") or isinstance(
                node, ast.Import
            ):
                exec(ast.unparse(node), scope)
        assert set(typing.get_type_hints(function, scope)) == {*inspect.signature(function).parameters, "return"}


def test_defaults_of_a_session_are_alike_everywhere() -> None:
    for name in ("quantize", "forecast", "generate", "evaluate", "sensitivity", "latents"):
        parameters = inspect.signature(getattr(s2p_mobile, name)).parameters
        assert {word: parameters[word].default for word in SETTINGS} == SETTINGS, name


def test_the_page_has_what_the_package_has() -> None:
    headings = re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(headings + rows) == sorted(s2p_mobile.__all__)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_page_has_the_signatures(name: str) -> None:
    shown = re.search(rf"^### `{name}`\n```\n(.*)\n```$", PAGE, re.MULTILINE)
    assert shown is not None
    (function,) = ast.parse(f"def {shown[1]}: ...").body
    assert isinstance(function, ast.FunctionDef) and function.returns is not None
    real = inspect.signature(getattr(s2p_mobile, name))
    arguments = function.args
    positional = list(zip([arg.arg for arg in arguments.args][::-1], [*arguments.defaults[::-1], *[None] * 9], strict=False))[
        ::-1
    ]
    keywords = list(zip([arg.arg for arg in arguments.kwonlyargs], arguments.kw_defaults, strict=True))
    stated = {
        word: inspect.Parameter.empty if value is None else ast.literal_eval(value) for word, value in positional + keywords
    }
    assert stated == {parameter.name: parameter.default for parameter in real.parameters.values()}
    assert [arg.arg for arg in arguments.kwonlyargs] == [
        parameter.name for parameter in real.parameters.values() if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert ast.unparse(function.returns) == real.return_annotation


def test_importing_is_light_and_the_function_keeps_its_name() -> None:
    """``quantize`` is a function and a package; whichever modules are imported, the name of the package stays the function's."""
    script = (
        "import sys, s2p_mobile\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'diffusers', 'coremltools', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from s2p_mobile.quantize.interruption import Interrupted\n"
        "import s2p_mobile.quantize.interruption\n"
        "assert callable(s2p_mobile.quantize) and s2p_mobile.Interrupted is Interrupted\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_packages_are_typed() -> None:
    for folder in ("sdk/s2p_mobile", "converters/s2p_converters", "runtime_py/s2p_runtime"):
        assert (REPOSITORY / folder / "py.typed").is_file()


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    """In an empty folder and a process of its own, as a reader would run it."""
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    done = subprocess.run([sys.executable, "-c", example[1]], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "bytes at most" in done.stdout and "bits on average" in done.stdout and done.stdout.endswith("dB\n")
    made = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint", "app.s2pmobile", "apple.png", "report.json", "report.html"} <= made
