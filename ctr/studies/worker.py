"""A worker process: runs the families that `ctr.studies.runner` sends it, one after the other, until the runner closes
the connection or is no more.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import importlib
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from filelock import Timeout

from ctr.cli import Terminated, message, send_again
from ctr.config import TrainConfig
from ctr.errors import CtrError
from ctr.store import LOG, RESULT, Store, expect_code, expect_unchanged

# Configurations, folders, what to call with the number of rows done, keys. It holds each run against its key
# (`ctr.store.confirm`) before it leaves a result in the folder; returns for each run the error that ended it, or None.
RunFamily = Callable[
    [Sequence[TrainConfig], Sequence[Path], Callable[[int], None], Sequence[str]], "list[BaseException | None]"
]


@dataclass(frozen=True)
class Order:
    """A family to run: the jobs' keys and configurations.

    With ``wait`` a job that another process runs just now is waited for; else it is handed back as busy.
    """

    keys: list[str]
    configs: list[TrainConfig]
    wait: bool


@dataclass(frozen=True)
class Done:
    """How an order ended: error by key (one line) of the jobs that failed, and the keys that were busy."""

    errors: dict[str, str]
    busy: list[str]


def serve(connection: Connection, run: RunFamily, store: Store) -> None:
    """Answers each `Order` at once with 0 rows, with numbers of rows as they are done, and with a `Done`."""
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    while True:
        order = orders.get()
        connection.send(0)
        connection.send(_execute(order, connection.send, run, store))


def _receive(connection: Connection, orders: queue.SimpleQueue[Order]) -> None:
    """Takes orders; ends this process when the runner is no more, killed for example, also amid a family."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def _execute(order: Order, on_rows: Callable[[int], None], run: RunFamily, store: Store) -> Done:
    busy: list[str] = []
    with ExitStack() as held:
        try:
            mine: list[tuple[str, TrainConfig]] = []
            # In the order of their names: two that wait for each other's jobs must not wait for ever.
            for key, config in sorted(zip(order.keys, order.configs, strict=True), key=lambda job: job[0]):
                try:
                    held.enter_context(store.lock(key).acquire(timeout=-1 if order.wait else 0))
                except Timeout:
                    busy.append(key)
                    continue
                if store.result(key) is None:  # another process may have finished it meanwhile
                    mine.append((key, config))
            return Done(_attempt(mine, on_rows, run, store) if mine else {}, busy)
        except Exception as error:  # a full disk, for example: the study is to name it, and there may be no log
            own = [key for key in order.keys if key not in busy and store.result(key) is None]
            return Done(dict.fromkeys(own, message(error)), busy)


def _attempt(
    jobs: list[tuple[str, TrainConfig]], on_rows: Callable[[int], None], run: RunFamily, store: Store
) -> dict[str, str]:
    """Runs jobs whose locks are held; the errors of those that failed, by key."""
    folders = [store.folder(key) for key, _ in jobs]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.mkdir(parents=True)
    with _logged(folders):
        try:
            for key, _ in jobs:
                expect_code(key)
            errors = run([config for _, config in jobs], folders, on_rows, [key for key, _ in jobs])
        except Exception as raised:
            errors = [None if (folder / RESULT).exists() else raised for folder in folders]
    failed: dict[str, str] = {}
    for (key, _), folder, error in zip(jobs, folders, errors, strict=True):
        if error is not None:
            failed[key] = message(error)
            (folder / RESULT).unlink(missing_ok=True)
            with suppress(OSError), (folder / LOG).open("a") as file:  # the disk may be what failed
                traceback.print_exception(error, file=file)
    return failed


@contextmanager
def _logged(folders: Sequence[Path]) -> Iterator[None]:
    """Logs into each folder; what goes to stdout and stderr, of native code too, lands in the first one's log."""
    root = logging.getLogger()
    with ExitStack() as undo:
        for folder in folders:
            handler = logging.FileHandler(folder / LOG)
            undo.callback(handler.close)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)
            undo.callback(root.removeHandler, handler)
        first = os.open(folders[0] / LOG, os.O_WRONLY | os.O_APPEND)
        undo.callback(os.close, first)
        for stream in (sys.stdout, sys.stderr):
            before = os.dup(stream.fileno())
            undo.callback(os.close, before)
            undo.callback(os.dup2, before, stream.fileno())
            os.dup2(first, stream.fileno())
        undo.callback(sys.stdout.flush)
        yield


def terminate(*_: object) -> None:
    """On SIGTERM, once: the runner's end is told twice, by the connection and by the runner."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def lost(error: sys.UnraisableHookArgs) -> None:
    """A signal that Python dropped (`ctr.cli.send_again`) comes once more."""
    signal.signal(signal.SIGTERM, terminate)
    send_again(error)


def load(function: str) -> RunFamily:
    """What ``module:name`` names; if the sources changed meanwhile, what says so for each family."""
    module, _, name = function.partition(":")
    run: RunFamily = getattr(importlib.import_module(module), name)
    try:
        expect_unchanged()
    except CtrError as error:
        return partial(_refuse, error)
    return run


def _refuse(error: CtrError, *_: object) -> NoReturn:
    raise error


def main(descriptor: str, function: str, root: str) -> None:
    """Serves at an inherited socket; ``function`` is ``module:name`` of a `RunFamily`, ``root`` the store."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's, which then ends its workers
    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = lost
    logging.getLogger("ctr").setLevel(logging.DEBUG)
    try:
        serve(Connection(int(descriptor)), load(function), Store(Path(root)))
    except (Terminated, BrokenPipeError):
        sys.exit(143)
