"""From data settings to prepared rows: finds or generates the raw log, prepares it where that is not done yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ctr import parts
from ctr.datasets import transforms
from ctr.datasets.admission import MOST
from ctr.datasets.locate import located, missing
from ctr.datasets.manifest import SplitRule
from ctr.datasets.parquet import list_columns
from ctr.datasets.prepared import Prepared, prepare
from ctr.datasets.rare import Unseen
from ctr.datasets.schema import BadRows, Dataset, Pool
from ctr.datasets.together import Limits
from ctr.datasets.transforms import Transform
from ctr.errors import ArgumentError, warn_once
from ctr.progress import bar, rows_bar
from ctr.provenance import code_hash, digest, module_paths

log = logging.getLogger("ctr")

GENERATOR_MODULES = (
    *(f"ctr.datasets.synthetic.{name}" for name in ("criteo_avazu", "ipinyou", "click_model")),
    "ctr.datasets.hashing",
)
GENERATED_MARK = "GENERATED.md"  # a file of this name says that the log beside it is generated


@dataclass(frozen=True)
class DataSettings:
    """Which log to use, and how its rows are encoded and split.

    Attributes:
        name: the raw format: criteo, avazu, ...
        module: that it is in; None for this package.
        options: the format's own options.
        source: ``"raw"`` reads the log at ``raw``; ``"sample"`` generates one.
        raw: a file, a folder or a glob; or several.
        prepared: where prepared rows are kept, a folder for each raw log and encoding.
        num_buckets: of the hashed encoding; None for exact one-hot ids.
        min_count, unseen: which values have a row of their own, and what unseen ones read (`ctr.datasets.rare`). Both
            apply to what a run trains on; the prepared rows are the same.
        admit: from which occurrence in the stream on a value has a row of its own (`ctr.datasets.admission`).
        split: which rows test.
        bad_rows: what happens to rows that are not as expected.
        sample_rows, sample_seed: size and seed of a generated log.
        transforms: of the numbers, as a known model has them; empty: they are fitted.
    """

    name: str
    raw: tuple[Path, ...]
    prepared: Path
    split: SplitRule
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Literal["raw", "sample"] = "raw"
    num_buckets: int | None = None
    min_count: int = 1
    unseen: Unseen = "zero"
    admit: int = 1
    bad_rows: BadRows = "error"
    sample_rows: int = 300_000
    sample_seed: int = 0
    module: str | None = None
    transforms: tuple[Transform, ...] = ()

    @property
    def format(self) -> Dataset:
        """The raw format with its options.

        Raises:
            ArgumentError: an option that cannot work.
        """
        try:
            return parts.dataset(self.name, self.module)(**self.options)
        except ValueError as error:
            raise ArgumentError(str(error)) from error

    def settled_options(self, dataset: Dataset) -> Mapping[str, Any]:
        """The options that make the format with what its files have settled."""
        return self.options if dataset.settle_as is None else dataset.options


def check(settings: DataSettings) -> None:
    """Refuses what cannot work before anything is read or written.

    Raises:
        ArgumentError: a value that cannot work, by its key; no raw log, with where to get it.
    """
    dataset, rule = settings.format, settings.split
    if rule.test_fraction is not None and not 0 <= rule.test_fraction < 1:
        raise ArgumentError(f"dataset.test_fraction={rule.test_fraction}; expected a share from 0 to below 1")
    if rule.test_days is not None and dataset.default_test_days is None:
        named = "; or name the column of their times with dataset.time" if "time" in settings.options else ""
        raise ArgumentError(f"dataset.test_days: {settings.name} logs name no days; use dataset.test_fraction{named}")
    if settings.num_buckets is not None and not 0 < settings.num_buckets < 2**31:
        raise ArgumentError(f"dataset.num_buckets={settings.num_buckets}; expected 1 to {2**31 - 1:,}")
    _check_rare(settings)
    if settings.source == "raw" and (absent := missing(dataset, settings.raw)):
        if not dataset.where or Path("data", settings.name) not in absent[0].parents:
            raise ArgumentError(f"dataset.raw={absent[0]}: no such file or folder")
        fetch = f"; python scripts/download.py {dataset.name} fetches it" if dataset.published else ""
        without = "; to try without it: dataset.source=sample" if dataset.write_sample else ""
        raise ArgumentError(
            f"no raw log at {absent[0]}. Get it from {dataset.where}, put it there or name it with dataset.raw=PATH"
            f"{fetch}{without}"
        )
    if settings.source == "sample" and dataset.write_sample is None:
        raise ArgumentError(f"dataset.source=sample: there are no generated rows for dataset={dataset.name}")
    if settings.source == "sample" and settings.sample_rows < 1:
        raise ArgumentError(f"dataset.sample_rows={settings.sample_rows}; expected at least 1")


def _check_rare(settings: DataSettings) -> None:
    if settings.min_count < 1:
        raise ArgumentError(f"dataset.min_count={settings.min_count}; expected at least 1")
    if settings.min_count > 1 and settings.num_buckets is not None:
        raise ArgumentError(
            f"dataset.min_count={settings.min_count} is for dataset.encoding=onehot: hashed values share the rows of "
            "their buckets, rare or not"
        )
    if not 1 <= settings.admit <= MOST:
        raise ArgumentError(f"admit={settings.admit}; expected 1 (every value has a row) to {MOST}")
    if settings.admit > 1 and settings.num_buckets is not None:
        raise ArgumentError(
            f"admit={settings.admit} is for dataset.encoding=onehot: hashed values share the rows of their buckets"
        )
    if settings.admit > 1 and settings.min_count > 1:
        raise ArgumentError(
            f"admit={settings.admit} counts values as they come, dataset.min_count={settings.min_count} in the whole "
            "log; leave one of both out"
        )
    if settings.unseen == "row" and max(settings.min_count, settings.admit) == 1:
        raise ArgumentError(
            "dataset.unseen=row needs dataset.min_count=2 or more: rare values train the row that unseen ones read; "
            "in a run admit=2 or more does as well"
        )


def open_data(
    settings: DataSettings, *, quiet: bool = False, verify: bool = False, limits: Limits | None = None
) -> Prepared:
    """The prepared rows that the settings ask for, generated and prepared first where that is not done yet.

    Args:
        settings: checked (`check`).
        quiet: draw no bars.
        limits: see `prepare`.
        verify: check every byte of rows that were prepared earlier.

    Raises:
        CtrError: a raw log that is not as expected.
    """
    dataset, root = settings.format, settings.prepared
    origin: Literal["raw", "generated"] = "generated"
    raws = settings.raw
    if settings.source == "sample":
        raws = (_sample(dataset, root.with_name("sample"), settings.sample_rows, settings.sample_seed, quiet),)
    elif not any((folder / GENERATED_MARK).exists() for raw in raws for folder in (raw, raw.parent)):
        origin = "raw"
    options = dataset.options
    if dataset.settle is not None:
        dataset = dataset.settle(located(dataset, raws))
    fitted_on = []
    if dataset.transforms:
        fitted_on = [asdict(transform) for transform in settings.transforms] or [asdict(settings.split)]
    place = digest([*(str(raw.resolve()) for raw in raws), options, *fitted_on])[:8]
    kind = "onehot" if settings.num_buckets is None else f"hash{settings.num_buckets}"
    with (
        nullcontext() if quiet else rows_bar("prepare") as first,
        nullcontext() if quiet else rows_bar("join") as joining,
        nullcontext() if quiet else rows_bar("arrange") as second,
    ):
        data = prepare(
            dataset,
            raws,
            root / f"{settings.source}-{kind}-{place}",
            source=origin,
            num_buckets=settings.num_buckets,
            split=settings.split,
            bad_rows=settings.bad_rows,
            transforms=settings.transforms,
            progress=first,
            progress_arranging=second,
            limits=limits,
            progress_joining=joining,
            verify=verify,
        )
    if data.manifest.transforms and not data.reused and not quiet:
        log.info("%s", transforms.table(data.manifest.transforms))
    if settings.split.test_days and not quiet:
        _warn_of_later_days(settings.split.test_days, [day for day, _, _ in data.manifest.days])
    return data


def pool_of(settings: DataSettings) -> Pool | None:
    """`Dataset.pool` of a raw log that is there: what the settings say, or columns of lists in its first file."""
    dataset = settings.format
    if dataset.pool is not None or dataset.settle is None:
        return dataset.pool
    paths = located(dataset, settings.raw)
    return dataset.settle(paths).pool if list_columns(paths[0]) else None


def _warn_of_later_days(test_days: Sequence[int], days: Sequence[int]) -> None:
    """Warns where later days than the test's are trained on: it is allowed, but hardly meant."""
    if later := sorted({day for day in days if day > min(test_days)} - set(test_days)):
        warn_once(
            f"dataset.test_days={list(test_days)}: later days are trained on, up to {later[-1]}; "
            "a test of what comes next has the last days"
        )


def _sample(dataset: Dataset, folder: Path, rows: int, seed: int, quiet: bool) -> Path:
    """The generated log with this number of rows, written unless it exists."""
    assert dataset.write_sample is not None
    # The generator's code is part of the name: a changed generator must not leave its old rows in use.
    path = folder / f"{rows}-rows-seed-{seed}-{code_hash(module_paths(GENERATOR_MODULES))[:8]}" / dataset.sample_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path.parent}.lock"):
        if not path.exists():
            with bar(rows, "rows", "generate", quiet=quiet) as progress:
                dataset.write_sample(path, rows, seed, progress.update)
    return path
