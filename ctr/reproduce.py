"""One table or figure of the paper: ``python -m ctr.reproduce study=table2 dataset=criteo dataset.raw=PATH seeds=3``.

Runs a study's jobs in parallel, writes its tables and figures to a folder and a report to MLflow. Keys and their
defaults are in ``configs/reproduce.yaml`` and ``configs/study/``; ``--help`` lists them.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctr.cli import report_failure, run_command
from ctr.config import schema, search
from ctr.errors import DIVERGED, ArgumentError, CtrError
from ctr.files import expect_writable
from ctr.training.database import SQLITE

if TYPE_CHECKING:
    from ctr.datasets.source import DataSettings
    from ctr.jobs.pool import Pool
    from ctr.report.findings import Findings
    from ctr.report.subject import Subject
    from ctr.studies.study import Options, Study

SERVER = "http://127.0.0.1:5000"  # of make dashboard
CORES = {"slurm": "cpus_per_task", "ray": "num_cpus"}  # the launcher's parameter for the cores of a job


def reproduce(
    config: DictConfig, overrides: list[str], study: Study | None = None, taken: set[Path] | None = None
) -> None:
    """Runs a study; writes its folder and its report.

    Args:
        config: as composed.
        overrides: of the command line.
        study: what to run; None for the one that the configuration names.
        taken: folders of the same sweep's earlier jobs; this one's is added.

    Raises:
        ArgumentError: a value that cannot work, or a folder that is taken; nothing was run then.
        CtrError: runs failed; the rest of the study is done.
    """
    from ctr.config.command_line import typed
    from ctr.config.data import data_settings
    from ctr.provenance import git_sha
    from ctr.report import folder as files
    from ctr.report import page
    from ctr.studies import request
    from ctr.studies.study import find

    given = [override.partition("=")[0] for override in overrides]
    options, own = request.resolve(config, given)
    if config.workers is not None and config.workers < 1:
        raise ArgumentError(f"workers={config.workers}; expected at least 1")
    folder, settings = request.folder_of(config, given), request.settings_of(config)
    files.expect_own(folder, _paths(config))
    _expect_free(folder, taken)
    data = data_settings(schema.plain_dict(config.dataset), cast(int, options.common.get("admit", 1)))
    expect_writable(folder.resolve().parent, f"folder={folder}")
    page.require()
    files.warn_of_replacing(folder, settings)

    options = replace(options, commit=git_sha())
    with _pool(config, options.common.get("threads", 1)) as pool:
        try:
            findings = (study or find(config.name))(pool.ask, options, **own)
        except CtrError as error:
            if not pool.failures or isinstance(error, ArgumentError):
                raise
            raise CtrError(f"{error}; {_summary(pool.failures, pool)}") from error

    subject = _subject(config, given, data)
    command = typed("ctr.reproduce", overrides)
    files.write(findings, folder, subject.title, command, pool.commands.values(), settings)
    if config.name == "table5":
        _record_rates(pool, options, findings)
    print(findings.text)
    print(f"  {'written to':<17} {os.path.relpath(folder)}")
    if config.tracking.name == "mlflow":
        _publish(config, findings, folder, subject)
    _expect_results(pool, findings)


def _paths(config: DictConfig) -> dict[str, str]:
    """Paths that the runs write to, by what to call them."""
    paths = {"the working folder": ".", f"jobs={config.jobs}": config.jobs}
    paths[f"dataset.prepared={config.dataset.prepared}"] = config.dataset.prepared
    if config.tracking.uri.startswith(SQLITE):
        paths[f"tracking.uri={config.tracking.uri}"] = config.tracking.uri.removeprefix(SQLITE)
    return paths


def _expect_free(folder: Path, taken: set[Path] | None) -> None:
    """Refuses a folder that an earlier job of the same sweep has written; adds this one to ``taken``."""
    if taken is None:
        return
    if folder.resolve() in taken:
        raise ArgumentError(
            f"folder={folder} holds the result of an earlier job of this sweep; put what differs into its name, "
            "as in 'folder=runs/sweep/${name}-${dataset.name}-${select}'"
        )
    taken.add(folder.resolve())


def _pool(config: DictConfig, threads: object) -> Pool:
    """Where the study's runs are done."""
    from ctr.jobs.cache import Cache
    from ctr.jobs.launchers import launcher
    from ctr.jobs.pool import Pool

    if config.tracking.get("log_model"):
        raise ArgumentError(
            "tracking.log_model: a study logs no models; +train.save=model lets each of its runs leave one in jobs="
        )
    always: dict[str, object] = {"threads": threads, "tracking": config.tracking.name}
    if config.tracking.name != "none":
        always |= {f"tracking.{key}": config.tracking[key] for key in ("uri", "experiment")}
    if HydraConfig.initialized() and (searchpath := list(HydraConfig.get().searchpath)):
        always = {"hydra.searchpath": searchpath, **always}  # where parts of other packages are
    cache = Cache(Path(config.jobs))
    # A cluster queues what has no free node.
    workers, parameters = config.workers or sys.maxsize, {}
    if config.launcher == "local":
        workers = config.workers or len(os.sched_getaffinity(0))
    else:
        parameters = {CORES[config.launcher]: threads, **schema.plain_dict(config[config.launcher])}
    return Pool(
        cache,
        workers,
        launcher(config.launcher, cache.root, parameters),
        always=always,
        tags={"study": config.name},
    )


