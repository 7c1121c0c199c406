"""One table or figure of the paper: ``python -m ctr.reproduce study=table2 dataset=criteo dataset.raw=PATH seeds=3``.

Runs what the study asks for in parallel, leaves its tables and figures in a folder and a report in MLflow. Keys and
their defaults stand in ``configs/reproduce.yaml``; ``--help`` lists them.
"""

from __future__ import annotations

import ctr.environment  # before torch

# isort: split

import json
import math
import os
import sys
from collections.abc import Mapping
from functools import reduce
from importlib import resources
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import ctr.config
from ctr.cli import check_data, open_data, report_failure, run_command
from ctr.commands import override
from ctr.config import ReproduceConfig
from ctr.database import SQLITE
from ctr.errors import DIVERGED, ArgumentError, CtrError
from ctr.files import atomic_folder, atomic_write_text, expect_writable
from ctr.tracking import flatten

if TYPE_CHECKING:
    from ctr.studies.options import Findings, Options, Study
    from ctr.studies.runner import Runner
    from ctr.studies.subject import Subject

TRAIN_JOBS = "ctr.train:jobs"
COMMANDS, SETTINGS = "commands.txt", "settings.json"  # in the folder of every result
# Keys of +train that a study sets for each of its runs, and what to give in their place.
INSTEAD = {
    "seed": "seeds=[0,1]",
    "opt": "study=...: each compares optimizers of its own",
    "opt.lr": "lr=0.001 or lrs=[1e-4,1e-3]",
    "opt.lambda1": "lambda1=[1e-3]",
    "opt.lambda21": "lambda21=[1e-3]",
    "opt.lambda2": "lambda2=[1e-5]",
    "prune": "finetune=[0.0,0.3] or scores=[norm,effect]",
    "run_dir": "folder=PATH or jobs=PATH",
    "jobs": "jobs=PATH",
    "force": "jobs=PATH, another one",
}
SERVER = "http://127.0.0.1:5000"  # of make dashboard


