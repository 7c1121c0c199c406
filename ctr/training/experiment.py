"""From settings to results: one run, or several that begin alike, trained, evaluated and recorded.

Runs that differ in ``prune`` and ``retrain`` alone form a family. The part of the stream that they share is trained
once and forked where the first pruning of each run is; results equal those of separate runs to the last bit.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pyarrow as pa
import torch
import yaml
from torch import nn

from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.datasets.split import days_of
from ctr.datasets.stream import RowStream
from ctr.files import atomic_path, atomic_write_text, sealed
from ctr.metrics import alive_rows
from ctr.models import summary
from ctr.progress import bar
from ctr.provenance import git_sha
from ctr.training import memory
from ctr.training.build import EVAL_BATCH, narrowed, retrain, start
from ctr.training.folder import CONFIG, RESULT, UNTRACKED, claim
from ctr.training.identity import CODE, confirm
from ctr.training.pruning import prune_
from ctr.training.result import Result, summarise, table
from ctr.training.settings import Settings
from ctr.training.tracking import LastingTracker, MlflowTracker, NoTracker, Tracker, flatten, how_to_look, status_of
from ctr.training.trainer import TrainingRun, Window, evaluate, train
from ctr.training.trunk import Branch, fork

MAX_TAG = 5000  # characters that MLflow takes

log = logging.getLogger("ctr")


class Run:
    """One run: its settings and folder, its record in MLflow, and how it ended.

    Args:
        settings: what to run.
        folder: where ``result.json`` and the configuration go; made if missing.
        key: what the run was planned as (`ctr.training.identity.run_key`); one that is something else by now fails.
            None: the run was not planned.
    """

    def __init__(self, settings: Settings, folder: Path, key: str | None = None) -> None:
        self.settings, self.folder, self.key = settings, folder, key
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
        for name in (RESULT, UNTRACKED):
            (self.folder / name).unlink(missing_ok=True)  # of an older run here: this one may fail
        # Also over Hydra's own, which does not have the settled values.
        atomic_write_text(composed, yaml.safe_dump(dict(self.settings.values), sort_keys=False))
        if (tracking := self.settings.tracking) is not None:
            tracker = MlflowTracker(
                tracking.uri,
                tracking.experiment,
                self.settings.run_name,
                tracking.tags,
                parameters=flatten(self.settings.values),
                files=[composed],
            )
            self.tracker = LastingTracker(tracker, self.folder / UNTRACKED)

    def tag(self, data: Prepared) -> None:
        """Notes in the record what the run can be found by."""
        settings, data_hash = self.settings, data.manifest.data_hash
        self.confirm(data_hash)  # now already: training may take hours
        self.tracker.tags(
            {
                "dataset": settings.data.name,
                "model": settings.model.name,
                "opt": settings.optimizer.name,
                "prune": "none" if settings.pruning is None else "magnitude",
                "seed": str(settings.seed),
                "source": data.manifest.recipe.source,
                "config_hash": settings.config_hash,
                "data_hash": data_hash,
                "code_hash": CODE,
                "git_sha": git_sha() or "unknown",
            }
        )

    def confirm(self, data_hash: str) -> None:
        if self.key is not None:
            confirm(self.key, self.settings.config_hash, data_hash)

    def finish(self, result: Result, steps: int) -> None:
        """Closes the record and leaves ``result.json``: last, for with it the run counts as finished."""
        self.confirm(result.data_hash)
        numbers = {k: float(v) for k, v in asdict(result).items() if isinstance(v, int | float) and k != "seed"}
        if result.features_nonzero:
            numbers["log10_feature_rate"] = math.log10(result.feature_rate)  # MLflow's charts have no log axis
        self.tracker.metrics(numbers, steps)
        if result.warnings:
            self.tracker.tags({"warnings": "; ".join(result.warnings)[:MAX_TAG]})
        text = sealed(asdict(result))
        self.tracker.text(RESULT, text)
        with atomic_path(self.folder / RESULT) as tmp:
            tmp.write_text(text, encoding="utf-8")  # a full disk shows before the record says that all is well
            self.tracker.finish("FINISHED")
        self.result = result

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.tracker.finish(status_of(error))

    def table(self) -> str:
        """The figures of a finished run for a reader, and where it is tracked."""
        assert self.result is not None
        lines = [table(self.result, self.folder)]
        if self.settings.tracking is not None and isinstance(self.tracker, LastingTracker):
            uri = self.settings.tracking.uri
            lines.append(f"  {'tracked in':<17} {uri}; to look: {how_to_look(uri)}")
            if self.tracker.error is not None:
                rest = os.path.relpath(self.tracker.path)
                lines.append(f"  {'not tracked':<17} {self.tracker.error}; what is missing there is in {rest}")
        return "\n".join(lines)


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


def run_family(runs: Sequence[Run], on_rows: Callable[[int], None] | None = None) -> None:
    """Trains, evaluates and records runs of one family; each `Run` then has its result or its error.

    Each run leaves ``result.json`` in its folder as soon as it is done. Its times are those that it would take alone.
    At most one copy of the training state is in memory. A run that fails does not stop the others.

    Args:
        runs: differ in ``prune`` and ``retrain`` alone.
        on_rows: called with the number of rows trained or tested since the last call; then no bars are drawn.

    Raises:
        ValueError: the runs are not of one family.
        KeyboardInterrupt: stopped; runs that were not done are recorded as killed.
    """
    if len({run.settings.family for run in runs}) > 1:
        raise ValueError("runs that are to share their first part may differ in `prune` and `retrain` alone")
    memory.reset_peak()  # the process may have had other runs before
    with ExitStack() as held, failing(runs):
        for run in runs:
            with failing([run]):
                run.open(held)
        if going := [run for run in runs if not run.ended]:
            _train_family(going, on_rows)


def _train_family(runs: list[Run], on_rows: Callable[[int], None] | None) -> None:
    """Trains what the runs share once, and what each has of its own from there."""
    settings, quiet = runs[0].settings, on_rows is not None
    torch.set_num_threads(settings.threads)
    pa.set_cpu_count(settings.threads)
    torch.use_deterministic_algorithms(torch.device(settings.device).type == "cpu")
    data = narrowed(settings, open_data(settings.data, quiet=quiet))
    for run in runs:
        with failing([run]):
            run.tag(data)
    runs = [run for run in runs if not run.ended]
    if not runs:
        return
    training = start(settings, data)
    log.debug("the model:\n%s", summary(cast(nn.Module, training.model)))

    def advance(until: int) -> None:
        _advance(training, "train", [run.tracker for run in runs if not run.ended], on_rows, until)

    def branch(run: Run) -> Branch:
        pruning = run.settings.pruning

        def take() -> None:
            shared = training.seconds
            with failing([run]):
                run.finish(_complete(run, training, data, on_rows), training.steps)
            training.seconds = shared

        batches = training.stream.num_batches
        return Branch(batches if pruning is None else pruning.first_phase(batches), take, alters=pruning is not None)

    fork(training, [branch(run) for run in runs], advance)


def _advance(
    training: TrainingRun,
    title: str,
    trackers: Sequence[Tracker],
    on_rows: Callable[[int], None] | None,
    until: int | None = None,
) -> None:
    """Trains until this many steps are done in all, or to the end, with a bar and curves."""
    stream = training.stream
    end = stream.num_rows if until is None else min(until * stream.batch_size, stream.num_rows)
    if stream.position >= end:
        return
    began = time.perf_counter() - training.seconds
    with bar(end - stream.position, "rows", title, quiet=on_rows is not None) as progress:

        def on_step(rows: int, _: float) -> None:
            (on_rows or progress.update)(rows)

        def on_window(window: Window) -> None:
            progress.set_postfix_str(f"loss={window.loss:.4f}, auc={window.auc:.4f}", refresh=False)
            rate = window.rows / (time.perf_counter() - began)
            values = {"train/loss": window.loss, "train/auc": window.auc, "train/rows_per_second": rate}
            for tracker in trackers:
                tracker.metrics({name: value for name, value in values.items() if value == value}, window.step)

        train(training, on_step, on_window, until)
    training.seconds = time.perf_counter() - began


def _complete(run: Run, training: TrainingRun, data: Prepared, on_rows: Callable[[int], None] | None) -> Result:
    """What a run does after the part that it shares: prune, fine-tune, prune again; evaluate; retrain."""
    settings, split, pruning = run.settings, data.split, run.settings.pruning
    embedding, optimizer = training.model.embedding, training.learner.row_optimizer
    if pruning is not None:
        count = pruning.count(split.features_train)
        prune_(embedding, optimizer, count, pruning.score)
        if training.stream.position < training.stream.num_rows:
            _advance(training, "fine-tune", [run.tracker], on_rows)
            prune_(embedding, optimizer, count, pruning.score)
    with bar(split.rows_test, "rows", "test", quiet=on_rows is not None) as progress:
        test = RowStream(data.rows, split.test, EVAL_BATCH)
        days = days_of(split.test, data.manifest.days)
        figures = evaluate(training.learner, test, on_rows or progress.update, days=days)
    auc_retrained = None
    if settings.retrain:
        survivors = alive_rows(embedding.weight, embedding.seen)
        with bar(split.rows_train + split.rows_test, "rows", "retrain", quiet=on_rows is not None) as progress:
            auc_retrained = retrain(settings, data, survivors, on_rows or progress.update)
    return summarise(settings, data, training, figures, auc_retrained=auc_retrained)


def passes(family: Sequence[Settings]) -> float:
    """Estimates the cost of a family in passes over the training rows: one for all, fine-tuning and retraining each."""
    finetuned = sum(settings.pruning.finetune for settings in family if settings.pruning is not None)
    return 1 + finetuned + sum(settings.retrain for settings in family)
