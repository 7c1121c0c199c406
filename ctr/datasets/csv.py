"""One's own log: CSV or Parquet files with a label column, categorical columns and, where there are any, dense ones.

Every categorical value is taken as text; a blank one is a value of its own. Dense columns are transformed
(`ctr.datasets.transforms`). What the user does not name is told by the first rows (`ctr.datasets.guess`). The rows
should be in order of time, or have a column of times: the last test. A column may say how much each row counts.

One rule for both kinds of file. A null of Parquet and an empty text are blank. NaN is blank in a dense column, an error
in the label, and a value like any other in a categorical column. A label may be True or False. Text is UTF-8 without
NUL characters. Dense numbers, integers of any size too, are rounded to float32; an infinite one is an error. In
a categorical column of Parquet, dates, times, decimals and other numbers are read as Arrow writes them. Weights that
are blank, NaN, infinite or below 0, and nested columns, are an error; but a categorical column may have several values
(`ctr.datasets.multi`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ctr.datasets.columns import TEXT, ColumnType
from ctr.datasets.guess import SAMPLE_ROWS, Roles, Wanted, roles
from ctr.datasets.locate import locate_files
from ctr.datasets.manifest import stamps
from ctr.datasets.multi import list_type
from ctr.datasets.multi import parse as parse_multi
from ctr.datasets.parquet import (
    NUMBER,
    TRUTH,
    WEIGHT,
    check_names,
    column_names,
    is_parquet,
    list_columns,
    listed,
    misplaced,
    read_parquet,
)
from ctr.datasets.schema import Block, Columns, Dataset, Field, Inputs, Pool, Read, Reading
from ctr.datasets.text import Table, read_header, read_tables
from ctr.datasets.times import AUTO, FORMATS, days_of_times, time_type
from ctr.datasets.transforms import SPEC, SPECS, parse
from ctr.errors import ArgumentError, DataError

ENDINGS = tuple(f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", ".gz", ".bz2", ".zip"))
ENDINGS += (".parquet", ".pq")
USUAL_DELIMITERS = (",", ";", "\t", "|")


def make(
    label: str = AUTO,
    categorical: Any = AUTO,
    dense: Any = None,
    ignore: Sequence[str] = (),
    delimiter: str = ",",
    time: str | None = None,
    time_format: str = AUTO,
    order: Literal["check", "sort"] = "check",
    transform: Sequence[str] = (),
    transform_default: str = AUTO,
    weight: str | None = None,
    negative_rate: float = 1.0,
    multi: Sequence[str] = (),
    pool: Pool = "mean",
) -> Dataset:
    """The format of one's own log.

    Args:
        label: name of the column that holds 0 or 1; auto: the one called label, click, clicked or y.
        categorical: names of the columns whose values become one-hot features, in model order; auto: those that look
            like it. A list may hold auto beside names.
        dense: the same for the columns that hold numbers; None: auto if ``categorical`` is, else none.
        ignore: columns that auto leaves out.
        delimiter: one character; of a CSV file. A backslash and a t stand for a tab.
        time: name of the column with the time of each row.
        time_format: one of `ctr.datasets.times.FORMATS`, or a pattern of strptime; auto: told by the first values.
        order: what happens to a row that is earlier than the one before it: an error, or all rows are sorted by time.
        transform: what becomes of columns that hold numbers: ``NAME:TRANSFORM``, see `ctr.datasets.transforms`.
        transform_default: what becomes of the others; auto: chosen by their values in the training rows.
        weight: name of the column that says how much each row counts; None: 1 each.
        negative_rate: share of the negatives that the log holds, see `ctr.datasets.schema.Dataset`.
        multi: categorical columns of which a row may have several values: ``NAME:SEPARATOR``, or ``NAME`` of a column
            of lists, see `ctr.datasets.multi`. Where ``categorical`` has auto, a column of lists is one by itself.
        pool: how the embedding rows of these values become one; the mean of many is no larger than that of a few.
    """
    delimiter = {r"\t": "\t"}.get(delimiter, delimiter)
    categorical = _names("categorical", categorical)
    if dense is None:
        dense = [AUTO] if AUTO in categorical else []
    of_column, separators = parse(transform), parse_multi(multi)
    if not re.fullmatch(SPEC, transform_default):
        raise ValueError(f"dataset.transform_default={transform_default}; expected {SPECS}")
    if not 0 < negative_rate <= 1:
        raise ValueError(f"dataset.negative_rate={negative_rate:g}; expected a share above 0 and at most 1")
    wanted = Wanted(
        label=label,
        categorical=tuple(categorical if AUTO in categorical else dict.fromkeys([*categorical, *separators])),
        dense=tuple(dict.fromkeys([*_names("dense", dense), *of_column])),
        ignore=tuple(ignore),
        time=time,
        time_format=time_format,
        weight=weight,
        multi=tuple(separators),
    )
    _check(wanted, delimiter, order)
    options: dict[str, Any] = {
        "label": label,
        "categorical": list(wanted.categorical),
        "dense": list(wanted.dense),
        "delimiter": delimiter,
        "time": time,
        "time_format": time_format,
        "order": order,
        "transform": list(transform),
        "transform_default": transform_default,
    }
    if weight is not None:
        options["weight"] = weight
    if negative_rate != 1:
        options["negative_rate"] = negative_rate
    if separators or pool != "mean":
        options |= {"multi": list(multi), "pool": pool}
    is_open = AUTO in (label, *wanted.categorical, *wanted.dense)
    if is_open:  # else nothing is left to be ignored
        options["ignore"] = list(ignore)
    transforms = {name: of_column.get(name, transform_default) for name in wanted.dense}
    if set(transforms.values()) == {"none"}:
        transforms = {}
    buckets = [name for name, chosen in transforms.items() if chosen.startswith("bucket")]
    common = Dataset(
        name="csv",
        fields=tuple(Field(name, "text", multi=name in separators) for name in (*wanted.categorical, *buckets)),
        dense=wanted.dense,
        read=_unsettled,
        locate=lambda raw: locate_files(raw, ENDINGS),
        several=True,
        modules=tuple(f"ctr.datasets.{name}" for name in ("csv", "multi", "parquet", "times", "dates")),
        options=options,
        default_test_days=None if time is None else lambda days: days[-1:],
        sort=order == "sort",
        divide=lambda paths: _divided(paths, delimiter),
        transforms=transforms,
        settle_as=lambda known: make(**_filled(options, known)),
        of_log=("delimiter", "time", "time_format", "order", "weight"),
        weight=weight,
        negative_rate=negative_rate,
        pool=pool if separators else None,
    )
    if is_open or (time is not None and time_format == AUTO):
        return replace(common, settle=lambda paths: _settled(paths, wanted, options))
    if pool != "mean" and not separators:
        raise ValueError(f"dataset.pool={pool}: no column has several values; dataset.multi names those that have")
    missing = np.nan if transforms else 0.0
    several = {name: list_type(name, separator) for name, separator in separators.items()}
    features = {**dict.fromkeys(wanted.categorical, TEXT), **several, **dict.fromkeys(wanted.dense, NUMBER)}
    inputs = Inputs(
        columns=features,
        derive=lambda table: _derived(table, wanted, missing),
        label=label,
        delimiter=delimiter,
    )
    return replace(common, read=_reader(wanted, features, delimiter, order, missing), inputs=inputs)


def _unsettled(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
    raise RuntimeError("the columns are not known before Dataset.settle")


def _settled(paths: Sequence[Path], wanted: Wanted, options: dict[str, Any]) -> Dataset:
    """The format with the columns that the first rows of the first file show."""
    found = _roles(paths[0], *stamps(paths[:1]), options["delimiter"], wanted)
    settled = {"label": found.label, "categorical": found.categorical, "dense": found.dense}
    if found.lists:
        settled["multi"] = [*options.get("multi", []), *found.lists]
    return replace(
        make(**{**options, **settled, "time_format": found.time_format}), note=found.table, warnings=found.warnings
    )


def _filled(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Options with what another log has settled where they say auto; what they name stays."""
    filled = dict(options)
    for key in ("label", "transform_default"):
        filled[key] = known[key] if options[key] == AUTO else options[key]
    for key in ("categorical", "dense"):
        if AUTO in options[key] and {*options[key]} - {AUTO} <= {*known[key]}:
            filled[key] = known[key]
            if key == "categorical" and "multi" in known:
                own = dict(zip(parse_multi(options.get("multi", ())), options.get("multi", ()), strict=True))
                theirs = dict(zip(parse_multi(known["multi"]), known["multi"], strict=True))
                filled["multi"] = [*{**theirs, **own}.values()]
    if taken := [name for name in options.get("ignore", ()) if name in (*known["categorical"], *known["dense"])]:
        raise ValueError(f"dataset.ignore={taken}: the model that the run goes on with takes {listed(taken)}")
    return filled


