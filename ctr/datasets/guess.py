"""What each column of one's own log is taken as, where the user does not say: found in its first rows, and shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.multi import is_list
from ctr.datasets.parquet import NUMBER, listed
from ctr.datasets.times import AUTO, FORMATS, fitting
from ctr.errors import ArgumentError

SAMPLE_ROWS = 10_000
LABELS = ("label", "click", "clicked", "y")
MANY_INTEGERS, MANY_NUMBERS = 100, 20  # more distinct values: a quantity, not a category
ID_SHARE, ID_ROWS = 0.9, 100  # distinct values per row from which a column is an id, in at least this many rows
SPREAD = 0.1  # median over maximum from which whole numbers look like ids: counts and amounts crowd near zero
LONGEST_LOG = 5 * 366 * 86_400_000_000  # microseconds; numbers that span more are no epoch times
_ID_NAME = re.compile(r"(?:(?:^|[_\W])(?:id|code|zip)|[a-z]Id|[a-z]ID|[a-z]Code)$", re.IGNORECASE)

Role = Literal["label", "time", "weight", "categorical", "dense", "left out"]


@dataclass(frozen=True)
class Column:
    """What a column is taken as, and why.

    Attributes:
        name, role, why: for the table.
        examples: its first values.
        warn: the user should know, and ``remedy`` says what to do.
    """

    name: str
    role: Role
    why: str
    examples: str = ""
    warn: bool = False
    remedy: str = ""


@dataclass(frozen=True)
class Wanted:
    """What the user says of the columns: names, or `AUTO` among them for all others that look like it. Those of
    ``multi`` are categorical too, whether or not they are named there."""

    label: str
    categorical: tuple[str, ...]
    dense: tuple[str, ...]
    ignore: tuple[str, ...]
    time: str | None
    time_format: str
    weight: str | None = None
    multi: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        others = [name for name in (self.time, self.weight) if name is not None]
        several = [name for name in self.multi if name not in self.categorical]
        return [self.label, *self.categorical, *several, *self.dense, *self.ignore, *others]


@dataclass(frozen=True)
class Roles:
    """What the columns are taken as.

    Attributes:
        label, categorical, dense, time_format: settled, without `AUTO`.
        lists: columns of lists that are categorical, and of which the user has not said that they are multi-valued.
        columns: of all columns, in the order of the file.
    """

    label: str
    categorical: list[str]
    dense: list[str]
    time_format: str
    lists: list[str]
    columns: list[Column]

    @property
    def table(self) -> str:
        """For a reader."""
        lines = [("column", "taken as", "why", "first values")]
        lines += [(column.name, column.role, column.why, column.examples) for column in self.columns]
        widths = [max(len(line[cell]) for line in lines) for cell in range(3)]
        return "\n".join(
            "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]])
            for line in lines
        )

    @property
    def warnings(self) -> list[str]:
        return [
            f"column {column.name} is {column.role}: {column.why}{'; ' if column.remedy else ''}{column.remedy}"
            for column in self.columns
            if column.warn
        ]


def roles(sample: Mapping[str, pa.Array], wanted: Wanted) -> Roles:
    """Settles what the user leaves open.

    Args:
        sample: name -> text array of the first rows, null where blank, of every column in the order of the file; lists
            of texts of a column of lists.
        wanted: what the user says.

    Raises:
        ArgumentError: no column can be told to be the label, or the format of the times is not clear.
    """
    label = _label(sample, wanted)
    time_format = _time_format(sample, wanted)
    columns = []
    for name, values in sample.items():
        column = _named(name, label, wanted) or _guessed(name, values, wanted)
        if column.role == "time":
            column = replace(column, why=f"{column.why}: {time_format}")
        columns.append(replace(column, examples=_examples(values)))
    found = {role: [column.name for column in columns if column.role == role] for role in ("categorical", "dense")}
    ordered = {
        role: [*(name for name in given if name != AUTO), *(name for name in found[role] if name not in given)]
        for role, given in (("categorical", wanted.categorical), ("dense", wanted.dense))
    }
    lists = [name for name in ordered["categorical"] if name not in wanted.multi and is_list(sample[name].type)]
    return Roles(label, ordered["categorical"], ordered["dense"], time_format, lists, columns)


def _label(sample: Mapping[str, pa.Array], wanted: Wanted) -> str:
    if wanted.label != AUTO:
        return wanted.label
    named = {*wanted.categorical, *wanted.multi, *wanted.dense, *wanted.ignore, wanted.time, wanted.weight}
    found = [name for name in sample if name.lower() in LABELS and name not in named]
    if len(found) != 1:
        which = f"{' and '.join(found)} could be it" if found else f"none is called {', '.join(LABELS)}"
        raise ArgumentError(
            f"dataset.label: {which}; name the column that holds 0 or 1: dataset.label=NAME, one of {listed([*sample])}"
        )
    return found[0]


def _time_format(sample: Mapping[str, pa.Array], wanted: Wanted) -> str:
    if wanted.time is None or wanted.time_format != AUTO or wanted.time not in sample:
        return wanted.time_format
    formats = fitting(sample[wanted.time])
    if len(formats) != 1:
        examples = _examples(sample[wanted.time])
        which = (
            f"{examples} can be {' or '.join(formats)}" if formats else f"{examples} is none of {', '.join(FORMATS)}"
        )
        remedy = (
            f"dataset.time_format={formats[0]}" if formats else "a pattern: \"dataset.time_format='%d.%m.%Y %H:%M'\""
        )
        raise ArgumentError(f"dataset.time={wanted.time}: {which}; say which with {remedy}")
    return formats[0]


def _named(name: str, label: str, wanted: Wanted) -> Column | None:
    named: dict[Role, Sequence[str | None]] = {
        "label": [label],
        "time": [wanted.time],
        "weight": [wanted.weight],
        "categorical": [*wanted.categorical, *wanted.multi],
        "dense": wanted.dense,
        "left out": wanted.ignore,
    }
    for role, names in named.items():
        if name in names:
            why = "by its name" if role == "label" and wanted.label == AUTO else "as you say"
            return Column(name, role, f"{why}, multi-valued" if name in wanted.multi else why)
    return None


def _guessed(name: str, values: pa.Array, wanted: Wanted) -> Column:
    several = is_list(values.type)
    rows, values = len(values), _single(values).drop_null()
    distinct = pc.count_distinct(values).as_py()
    if not len(values):
        return Column(name, "left out", f"blank in the first {rows:,} rows", warn=True)
    if several:
        why = f"lists, {distinct:,} values"
        named = AUTO in wanted.categorical
        return Column(name, "categorical", why) if named else Column(name, "left out", f"not named ({why})")
    if _is_time(values):
        remedy = "" if wanted.time else f"to split by day: dataset.time={name}"
        return Column(name, "left out", f"a time ({fitting(values)[0]}), new in every test", warn=True, remedy=remedy)
    try:
        NUMBER.parse(values.cast(pa.binary()))
        is_number = True
    except ValueError:
        is_number = False
    whole = is_number and pc.all(pc.match_substring_regex(values, "^-?[0-9]+$")).as_py()
    role: Role = "categorical"
    if len(values) >= ID_ROWS and distinct >= ID_SHARE * len(values) and (whole or not is_number):
        key = "dense" if whole else "categorical"
        why = f"nearly one value per row ({distinct:,} in {len(values):,})"
        return Column(name, "left out", why, warn=True, remedy=f"dataset.{key}=[auto,{name}] takes it")
    if not is_number:
        why = f"text, {distinct:,} values"
    elif pc.any(pc.match_substring_regex(values, "^0[0-9]")).as_py():
        why = f"digits with leading zeros, {distinct:,} values"
    elif _ID_NAME.search(name) and pc.all(pc.match_substring_regex(values, r"^-?[0-9]+(\.0+)?$")).as_py():
        why = f"numbers, but an id by its name; {distinct:,} values"
    elif distinct > (MANY_INTEGERS if whole else MANY_NUMBERS):
        role, why = "dense", f"numbers, {distinct:,} values"
        if whole and AUTO in wanted.dense and _spread(values):
            why = f"whole {why} that are spread like ids"
            return Column(name, role, why, warn=True, remedy=f"if so, dataset.categorical=[auto,{name}] makes them ids")
    else:
        why = f"numbers, but only {distinct:,} values"
    given = wanted.categorical if role == "categorical" else wanted.dense
    return Column(name, role, why) if AUTO in given else Column(name, "left out", f"not named ({why})")


def _spread(values: pa.Array) -> bool:
    """Whether whole numbers above 0 do not crowd near it."""
    numbers = values.cast(pa.float64())
    return bool(pc.min(numbers).as_py() > 0 and np.median(numbers) >= SPREAD * pc.max(numbers).as_py())


def _is_time(values: pa.Array) -> bool:
    for name in fitting(values):
        times = FORMATS[name][1](values).astype(np.int64)
        if not name.startswith("epoch") or times.max() - times.min() < LONGEST_LOG:
            return True
    return False


def _single(values: pa.Array) -> pa.Array:
    """The values of lists one by one; others as they are."""
    return values.flatten() if is_list(values.type) else values


def _examples(values: pa.Array) -> str:
    first = [str(value) for value in pc.unique(_single(values).drop_null()).to_pylist()[:3]]
    text = ", ".join(first)
    return text if len(text) <= 32 else f"{text[:29]}..."
