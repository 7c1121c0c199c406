"""Errors that a user can act on: one line that names what, where and what was expected.

A command exits with 2 where its arguments ask for what cannot be (`ArgumentError`), with 1 where it fails on the way.
"""

from __future__ import annotations

import errno
import io
import logging
import os
from functools import cache
from pathlib import Path

# What to do about errors of the system.
SPACE = "free some space there, or choose another place, and start it again"
ADVICE = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "a limit on the size of files is reached: raise it (ulimit -f), and start it again",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place, or get access to this one",
    errno.EPERM: "choose another place, or get access to this one",
    errno.ENOTDIR: "expected a folder; choose another place",
}


class CtrError(Exception):
    """A failure with a message for the user; commands print it without a traceback and exit with 1.

    It survives pickling, whatever its constructor takes.
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

    def advised(self, advice: str) -> DataError:
        """The same with what to do about it."""
        return DataError(self.path, self.line, f"{self.problem}; {advice}")


def system_message(error: OSError) -> str:
    """One line for an error of the system: the file, what happened to it, and what to do where that is known."""
    path = error.filename if error.filename is not None else file_of(error)
    said = os.strerror(error.errno) if error.errno else str(error)
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{said}{advice}" if path is None else f"{path}: {said}{advice}"


def file_of(error: BaseException) -> str | None:
    """The file that was being written: the system does not name it, but the code that failed has it in hand."""
    found, trace = None, error.__traceback__
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(name := getattr(value, "name", None), str):
                found = name
        trace = trace.tb_next
    return found


@cache
def warn_once(text: str) -> None:
    """Says something that the user should know, and the same only once in a process."""
    logging.getLogger("ctr").warning("warning: %s", text)
