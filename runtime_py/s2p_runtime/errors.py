"""Errors whose message is meant for the person who called: ``what is wrong; what to do``, one line.

A message speaks of parameters by their Python names in backticks, with ``=`` where it proposes a value (```minimum_os=iOS18```).
The command line shows those as its own options; nothing else knows how these are written.
"""

from __future__ import annotations

from typing import Self


class S2PError(Exception):
    """Bad input or usage (exit status 2 of the command line).

    Attributes:
        problem: what is wrong.
        remedy: what to do.
        field: the parameter that is to blame, where it is one.
    """

    exit_status = 2

    def __init__(self, problem: str, remedy: str, field: str | None = None) -> None:
        super().__init__(problem, remedy, field)
        self.problem, self.remedy, self.field = problem, remedy, field

    @classmethod
    def from_line(cls, line: str, remedy: str) -> Self:
        """The error that another program told in one line, with a remedy in case that its line names none."""
        problem, semicolon, told = line.removeprefix("error: ").rpartition("; ")
        return cls(problem, told) if semicolon else cls(told, remedy)

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


class S2PWarning(UserWarning):
    """Something that the caller should know of, though the work goes on."""


class CheckFailed(S2PError):
    """The input was understood, but a check on it did not hold (exit status 1)."""

    exit_status = 1