@lru_cache
def _roles(path: Path, stamp: tuple[str, int, int], delimiter: str, wanted: Wanted) -> Roles:
    """What the columns of a file with this stamp are; many runs of one process ask for the same."""
    sample = _sample(path, delimiter)
    check_names(path, [name for name in wanted.names if name != AUTO], [*sample])
    try:
        return roles(sample, wanted)
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from None


def _names(key: str, given: Any) -> list[str]:
    names = [given] if given == AUTO else given
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"dataset.{key}={given}; expected auto or a list of names: dataset.{key}=[a,b]")
    return list(names)


def _check(wanted: Wanted, delimiter: str, order: str) -> None:
    if not wanted.categorical:
        raise ValueError("dataset.categorical is empty; name at least one column")
    if repeated := sorted({name for name in wanted.names if name != AUTO and wanted.names.count(name) > 1}):
        raise ValueError(
            f"named more than once in dataset.label, categorical, dense, ignore, time and weight: {', '.join(repeated)}"
        )
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise ValueError(f"dataset.delimiter={delimiter!r}; expected one ASCII character such as , or \\t")
    if order not in ("check", "sort"):
        raise ValueError(f"dataset.order={order}; expected check or sort")
    if wanted.time is None and (order == "sort" or wanted.time_format != AUTO):
        key = "order=sort" if order == "sort" else "time_format"
        raise ValueError(f"dataset.{key} needs dataset.time, the name of the column that holds the time of each row")
    if wanted.time_format not in (AUTO, *FORMATS) and "%" not in wanted.time_format:
        raise ValueError(
            f"dataset.time_format={wanted.time_format}; expected auto, {', '.join(FORMATS)} or a pattern: %d.%m.%Y"
        )


