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
from pathlib import Path
from typing import TYPE_CHECKING

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
    from ctr.training.settings import Settings

search.register()
log = logging.getLogger("ctr")


@hydra.main(config_path="pkg://ctr.conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            sweep.record(run_of_sweep(config, folder))
        else:
            run(config, folder)
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error)
        sweep.record(None, error)
        raise


def run(config: DictConfig, folder: Path) -> None:
    """One run from its configuration to the printed table."""
    from ctr.config.compose import resolve

    if config.resume is None:
        train_and_print(resolve(config), folder)
    elif (finished := _finished(folder)) is not None:
        print(f"{finished}\n  finished already: there is nothing to go on with", flush=True)
    else:
        settings = resolve(resume.recorded(folder, config, HydraConfig.get().overrides.task))
        train_and_print(settings, folder, resumes=True)


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
    from ctr.training.run import Run

    one = Run(settings, folder, save=save_model, to_mlflow=pyfunc.write, checkpoints=checkpoints, resume=resumes)
    if resumes and checkpoints is None and not complete(one.place):
        log.info("no checkpoint in %s yet: the run starts at its first row", one.place)
    try:
        run_family([one])
    except KeyboardInterrupt as error:
        if checkpoints is None and complete(one.place):
            error.args = (f"resume with: {command_line('ctr.train', {'resume': os.path.relpath(folder)})}",)
        raise
    if one.error is not None:
        raise one.error
    # At once: other jobs of a sweep may print too.
    print("\n".join([*([head] if head else []), one.table()]), flush=True)


def command() -> None:
    sys.argv[1:] = resume.command_line(sys.argv[1:])
    try:
        main()
    finally:
        if ended := sweep.closing():
            print(f"\n{ended}")


if __name__ == "__main__":
    run_command(command, "train")
