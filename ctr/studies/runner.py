"""Runs the jobs of a study in parallel processes, each job once, and hands back their figures."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pandas as pd

from ctr.cli import bar
from ctr.config import TrainConfig
from ctr.result import Result
from ctr.store import LOG, Store
from ctr.studies.jobs import Planned, Planner
from ctr.studies.options import Job
from ctr.studies.worker import Order

START = "import sys; from ctr.studies.worker import main; main(*sys.argv[1:])"
FIGURES = [field.name for field in fields(Result)]  # NaN where a run failed
SECONDS_TO_STOP = 10.0  # for a worker to record its runs as killed, before it is killed itself


class Family:
    """Jobs that one worker runs together: they differ in ``prune`` and ``retrain`` alone."""

    def __init__(self, jobs: list[Planned], passes: float) -> None:
        self.jobs = jobs
        self.rows = round(passes * jobs[0].rows_train + sum(job.rows_test for job in jobs))
        self.wait = False


class Worker:
    """A process that runs one family after the other (`ctr.studies.worker`), with as many threads as a job has."""

    def __init__(self, function: str, store: Store, threads: int) -> None:
        self.connection, other = Pipe()
        # A new session: Ctrl-C in a terminal reaches the runner alone. OpenMP reads its threads when it is loaded.
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(other.fileno()), function, str(store.root)],
            pass_fds=[other.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        other.close()
        self.family: Family | None = None
        self.rows = 0
        self.works = False  # it has answered an order
        self.began = False  # it has answered the present one

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def start(self, family: Family) -> None:
        self.family, self.rows, self.began = family, 0, False
        jobs = family.jobs
        self.connection.send(Order([job.key for job in jobs], [job.config for job in jobs], family.wait))

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()


class Runner:
    """Answers a study's questions (`ctr.studies.options.Ask`); to be used as a context, which ends its processes.

    Args:
        store: finished runs, of this study and of others.
        workers: processes at a time.
        always: overrides for every job, such as ``threads``; the job's own win over them.
        tags: for the jobs' runs in MLflow.
        function: ``module:name`` of what runs a family in a worker, as `ctr.train.jobs` does.
        passes: the cost of a family in passes over its training rows, as `ctr.train.passes` has it.
        check: raises for values that cannot work.
    """

    def __init__(
        self,
        store: Store,
        workers: int,
        *,
        always: Mapping[str, object],
        tags: Mapping[str, str],
        function: str,
        passes: Callable[[Sequence[TrainConfig]], float],
        check: Callable[[TrainConfig], None],
    ) -> None:
        self._store = store
        self._most = workers
        self._threads = int(str(always.get("threads", 1)))
        self._function = function
        self._passes = passes
        self._planner = Planner(store, always, tags, check)
        self._workers: list[Worker] = []
        self._bar: Any = None
        self._parts = 0  # times that there were runs to do
        self._errors: dict[str, str] = {}
        self.commands: dict[str, str] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            try:
                worker.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()
        if self._bar is not None:
            self._bar.close()

    @property
    def failures(self) -> dict[Path, str]:
        """The log and the error of each job that failed."""
        return {self._store.folder(key) / LOG: error for key, error in self._errors.items()}

    def ask(self, jobs: Sequence[Job]) -> pd.DataFrame:
        """Runs what is missing; one row per job, in the jobs' order.

        A job that fails leaves a gap and the others go on; this runner does not try it again, another one does.

        Returns:
            All keys of the jobs, the scalars of ``result.json``, ``command``, ``error`` (None or one line), ``folder``.

        Raises:
            HydraException, OmegaConfBaseException, ArgumentError: a job that cannot work; nothing was run.
            CtrError: a raw log that is not as expected, or a store that cannot be written to.
        """
        planned = [self._planner.plan(job) for job in jobs]
        self.commands.update((job.key, job.command) for job in planned)
        missing = {
            job.key: job for job in planned if job.key not in self._errors and self._store.result(job.key) is None
        }
        if missing:
            self._store.expect_writable()
            self._run(self._families(missing.values()))
        return table([self._row(job, plan) for job, plan in zip(jobs, planned, strict=True)])

    def record_rate(self, job: Job, lr: float) -> None:
        """Keeps the learning rate that was chosen for such jobs, for ``opt.lr=auto``."""
        self._planner.record_rate(job, lr)

    def _families(self, jobs: Iterable[Planned]) -> list[Family]:
        """The jobs by family, the longest first so that the last ones end together."""
        members: dict[str, list[Planned]] = {}
        for job in jobs:
            members.setdefault(job.family, []).append(job)
        families = [Family(some, self._passes([job.config for job in some])) for some in members.values()]
        return sorted(families, key=lambda family: -family.rows)

    def _run(self, waiting: list[Family]) -> None:
        self._parts += 1
        if self._bar is None:
            self._bar = bar(0, "rows", "study")
            self._bar.smoothing = 0  # workers report in bursts: the rate of all rows so far says more
        # What a study asks for next depends on what it found: the bar's end is that of what it asked for so far.
        self._bar.set_description(f"study, part {self._parts}", refresh=False)
        self._bar.total += sum(family.rows for family in waiting)
        self._bar.refresh()
        while waiting or any(worker.family for worker in self._workers):
            self._give_out(waiting)
            busy = {worker.connection: worker for worker in self._workers if worker.family}
            for connection in wait(list(busy)):
                worker = busy[cast(Connection, connection)]
                family = worker.family
                assert family is not None
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):  # OSError: it died amid an answer
                    self._died(worker, family, waiting)
                    continue
                worker.works = worker.began = True
                if isinstance(answer, int):
                    worker.rows += answer
                    self._bar.update(answer)
                    continue
                worker.family = None
                self._settle(worker.rows, family)
                self._errors.update(answer.errors)
                self._wait_for([job for job in family.jobs if job.key in answer.busy], waiting)

    def _give_out(self, waiting: list[Family]) -> None:
        for worker in [worker for worker in self._workers if worker.family is None and worker.dead]:
            worker.stop()
            self._workers.remove(worker)
        idle = [worker for worker in self._workers if worker.family is None]
        while waiting and (idle or len(self._workers) < self._most):
            if not idle:
                idle.append(Worker(self._function, self._store, self._threads))
                self._workers.append(idle[0])
            worker, family = idle.pop(), waiting.pop(0)
            try:
                worker.start(family)
            except (BrokenPipeError, ConnectionResetError):
                self._died(worker, family, waiting)

    def _settle(self, rows: int, family: Family) -> None:
        """Puts the rows that were done in the place of those that were expected."""
        self._bar.total += rows - family.rows
        self._bar.refresh()

    def _died(self, worker: Worker, family: Family, waiting: list[Family]) -> None:
        """A worker is no more, killed or crashed: so are its jobs but those that it finished or another study runs.

        One that had worked before and did not begin these jobs died idle: another worker gets them.
        """
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(SECONDS_TO_STOP)  # its connection closes a moment before it ends
        worker.stop()
        code = worker.process.wait()
        self._workers.remove(worker)
        if worker.works and not worker.began:
            waiting.insert(0, family)
            return
        self._settle(worker.rows, family)
        cause = f"ended with {code}"
        if code < 0:
            cause = f"was ended by {signal.Signals(-code).name}"
            cause += "; perhaps out of memory: fewer workers need less" if -code == signal.SIGKILL else ""
        unfinished = [job for job in family.jobs if self._store.result(job.key) is None]
        busy = [job for job in unfinished if self._store.busy(job.key)]
        self._errors.update((job.key, f"the worker process {cause}") for job in unfinished if job not in busy)
        self._wait_for(busy, waiting)

    def _wait_for(self, jobs: list[Planned], waiting: list[Family]) -> None:
        """Puts jobs that another study runs just now at the end: when nothing else is to do, they are waited for."""
        if jobs:
            again = Family(jobs, self._passes([job.config for job in jobs]))
            again.wait = True
            self._bar.total += again.rows
            waiting.append(again)

    def _row(self, job: Job, planned: Planned) -> dict[str, object]:
        error = self._errors.get(planned.key)
        result = (None if error else self._store.result(planned.key)) or dict.fromkeys(FIGURES, math.nan)
        figures = {name: value for name, value in result.items() if not isinstance(value, Mapping | list)}
        kept = {"command": planned.command, "error": error, "folder": str(self._store.folder(planned.key))}
        return {**figures, **job, **kept}


def table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row each; a column for each name that any of them has."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})
