"""Errors that a user can act on: one line that names what, where and what was expected."""

from __future__ import annotations

from pathlib import Path


class CtrError(Exception):
    """A failure with a message for the user; commands print it without a traceback and exit with 1."""


DIVERGED = "diverged"


class Diverged(CtrError):
    """A run whose loss or predictions are not finite any more. The message begins with `DIVERGED`: a study, which has
    nothing but the message, tells such a run from one that failed."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{DIVERGED}: {problem}")


class DataError(CtrError):
    """Input that does not have the expected form.

    Args:
        path: the file.
        line: 1-based line number, or None where no single line is at fault.
        problem: what was found and what was expected.
    """

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        super().__init__(f"{path}{'' if line is None else f', line {line:,}'}: {problem}")
