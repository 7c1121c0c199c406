"""From settings to results: one run, or several that begin alike, trained, evaluated and recorded.

Runs that differ in ``prune`` and ``retrain`` alone form a family. The part of the stream that they share is trained
once and forked where the first pruning of each run is; results equal those of separate runs to the last bit.

Checkpoints of the shared part are those of the run that leaves it last; each run has those of its own part. A run that
has one of its own part goes on from there alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import cast

import pyarrow as pa
import torch
from torch import Tensor, nn

from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.datasets.split import days_of
from ctr.datasets.stream import RowStream
from ctr.metrics import alive_rows
from ctr.models import summary
from ctr.progress import figures as shown
from ctr.progress import run_bar
from ctr.training import memory
from ctr.training.build import EVAL_BATCH, narrowed, retrain, start
from ctr.training.checkpoint import RETRAIN, Checkpoint, Phase, complete
from ctr.training.checkpointing import Checkpoints
from ctr.training.continuing import take_over_, under_known
from ctr.training.details import BINS, Details, Norms, details, norms
from ctr.training.folder import MODEL
from ctr.training.history import History
from ctr.training.identity import CODE, arithmetic
from ctr.training.interrupts import Interrupts
from ctr.training.known import Known
from ctr.training.pruning import Pruning, prune_, sightings
from ctr.training.result import Result, summarise
from ctr.training.run import Run, failing
from ctr.training.settings import Settings
from ctr.training.tracking import Tracker
from ctr.training.trainer import Evaluation, TrainingRun, evaluate, evaluate_progressive, train
from ctr.training.trunk import Branch, fork
from ctr.training.window import Window

log = logging.getLogger("ctr")


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


def set_up(settings: Settings) -> None:
    """Sets what a run's digits depend on for the whole process."""
    torch.set_num_threads(settings.threads)
    pa.set_cpu_count(settings.threads)
    torch.use_deterministic_algorithms(torch.device(settings.device).type == "cpu")


def _train_family(runs: list[Run], on_rows: Callable[[int], None] | None) -> None:
    """Trains what the runs share once, and what each has of its own from there."""
    settings, quiet = runs[0].settings, on_rows is not None
    set_up(settings)
    data = narrowed(settings, open_data(settings.data, quiet=quiet))
    if (group := runs[0].group) is not None:
        group.expect_equal("rows", data.manifest.data_hash)
        group.expect_equal("versions", (*arithmetic(), CODE))
        group.expect_equal("models to go on with", settings.init and settings.init.identity)
    base = None if settings.init is None else settings.init.load(settings)
    data, history = under_known(settings, data, base)
    with Interrupts(settings.checkpoint is not None) as interrupts, ExitStack() as held:
        for run in runs:
            with failing([run]):
                run.tag(data)
                run.watch(data, history, interrupts, held)
                if run.resume and (own := run.checkpoints.newest("fine-tune", "trained")):
                    training = _resumed(start(settings, data, group), own, on_rows)
                    run.finish(*_complete(run, training, data, history, None, on_rows, own.phase), training.steps)
                    del training  # before the next one is built
        if together := [run for run in runs if not run.ended]:
            _train_together(together, data, base, history, on_rows)