def seeds_of(value: object) -> list[int]:
    """``seeds=3`` is 0, 1, 2; a list is taken as it is.

    Raises:
        ArgumentError: neither, or a seed that stands there twice.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return list(range(value))
    seeds = value if isinstance(value, list) else []
    if seeds and all(type(seed) is int and seed >= 0 and seeds.count(seed) == 1 for seed in seeds):
        return seeds
    raise ArgumentError(f"seeds={value}; expected how many, at least 1, or a list of different ones: [4,7]")


def lr_of(value: object) -> Literal["auto", "paper"] | float:
    if value in ("auto", "paper"):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ArgumentError(f"lr={value}; expected auto, paper or a number above 0")


def options_of(config: ReproduceConfig, given: list[str]) -> Options:
    """What the study is run on.

    Args:
        config: as composed.
        given: keys of the command line; those of ``dataset`` and ``model`` go on to every run.

    Raises:
        ArgumentError: a value that cannot work.
    """
    from ctr.studies.options import Options

    values = ctr.config.plain_dict(config)
    names = [key.lstrip("+") for key in given]
    chosen = [name for name in names if name.startswith(("dataset.", "model."))]
    common: dict[str, object] = {name: reduce(getitem, name.split("."), values) for name in chosen}
    common.update(_for_every_run(values["train"]))
    for name in ("lambda21", "lambda1", "lambda2", "finetune", "lrs", "dims", "scores", "steps"):
        if not values[name]:
            raise ArgumentError(f"{name}=[]; expected at least one value")
    return Options(
        dataset=values["dataset"]["name"],
        model=values["model"]["name"],
        seeds=seeds_of(values["seeds"]),
        lambda21=values["lambda21"],
        lambda1=values["lambda1"],
        lambda2=values["lambda2"],
        finetune=values["finetune"],
        lrs=values["lrs"],
        dims=values["dims"],
        scores=values["scores"],
        select=values["select"],
        lr=lr_of(values["lr"]),
        steps=values["steps"],
        common=common,
    )


def _for_every_run(train: dict[str, object]) -> dict[str, object]:
    """The keys of ``+train`` by dotted name; ArgumentError for those that would be overridden without a word."""
    common = flatten(train)
    for key, value in common.items():
        group = key.partition(".")[0]
        instead = INSTEAD.get(key) or (INSTEAD["prune"] if group == "prune" else None)
        if group in ("dataset", "model"):
            instead = f"{key}={value}"
        if instead is not None:
            raise ArgumentError(f"+train.{key}: the study sets it for each run; give {instead}")
    threads = common.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise ArgumentError(f"+train.threads={threads}; expected a whole number, at least 1")
    return common


def folder_of(config: ReproduceConfig, given: list[str]) -> Path:
    """Where the results go: ``folder``, or a name that tells apart what was chosen."""
    if config.folder is not None:
        return Path(config.folder)
    source = config.dataset.source.value
    names = [config.name, config.dataset.name, *_chosen(config, given)]
    names += [source] if source != "raw" else []
    return Path("runs/studies", "-".join(names))


def _chosen(config: ReproduceConfig, given: list[str]) -> list[str]:
    """What tells a result from others of the same study on the same data."""
    names = [config.model.name] if "model" in given else []
    return names + ([config.select.value] if config.select.value != "test" else [])


def subject_of(config: ReproduceConfig, given: list[str]) -> Subject:
    """What a study is about, once its data was prepared."""
    from ctr.studies.subject import Subject

    data = open_data(config.dataset, quiet=True).manifest
    chosen = tuple(_chosen(config, given))
    return Subject(config.name, config.dataset.name, chosen, data.rows, data.recipe.source, data.data_hash)


def expect_own(folder: Path, config: ReproduceConfig) -> None:
    """Refuses a folder of anything but an earlier result: the results replace it as a whole.

    Raises:
        ArgumentError: it is a file, holds other files, or is to hold what the runs write.
    """
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"folder={folder} is a file; expected a folder, or none yet")
    places = {"the working folder": ".", f"jobs={config.jobs}": config.jobs}
    places[f"dataset.prepared={config.dataset.prepared}"] = config.dataset.prepared
    if config.tracking.uri.startswith(SQLITE):
        places[f"tracking.uri={config.tracking.uri}"] = config.tracking.uri.removeprefix(SQLITE)
    for name, place in places.items():
        if Path(place).resolve().is_relative_to(folder.resolve()):
            raise ArgumentError(f"folder={folder} holds {name}, and is replaced as a whole; expected another folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / COMMANDS).exists():
        raise ArgumentError(f"folder={folder} holds files that are not a study's; expected a new or an empty folder")


def settings_of(config: ReproduceConfig) -> dict[str, object]:
    """What a result was made with, by dotted name; without where things lie and how they are run."""
    elsewhere = ("dataset.prepared", "folder", "jobs", "tracking.", "workers")
    return {k: v for k, v in flatten(ctr.config.plain_dict(config)).items() if not k.startswith(elsewhere)}


def warn_of_replacing(folder: Path, settings: dict[str, object]) -> None:
    """Says in what an earlier result that is going to be replaced differs, while there is time to stop."""
    if not (folder / SETTINGS).exists():
        return
    earlier = json.loads((folder / SETTINGS).read_text())
    differs = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
    if differs:
        was = " ".join(override(key, earlier.get(key)) for key in differs)
        print(f"  {os.path.relpath(folder)} holds a result with {was}: it will be replaced; folder=PATH keeps it")


def reproduce(
    config: ReproduceConfig, given: list[str], study: Study | None = None, taken: set[Path] | None = None
) -> None:
    """A study from its options to its folder and its report.

    Args:
        config: as composed.
        given: keys of the command line.
        study: what to run; None for the one that the configuration names.
        taken: folders of the same sweep's earlier jobs; this one's is added.

    Raises:
        ArgumentError: a value that cannot work, or a folder that is taken; nothing was run then.
        CtrError: runs failed; the rest of the study is done.
    """
    _expect_study(config)
    ctr.config.refuse_unknown(cast(DictConfig, config), ReproduceConfig)
    if config.workers is not None and config.workers < 1:
        raise ArgumentError(f"workers={config.workers}; expected at least 1")
    options = options_of(config, given)
    folder = folder_of(config, given)
    expect_own(folder, config)
    if taken is not None:
        if folder.resolve() in taken:
            raise ArgumentError(
                f"folder={folder} holds the result of an earlier job of this sweep; put what differs into its name, "
                "as in 'folder=runs/sweep/${name}-${dataset.name}-${select}'"
            )
        taken.add(folder.resolve())
    check_data(config.dataset)
    expect_writable(folder.resolve().parent, f"folder={folder}")
    settings = settings_of(config)
    warn_of_replacing(folder, settings)
    import pandas as pd

    from ctr.run import check  # torch: seconds that --help does not need
    from ctr.store import Store
    from ctr.studies.registry import STUDIES
    from ctr.studies.runner import Runner
    from ctr.studies.runs import FINISHED
    from ctr.train import passes

    runner = Runner(
        Store(Path(config.jobs)),
        config.workers or len(os.sched_getaffinity(0)),
        always={"threads": options.common.get("threads", 1), **_tracking(config)},
        tags={"study": config.name},
        function=TRAIN_JOBS,
        passes=passes,
        check=check,
    )
    with runner:
        try:
            findings = (study or STUDIES[config.name])(runner.ask, options)
        except CtrError as error:
            if not runner.failures or isinstance(error, ArgumentError):
                raise
            raise CtrError(f"{error}; {_summary(runner.failures, runner)}") from error
    subject = subject_of(config, given)
    _write(findings, runner, folder, subject.title, settings)
    if config.name == "table5":
        _record_rates(runner, options, findings)
    print(findings.text)
    print(f"  {'written to':<17} {os.path.relpath(folder)}")
    if config.tracking.name == "mlflow":
        _publish(config, findings, folder, subject)
    failed = _failures(runner, findings)
    if failed:
        raise CtrError(_summary(failed, runner))
    finished = [row for row in findings.runs.to_dict("records") if row.get("outcome") == FINISHED]
    if finished and all(pd.isna(row["auc"]) for row in finished):
        raise CtrError("no run has an AUC, so that nothing was compared: the test part has rows of one label only")


def _tracking(config: ReproduceConfig) -> dict[str, object]:
    """The overrides that track the runs as the study is."""
    tracking = config.tracking
    if tracking.name == "none":
        return {"tracking": "none"}
    return {"tracking": tracking.name, "tracking.uri": tracking.uri, "tracking.experiment": tracking.experiment}


def _record_rates(runner: Runner, options: Options, findings: Findings) -> None:
    """Keeps table 5's choices beside the data, where ``opt.lr=auto`` of `ctr.train` looks."""
    chosen = findings.table[findings.table["chosen"]]
    for opt, lr in zip(chosen["opt"], chosen["lr"], strict=True):
        runner.record_rate({"dataset": options.dataset, "model": options.model, **options.common, "opt": opt}, lr)


