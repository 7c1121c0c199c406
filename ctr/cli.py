"""What the commands share: exit codes and one-line errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from threading import Timer
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ctr import output
from ctr.config import help
from ctr.config.messages import CONFIG_ERRORS, explain
from ctr.environment import end_at_once
from ctr.errors import ArgumentError, CtrError, system_message

FAILED, WRONG_ARGUMENTS, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 130, 141, 143  # 128 + the signal's number
log = logging.getLogger("ctr")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as ``kill`` and schedulers send it: cleared up after like Ctrl-C."""


def terminate(*_: object) -> NoReturn:
    """On SIGTERM."""
    raise Terminated


def send_again(lost: sys.UnraisableHookArgs) -> None:
    """Python prints what is raised while it clears an object away, and goes on. Ctrl-C and SIGTERM must not be lost."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    handler, seconds = signal.getsignal(number), 0.01  # at once it would be raised in here, and lost too
    while True:
        try:
            Timer(seconds, os.kill, (os.getpid(), number)).start()
            break
        except KeyboardInterrupt:  # on a busy machine it comes before the timer's thread is known to have started
            signal.signal(number, handler)  # which may be for one time
            seconds *= 2


def message(error: BaseException) -> str:
    """One line: what an error says, with its causes where Hydra wraps them."""
    if isinstance(error, CtrError):
        return str(error)
    if isinstance(error, CONFIG_ERRORS) and (text := explain(error)):
        return text
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return system_message(cause)
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
        cause = cause.__cause__
    text = " ".join(line if line[-1] in ".:;," else f"{line};" for line in dict.fromkeys(lines)).rstrip(";")
    return text if isinstance(error, CONFIG_ERRORS) else f"{type(error).__name__}: {text}"


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    return WRONG_ARGUMENTS if isinstance(error, (ArgumentError, *CONFIG_ERRORS)) else FAILED


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or SIGTERM that an error is a consequence of: what a library raises while it clears up after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def fail(error: BaseException, says: Callable[[str], bool] = lambda text: True) -> NoReturn:
    """Ends the command with one line on stderr and the exit code for this error; without a word where nobody reads any
    more (``| head``), or ``says`` has it that another process says the same."""
    error = _interruption(error) or error
    unread = isinstance(error, BrokenPipeError) and (error.filename in output.STREAMS or output.unread())
    if isinstance(error, OSError):
        error = output.flush() or error
    if unread:
        sys.exit(BROKEN_PIPE)
    text = message(error)
    if isinstance(error, KeyboardInterrupt):
        text = "; ".join(["terminated" if isinstance(error, Terminated) else "interrupted", *map(str, error.args)])
    with suppress(OSError):  # nowhere left to say it; the exit code does
        if says(text):
            print(f"error: {text}", file=sys.stderr)
    sys.exit(_exit_code(error))


def run_command(command: Callable[[], Any], name: str | None = None) -> None:
    """Runs a main function; exits with 1 if it failed, 2 on wrong arguments, 130 or 143 if stopped by a signal, 141 if
    nobody reads its output any more.

    An error is one line on stderr.

    Args:
        command: the function.
        name: of its configuration, for ``--help``, where it is a Hydra one.
    """
    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = send_again
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors over instead of printing and exiting by itself
    try:
        if name and {"--help", "-h"} & set(sys.argv[1:]):
            print(help.text(name, [argument for argument in sys.argv[1:] if not argument.startswith("-")]))
        else:
            command()
    except (Exception, KeyboardInterrupt) as error:
        fail(error)
    finally:
        if unwritten := output.flush():
            fail(unwritten)


def report_failure(error: BaseException, says: Callable[[str], bool] = lambda text: True) -> None:
    """To be called where a job fails: keeps the traceback in the job's log file, and ends a single run.

    In a multirun it returns, for the caller to raise on: Hydra then goes on with the other jobs.
    ``hydra.verbose=true`` shows the traceback on the screen as well. ``says``: as for `fail`.
    """
    log.debug("%s", error, exc_info=error)
    hydra = HydraConfig.get()
    if hydra.verbose:
        traceback.print_exception(error)
    if hydra.mode is not RunMode.MULTIRUN or isinstance(error, BrokenPipeError):
        fail(error, says)
