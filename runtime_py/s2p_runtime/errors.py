"""Errors whose message is meant for the person at the terminal.

Every message is one line of the form ``what is wrong; what to do``. The command line prints it after ``error:`` and
exits with :attr:`S2PError.exit_status`.
"""

from __future__ import annotations


class S2PError(Exception):
    """Bad input or usage (exit status 2)."""

    exit_status = 2


class CheckFailed(S2PError):
    """The input was understood, but a check on it did not hold (exit status 1)."""

    exit_status = 1
