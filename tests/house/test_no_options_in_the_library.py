"""Only command lines know how options are written: no other text of the library has a word with two dashes."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

from import_graph import module_files

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_FOREIGN = ("s2p_mobile.devices.", "s2p_converters.targets.executorch.xnnpack.inspection")
"""Modules that call programs of others (adb, devicectl, our harnesses on devices, flatc): whole strings may be flags of theirs."""


_COMMAND_LINES = ("s2p_mobile.cli.", "s2p_runtime.__main__.")


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string (docstrings and parts of f-strings too) and comment."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def options(module: str, source: str) -> Iterator[str]:
    """``LINE: OPTION`` of every option in a module's texts."""
    for line, text in texts(source):
        if module.startswith(_FOREIGN) and re.fullmatch(r"""(['"])--[a-z][a-z0-9-]*\1""", text):
            continue
        for found in _OPTION.findall(text):
            yield f"{line}: {found}"


def test_only_the_command_line_writes_options() -> None:
    found = {
        str(path): names
        for module, path in module_files().items()
        if not f"{module}.".startswith(_COMMAND_LINES)
        if (names := list(options(module, path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_options_are_found() -> None:
    source = '"""Give --out."""\nx = 1  # see --help\ny = f"pass --{x} or --force"\nz = ["--runs"]\nw = "a -- b, c--d"\n'
    assert list(options("s2p_runtime.x", source)) == ["1: --out", "2: --help", "3: --force", "4: --runs"]
    assert list(options("s2p_mobile.devices.x", source)) == ["1: --out", "2: --help", "3: --force"]


def test_messages_name_parameters_that_become_options() -> None:
    from s2p_mobile.cli.app import as_options

    assert as_options("`labels` and `minimum_os=iOS18`; pass `force`") == "--label and --minimum-os iOS18; pass --force"
    assert as_options("`split_shortcuts=True` or `split_shortcuts=False`") == "--split-shortcuts or --whole-shortcuts"