def _reader(wanted: Wanted, features: Mapping[str, ColumnType], delimiter: str, order: str, missing: float) -> Read:
    """Reads files whose columns are all known; ``missing`` replaces a number that is not there.

    A log to predict needs neither labels nor times nor weights; these are not read of one without labels.
    """
    label, time, weight = wanted.label, wanted.time, wanted.weight
    columns = {label: TRUTH, **features}
    if time is not None:
        columns[time] = time_type(wanted.time_format)
    if weight is not None:
        columns[weight] = WEIGHT

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        _expect_same_columns(paths, delimiter)
        for path in paths:
            here = _to_predict(path) if reading.to_predict else columns
            for table in _tables(path, here, delimiter, reading):
                fields, dense = _derived(table.columns, wanted, missing)
                block = Block(table[label].to_numpy() if label in here else None, fields, dense)
                if time is not None and time in here:
                    times = table[time].to_numpy()
                    if order == "check" and not reading.to_predict:
                        _expect_order(path, table, times, reading)
                    block = replace(block, day=days_of_times(times), time=times)
                if weight is not None and weight in here:
                    block = replace(block, weight=table[weight].to_numpy())
                yield block

    def _to_predict(path: Path) -> dict[str, ColumnType]:
        names = column_names(path) if is_parquet(path) else _header(path, delimiter)
        absent = {name for name in (label, time, weight) if name not in names or label not in names}
        return {name: type_ for name, type_ in columns.items() if name not in absent}

    return read


