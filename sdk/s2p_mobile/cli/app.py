"""The Typer application and what happens when a command fails."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import Annotated, Any

import typer

from s2p_mobile.cli import (
    bench,
    convert,
    evaluate,
    forecast,
    generate,
    inspect,
    latents,
    models,
    quantize,
    report,
    sensitivity,
    verify,
)
from s2p_mobile.cli.console import notes_on_stderr
from s2p_runtime import __version__
from s2p_runtime.errors import S2PError

INTERRUPTED = 3
BAD_INPUT = 2
_TYPER_INTERRUPTED = 130
"""What Typer makes of Ctrl-C inside a command."""

app = typer.Typer(
    name="s2p-mobile",
    help="Turn a Stable Diffusion checkpoint into a small integer model for phones that draws the same picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"s2p-mobile {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["S2P_DEBUG"] = "1"


for module in (models, forecast, quantize, convert, verify, bench, report, generate, evaluate, inspect, sensitivity, latents):
    module.register(app)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status: 0 done, 1 a check failed, 2 bad input or usage, 3 interrupted.

    Errors become one line on stderr.
    """
    try:
        with notes_on_stderr():
            result = app(args=arguments, prog_name="s2p-mobile", standalone_mode=False)
        if result == _TYPER_INTERRUPTED:
            return _interrupted()
        return result if isinstance(result, int) else 0
    except typer.Exit as error:
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except S2PError as error:
        return _fail(as_options(str(error)), error.exit_status)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads any more; do not complain at exit either
        return 0
    except OSError as error:
        return _fail(
            f"{error.filename or 'input or output'}: {error.strerror or error}; check the path and try again", BAD_INPUT
        )
    except MemoryError:
        return _fail("out of memory; close other programs or use a smaller model", BAD_INPUT)
    except Exception as error:
        if _was_interrupted(error):
            return _interrupted()
        if hasattr(error, "format_message"):
            return _usage(error)
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return _fail(f"unexpected {reason}; run s2p-mobile --debug ... and report it", BAD_INPUT)


_PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
"""A parameter as messages of the library name it, see :mod:`s2p_runtime.errors`."""
_SPELLED = {"labels": "label", "bundles": "bundle", "split_shortcuts=False": "whole-shortcuts"}
"""Options that are not called as their parameters: those of lists, which are given once for each, and the other side of a switch."""


def as_options(message: str) -> str:
    """A library's message for people at the command line: its parameters in backticks become options."""

    def spelled(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if value in ("True", "False"):
            name, value = (name if value == "True" else f"{name}={value}"), None
        option = "--" + _SPELLED.get(name, name.replace("_", "-"))
        return option if value is None else f"{option} {value}"

    return _PARAMETER.sub(spelled, message)


def _interrupted() -> int:
    return _fail("interrupted; run the command again", INTERRUPTED)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C lies behind an error: native modules turn it into an ImportError of their own while they are loaded."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _usage(error: Any) -> int:
    """A wrong word on the command line. Typer's error classes are private to it, so they are known by what they offer."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message())
        return BAD_INPUT
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "s2p-mobile"
    message = " ".join(error.format_message().split()).rstrip(".")
    return _fail(f"{message[:1].lower()}{message[1:]}; see {command} --help", BAD_INPUT)


def _fail(message: str, status: int) -> int:
    if os.environ.get("S2P_DEBUG") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return status
