"""What a worker process does: it runs one family of jobs whose results are missing, and says how each ended.

The folder of finished runs is the protocol: jobs go in as settings, ``result.json`` comes out.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from filelock import Timeout

from ctr.artifact import pyfunc
from ctr.artifact.save import save_model
from ctr.cli import Terminated, message, send_again
from ctr.errors import CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Job
from ctr.report import run_page
from ctr.training.experiment import run_family
from ctr.training.folder import CHECKPOINTS, LOG, RESULT
from ctr.training.identity import expect_unchanged
from ctr.training.run import Run

OnRows = Callable[[int], None]
RunFamily = Callable[[Sequence[Run], OnRows], None]  # as `ctr.training.experiment.run_family`


def _changed() -> str | None:
    try:
        expect_unchanged()
    except CtrError as error:
        return str(error)
    return None


CHANGED = _changed()  # once, when all that this process runs has been imported


@dataclass(frozen=True)
class Outcome:
    """How a family ended.

    Attributes:
        errors: one line for each job that failed, by key.
        busy: keys of jobs that another process runs just now.
    """

    errors: dict[str, str] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)


def serve(connection: Connection, jobs: Sequence[Job], root: Path, wait: bool, run: RunFamily) -> None:
    """Runs a family in a process of its own; sends numbers of rows as they are done, and an `Outcome`.

    The process ends when the other end of the connection closes, also in the middle of a run.
    """
    os.setsid()  # Ctrl-C in a terminal reaches the pool alone, which then ends its workers
    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = lost
    threading.Thread(target=_end_with_the_pool, args=(connection,), daemon=True).start()
    try:
        connection.send(attempt(jobs, Cache(root), connection.send, wait=wait, run=run))
    except (Terminated, BrokenPipeError):
        os._exit(128 + signal.SIGTERM)  # the runs are recorded as killed by now


def terminate(*_: object) -> None:
    """On SIGTERM, once: the end of the pool is told twice, by the connection and by the pool."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def lost(error: sys.UnraisableHookArgs) -> None:
    """A signal that Python dropped (`ctr.cli.send_again`) comes once more."""
    signal.signal(signal.SIGTERM, terminate)
    send_again(error)


def _end_with_the_pool(connection: Connection) -> None:
    try:
        connection.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def attempt(jobs: Sequence[Job], cache: Cache, on_rows: OnRows, *, wait: bool, run: RunFamily = run_family) -> Outcome:
    """Runs the jobs of a family that are not finished.

    Args:
        jobs: of one family.
        cache: where each run's folder is.
        on_rows: called with the number of rows done since the last call.
        wait: wait for a job that another process runs just now; else it is handed back as busy.
        run: trains and evaluates the runs.
    """
    busy: list[str] = []
    with ExitStack() as held:
        try:
            mine: list[Job] = []
            # In the order of their names: two processes that wait for each other's jobs must not wait for ever.
            for job in sorted(jobs, key=lambda job: job.key):
                try:
                    held.enter_context(cache.lock(job.key).acquire(timeout=-1 if wait else 0))
                except Timeout:
                    busy.append(job.key)
                    continue
                if not cache.done(job.key, job.saves):  # another process may have finished it meanwhile
                    mine.append(job)
            return Outcome(_run(mine, cache, on_rows, run) if mine else {}, busy)
        except Exception as error:  # a full disk, for example: the study names it, and there may be no log
            own = [job.key for job in jobs if job.key not in busy and not cache.done(job.key, job.saves)]
            return Outcome(dict.fromkeys(own, message(error)), busy)


def run_remotely(jobs: Sequence[Job], root: Path, wait: bool, run: RunFamily) -> tuple[int, Outcome]:
    """Runs a family in a process of a cluster; returns the number of rows done, and how it ended."""
    signal.signal(signal.SIGTERM, terminate)  # the runs are recorded as killed; submitit would ignore it
    rows: list[int] = []
    outcome = attempt(jobs, Cache(root), rows.append, wait=wait, run=run)
    return sum(rows), outcome


def _run(jobs: Sequence[Job], cache: Cache, on_rows: OnRows, run_runs: RunFamily) -> dict[str, str]:
    """Runs jobs whose locks are held; the errors of those that failed, by key."""
    folders = [cache.folder(job.key) for job in jobs]
    for job, folder in zip(jobs, folders, strict=True):
        _clear(folder, keep_checkpoints=job.settings.checkpoint is not None)
    runs = [
        Run(
            job.settings,
            folder,
            job.key,
            save_model,
            pyfunc.write,
            draw=run_page.write,
            command=job.command,
            resume=True,
        )
        for job, folder in zip(jobs, folders, strict=True)
    ]
    with _logged(folders):
        if CHANGED is not None:
            return dict.fromkeys((job.key for job in jobs), CHANGED)
        run_runs(runs, on_rows)
    failed: dict[str, str] = {}
    for job, run in zip(jobs, runs, strict=True):
        if run.error is not None:
            failed[job.key] = message(run.error)
            (run.folder / RESULT).unlink(missing_ok=True)
            with suppress(OSError), (run.folder / LOG).open("a") as file:  # the disk may be what failed
                traceback.print_exception(run.error, file=file)
    return failed


def _clear(folder: Path, *, keep_checkpoints: bool) -> None:
    """Removes what a killed run left, but for its checkpoints where it is to have some."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            if not (keep_checkpoints and path.name == CHECKPOINTS):
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _logged(folders: Sequence[Path]) -> Iterator[None]:
    """Logs into each folder; what goes to stdout and stderr, of native code too, goes to the first one's log."""
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