def _train_together(
    runs: list[Run], data: Prepared, base: Known | None, history: History | None, on_rows: Callable[[int], None] | None
) -> None:
    """Trains what the runs share, and lets each go its own way from there."""
    training = start(runs[0].settings, data, runs[0].group)
    if base is not None:
        take_over_(training, base)
    log.debug("the model:\n%s", summary(cast(nn.Module, training.model)))
    paged = any(run.settings.report for run in runs)
    before = norms(training.model.embedding, "rows of the table, at the start of the run") if paged else None
    batches = training.stream.num_batches
    leaves = {
        run: batches if run.settings.pruning is None else run.settings.pruning.first_phase(batches) for run in runs
    }
    last = max(runs, key=lambda run: (leaves[run], run.settings.pruning is not None))
    if last.resume and (begun := last.checkpoints.newest("train", most_steps=min(leaves.values()))):
        _resumed(training, begun, on_rows)
    elif last.resume and complete(last.checkpoints.folder):
        log.info("no checkpoint in %s can be taken up: the run starts at its first row", last.checkpoints.folder)

    def advance(until: int) -> None:
        going = [run.tracker for run in runs if not run.ended]
        _advance(training, "train", going, last.checkpoints, on_rows, until)

    def branch(run: Run) -> Branch:
        def take() -> None:
            shared = training.seconds
            with failing([run]):
                run.finish(*_complete(run, training, data, history, before, on_rows), training.steps)
            training.seconds = shared

        return Branch(leaves[run], take, alters=run.settings.pruning is not None)

    fork(training, [branch(run) for run in runs], advance)


def _resumed(training: TrainingRun, checkpoint: Checkpoint, on_rows: Callable[[int], None] | None) -> TrainingRun:
    """The run, taken to a checkpoint."""
    checkpoint.restore(training)
    position, rows = training.stream.position, training.stream.num_rows
    log.info(
        "goes on after step %s (row %s of %s): %s", f"{training.steps:,}", f"{position:,}", f"{rows:,}", checkpoint.path
    )
    if on_rows is not None:
        on_rows(position)
    return training


def _advance(
    training: TrainingRun,
    phase: Phase,
    trackers: Sequence[Tracker],
    checkpoints: Checkpoints,
    on_rows: Callable[[int], None] | None,
    until: int | None = None,
    first: int = 0,
) -> None:
    """Trains until this many steps are done in all, or to the end, with a bar, curves and checkpoints; the phase began
    after ``first`` rows."""
    stream = training.stream
    end = stream.num_rows if until is None else min(until * stream.batch_size, stream.num_rows)
    if stream.position >= end:
        return
    began = time.perf_counter() - training.seconds
    done = stream.position - first
    with run_bar(end - first, phase, initial=done, quiet=on_rows is not None) as progress:

        def on_step(rows: int, _: float) -> None:
            (on_rows or progress.update)(rows)
            if stream.position < stream.num_rows:  # else the pass has its end to come (`TrainingRun.finish`)
                training.seconds = time.perf_counter() - began
                checkpoints.after_step(training, phase, trackers, progress.set_postfix_str)

        def on_window(window: Window) -> None:
            progress.set_postfix_str(shown(window.loss, window.auc, window.living), refresh=False)
            rate = window.rows / (time.perf_counter() - began)
            values = {"train/loss": window.loss, "train/auc": window.auc, "train/rows_per_second": rate}
            if training.schedule is not None:
                values["train/lambda21"] = training.lambda21
            for tracker in trackers:
                tracker.metrics({name: value for name, value in values.items() if value == value}, window.step)

        try:
            train(training, on_step, on_window, until)
            training.seconds = time.perf_counter() - began
            checkpoints.interrupted(training, phase, trackers)
        finally:
            checkpoints.give_up()


