"""What the commands share: exit codes, one-line errors, where the raw log comes from, progress bars."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from tqdm import tqdm

from ctr.config import help
from ctr.config.messages import CONFIG_ERRORS, explain
from ctr.config.schema import DatasetConfig, EncodingName, Source, plain_dict
from ctr.datasets import DATASETS
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, code_hash, prepare
from ctr.datasets.schema import Dataset
from ctr.environment import end_at_once
from ctr.errors import ArgumentError, CtrError

FAILED, WRONG_ARGUMENTS, INTERRUPTED, TERMINATED = 1, 2, 130, 143
GENERATOR_MODULES = tuple(
    f"ctr.datasets.{name}"
    for name in ("synthetic.criteo_avazu", "synthetic.ipinyou", "synthetic.click_model", "hashing")
)

GENERATED_MARK = "GENERATED.md"  # a file of this name says that the log beside it is generated

log = logging.getLogger("ctr")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as ``kill`` and schedulers send it: cleared up after like Ctrl-C."""


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def message(error: BaseException) -> str:
    """One line: what an error says, with its causes where Hydra wraps them."""
    if isinstance(error, CtrError):
        return str(error)
    if isinstance(error, CONFIG_ERRORS) and (text := explain(error)):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
        cause = cause.__cause__
    text = " ".join(line if line[-1] in ".:;," else f"{line};" for line in dict.fromkeys(lines)).rstrip(";")
    return text if isinstance(error, CONFIG_ERRORS) else f"{type(error).__name__}: {text}"


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    return WRONG_ARGUMENTS if isinstance(error, (ArgumentError, *CONFIG_ERRORS)) else FAILED


def _exit(error: BaseException) -> NoReturn:
    text = message(error)
    if isinstance(error, KeyboardInterrupt):
        text = "terminated" if isinstance(error, Terminated) else "interrupted"
    print(f"error: {text}", file=sys.stderr)
    sys.exit(_exit_code(error))


