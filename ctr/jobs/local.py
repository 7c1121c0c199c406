"""Families of jobs in processes of this machine."""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ctr.jobs.launcher import Answer, Died
from ctr.jobs.plan import Job
from ctr.jobs.worker import RunFamily, serve
from ctr.processes import cause, end
from ctr.training.experiment import run_family

# Imported once, in the process that all workers are forked from; torch's optimizers import torch._dynamo, for seconds.
METHOD = "forkserver"
PRELOAD = ["ctr.jobs.forkserver", "ctr.environment", "ctr.jobs.worker", "mlflow.tracking", "torch._dynamo"]


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
