"""``resume=<run_dir>``: the command line and the configuration of a run that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ctr.config.command_line import override, typed
from ctr.errors import ArgumentError, DataError
from ctr.training.folder import CONFIG, HYDRA, OVERRIDES

RESUME = "resume"
# What may be given with it: where things are, who watches, and what changes the last bits alone.
FREE = (
    *("tracking", "checkpoint", "threads", "backend", "compile", "device", "init", "dataset.raw", "dataset.prepared"),
    *("report", "launcher", "ranks", "ray"),
)


def command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``ctr.train``, completed where a run is to go on: Hydra then works in the run's own folder, and
    writes no configuration there.

    Raises:
        ArgumentError: there is no run in the folder, or arguments that do not go with it; or ``run_dir`` is a file.
    """
    given, folder = _parsed(arguments), value_of(arguments, RESUME)
    if isinstance(run_dir := value_of(arguments, "run_dir"), str) and Path(run_dir).is_file():
        raise ArgumentError(f"run_dir={run_dir}: a file; expected a folder, or a name that is not in use")
    if folder is None:
        return list(arguments)
    said = f"{RESUME}={folder}"
    if {"-m", "--multirun"} & {*arguments}:
        raise ArgumentError(
            f"{said} goes on with one run, without -m; a sweep goes on when its own command is repeated"
        )
    for value in given:
        key = value.key_or_group
        if key != RESUME and not key.startswith("hydra") and not _free(key):
            raise ArgumentError(
                f"{said}: the run keeps its configuration, so {value.input_line} cannot be given; "
                "leave it out, or start a new run"
            )
    if not isinstance(folder, str) or not Path(folder, CONFIG).is_file():
        raise ArgumentError(f"{said}: no run there; expected the folder of a run, with {CONFIG} in it")
    return [*arguments, override("run_dir", folder), "hydra.output_subdir=null"]


def recorded(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a run was started with, with what is given now.

    Args:
        folder: of the run.
        composed: the configuration with ``overrides`` and the defaults; the values that are given are taken from it.
        overrides: of the command line.

    Raises:
        DataError: the recorded configuration is of another version, damaged, or not whole: Hydra writes it in place.
    """
    path = folder / CONFIG
    try:
        written = path.read_bytes()
        values: Any = yaml.safe_load(written)
    except (OSError, ValueError, yaml.YAMLError):
        values = None
    anew = "start the run anew"
    if not isinstance(values, dict) or not written.endswith(b"\n"):
        raise DataError(path, None, f"not the configuration of a run, or cut; without it the run cannot go on: {anew}")
    if missing := [str(key) for key in composed if key not in values]:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            path,
            None,
            f"it lacks {shown}: written by an earlier version of ctr, or cut; go on with that version, or {anew}",
        )
    config = OmegaConf.create(values)
    for key in keys(overrides):
        if _free(key):
            OmegaConf.update(config, key, OmegaConf.select(composed, key), merge=False)
    config.run_dir = composed.run_dir  # where it is now
    return config


def started_by(folder: Path, program: str = "python") -> str:
    """The line that a run was started with, without its folder; empty where nothing says that."""
    try:
        given = yaml.safe_load((folder / OVERRIDES).read_bytes())
        by_hydra = yaml.safe_load((folder / HYDRA).read_bytes())["hydra"]["overrides"]["hydra"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    own = [word for word in by_hydra if word.startswith("hydra.searchpath=")]  # where a package's parts are found
    own += [word for word in given or () if word.lstrip("+").partition("=")[0] not in ("run_dir", RESUME)]
    return typed("ctr.train", own, program)


def value_of(arguments: Sequence[str], key: str) -> Any:
    """What the arguments give for a key; None for nothing."""
    return next((given.value() for given in _parsed(arguments) if given.key_or_group == key), None)


def keys(overrides: Sequence[str]) -> list[str]:
    """The keys that overrides give."""
    return [value.key_or_group for value in _parsed(overrides)]


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _parsed(arguments: Sequence[str]) -> list[Override]:
    """The overrides among some arguments; none where one is not as Hydra expects, which it says itself."""
    try:
        return OverridesParser.create().parse_overrides([word for word in arguments if not word.startswith("-")])
    except HydraException:
        return []
