"""One streaming run: ``python -m ctr.train dataset=criteo opt=group_adam opt.lambda21=1e-3``.

Keys and their defaults stand in ``configs/``; ``--help`` lists them. ``-m`` runs a sweep:
``python -m ctr.train -m dataset=criteo opt.lambda21=1e-4,1e-3 seed=0,1``.

Runs that differ in ``prune`` and ``retrain`` alone can be given to `jobs` together: what they share is trained once.
"""

from __future__ import annotations

import ctr.environment  # before torch

# isort: split

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, cast

import hydra
import pyarrow as pa
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn

import ctr.config
from ctr import memory, rates, sweep
from ctr.cli import bar, open_data, report_failure, run_command
from ctr.config import TrainConfig
from ctr.datasets.prepared import Prepared
from ctr.datasets.split import days_of
from ctr.datasets.stream import RowStream
from ctr.files import atomic_path, atomic_write_text
from ctr.forking import Branch, fork
from ctr.metrics import alive_rows
from ctr.models import summary
from ctr.pruning import Pruning, prune_
from ctr.result import Result, git_sha, summarise, table
from ctr.run import EVAL_BATCH, check, narrowed, pruning_of, retrain, start
from ctr.store import CODE, CONFIG, RESULT, UNTRACKED, Store, claim, confirm, job_key, result_text
from ctr.tracking import LastingTracker, MlflowTracker, NoTracker, Tracker, flatten, how_to_look, status_of
from ctr.trainer import TrainingRun, Window, evaluate, train

__all__ = ["Result", "check", "job", "jobs", "passes", "table"]

log = logging.getLogger("ctr")


class Progress(Protocol):
    """The part of a progress bar that is used here."""

    def update(self, rows: int) -> None: ...
    def set_postfix_str(self, s: str, refresh: bool) -> None: ...


class Passed:
    """Stands in for a bar where a parent process shows the progress."""

    def __init__(self, on_rows: Callable[[int], None]) -> None:
        self.update = on_rows

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        pass


Show = Callable[[int, str], AbstractContextManager[Progress]]  # (rows to come, what is done with them)


class Member:
    """One run of a family: its configuration and folder, its record, and how it ended."""

    def __init__(self, config: TrainConfig, folder: Path, key: str | None) -> None:
        self.config, self.folder, self.key = config, folder, key
        self.tracker: NoTracker | LastingTracker = NoTracker()
        self.pruning: Pruning | None = None
        self.ended = False
        self.error: BaseException | None = None

    def open(self, held: ExitStack) -> None:
        """Starts the record, once the values are found to be possible; ``held`` keeps the folder for this run."""
        config = self.config
        check(config)
        rates.settle(config)
        self.pruning = pruning_of(config)
        held.callback(claim(self.folder).release)
        composed = self.folder / CONFIG
        for name in (RESULT, UNTRACKED):
            (self.folder / name).unlink(missing_ok=True)  # of an older run here: this one may fail
        atomic_write_text(composed, OmegaConf.to_yaml(config))  # also over Hydra's own, which has no settled values
        if config.tracking.name != "none":
            name = f"{config.dataset.name} {config.model.name} {config.opt.name} seed {config.seed}"
            name += "" if self.pruning is None else f" pruned to {self.pruning.feature_rate:.4g}"
            tracking = config.tracking
            tracker = MlflowTracker(
                tracking.uri,
                tracking.experiment,
                name,
                tracking.tags,
                parameters=flatten(ctr.config.plain_dict(config)),
                files=[composed],
            )
            self.tracker = LastingTracker(tracker, self.folder / UNTRACKED)

    def tag(self, data: Prepared) -> None:
        config = self.config
        config_hash, data_hash = ctr.config.config_hash(config), data.manifest.data_hash
        if self.key is not None:
            confirm(self.key, config_hash, data_hash)  # now already: training may take hours
        self.tracker.tags(
            {
                "dataset": config.dataset.name,
                "model": config.model.name,
                "opt": config.opt.name,
                "prune": config.prune.name,
                "seed": str(config.seed),
                "source": data.manifest.recipe.source,
                "config_hash": config_hash,
                "data_hash": data_hash,
                "code_hash": CODE,
                "git_sha": git_sha() or "unknown",
            }
        )

    def finish(self, result: Result, steps: int) -> None:
        """Closes the record and leaves ``result.json``: last, for with it the run counts as finished."""
        if self.key is not None:
            confirm(self.key, result.config_hash, result.data_hash)
        numbers = {k: float(v) for k, v in asdict(result).items() if isinstance(v, int | float) and k != "seed"}
        if result.features_nonzero:
            numbers["log10_feature_rate"] = math.log10(result.feature_rate)  # MLflow's charts have no log axis
        self.tracker.metrics(numbers, steps)
        text = result_text(asdict(result))
        self.tracker.text(RESULT, text)
        with atomic_path(self.folder / RESULT) as tmp:
            tmp.write_text(text, encoding="utf-8")  # a full disk shows before the record says that all is well
            self.tracker.finish("FINISHED")
        self.ended = True

    def fail(self, error: BaseException) -> None:
        self.ended, self.error = True, error
        self.tracker.finish(status_of(error))

    def table(self, result: Result) -> str:
        """The figures for a reader, and where the run is tracked."""
        lines = [table(result, self.folder)]
        if isinstance(self.tracker, LastingTracker):
            uri = self.config.tracking.uri
            lines.append(f"  {'tracked in':<17} {uri}; to look: {how_to_look(uri)}")
            if self.tracker.error is not None:
                rest = os.path.relpath(self.tracker.path)
                lines.append(f"  {'not tracked':<17} {self.tracker.error}; what is missing there is in {rest}")
        return "\n".join(lines)


