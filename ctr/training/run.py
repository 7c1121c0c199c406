"""One run: its settings and folder, its record in MLflow, and how it ended."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml

from ctr.datasets.prepared import Prepared
from ctr.files import atomic_path, atomic_write_text, sealed, size
from ctr.provenance import git_sha
from ctr.training.checkpoint import FINAL, tracked
from ctr.training.checkpointing import Checkpoints
from ctr.training.continuing import leave
from ctr.training.details import Details
from ctr.training.distributed import Group
from ctr.training.folder import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    MODEL,
    PAGE,
    RESULT,
    UNTRACKED,
    claim,
    clear_model,
    model_bytes,
)
from ctr.training.history import History
from ctr.training.identity import CODE, confirm
from ctr.training.interrupts import Interrupts
from ctr.training.naming import run_name
from ctr.training.result import Result, line, table, versions
from ctr.training.settings import Settings
from ctr.training.sharded_checkpoint import ShardedCheckpoints
from ctr.training.store import how_to_look
from ctr.training.tracking import (
    COMMIT,
    SOURCE,
    LastingTracker,
    MlflowTracker,
    NoTracker,
    WriteModel,
    flatten,
    status_of,
)
from ctr.training.trainer import TrainingRun

MAX_TAG = 5000  # characters that MLflow takes

log = logging.getLogger("ctr")


class Save(Protocol):
    """Keeps a trained run's model in a folder: `ctr.artifact.save.save_model`."""

    def __call__(
        self,
        folder: Path,
        settings: Settings,
        data: Prepared,
        training: TrainingRun,
        result: Result,
        counts: np.ndarray | None,
        on_rows: Callable[[int], object],
    ) -> None: ...


class Draw(Protocol):
    """Writes a finished run's page: `ctr.report.run_page.write`."""

    def __call__(self, path: Path, settings: Settings, result: Result, details: Details, command: str) -> None: ...


