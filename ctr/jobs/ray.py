"""Families of jobs as tasks of a Ray cluster."""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import importlib
import logging
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr.errors import ArgumentError, CtrError
from ctr.jobs.launcher import Answer, Died
from ctr.jobs.plan import Job
from ctr.jobs.worker import RunFamily, run_remotely
from ctr.processes import SECONDS_TO_STOP
from ctr.training.experiment import run_family


def imported(*parts: str) -> Any:
    """Ray, and the parts of it that are named.

    Raises:
        CtrError: it is not installed.
    """
    try:
        for name in ("ray", *(f"ray.{part}" for part in parts)):
            importlib.import_module(name)
    except ImportError as error:
        raise CtrError('launcher=ray needs Ray, which is not installed: pip install "sparse-ctr[cluster]"') from error
    return sys.modules["ray"]


def connect(ray: Any, address: str | None) -> None:
    """Connects to a cluster, or starts Ray on this machine.

    Args:
        ray: the module.
        address: None: that of ``RAY_ADDRESS``, else Ray is started.

    Raises:
        CtrError: the cluster cannot be reached.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        raise CtrError(f"launcher=ray: {str(error).splitlines()[0]} (ray.address={address})") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray replaces it


class RayLauncher:
    """Runs each family as a Ray task, which Ray starts again if its process or node dies.

    All nodes must share the disk of the cache and the data. A task that is started again repeats no finished job.

    Args:
        root: folder of the cache.
        parameters: ``address`` of a cluster (None: that of ``RAY_ADDRESS``, else Ray is started on this machine and
            ended by `close`); others are a task's: ``num_cpus``, ``max_retries``, ``memory``, ``resources``, ...
        run: trains and evaluates a family's runs; the task finds it by its module and name.

    Raises:
        ArgumentError, CtrError: see `ctr.jobs.launchers.launcher`.
    """

    def __init__(self, root: Path, parameters: Mapping[str, Any], run: RunFamily = run_family) -> None:
        ray = imported()
        options = {name: value for name, value in parameters.items() if name != "address"}
        try:
            self._task: Any = ray.remote(run_remotely).options(**options)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"ray={options}: {str(error).splitlines()[0]}") from error
        self._ray, self._root, self._run = ray, root.resolve(), run
        self._running: list[Any] = []
        connect(ray, parameters.get("address"))

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        task = self._task.remote(list(jobs), self._root, wait, self._run)
        self._running.append(task)
        return task

    def answers(self) -> list[tuple[Any, Answer]]:
        done, self._running = self._ray.wait(self._running)
        return [(task, answer) for task in done for answer in self._answers(task)]

    def _answers(self, task: Any) -> Sequence[Answer]:
        try:
            answers: Sequence[Answer] = self._ray.get(task)
            return answers
        except self._ray.exceptions.RayError as error:
            raised = getattr(error, "cause", None) or error
            lines = str(raised).splitlines() or [""]
            return [Died(f"the Ray task ended: {type(raised).__name__}: {lines[0]}")]

    def close(self) -> None:
        for force in (False, True):  # first as Ctrl-C does, so that the runs are recorded as killed
            for task in self._running:
                self._ray.cancel(task, force=force)
            if self._running and not force:
                _, self._running = self._ray.wait(
                    self._running, num_returns=len(self._running), timeout=SECONDS_TO_STOP
                )
        self._running.clear()
        self._ray.shutdown()