def _subject(config: DictConfig, given: list[str], settings: DataSettings) -> Subject:
    """Identifies the study; its data must be prepared."""
    from ctr.datasets.source import open_data
    from ctr.report.subject import Subject
    from ctr.studies import request

    data = open_data(settings, quiet=True).manifest
    chosen = request.chosen(config, given)
    return Subject(config.name, config.dataset.name, chosen, data.rows, data.recipe.source, data.data_hash)


def _record_rates(pool: Pool, options: Options, findings: Findings) -> None:
    """Keeps table 5's choices beside the data, where ``opt.lr=auto`` of `ctr.train` looks."""
    chosen = findings.table[findings.table["chosen"]]
    for opt, lr in zip(chosen["opt"], chosen["lr"], strict=True):
        pool.record_rate({"dataset": options.dataset, "model": options.model, **options.common, "opt": opt}, lr)


def _publish(config: DictConfig, findings: Findings, folder: Path, subject: Subject) -> None:
    from ctr.report.mlflow import publish

    uri = config.tracking.uri
    links = publish(findings, folder, uri, config.tracking.experiment, subject)
    local = uri.startswith(SQLITE)
    at = links.at(SERVER if local else uri)
    print(f"  {'dashboard':<17} {at.dashboard}{'  (make dashboard starts the server)' if local else ''}")
    print(f"  {'report':<17} {at.report}")


def _expect_results(pool: Pool, findings: Findings) -> None:
    """Raises for runs that failed (a learning rate that was tried and diverged did not), or if no run has an AUC."""
    runs = findings.runs.to_dict("records")
    diverged = {row["folder"] for row in runs if row.get("outcome") == DIVERGED}
    failed = {log: error for log, error in pool.failures.items() if str(log.parent) not in diverged}
    if failed:
        raise CtrError(_summary(failed, pool))
    aucs = [row["auc"] for row in runs if row.get("outcome") == "finished"]
    if aucs and all(auc is None or auc != auc for auc in aucs):
        raise CtrError("no run has an AUC, so that nothing was compared: the test part has rows of one label only")


def _summary(failures: Mapping[Path, str], pool: Pool) -> str:
    logs: dict[str, list[str]] = {}
    for log, error in failures.items():
        logs.setdefault(error, []).append(os.path.relpath(log))
    failed = [
        f"{error} ({of[0] if len(of) == 1 else f'{len(of)} runs, the first: {of[0]}'})" for error, of in logs.items()
    ]
    return f"{len(failures)} of {len(pool.commands)} runs failed: {'; '.join(failed)}"


search.register()
_taken: set[Path] = set()  # by the jobs of a sweep, which run in this process one after the other


@hydra.main(config_path="pkg://ctr.conf", config_name="reproduce", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        reproduce(config, list(HydraConfig.get().overrides.task), taken=_taken)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            print("\nthe same command continues from here", file=sys.stderr)
        report_failure(error)
        raise


if __name__ == "__main__":
    run_command(main, "reproduce")
