"""quiet_import: nothing reaches the terminal, exceptions do. Each case is a fresh process with real pipes."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(body)], capture_output=True, text=True, timeout=120)


def test_every_channel_is_discarded_and_restored() -> None:
    done = run("""
        import logging, os, sys, warnings
        from s2p_runtime.quiet import quiet_import
        print("before")
        with quiet_import():
            print("printed"); print("printed to stderr", file=sys.stderr)
            os.write(1, b"native out"); os.write(2, b"native err")
            warnings.warn("warned"); logging.getLogger("x").critical("logged")
            with quiet_import():
                print("nested")
            print("after nested")
        print("after"); print("error stream", file=sys.stderr)
        logging.getLogger("x").error("log works again")
    """)
    assert done.returncode == 0
    assert done.stdout == "before\nafter\n"
    assert done.stderr == "error stream\nlog works again\n"


def test_exception_passes_with_the_discarded_output_as_note() -> None:
    done = run("""
        from s2p_runtime.quiet import quiet_import
        with quiet_import():
            print("clue")
            import no_such_package_of_anyone
    """)
    assert done.returncode == 1 and done.stdout == ""
    assert "ModuleNotFoundError: No module named 'no_such_package_of_anyone'" in done.stderr
    assert "clue" in done.stderr


def test_closed_descriptors_are_no_error() -> None:
    done = run("""
        import os, sys
        os.close(2)
        from s2p_runtime.quiet import quiet_import
        with quiet_import():
            print("hidden")
        print("shown")
    """)
    assert (done.returncode, done.stdout) == (0, "shown\n")