def _complete(
    run: Run,
    training: TrainingRun,
    data: Prepared,
    history: History | None,
    before: Norms | None,
    on_rows: Callable[[int], None] | None,
    phase: Phase = "train",
) -> tuple[Result, Callable[[], Details] | None]:
    """What a run does after the part that it shares: prune, fine-tune, prune again; evaluate; retrain; save.

    With another phase than "train" it goes on from a checkpoint within that. ``before`` are the norms of its rows at
    the start. What is returned beside the result gathers the details of its page, if it is to have one.
    """
    settings, split, pruning = run.settings, data.split, run.settings.pruning
    bins = BINS if settings.report else 0
    embedding, stream = training.model.embedding, training.stream
    if pruning is not None and phase != "trained":
        if phase == "train":
            before = _prune(settings, pruning, training, data, history)
        if phase == "fine-tune" or stream.position < stream.num_rows:
            if phase == "train" and training.average is not None:
                training.average.restart()
            first = pruning.first_phase(stream.num_batches) * stream.batch_size
            _advance(training, "fine-tune", [run.tracker], run.checkpoints, on_rows, first=first)
            before = _prune(settings, pruning, training, data, history)
    if phase != "trained":
        run.checkpoints.trained(training, [run.tracker])
    figures = progressive = None
    if split.rows_test:
        with run_bar(split.rows_test, "test", quiet=on_rows is not None) as progress, training.averaged():
            test = RowStream(data.rows, split.test, EVAL_BATCH)
            days = days_of(split.test, data.manifest.days)

            def on_batch(rows: int) -> None:
                (on_rows or progress.update)(rows)
                with training.averaged():  # back: training goes on from the net's own weights
                    run.checkpoints.interrupted(training, "trained", [run.tracker])

            rate = data.dataset.negative_rate
            figures = evaluate(training.learner, test, on_batch, days=days, negative_rate=rate, bins=bins)
    if training.scores is not None:
        days = days_of(split.train, data.manifest.days)
        progressive = evaluate_progressive(training, days, data.dataset.negative_rate, bins)
    retrained = None
    if settings.retrain:
        retrained = _retrain(run, data, embedding.whole(alive_rows(embedding.weight, embedding.seen)), on_rows)
    result = summarise(settings, data, training, figures, progressive, history, retrained=retrained)
    if settings.save is not None:
        assert run.save is not None
        with run_bar(split.rows_train, "save", quiet=on_rows is not None) as progress, training.averaged():
            counts = None if history is None else history.counts
            run.save(run.folder / MODEL, settings, data, training, result, counts, progress.update)
    if not settings.report:
        return result, None
    hashes = settings.save is not None and settings.save.keys == "hash"
    return result, partial(details, data, training, figures or progressive, before, hashes=hashes)


def _prune(
    settings: Settings, pruning: Pruning, training: TrainingRun, data: Prepared, history: History | None
) -> Norms | None:
    """Keeps the best rows of a run as it is now; returns the norms before that, if the run is to have a page."""
    embedding = training.model.embedding
    what = "rows that training has touched, before the last pruning"
    before = norms(embedding, what, embedding.seen) if settings.report else None
    counts = sightings(data, training.stream, history) if pruning.score == "count" else None
    count = pruning.count(data.split.features_train)
    prune_(embedding, training.learner.row_optimizer, count, pruning.score, counts)
    return before


def _retrain(run: Run, data: Prepared, survivors: Tensor, on_rows: Callable[[int], None] | None) -> Evaluation:
    """The second training of a run, on the features that survived the first; returns its figures on the test rows."""
    checkpoints = run.checkpoints.within(RETRAIN)
    rows = data.split.rows_train * run.settings.epochs + data.split.rows_test
    with run_bar(rows, "retrain", quiet=on_rows is not None) as progress:
        report = on_rows or progress.update

        def before(training: TrainingRun) -> None:
            if run.resume and (begun := checkpoints.newest("retrain")):
                _resumed(training, begun, report)

        def after_step(training: TrainingRun) -> None:
            if training.stream.position < training.stream.num_rows:
                checkpoints.after_step(training, "retrain", say=progress.set_postfix_str)
            else:
                checkpoints.interrupted(training, "retrain")

        try:
            return retrain(run.settings, data, survivors, report, before, after_step, run.group)
        finally:
            checkpoints.give_up()


def passes(family: Sequence[Settings]) -> float:
    """Estimates the cost of a family in passes over the training rows: shared ones, fine-tuning and retraining each."""
    finetuned = sum(settings.pruning.finetune for settings in family if settings.pruning is not None)
    return family[0].epochs * (1 + finetuned + sum(settings.retrain for settings in family))