@contextmanager
def ending(members: Sequence[Member]) -> Iterator[None]:
    """What is raised within ends those of these runs that go on, and no others; an interruption is passed on, and so is
    what ends none of them: no run would tell it."""
    try:
        yield
    except BaseException as error:
        going = [member for member in members if not member.ended]
        for member in going:
            member.fail(error)
        if not going or not isinstance(error, Exception):
            raise


class Course:
    """A run in training, watched: progress, curves, and the seconds that its training took so far."""

    def __init__(self, run: TrainingRun, show: Show) -> None:
        self.run, self.show, self.seconds = run, show, 0.0

    def train(self, title: str, trackers: Sequence[Tracker], until: int | None = None) -> None:
        """Trains until so many steps are done in all, or to the end."""
        run, stream = self.run, self.run.stream
        end = stream.num_rows if until is None else min(until * stream.batch_size, stream.num_rows)
        if stream.position >= end:
            return
        began = time.perf_counter() - self.seconds
        with self.show(end - stream.position, title) as progress:

            def on_window(window: Window) -> None:
                progress.set_postfix_str(f"loss={window.loss:.4f}, auc={window.auc:.4f}", refresh=False)
                rate = window.rows / (time.perf_counter() - began)
                values = {"train/loss": window.loss, "train/auc": window.auc, "train/rows_per_second": rate}
                for tracker in trackers:
                    tracker.metrics({name: value for name, value in values.items() if value == value}, window.step)

            train(run, lambda rows, _: progress.update(rows), on_window, until)
        self.seconds = time.perf_counter() - began


def run_family(
    members: Sequence[Member], show: Show, on_result: Callable[[Member, Result], None], *, quiet: bool
) -> None:
    """Trains what the members share once, and what each has of its own from there."""
    config = members[0].config
    torch.set_num_threads(config.threads)
    pa.set_cpu_count(config.threads)
    torch.use_deterministic_algorithms(torch.device(config.device).type == "cpu")
    data = narrowed(config, open_data(config.dataset, quiet=quiet))
    for member in members:
        with ending([member]):
            member.tag(data)
    members = [member for member in members if not member.ended]
    if not members:
        return
    run = start(config, data)
    log.debug("the model:\n%s", summary(cast(nn.Module, run.model)))
    course = Course(run, show)

    def advance(until: int) -> None:
        course.train("train", [member.tracker for member in members if not member.ended], until)

    def branch(member: Member) -> Branch:
        pruning = member.pruning

        def take() -> None:
            shared = course.seconds
            with ending([member]):
                result = complete(member, course, data)
                member.finish(result, run.steps)
                on_result(member, result)
            course.seconds = shared

        batches = run.stream.num_batches
        return Branch(batches if pruning is None else pruning.first_phase(batches), take, alters=pruning is not None)

    fork(run, [branch(member) for member in members], advance)


