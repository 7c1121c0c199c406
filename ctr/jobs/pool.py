"""Runs the jobs of a study, each once and several at a time, and hands back their figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from ctr.errors import warn_once
from ctr.jobs.cache import Cache
from ctr.jobs.launcher import Died, Launcher
from ctr.jobs.plan import Job, Overrides, Planner
from ctr.progress import bar
from ctr.training.experiment import passes
from ctr.training.folder import LOG, PAGE, model_bytes
from ctr.training.result import LISTS, Result

FIGURES = [field.name for field in fields(Result)]  # NaN where a run failed


@dataclass
class Family:
    """Jobs that one worker runs together, and how many rows that is expected to be and has been."""

    jobs: list[Job]
    wait: bool = False
    done: int = 0

    @property
    def rows(self) -> int:
        passed = passes([job.settings for job in self.jobs]) * self.jobs[0].rows_train
        return round(passed + sum(job.rows_test for job in self.jobs))


class Pool:
    """Answers a study's questions (`ask`); to be used as a context, which ends its workers.

    Args:
        cache: finished runs, of this study and of others.
        workers: families at a time.
        launcher: where they run.
        always: overrides for every job, such as ``threads``; the job's own win over them.
        tags: for the jobs' runs in MLflow.
    """

    def __init__(
        self, cache: Cache, workers: int, launcher: Launcher, *, always: Overrides, tags: Mapping[str, str]
    ) -> None:
        self._cache, self._most, self._launcher = cache, workers, launcher
        self._planner = Planner(cache, always, tags)
        self._bar: Any = None
        self._parts = 0  # times that there were runs to do
        self._errors: dict[str, str] = {}
        self.commands: dict[str, str] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()  # first: Ctrl-C may come while the workers end
        self._launcher.close()

    @property
    def failures(self) -> dict[Path, str]:
        """The log and the error of each job that failed."""
        return {self._cache.folder(key) / LOG: error for key, error in self._errors.items()}

    def ask(self, jobs: Sequence[Overrides]) -> pd.DataFrame:
        """Runs what is missing; one row per job, in the jobs' order.

        A job that fails leaves a gap and the others go on; this pool does not try it again, another one does.

        Returns:
            All keys of the jobs, the scalars and `LISTS` of ``result.json``, ``model_bytes`` (NaN unless it was to
            leave a model), ``command``, ``error`` (None or one line), ``folder``.

        Raises:
            HydraException, OmegaConfBaseException, ArgumentError: a job that cannot work; nothing was run.
            CtrError: a raw log that is not as expected, or a cache that cannot be written to.
        """
        planned = [self._planner.plan(job) for job in jobs]
        self.commands.update((job.key, job.command) for job in planned)
        missing = {
            job.key: job for job in planned if job.key not in self._errors and not self._cache.done(job.key, job.saves)
        }
        self._tell_of_pages([job for job in planned if job.key not in missing])
        if missing:
            self._cache.expect_writable()
            self._run(_families(missing.values()))
        return table([self._row(overrides, job) for overrides, job in zip(jobs, planned, strict=True)])

    def record_rate(self, overrides: Overrides, lr: float) -> None:
        """Keeps the learning rate that was chosen for such jobs, for ``opt.lr=auto``."""
        self._planner.record_rate(overrides, lr)

    def _tell_of_pages(self, finished: Sequence[Job]) -> None:
        """Says that jobs which were finished earlier get no page, where pages are asked for."""
        asked = {self._cache.folder(job.key) for job in finished if job.settings.report and job.key not in self._errors}
        if without := [folder for folder in asked if not (folder / PAGE).exists()]:
            warn_once(
                f"{len(without):,} of the runs were finished earlier and have no {PAGE}, which is drawn as a run ends; "
                f"another jobs= than {self._cache.root} does them again"
            )

    def _run(self, waiting: list[Family]) -> None:
        self._parts += 1
        if self._bar is None:
            self._bar = bar(0, "rows", "study")
            self._bar.smoothing = 0  # workers report in bursts: the rate of all rows so far says more
        # What a study asks for next depends on what it found: the bar's end is that of what it asked for so far.
        self._bar.set_description(f"study, part {self._parts}", refresh=False)
        self._extend(sum(family.rows for family in waiting))
        running: dict[Any, Family] = {}
        while waiting or running:
            while waiting and len(running) < self._most:
                family = waiting.pop(0)
                running[self._launcher.start(family.jobs, wait=family.wait)] = family
            for name, answer in self._launcher.answers():
                family = running[name]
                if isinstance(answer, int):
                    family.done += answer
                    self._bar.update(answer)
                    continue
                del running[name]
                self._extend(family.done - family.rows)  # the rows that were done in place of those expected
                if isinstance(answer, Died):
                    unfinished = [job.key for job in family.jobs if not self._cache.done(job.key, job.saves)]
                    busy = [key for key in unfinished if self._cache.busy(key)]
                    self._errors.update((key, answer.cause) for key in unfinished if key not in busy)
                else:
                    busy = answer.busy
                    self._errors.update(answer.errors)
                if again := [job for job in family.jobs if job.key in busy]:
                    # Another study runs them just now: they are waited for when nothing else is to do.
                    waiting.append(Family(again, wait=True))
                    self._extend(waiting[-1].rows)

    def _extend(self, rows: int) -> None:
        self._bar.total += rows
        self._bar.refresh()

    def _row(self, overrides: Overrides, job: Job) -> dict[str, object]:
        error = self._errors.get(job.key)
        result = None if error else self._cache.result(job.key)
        if result is None:
            error = error or "its result was deleted or damaged meanwhile"
            result = dict.fromkeys(FIGURES, math.nan)
        figures = {
            name: value for name, value in result.items() if name in LISTS or not isinstance(value, Mapping | list)
        }
        folder = self._cache.folder(job.key)
        figures["model_bytes"] = model_bytes(folder) if job.saves and not error else math.nan
        kept = {"command": job.command, "error": error, "folder": str(folder)}
        return {**figures, **overrides, **kept}


def _families(jobs: Iterable[Job]) -> list[Family]:
    """The jobs by family, the longest first so that the last ones end together."""
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(job.family, []).append(job)
    return sorted(map(Family, members.values()), key=lambda family: -family.rows)


def table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row each; a column for each name that any of them has."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})