def run_command(command: Callable[[], Any], name: str | None = None) -> None:
    """Runs a main function; exits with 1 if it failed, 2 on wrong arguments, 130 or 143 if stopped by a signal.

    An error is one line on stderr.

    Args:
        command: the function.
        name: of its configuration, for ``--help``, where it is a Hydra one.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors over instead of printing and exiting by itself
    try:
        if name and {"--help", "-h"} & set(sys.argv[1:]):
            print(help.text(name, [argument for argument in sys.argv[1:] if not argument.startswith("-")]))
        else:
            command()
    except (Exception, KeyboardInterrupt) as error:
        _exit(error)


def report_failure(error: BaseException) -> None:
    """To be called where a job fails: keeps the traceback in the job's log file, and ends a single run.

    In a multirun it returns, for the caller to raise on: Hydra then goes on with the other jobs.
    ``hydra.verbose=true`` shows the traceback on the screen as well.
    """
    log.debug("%s", error, exc_info=error)
    hydra = HydraConfig.get()
    if hydra.verbose:
        traceback.print_exception(error)
    if hydra.mode is not RunMode.MULTIRUN:
        _exit(error)


def make_dataset(config: DatasetConfig) -> Dataset:
    """The raw format of a dataset configuration, with the options that it alone has."""
    shared = {field.name for field in fields(DatasetConfig)}
    options = {name: value for name, value in plain_dict(config).items() if name not in shared}
    try:
        return DATASETS[config.name](**options)
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def check_data(config: DatasetConfig) -> Dataset:
    """Refuses what cannot work before anything is read or written; returns the dataset.

    Raises:
        ArgumentError: a value that cannot work, by its key; no raw log there, with where to get it.
    """
    dataset = make_dataset(config)
    if not config.raw or not config.prepared:
        raise ArgumentError("dataset.raw and dataset.prepared must not be empty")
    if config.test_fraction is not None and not 0 < config.test_fraction < 1:
        raise ArgumentError(f"dataset.test_fraction={config.test_fraction}; expected a share between 0 and 1")
    if config.test_days is not None and dataset.default_test_days is None:
        raise ArgumentError(f"dataset.test_days: {config.name} logs name no days; use dataset.test_fraction")
    if config.encoding is EncodingName.hash and not 0 < config.num_buckets < 2**31:
        raise ArgumentError(f"dataset.num_buckets={config.num_buckets}; expected 1 to {2**31 - 1:,}")
    if config.source is Source.raw and not Path(config.raw).exists():
        fetch = f"; python scripts/download.py {dataset.name} fetches it" if dataset.published else ""
        without = "; to try without it: dataset.source=sample" if dataset.write_sample else ""
        raise ArgumentError(
            f"no raw log at {config.raw}. Get it from {dataset.where}, put it there or name it with dataset.raw=PATH"
            f"{fetch}{without}"
        )
    if config.source is Source.sample and dataset.write_sample is None:
        raise ArgumentError(f"dataset.source=sample: there are no generated rows for dataset={dataset.name}")
    return dataset


def open_data(config: DatasetConfig, *, quiet: bool = False) -> Prepared:
    """The prepared rows that a dataset configuration asks for, generated and prepared first where they are not yet.

    Args:
        config: what is asked for.
        quiet: draw no bars.

    Raises:
        ArgumentError: as `check_data`.
        CtrError: a raw log that is not as expected.
    """
    dataset = check_data(config)
    root = Path(config.prepared)
    source: Literal["raw", "generated"] = "generated"
    if config.source is Source.sample:
        raw = _sample(dataset, root.with_name("sample"), config.sample_rows, config.sample_seed, quiet)
    else:
        raw = Path(config.raw)
        if not any((folder / GENERATED_MARK).exists() for folder in (raw, raw.parent)):
            source = "raw"
    num_buckets = config.num_buckets if config.encoding is EncodingName.hash else None
    place = hashlib.sha256(json.dumps([str(raw.resolve()), dataset.options]).encode()).hexdigest()[:8]
    kind = "onehot" if num_buckets is None else f"hash{num_buckets}"
    with nullcontext() if quiet else rows_bar("prepare") as progress:
        data = prepare(
            dataset,
            raw,
            root / f"{config.source.value}-{kind}-{place}",
            source=source,
            num_buckets=num_buckets,
            split=SplitRule(config.test_fraction, None if config.test_days is None else list(config.test_days)),
            bad_rows=config.bad_rows.value,
            progress=progress,
        )
    if config.test_days and not quiet:
        _expect_forecast(config.test_days, [day for day, _, _ in data.manifest.days])
    return data


def _expect_forecast(test_days: Sequence[int], days: Sequence[int]) -> None:
    """Warns where later days than the test's are trained on: it is allowed, but hardly meant."""
    if later := sorted({day for day in days if day > min(test_days)} - set(test_days)):
        _warn_once(
            f"dataset.test_days={list(test_days)}: later days are trained on, up to {later[-1]}; "
            "a test of what comes next has the last days"
        )


@cache
def _warn_once(text: str) -> None:
    log.warning("warning: %s", text)


def _sample(dataset: Dataset, folder: Path, rows: int, seed: int, quiet: bool) -> Path:
    """The generated log of so many rows, written unless it is there."""
    assert dataset.write_sample is not None
    if rows < 1:
        raise ArgumentError(f"dataset.sample_rows={rows}; expected at least 1")
    # The generator's code is part of the name: a changed generator must not leave its old rows in use.
    path = folder / f"{rows}-rows-seed-{seed}-{code_hash(GENERATOR_MODULES)[:8]}" / dataset.sample_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path.parent}.lock"):
        if not path.exists():
            with bar(rows, "rows", "generate", quiet=quiet) as progress:
                dataset.write_sample(path, rows, seed, progress.update)
    return path


@contextmanager
def rows_bar(description: str) -> Iterator[Callable[[int, float], None]]:
    """A bar for work whose total is not known: called with (rows so far, share done), it estimates the rest."""
    shown: tqdm[Any] | None = None

    def update(rows: int, share: float) -> None:
        nonlocal shown
        shown = shown or bar(None, "rows", description)
        shown.total = round(rows / share) if share > 0 else None
        shown.update(rows - shown.n)

    try:
        yield update
    finally:
        if shown is not None:
            shown.close()


def bar(total: int | None, unit: str, description: str, *, quiet: bool = False) -> tqdm[Any]:
    """A progress bar on stderr; on a file or a pipe it writes a line now and then instead of redrawing; quiet: none."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        desc=description,
        disable=quiet,
        mininterval=0.2 if interactive else 10.0,
        ascii=not interactive,
        dynamic_ncols=interactive,
        ncols=None if interactive else 110,
    )