def _failures(runner: Runner, findings: Findings) -> dict[Path, str]:
    """Log and error of what failed; a learning rate that was tried and diverged did not."""
    diverged = {row["folder"] for row in findings.runs.to_dict("records") if row.get("outcome") == DIVERGED}
    return {log: error for log, error in runner.failures.items() if str(log.parent) not in diverged}


def _summary(failures: Mapping[Path, str], runner: Runner) -> str:
    logs: dict[str, list[str]] = {}
    for log, error in failures.items():
        logs.setdefault(error, []).append(os.path.relpath(log))
    failed = [
        f"{error} ({of[0] if len(of) == 1 else f'{len(of)} runs, the first: {of[0]}'})" for error, of in logs.items()
    ]
    return f"{len(failures)} of {len(runner.commands)} runs failed: {'; '.join(failed)}"


def _write(findings: Findings, runner: Runner, folder: Path, title: str, settings: dict[str, object]) -> None:
    from ctr.studies.report import write

    with atomic_folder(folder) as tmp:
        atomic_write_text(tmp / COMMANDS, "".join(f"{line}\n" for line in runner.commands.values()))
        atomic_write_text(tmp / SETTINGS, json.dumps(settings, indent=2) + "\n")
        write(findings, tmp, title)


def _publish(config: ReproduceConfig, findings: Findings, folder: Path, subject: Subject) -> None:
    from ctr.studies.report import publish

    uri = config.tracking.uri
    links = publish(findings, folder, uri, config.tracking.experiment, subject)
    local = uri.startswith(SQLITE)
    at = links.at(SERVER if local else uri)
    print(f"  {'dashboard':<17} {at.dashboard}{'  (make dashboard starts the server)' if local else ''}")
    print(f"  {'report':<17} {at.report}")


def _expect_study(config: ReproduceConfig) -> None:
    if OmegaConf.is_missing(config, "name"):
        studies = sorted(path.name.removesuffix(".yaml") for path in (resources.files("ctr.conf") / "study").iterdir())
        raise ArgumentError(f"no study given; expected one of study={', '.join(studies)}")


ctr.config.register()
_taken: set[Path] = set()  # by the jobs of a sweep, which run in this process one after the other


@hydra.main(config_path="pkg://ctr.conf", config_name="reproduce", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        given = [override.partition("=")[0] for override in HydraConfig.get().overrides.task]
        reproduce(cast(ReproduceConfig, config), given, taken=_taken)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            print("\nthe same command goes on from here", file=sys.stderr)
        report_failure(error)
        raise


if __name__ == "__main__":
    run_command(main, "reproduce")