def complete(member: Member, course: Course, data: Prepared) -> Result:
    """What a run does after the part that it shares: prune, fine-tune, prune again; evaluate; retrain."""
    config, run, show, split = member.config, course.run, course.show, data.split
    embedding, optimizer = run.model.embedding, run.learner.row_optimizer
    if member.pruning is not None:
        count = member.pruning.count(split.features_train)
        prune_(embedding, optimizer, count, member.pruning.score)
        if run.stream.position < run.stream.num_rows:
            course.train("fine-tune", [member.tracker])
            prune_(embedding, optimizer, count, member.pruning.score)
    with show(split.rows_test, "test") as progress:
        test = RowStream(data.rows, split.test, EVAL_BATCH)
        figures = evaluate(run.learner, test, progress.update, days=days_of(split.test, data.manifest.days))
    auc_retrained = None
    if config.retrain:
        survivors = alive_rows(embedding.weight, embedding.seen)
        with show(split.rows_train + split.rows_test, "retrain") as progress:
            auc_retrained = retrain(config, data, survivors, progress.update)
    return summarise(config, data, run, figures, seconds=course.seconds, auc_retrained=auc_retrained)


def jobs(
    configs: Sequence[TrainConfig],
    folders: Sequence[Path],
    on_rows: Callable[[int], None] | None = None,
    keys: Sequence[str] | None = None,
    head: str = "",
) -> list[BaseException | None]:
    """One or several runs that differ in ``prune`` and ``retrain`` alone, a family: what they share is trained once.

    The shared first phase is forked where the first pruning of each run lies; results equal those of separate runs to
    the last bit. Each run leaves ``result.json`` in its folder as soon as it is done, and its own MLflow run. Its times
    are those that it would take alone. At most one copy of the training state is in memory.

    Args:
        configs: as composed for the command.
        folders: where each run's files go; made if missing.
        on_rows: called with the number of rows trained or tested since the last call; then no bars are drawn and no
            tables printed.
        keys: where given, what each run was planned as in the store: one that is something else by now fails.
        head: printed above each table.

    Returns:
        For each run the error that ended it, or None. A run that fails does not stop the others.

    Raises:
        ValueError: the configurations are not of one family.
        KeyboardInterrupt: stopped; runs that were not done are recorded as killed.
    """
    if len({ctr.config.family(config) for config in configs}) > 1:
        raise ValueError("runs that are to share their first part may differ in `prune` and `retrain` alone")
    memory.reset_peak()  # a worker has had other runs before
    planned = keys if keys is not None else [None] * len(configs)
    members = [Member(config, folder, key) for config, folder, key in zip(configs, folders, planned, strict=True)]

    @contextmanager
    def passed(total: int, title: str) -> Iterator[Progress]:
        assert on_rows is not None
        yield Passed(on_rows)

    def shown(total: int, title: str) -> AbstractContextManager[Progress]:
        return bar(total, "rows", title)

    def on_result(member: Member, result: Result) -> None:
        if on_rows is None:
            # At once: other jobs of a sweep may print too.
            print("\n".join([*([head] if head else []), member.table(result)]), flush=True)

    with ExitStack() as held, ending(members):
        for member in members:
            with ending([member]):
                member.open(held)
        going = [member for member in members if not member.ended]
        if going:
            run_family(going, shown if on_rows is None else passed, on_result, quiet=on_rows is not None)
    return [member.error for member in members]


def passes(configs: Sequence[TrainConfig]) -> float:
    """Estimates the cost of a family in passes over the training rows: one for all, fine-tuning and retraining each."""
    prunings = [pruning_of(config) for config in configs]
    return 1 + sum(p.finetune for p in prunings if p is not None) + sum(config.retrain for config in configs)


def job(config: TrainConfig, folder: Path, head: str = "") -> None:
    """One run from configuration to printed table, recorded as finished, failed or killed."""
    (error,) = jobs([config], [folder], head=head)
    if error is not None:
        raise error


def job_of_sweep(config: TrainConfig, folder: Path, head: str) -> Path:
    """The same, unless the run was finished by an earlier sweep or a study; it is kept for later ones. Returns the
    folder of its result."""
    check(config)
    rates.settle(config)
    key = job_key(ctr.config.config_hash(config), open_data(config.dataset).manifest.data_hash)
    store = Store(Path(config.jobs))
    store.expect_writable()
    if store.once(key, folder, lambda: job(config, folder, head), force=config.force):
        return folder
    earlier = store.folder(key)
    print(f"{head}\n  finished earlier: {os.path.relpath(earlier / RESULT)} (force=true runs it again)", flush=True)
    return earlier


ctr.config.register()


@hydra.main(config_path="pkg://ctr.conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        run, folder = cast(TrainConfig, config), Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            sweep.record(job_of_sweep(run, folder, sweep.head()))
        else:
            job(run, folder)
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error)
        sweep.record(None, error)
        raise


def command() -> None:
    try:
        main()
    finally:
        if ended := sweep.closing():
            print(f"\n{ended}")


if __name__ == "__main__":
    run_command(command, "train")