def _derived(table: Columns, wanted: Wanted, missing: float) -> tuple[list[pa.Array], np.ndarray]:
    numbers = [table[name].fill_null(missing).to_numpy() for name in wanted.dense]
    rows = len(table[wanted.categorical[0]])
    fields = [table[name] for name in wanted.categorical]
    return fields, np.stack(numbers, axis=1) if numbers else np.empty((rows, 0), np.float32)


def _expect_order(path: Path, table: Table, times: np.ndarray, reading: Reading) -> None:
    """Raises a DataError where one of some times is earlier than the one before it."""
    if (fall := reading.fall(path, times)) is None:
        return
    row, latest, of = fall
    before, here = (np.datetime64(int(time), "us").item() for time in (latest, times[row]))
    where = f" of {of}" if of != path else ""
    raise misplaced(
        path, int(table.lines[row]), f"{here} comes after {before}{where}: dataset.order=sort puts the rows in order"
    )


def _tables(path: Path, columns: Mapping[str, ColumnType], delimiter: str, reading: Reading) -> Iterator[Table]:
    if is_parquet(path):
        return read_parquet(path, columns, reading)
    header = _header(path, delimiter, list(columns))
    return read_tables(path, {name: columns.get(name) for name in header}, delimiter, reading, header=True, quoted=True)


def _header(path: Path, delimiter: str, names: Sequence[str] = ()) -> list[str]:
    """The column names of a CSV file, which are all different and have these among them."""
    with_names = f" with the columns {', '.join(names)}," if names else ""
    expected = f"a header{with_names} separated by {delimiter!r}"
    header = read_header(path, delimiter, expected)
    if twice := sorted(name for name, count in Counter(header).items() if count > 1):
        raise DataError(path, 1, f"more than one column is called {listed(twice)}; expected {expected}")
    hint = _other_delimiter(header, delimiter)
    if hint and not names:
        raise ArgumentError(f"{path}: only one column, {listed(header)}{hint}")
    check_names(path, names, header, hint)
    return header


def _sample(path: Path, delimiter: str) -> dict[str, pa.Array]:
    """The first rows of a file as text, bad ones left out."""
    names = column_names(path) if is_parquet(path) else _header(path, delimiter)
    several = {name: list_type(name, None) for name in list_columns(path)}
    for table in _tables(path, {**dict.fromkeys(names, TEXT), **several}, delimiter, Reading([path], "skip")):
        if len(table):
            return {name: table[name][:SAMPLE_ROWS] for name in names}
    raise AssertionError("readers raise where there is no row")


def _expect_same_columns(paths: Sequence[Path], delimiter: str) -> None:
    """Compares the columns of several files, before the first is read: the last may come hours later."""
    if len(paths) == 1:
        return
    of_first: list[str] = []
    for path in paths:
        names = column_names(path) if is_parquet(path) else _header(path, delimiter)
        of_first = of_first or names
        missing, more = [sorted(set(a) - set(b)) for a, b in ((of_first, names), (names, of_first))]
        if missing or more:
            parts = [f"{what} {listed(some)}" for what, some in (("without", missing), ("with", more)) if some]
            raise DataError(
                path, None if is_parquet(path) else 1, f"not the columns of {paths[0]}: {' and '.join(parts)}"
            )


def _divided(paths: Sequence[Path], delimiter: str) -> list[list[Path]]:
    _expect_same_columns(paths, delimiter)
    return [[path] for path in paths]


def _other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """What to add to a message on a header that has hardly a column, but another usual delimiter."""
    others = [other for other in USUAL_DELIMITERS if other != delimiter and any(other in name for name in header)]
    if len(header) > 1 or not others:
        return ""
    shown = others[0].replace("\t", r"\t")
    return f"; if they are separated by {shown}: \"dataset.delimiter='{shown}'\""
