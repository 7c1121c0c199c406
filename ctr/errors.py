"""Errors that a user can act on: one line that names what, where and what was expected.

A command exits with 2 where its arguments ask for what cannot be (`ArgumentError`), with 1 where it fails on the way.
"""

from __future__ import annotations

from pathlib import Path


class CtrError(Exception):
    """A failure with a message for the user; commands print it without a traceback and exit with 1.

    It comes whole out of another process, whatever its constructor takes.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[CtrError], args: tuple[object, ...], values: dict[str, object]) -> CtrError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error


class ArgumentError(CtrError):
    """An argument that cannot work, whatever shows it: a key, a value, or a file, column or day that is not there."""


DIVERGED = "diverged"


class Diverged(CtrError):
    """A run whose loss or predictions are not finite any more. The message begins with `DIVERGED`: a study, which has
    nothing but the message, tells such a run from one that failed."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{DIVERGED}: {problem}")


class TooFewRows(ArgumentError):
    """More rows to train on were asked for than there are."""

    def __init__(self, asked: int, there: int) -> None:
        self.asked, self.there = asked, there
        super().__init__(f"train_rows={asked:,}; there are {there:,} rows to train on")


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
