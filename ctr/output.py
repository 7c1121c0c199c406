"""What a command writes as it goes, to its streams and its log file, where that cannot be written."""

from __future__ import annotations

import logging
import os
import select
import sys
from contextlib import suppress

STREAMS = ("standard output", "standard error")


def flush() -> OSError | None:
    """Writes what the streams still hold; returns, with the stream as its file name, the error of one that cannot be
    written. Such a stream takes nothing further: Python would try again at its end, and print lines of its own."""
    found = None
    for name, stream in zip(STREAMS, (sys.stdout, sys.stderr), strict=True):
        try:
            if stream is not None:  # closed by whoever started this
                stream.flush()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            error.filename = name
            found = found or error
    return found


def unread() -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed, or not a file of the system's
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class LogFile(logging.FileHandler):
    """A log file without which the run goes on: that it cannot be written is said in one line, once."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            with suppress(OSError):
                print(f"warning: {self.baseFilename}: {error.strerror}; the log is not whole", file=sys.stderr)
