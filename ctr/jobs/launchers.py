"""Where families of jobs run: in processes of this machine, or as jobs of a Slurm cluster.

A launcher starts families and reports their progress: numbers of rows, then an `Outcome`, or how the worker died.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import multiprocessing
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ctr.errors import ArgumentError, CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Job
from ctr.jobs.worker import Outcome, RunFamily, attempt, serve, terminate
from ctr.processes import cause, end
from ctr.training.experiment import run_family

POLL_SECONDS = 0.2
# Imported once, in the process that all workers are forked from.
METHOD = "forkserver"
PRELOAD = ["ctr.jobs.forkserver", "ctr.environment", "ctr.jobs.worker", "mlflow.tracking"]
# What helps a Slurm job that ended in a state.
HINTS = {"OUT_OF_MEMORY": "+slurm.mem_gb=N asks for more memory", "TIMEOUT": "slurm.timeout_min=N allows more time"}


@dataclass(frozen=True)
class Died:
    """A worker that ended without an outcome, and why."""

    cause: str


Answer = int | Outcome | Died


class Launcher(Protocol):
    """Runs families of jobs."""

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        """Starts a family; returns its name in the answers. ``wait``: see `ctr.jobs.worker.attempt`."""

    def answers(self) -> list[tuple[Any, Answer]]:
        """Waits for answers. An `Outcome` or `Died` is the last one of its family."""

    def close(self) -> None:
        """Ends everything that still runs."""


class LocalLauncher:
    """Runs each family in a process of this machine, forked from one that has everything imported (0.03 s a family).

    Args:
        root: folder of the cache.
        run: trains and evaluates a family's runs; the process finds it by its module and name.
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
                answer = Died(cause(self._running[connection]))
            if not isinstance(answer, int):
                self._running.pop(connection).join()
                connection.close()
            found.append((connection, answer))
        return found

    def close(self) -> None:
        for process in self._running.values():
            process.terminate()
        for connection, process in self._running.items():
            end(process)
            connection.close()
        self._running.clear()


def launcher(name: str, root: Path, slurm: Mapping[str, object]) -> Launcher:
    """Returns the launcher of ``launcher=<name>``.

    Args:
        name: ``"local"`` or ``"slurm"``.
        root: folder of the cache.
        slurm: parameters of submitit's executor.

    Raises:
        ArgumentError: a parameter that the executor does not have, or a wrong value.
        CtrError: submitit is not installed, or this machine has no Slurm.
    """
    return LocalLauncher(root) if name == "local" else SlurmLauncher(root, slurm)


class SlurmLauncher:
    """Submits a Slurm job for each family, by submitit. All nodes must share the disk of the cache and the data.

    Args:
        root: folder of the cache; submitit's files and logs go to its folder ``.submitit``.
        parameters: of submitit's executor: ``timeout_min``, ``mem_gb``, ``slurm_partition``, ...
        run: trains and evaluates a family's runs; the job finds it by its module and name.
        cluster: ``"local"`` runs the jobs in processes of this machine, for tests.

    Raises:
        ArgumentError, CtrError: see `launcher`.
    """

    def __init__(
        self, root: Path, parameters: Mapping[str, object], run: RunFamily = run_family, cluster: str = "slurm"
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise CtrError(
                'launcher=slurm needs submitit, which is not installed: pip install "sparse-ctr[cluster]"'
            ) from error
        self._root, self._run = root, run
        try:
            self._executor = submitit.AutoExecutor(folder=root / ".submitit", cluster=cluster)
        except RuntimeError as error:
            raise CtrError("launcher=slurm: no Slurm on this machine (no command srun); use launcher=local") from error
        try:
            self._executor.update_parameters(**parameters)
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise ArgumentError(f"slurm={dict(parameters)}: {str(error).splitlines()[0]}") from error
        self._running: list[Any] = []

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        started = self._executor.submit(run_remotely, list(jobs), self._root, wait, self._run)
        self._running.append(started)
        return started

    def answers(self) -> list[tuple[Any, Answer]]:
        while not (done := [job for job in self._running if job.done()]):
            time.sleep(POLL_SECONDS)
        self._running = [job for job in self._running if job not in done]
        return [(job, answer) for job in done for answer in _answers(job)]

    def close(self) -> None:
        for job in self._running:
            job.cancel(check=False)  # one that has just ended is no error
        self._running.clear()


def run_remotely(jobs: Sequence[Job], root: Path, wait: bool, run: RunFamily) -> tuple[int, Outcome]:
    """Runs a family within a Slurm job; returns the number of rows done, and how it ended."""
    signal.signal(signal.SIGTERM, terminate)  # scancel: the runs are recorded as killed; submitit would ignore it
    rows: list[int] = []
    outcome = attempt(jobs, Cache(root), rows.append, wait=wait, run=run)
    return sum(rows), outcome


def _answers(job: Any) -> Sequence[Answer]:
    """The answers of a Slurm job that ended. submitit tells why it died in a long text that ends with its log."""
    try:
        answers: Sequence[Answer] = job.result()
        return answers
    except Exception as error:
        raised = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt|Terminated)\b.*", str(error), re.MULTILINE)
        hint = next((hint for state, hint in HINTS.items() if job.state.startswith(state)), None)
        why = "; ".join(text for text in [*raised[-1:], hint] if text)
        return [Died(f"the Slurm job {job.job_id} ended as {job.state} ({why or 'killed'}); log: {job.paths.stderr}")]
