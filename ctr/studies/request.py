"""From a composed configuration to a study, its options and the names that tell its result from others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from ctr.config import schema, search
from ctr.config.schema import ReproduceConfig
from ctr.errors import ArgumentError
from ctr.studies import paper
from ctr.studies.study import Options, check, find, own_options

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
    "resume": "the same command again: a study goes on by itself",
}


def resolve(config: DictConfig, given: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """What the study is run on: the options that all have, and its own.

    Args:
        config: as composed.
        given: keys of the command line; those of ``dataset`` and ``model`` are passed on to every run.

    Raises:
        ArgumentError, OmegaConfBaseException: no study, an unknown key or a value that cannot work.
    """
    if OmegaConf.is_missing(config, "name"):
        studies = search.choices("study", search.folders())
        raise ArgumentError(f"no study given; expected one of study={', '.join(studies)}")
    own = own_options(find(config.name))
    types = {name: _plain(kind) for name, kind in own.items()}
    values = schema.plain_dict(schema.typed(config, ReproduceConfig, types))
    check(own, values)
    names = [key.lstrip("+") for key in given]
    chosen = [name for name in names if name.startswith(("dataset.", "model."))]
    common: dict[str, object] = {name: reduce(getitem, name.split("."), values) for name in chosen}
    common.update(_for_every_run(values["train"]))
    options = Options(
        dataset=values["dataset"]["name"],
        model=values["model"]["name"],
        seeds=seeds_of(values["seeds"]),
        select=select_of(config),
        lr=lr_of(values["lr"]),
        lrs=values["lrs"],
        common=common,
    )
    return options, {name: values[name] for name in own}


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def select_of(config: DictConfig) -> Literal["test", "validation"]:
    """Where choices are made: as given; else the test part for the paper's datasets, held-out rows for others."""
    return config.select or usual_select(config.dataset.name)


def usual_select(dataset: str) -> Literal["test", "validation"]:
    return "test" if dataset in paper.PAIRINGS else "validation"


def seeds_of(value: object) -> list[int]:
    """``seeds=3`` is 0, 1, 2; a list is taken as it is.

    Raises:
        ArgumentError: neither, or a duplicate seed.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return list(range(value))
    seeds = value if isinstance(value, list) else []
    if seeds and all(type(seed) is int and seed >= 0 and seeds.count(seed) == 1 for seed in seeds):
        return seeds
    raise ArgumentError(f"seeds={value}; expected a number, at least 1, or a list of different seeds: [4,7]")


def lr_of(value: object) -> Literal["auto", "paper"] | float:
    """Raises:
    ArgumentError: neither a word that is known nor a learning rate.
    """
    if value in ("auto", "paper"):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ArgumentError(f"lr={value}; expected auto, paper or a number above 0")


def _for_every_run(train: Mapping[str, object]) -> dict[str, object]:
    """The keys of ``+train`` by dotted name; ArgumentError for those that the study sets itself."""
    common = flat(train)
    for key, value in common.items():
        group = key.partition(".")[0]
        instead = INSTEAD.get(key) or (INSTEAD["prune"] if group == "prune" else None)
        if group in ("dataset", "model"):
            instead = f"{key}={value}"
        if instead is not None:
            raise ArgumentError(f"+train.{key}: the study sets it for each run; give {instead}")
    for key in ("threads", "admit"):
        value = common.get(key, 1)
        if type(value) is not int or value < 1:
            raise ArgumentError(f"+train.{key}={value}; expected a whole number, at least 1")
    return common


def settings_of(config: DictConfig) -> dict[str, object]:
    """What a result was made with, by dotted name; without paths and how the runs are run."""
    places = ("dataset.prepared", "folder", "jobs", "tracking.")
    how = ("launcher", "ray.", "slurm.", "train.checkpoint", "workers")
    values = {**schema.plain_dict(config), "select": select_of(config)}
    return {key: value for key, value in flat(values).items() if not key.startswith(places + how)}


def flat(values: Mapping[str, object]) -> dict[str, object]:
    """Nested values by dotted name."""
    return {key: value for key, value in schema.dotted(OmegaConf.create(dict(values))).items() if value != {}}


def chosen(config: DictConfig, given: Sequence[str]) -> tuple[str, ...]:
    """What tells a result from others of the same study on the same data."""
    model = [config.model.name] if "model" in given else []
    select = select_of(config)
    return (*model, *([select] if select != usual_select(config.dataset.name) else []))


def folder_of(config: DictConfig, given: Sequence[str]) -> Path:
    """Where the results are written: ``folder``, or a name made of what was chosen."""
    if config.folder is not None:
        return Path(config.folder)
    source = [config.dataset.source] if config.dataset.source != "raw" else []
    return Path("runs/studies", "-".join([config.name, config.dataset.name, *chosen(config, given), *source]))
