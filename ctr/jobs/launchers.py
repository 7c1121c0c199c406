"""Where families of jobs run: in processes of this machine, or as jobs of a Slurm cluster.

A launcher starts a family and answers what has happened since: numbers of rows, an `Outcome`, or how its process died.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ctr.errors import CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Job
from ctr.jobs.worker import Outcome, RunFamily, attempt, serve
from ctr.training.experiment import run_family

SECONDS_TO_STOP = 10.0  # for a worker to record its runs as killed, before it is killed itself
# What every worker imports, once, in the process that all of them are forked from.
METHOD = "forkserver"
PRELOAD = ["ctr.environment", "ctr.jobs.worker", "mlflow.tracking"]


@dataclass(frozen=True)
class Died:
    """A worker that ended without an answer, and of what."""

    cause: str


Answer = int | Outcome | Died


class Launcher(Protocol):
    """Runs families of jobs."""

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        """Starts a family; returns what the answers name it by. ``wait``: see `ctr.jobs.worker.attempt`."""

    def answers(self) -> list[tuple[Any, Answer]]:
        """Waits for something to happen. After an `Outcome` or `Died` nothing more comes of that family."""

    def close(self) -> None:
        """Ends everything that still runs."""


class LocalLauncher:
    """A process of this machine for each family, forked from one that has everything imported (0.03 s a family).

    Args:
        root: of the cache.
        run: what trains and evaluates a family's runs; found by its module and name in the process.
    """

    def __init__(self, root: Path, run: RunFamily = run_family) -> None:
        self._root, self._run = root, run
        self._context: Any = multiprocessing.get_context(METHOD)
        self._context.set_forkserver_preload(PRELOAD)
        self._running: dict[Connection, Any] = {}

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Connection:
        connection, other = self._context.Pipe()
        process = self._context.Process(target=serve, args=(other, list(jobs), self._root, wait, self._run))
        process.start()
        other.close()
        self._running[connection] = process
        return connection

    def answers(self) -> list[tuple[Connection, Answer]]:
        found: list[tuple[Connection, Answer]] = []
        for ready in wait(list(self._running)):
            connection = ready
            assert isinstance(connection, Connection)
            try:
                answer: Answer = connection.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of an answer
                answer = Died(_cause(self._running[connection]))
            if not isinstance(answer, int):
                self._running.pop(connection).join()
                connection.close()
            found.append((connection, answer))
        return found

    def close(self) -> None:
        processes = list(self._running.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(SECONDS_TO_STOP)
            if process.is_alive():
                process.kill()
                process.join()
        for connection in self._running:
            connection.close()
        self._running.clear()


def _cause(process: Any) -> str:
    process.join(SECONDS_TO_STOP)  # its connection closes a moment before it ends
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    if code is None or code >= 0:
        return f"the worker process ended with {code}"
    hint = "; perhaps out of memory: fewer workers need less" if -code == signal.SIGKILL else ""
    return f"the worker process was ended by {signal.Signals(-code).name}{hint}"


def launcher(name: str, root: Path, slurm: Mapping[str, object]) -> Launcher:
    """The launcher of ``launcher=<name>``.

    Args:
        name: ``"local"`` or ``"slurm"``.
        root: of the cache.
        slurm: parameters of submitit's executor.

    Raises:
        CtrError: what it needs is not installed.
    """
    return LocalLauncher(root) if name == "local" else SlurmLauncher(root, slurm)


class SlurmLauncher:
    """A Slurm job for each family, by submitit; the cache and the data must be on a disk that all nodes share.

    Args:
        root: of the cache.
        parameters: of submitit's executor, as ``slurm_partition``, ``timeout_min``, ``mem_gb``.
        cluster: None finds out; ``"local"`` runs in processes of this machine, for tests.
    """

    def __init__(self, root: Path, parameters: Mapping[str, object], cluster: str | None = None) -> None:
        try:
            import submitit
        except ImportError as error:
            raise CtrError(
                'launcher=slurm needs submitit, which is not installed: pip install "ctr[cluster]"'
            ) from error
        self._root = root
        self._executor = submitit.AutoExecutor(folder=root / ".submitit", cluster=cluster)
        self._executor.update_parameters(**parameters)
        self._running: list[Any] = []

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        started = self._executor.submit(run_remotely, list(jobs), self._root, wait)
        self._running.append(started)
        return started

    def answers(self) -> list[tuple[Any, Answer]]:
        while not (done := [job for job in self._running if job.done()]):
            time.sleep(0.2)
        self._running = [job for job in self._running if job not in done]
        return [(job, _outcome(job)) for job in done]

    def close(self) -> None:
        for job in self._running:
            job.cancel()
        self._running.clear()


def run_remotely(jobs: Sequence[Job], root: Path, wait: bool) -> Outcome:
    """What a Slurm job runs."""
    return attempt(jobs, Cache(root), lambda rows: None, wait=wait)


def _outcome(job: Any) -> Answer:
    try:
        outcome: Outcome = job.result()
        return outcome
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or ["nothing"]
        return Died(f"the Slurm job {job.job_id} ended with state {job.state}: {last[0]} (log: {job.paths.stderr})")
