"""One streaming run: ``python -m ctr.train dataset=criteo opt=group_adam opt.lambda21=1e-3``.

Keys and their defaults are in ``configs/``; ``--help`` lists them. ``-m`` runs a sweep:
``python -m ctr.train -m dataset=criteo opt.lambda21=1e-4,1e-3 seed=0,1``. A run that was stopped goes on with
``python -m ctr.train resume=<run_dir>``.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ctr.cli import report_failure, run_command
from ctr.config import resume, search
from ctr.config.command_line import command_line
from ctr.errors import DataError, warn_once
from ctr.jobs import sweep

if TYPE_CHECKING:
    from ctr.training.distributed import Group
    from ctr.training.settings import Settings

search.register()
log = logging.getLogger("ctr")
T = TypeVar("T")
_group: Group | None = None  # of this process, one of several that torchrun has started


@hydra.main(config_path="pkg://ctr.conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            sweep.record(run_of_sweep(config, folder))
        else:
            run(config, folder)
    except (Exception, KeyboardInterrupt) as error:
        if _group is None:
            report_failure(error)
        else:
            report_failure(_group.explained(error), _group.says)
        sweep.record(None, error)
        raise


def run(config: DictConfig, folder: Path) -> None:
    """One run from its configuration to the printed table."""
    if config.resume is None and not (_group and _group.restarted):
        train_and_print(_resolved(config), folder)
    elif (finished := _agreed(lambda: _finished(folder))) is not None:
        if _group is None or _group.first:
            print(f"{finished}\n  finished already: there is nothing to go on with", flush=True)
    else:
        if config.resume is not None:
            config = resume.recorded(folder, config, HydraConfig.get().overrides.task)
        train_and_print(_resolved(config), folder, resumes=True)


def _resolved(config: DictConfig) -> Settings:
    """The settings of a run, or of one worker of it."""
    from ctr.config import workers
    from ctr.config.compose import resolve

    if _group is None:
        return resolve(config)
    workers.settle(config)
    return workers.for_workers(resolve(config), config.slices, _group)


def _agreed(decide: Callable[[], T]) -> T:
    return decide() if _group is None else _group.agree(decide)


def _finished(folder: Path) -> str | None:
    """The table of a run that is finished."""
    from ctr.training.folder import RESULT, read_result
    from ctr.training.result import Result, table

    try:
        return table(Result(**read_result(folder / RESULT)), folder)
    except FileNotFoundError:
        return None
    except TypeError:  # of another version, with other figures
        return f"  {'result':<17} {folder / RESULT}"
    except DataError as damage:
        warn_once(f"{damage}; the run does not count as finished")
        return None


def run_of_sweep(config: DictConfig, folder: Path) -> Path:
    """The same, unless an earlier sweep or study finished the run; it is kept for later ones.

    Returns:
        The folder of its result.
    """
    from ctr.config.compose import resolve
    from ctr.datasets.source import open_data
    from ctr.jobs.cache import Cache
    from ctr.jobs.plan import sparing
    from ctr.training.identity import run_key

    if not any(override.startswith("save") for override in HydraConfig.get().overrides.task):
        config.save = {"name": "none"}  # a sweep leaves models only if it is told to
    settings, head = sparing(resolve(config), resume.keys(HydraConfig.get().overrides.task)), sweep.head()
    key = run_key(settings.config_hash, open_data(settings.data).manifest.data_hash)
    cache = Cache(Path(config.jobs))
    cache.expect_writable()

    def run() -> None:
        train_and_print(settings, folder, head, resumes=not config.force, checkpoints=cache.checkpoints(key))

    if cache.once(key, folder, run, force=config.force, model=settings.save is not None):
        return folder
    earlier = cache.folder(key)
    print(f"{head}\n  finished earlier: {os.path.relpath(earlier)} (force=true runs it again)", flush=True)
    return earlier


def train_and_print(
    settings: Settings, folder: Path, head: str = "", *, resumes: bool = False, checkpoints: Path | None = None
) -> None:
    """Runs to the end, with bars, and prints the figures; raises what ended the run.

    Args:
        settings, folder, resumes, checkpoints: of the `Run`.
        head: printed before its figures.
    """
    from ctr.artifact import pyfunc
    from ctr.artifact.save import save_model
    from ctr.training.checkpoint import complete
    from ctr.training.experiment import run_family
    from ctr.training.run import Follower, Run

    first = _group is None or _group.first
    kind = Run if first else Follower
    one = kind(settings, folder, None, save_model, pyfunc.write, checkpoints=checkpoints, resume=resumes, group=_group)
    if resumes and checkpoints is None and not complete(one.place):
        log.info("no checkpoint in %s yet: the run starts at its first row", one.place)
    try:
        run_family([one], None if first else lambda rows: None)
    except KeyboardInterrupt as error:
        if checkpoints is None and complete(one.place):
            error.args = (f"resume with: {_again(os.path.relpath(folder))}",)
        raise
    if one.error is not None:
        raise one.error
    if not first:
        return
    # At once: other jobs of a sweep may print too.
    print("\n".join([*([head] if head else []), one.table()]), flush=True)


def _again(folder: str) -> str:
    """The command that goes on with a run."""
    from ctr.config import workers

    return command_line("ctr.train", {"resume": folder}) if _group is None else workers.again(folder, _group)


def command() -> None:
    sys.argv[1:] = resume.command_line(sys.argv[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _meet()
    try:
        main()
        if _group is not None:
            _group.leave()
    except SystemExit as failure:
        if _group is not None:
            _group.leave(int(failure.code or 0))
        raise
    finally:
        if ended := sweep.closing():
            print(f"\n{ended}")


def _meet() -> None:
    """Joins the other workers, where torchrun has started this process."""
    global _group
    from ctr.config import workers
    from ctr.training.distributed import join

    _group = join()
    sys.argv[1:] = workers.command_line(_group, sys.argv[1:])


if __name__ == "__main__":
    run_command(command, "train")