class Run:
    """One run: its settings and folder, its record in MLflow, and how it ended.

    Args:
        settings: what to run.
        folder: where ``result.json`` and the configuration go; made if missing.
        key: what the run was planned as (`ctr.training.identity.run_key`); one that is something else by now fails.
            None: the run was not planned.
        save: needed where the settings ask for a saved model.
        to_mlflow: needed where they ask for one in MLflow.
        draw: needed where they ask for a page.
        command: the line that makes the run again; for a reader.
        checkpoints: where they go; None: into the folder.
        resume: go on from the newest checkpoint there, if there is one.
        group: the workers that make it together; None: this process alone.

    Attributes:
        checkpoints: of the run, once its data are known.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        key: str | None = None,
        save: Save | None = None,
        to_mlflow: WriteModel | None = None,
        *,
        draw: Draw | None = None,
        command: str = "",
        checkpoints: Path | None = None,
        resume: bool = False,
        group: Group | None = None,
    ) -> None:
        logs = settings.tracking is not None and settings.tracking.log_model
        if (settings.save is not None and save is None) or (logs and to_mlflow is None):
            raise ValueError("the settings ask for a saved model, but nothing was given that saves or logs it")
        if settings.report and draw is None:
            raise ValueError("the settings ask for a page, but nothing was given that draws it")
        self.settings, self.folder, self.key, self.save, self.to_mlflow = settings, folder, key, save, to_mlflow
        self.draw, self.command = draw, command
        self.place, self.resume, self.group = checkpoints or folder / CHECKPOINTS, resume, group
        self.checkpoints: Checkpoints
        self.tracker: NoTracker | LastingTracker = NoTracker()
        self.result: Result | None = None
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None

    def open(self, held: ExitStack) -> None:
        """Writes the configuration and starts the record; ``held`` keeps the folder for this run."""
        held.callback(claim(self.folder).release)
        composed = self.folder / CONFIG
        for name in (RESULT, PAGE) if self.resume else (RESULT, PAGE, UNTRACKED):
            (self.folder / name).unlink(missing_ok=True)  # of an older run here: this one may fail
        if self.settings.save is not None or (self.folder / MODEL / MANIFEST).is_file():
            clear_model(self.folder)
        # Also over Hydra's own, which does not have the settled values.
        atomic_write_text(composed, yaml.safe_dump(dict(self.settings.values), sort_keys=False))
        if (tracking := self.settings.tracking) is not None:
            begun = tracked(self.place) if self.resume else None
            tracker = MlflowTracker(
                tracking.uri,
                tracking.experiment,
                run_name(self.settings),
                tracking.tags if begun is None else {**tracking.tags, "resumed_from": begun["run_id"]},
                parameters=flatten(self.settings.values),
                files=[composed],
                earlier="" if begun is None else f"attributes.run_id = '{begun['run_id']}'",
                runs_again=True,
            )
            self.tracker = LastingTracker(tracker, self.folder / UNTRACKED)

    def tag(self, data: Prepared) -> None:
        """Notes in the record what the run can be found by."""
        settings, manifest, data_hash = self.settings, data.manifest, data.manifest.data_hash
        self.confirm(data_hash)  # now already: training may take hours
        commit = git_sha() or "unknown"
        self.tracker.tags(
            {
                "dataset": settings.data.name,
                "model": settings.model.name,
                "opt": settings.optimizer.name,
                "prune": "none" if settings.pruning is None else "magnitude",
                "seed": str(settings.seed),
                "source": manifest.recipe.source,
                "config_hash": settings.config_hash,
                "data_hash": data_hash,
                "code_hash": CODE,
                "git_sha": commit,
                SOURCE: "ctr.train",
                COMMIT: commit,
            }
        )
        generated = ", generated rows" if manifest.recipe.source == "generated" else ""
        self.tracker.data(settings.data.name + generated, data_hash[:8], manifest.input.path, manifest.rows)

    def watch(self, data: Prepared, history: History | None, interrupts: Interrupts, held: ExitStack) -> None:
        """Begins with checkpoints; ``held`` ends what a thread still writes."""
        where = self.tracker.run if isinstance(self.tracker, LastingTracker) else None
        data_hash = data.manifest.data_hash
        at_end = None if history is None else partial(leave, settings=self.settings, data=data, history=history)
        kind = Checkpoints if self.group is None else partial(ShardedCheckpoints, self.group)
        self.checkpoints = kind(self.place, self.settings, data_hash, interrupts, where, at_end)
        held.callback(self.checkpoints.close)
        if not self.resume:
            self.checkpoints.begin()

    def confirm(self, data_hash: str) -> None:
        if self.key is not None:
            confirm(self.key, self.settings.config_hash, data_hash)

    def finish(self, result: Result, gather: Callable[[], Details] | None, steps: int) -> None:
        """Closes the record and leaves ``result.json``: with it the run counts as finished. Its page comes after it.

        Args:
            result: its figures.
            gather: the details of its page; None where it is to have none.
            steps: of its training.
        """
        self.confirm(result.data_hash)
        numbers = {k: float(v) for k, v in asdict(result).items() if isinstance(v, int | float) and k != "seed"}
        if result.features_nonzero:
            numbers["log10_feature_rate"] = math.log10(result.feature_rate)  # MLflow's charts have no log axis
        self.tracker.metrics(numbers, steps)
        if result.warnings:
            self.tracker.tags({"warnings": "; ".join(result.warnings)[:MAX_TAG]})
        text = sealed(asdict(result))
        self.tracker.text(RESULT, text)
        if self.settings.tracking is not None and self.settings.tracking.log_model:
            assert self.to_mlflow is not None
            self.tracker.model(self.folder / MODEL, self.to_mlflow, self.settings.tracking.registered_model)
        final = self.folder / CHECKPOINTS / FINAL
        self.checkpoints.keep(final)
        with atomic_path(self.folder / RESULT) as tmp:
            tmp.write_text(text, encoding="utf-8")  # a full disk shows before the record says that all is well
            self.tracker.finish("FINISHED")
        self.result = result
        self.checkpoints.finish(final)
        if gather is not None:
            self._draw(result, gather)

    def _draw(self, result: Result, gather: Callable[[], Details]) -> None:
        """Leaves the page; a run without one is done all the same."""
        assert self.draw is not None
        path = self.folder / PAGE
        try:
            self.draw(path, self.settings, result, gather(), self.command)
        except Exception as error:
            kind = type(error).__name__
            log.warning("warning: the run is done, but its page %s could not be drawn: %s: %s", PAGE, kind, error)
            log.debug("%s", error, exc_info=error)
        else:
            self.tracker.page(path)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.tracker.finish(status_of(error))

    def table(self) -> str:
        """The figures of a finished run for a reader, and where it is tracked."""
        assert self.result is not None
        lines = [table(self.result, self.folder)]
        if self.settings.save is not None:
            saved = model_bytes(self.folder)
            assert saved is not None
            lines.append(line("model", f"{os.path.relpath(self.folder / MODEL)} ({size(saved)})"))
        if (self.folder / PAGE).is_file():
            lines.append(line("page", os.path.relpath(self.folder / PAGE)))
        if self.settings.tracking is not None and isinstance(self.tracker, LastingTracker):
            uri = self.settings.tracking.uri
            lines.append(line("tracked in", f"{uri}; to look: {how_to_look(uri)}"))
            if self.tracker.error is not None:
                rest = os.path.relpath(self.tracker.path)
                lines.append(line("not tracked", f"{self.tracker.error}; what is missing there is in {rest}"))
            if self.tracker.logged_model is not None:
                lines.append(line("logged model", self.tracker.logged_model))
        return "\n".join(lines)

    def origin(self) -> str:
        """What a finished run was made with and by, for a reader who wants to repeat it."""
        assert self.result is not None
        lines = [line("versions", versions(self.result))]
        return "\n".join([*lines, line("to repeat", self.command)] if self.command else lines)


class Follower(Run):
    """A run as the workers beside the first one have it: they train and exchange, and leave nothing themselves."""

    def open(self, held: ExitStack) -> None:
        """Nothing: the first worker has the folder and the record."""

    def finish(self, result: Result, gather: Callable[[], Details] | None, steps: int) -> None:
        self.result = result
        if gather is not None:
            try:
                gather()  # all workers do it together
            except Exception as error:  # it costs the first worker its page
                log.debug("%s", error, exc_info=error)

    def fail(self, error: BaseException) -> None:
        self.error = error


@contextmanager
def failing(runs: Sequence[Run]) -> Iterator[None]:
    """Marks every unfinished run of these as failed if the block raises. Passes on an interruption, and an error that
    marks no run: nothing else would tell it."""
    try:
        yield
    except BaseException as error:
        unfinished = [run for run in runs if not run.ended]
        for run in unfinished:
            run.fail(error)
        if not unfinished or not isinstance(error, Exception):
            raise
