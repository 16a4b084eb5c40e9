"""Ctrl-C and kill end with exit status 3, one line, and nothing left behind; at any time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s2p_mobile.cli import app

# Sends the signal when the named module is imported: before the command line is up, while a library is loaded, in the work.
SCRIPT = """
import builtins, os, signal, sys
# A shell's background jobs ignore SIGINT, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
real, awaited, number, out = builtins.__import__, *sys.argv[1:]
def watch(name, *rest, **named):
    if name == awaited:
        builtins.__import__ = real
        os.kill(os.getpid(), int(number))
    return real(name, *rest, **named)
builtins.__import__ = watch
sys.argv = ["s2p-mobile", "convert", "--target", "coreml", "--out", out]
from s2p_mobile.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("s2p_mobile.cli.app", signal.SIGINT),
        ("torch", signal.SIGINT),
        ("s2p_converters.targets.coreml.components", signal.SIGINT),
        pytest.param("s2p_converters.targets.coreml.components", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_interrupted_at(module: str, number: signal.Signals, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SCRIPT, module, str(int(number)), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("error: interrupted") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_hides_ctrl_c_counts_as_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Native modules answer Ctrl-C while they are loaded with an ImportError of their own."""

    def load(**_: object) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(app, "app", load)
    assert app.run(["models"]) == 3
    assert capsys.readouterr().err == "error: interrupted; run the command again\n"
