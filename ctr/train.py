"""One streaming run: ``python -m ctr.train dataset=criteo opt=group_adam opt.lambda21=1e-3``.

Keys and their defaults are in ``configs/``; ``--help`` lists them. ``-m`` runs a sweep:
``python -m ctr.train -m dataset=criteo opt.lambda21=1e-4,1e-3 seed=0,1``. A run that was stopped goes on with
``python -m ctr.train resume=<run_dir>``. Several processes make one run under torchrun, or with ``launcher=ray``.
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
from ctr.config.command_line import command_line, override
from ctr.errors import ArgumentError, DataError, warn_once
from ctr.jobs import sweep
from ctr.training.folder import CHECKPOINTS, PAGE, RESULT, claim, read_result

if TYPE_CHECKING:
    from ctr.training.distributed import Group
    from ctr.training.settings import Settings

search.register()
log = logging.getLogger("ctr")
T = TypeVar("T")
_group: Group | None = None  # of this process, one of several that torchrun or Ray has started
_given: list[str] = []  # the arguments of the command


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
        _train(config, folder)
    elif (finished := _agreed(lambda: _finished(folder))) is not None:
        if _group is None or _group.first:
            print(f"{finished}\n  finished already: there is nothing to go on with", flush=True)
    else:
        try:
            if config.resume is not None:
                config = resume.recorded(folder, config, HydraConfig.get().overrides.task)
            _train(config, folder, resumes=True)
        except KeyboardInterrupt as error:
            error.args = error.args or (f"resume with: {_again(os.path.relpath(folder))}",)  # also before it trains
            raise


def _train(config: DictConfig, folder: Path, *, resumes: bool = False) -> None:
    """Trains in this process, as one worker of several, or by workers of Ray."""
    if _group is not None or config.launcher == "local":
        _expect_one_process(config)
        if not resumes and (_group is None or _group.first) and (folder / RESULT).is_file():
            log.warning(
                "warning: %s holds the result and the model of an earlier run, which this one replaces; "
                "another run_dir= keeps both", os.path.relpath(folder),
            )  # fmt: skip
        train_and_print(_resolved(config), folder, resumes=resumes)
        return
    if code := _launch(config, folder, resumes=resumes):
        sys.exit(code)


def _launch(config: DictConfig, folder: Path, *, resumes: bool) -> int:
    """Runs the workers of ``launcher=ray``; returns their exit code. What all of them would refuse or prepare is
    refused and prepared before."""
    from ctr.config import schema, workers
    from ctr.datasets.source import open_data
    from ctr.jobs import ray_ranks
    from ctr.training.checkpoint import complete

    if config.ranks is None or config.ranks < 1:
        raise ArgumentError(f"launcher=ray ranks={config.ranks}; expected the number of processes: ranks=4")
    settings = workers.resolved(config)
    workers.refuse(settings, config.slices, config.ranks)
    open_data(settings.data)
    arguments = list(_given)
    if not resumes:
        (folder / RESULT).unlink(missing_ok=True)  # of an older run: workers that are started again would go by it
        kept = [argument for argument in arguments if argument.lstrip("+").partition("=")[0] != "run_dir"]
        arguments = [*kept, override("run_dir", str(folder.resolve()))]
    resources = {"CPU": settings.threads, **({"GPU": 1} if settings.device == "cuda" else {})}
    claim(folder).release()  # the first worker takes it
    try:
        return ray_ranks.launch(arguments, folder.resolve(), config.ranks, resources, schema.plain_dict(config.ray))
    except KeyboardInterrupt as error:
        if complete(folder / CHECKPOINTS):
            error.args = (f"resume with: {_again(os.path.relpath(folder))}",)
        raise


def _expect_one_process(config: DictConfig) -> None:
    if _group is None and config.ranks is not None:
        raise ArgumentError(
            f"ranks={config.ranks} needs launcher=ray; "
            f"without Ray: torchrun --nproc-per-node {config.ranks} -m ctr.train ..."
        )


def _resolved(config: DictConfig) -> Settings:
    """The settings of a run, or of one worker of it."""
    from ctr.config import workers
    from ctr.config.compose import resolve

    if _group is None:
        return resolve(config)
    return workers.for_workers(workers.resolved(config), config.slices, _group)


def _agreed(decide: Callable[[], T]) -> T:
    return decide() if _group is None else _group.agree(decide)


def _finished(folder: Path) -> str | None:
    """The table of a run that is finished."""
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

    if config.launcher != "local":
        raise ArgumentError(f"launcher={config.launcher} trains one run, not a sweep (-m); start each job by itself")
    _expect_one_process(config)
    given = resume.keys(HydraConfig.get().overrides.task)
    if not any(key.startswith("save") for key in given):
        config.save = {"name": "none"}  # a sweep leaves models only if it is told to
    if "report" not in given:
        config.report = False
    settings, head = sparing(resolve(config), given), sweep.head()
    key = run_key(settings.config_hash, open_data(settings.data).manifest.data_hash)
    cache = Cache(Path(config.jobs))
    cache.expect_writable()

    def run() -> None:
        train_and_print(settings, folder, head, resumes=not config.force, checkpoints=cache.checkpoints(key))

    if cache.once(key, folder, run, force=config.force, model=settings.save is not None):
        return folder
    earlier = cache.folder(key)
    unpaged = ", without a page, which is drawn as a run ends" * (settings.report and not (earlier / PAGE).exists())
    print(f"{head}\n  finished earlier: {os.path.relpath(earlier)}{unpaged} (force=true runs it again)", flush=True)
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
    from ctr.report import run_page
    from ctr.training.checkpoint import complete
    from ctr.training.experiment import run_family
    from ctr.training.run import Follower, Run

    first = _group is None or _group.first
    kind = Run if first else Follower
    one = kind(
        settings,
        folder,
        None,
        save_model,
        pyfunc.write,
        draw=run_page.write,
        command=_started_by(folder),
        checkpoints=checkpoints,
        resume=resumes,
        group=_group,
    )
    if resumes and checkpoints is None and not complete(one.place):
        log.info("no checkpoint in %s yet: the run starts at its first row", one.place)
    try:
        run_family([one], None if first else lambda rows: None)
    except KeyboardInterrupt as error:
        if one.result is not None:  # while its page was drawn
            error.args = (f"the run is done: its result is in {os.path.relpath(folder / RESULT)}",)
        elif checkpoints is None and complete(one.place):
            error.args = (f"resume with: {_again(os.path.relpath(folder))}",)
        raise
    if one.error is not None:
        raise one.error
    if not first:
        return
    # At once: other jobs of a sweep may print too.
    print("\n".join([head, one.table()] if head else [one.table(), one.origin()]), flush=True)


def _started_by(folder: Path) -> str:
    """The command that the run was started with."""
    from ctr.config import workers

    if _group is None or resume.value_of(_given, "launcher") == "ray":
        return resume.started_by(folder)
    return resume.started_by(folder, workers.program(_group))


def _again(folder: str) -> str:
    """The command that goes on with a run."""
    from ctr.config import workers

    return command_line("ctr.train", {"resume": folder}) if _group is None else workers.again(folder, _group)


def command() -> None:
    _given[:] = sys.argv[1:]
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
    """Joins the other workers, where torchrun or a worker of Ray has started this process."""
    global _group
    from ctr.config import workers
    from ctr.training.distributed import AGENT, end_with_agent, join

    if AGENT in os.environ:
        end_with_agent()
    _group = join()
    sys.argv[1:] = workers.command_line(_group, sys.argv[1:])


if __name__ == "__main__":
    run_command(command, "train")
