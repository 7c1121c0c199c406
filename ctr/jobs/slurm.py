"""Families of jobs as jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr.errors import ArgumentError, CtrError
from ctr.jobs.launcher import Answer, Died
from ctr.jobs.plan import Job
from ctr.jobs.worker import RunFamily, run_remotely
from ctr.training.experiment import run_family

POLL_SECONDS = 0.2
# What helps a Slurm job that ended in a state.
HINTS = {"OUT_OF_MEMORY": "+slurm.mem_gb=N asks for more memory", "TIMEOUT": "slurm.timeout_min=N allows more time"}


class SlurmLauncher:
    """Submits a Slurm job for each family, by submitit. All nodes must share the disk of the cache and the data.

    Args:
        root: folder of the cache; submitit's files and logs go to its folder ``.submitit``.
        parameters: of submitit's executor: ``timeout_min``, ``mem_gb``, ``slurm_partition``, ...
        run: trains and evaluates a family's runs; the job finds it by its module and name.
        cluster: ``"local"`` runs the jobs in processes of this machine, for tests.

    Raises:
        ArgumentError, CtrError: see `ctr.jobs.launchers.launcher`.
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
