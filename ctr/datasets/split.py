"""Which rows train and which test: by position or by day, never shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from ctr.datasets.manifest import Split, SplitRule
from ctr.datasets.ragged import flat
from ctr.datasets.rows import Rows, RowSource
from ctr.errors import ArgumentError, CtrError
from ctr.native.keys import count_ids

Range = tuple[int, int]
Day = tuple[int, int, int]


def split_rows(rows: Rows, rule: SplitRule, days: list[Day], test_part: list[Range]) -> Split:
    """Applies a rule to prepared rows.

    Args:
        rows: the prepared rows.
        rule: by day or by position, or neither.
        days: (YYYYMMDD, first row, end row) of every day in the log.
        test_part: the rows that test if the rule names none.

    Raises:
        ArgumentError: training or test would be empty (a test fraction of 0 asks for that), or a day is not in the log;
            the message lists the days found.
        CtrError: the log holds nothing but its test part.
    """
    train, test = parts(len(rows), rule, days, test_part)
    return Split(rule, train, test, count_features(rows, train))


def parts(rows: int, rule: SplitRule, days: list[Day], test_part: list[Range]) -> tuple[list[Range], list[Range]]:
    """The ranges that train and those that test; arguments and errors are those of `split_rows`."""
    if rule.test_days is not None:
        return by_day(days, rule.test_days)
    if rule.test_fraction is not None:
        return by_position(rows, rule.test_fraction)
    if not test_part:
        raise ArgumentError("neither dataset.test_days nor dataset.test_fraction says which rows test")
    train = others(rows, test_part)
    if not train:
        raise CtrError("the log holds nothing but its test part; days found: " + listed(days))
    return train, test_part


def by_position(rows: int, test_fraction: float) -> tuple[list[Range], list[Range]]:
    """The first floor((1 - test_fraction) n) rows train, the rest test (the paper, section 4.1: 6/7 and 1/7).

    With 0 all rows train and none test.
    """
    if test_fraction == 0:
        return [(0, rows)], []
    # As a fraction, so that 1/7 written in decimals does not lose a row to rounding.
    share = Fraction(test_fraction).limit_denominator(1_000_000)
    train = int((1 - share) * rows)
    if not 0 < train < rows:
        raise ArgumentError(
            f"dataset.test_fraction={test_fraction:g} leaves {train:,} of {rows:,} rows to train on; "
            "training and test both need at least one"
        )
    return [(0, train)], [(train, rows)]


def by_day(days: list[Day], test_days: list[int]) -> tuple[list[Range], list[Range]]:
    """The rows of the test days test, all others train, both in the order of the log."""
    if missing := sorted(set(test_days) - {day for day, _, _ in days}):
        raise ArgumentError(f"dataset.test_days: {missing} not in the log; days found: {listed(days)}")
    train = [(start, stop) for day, start, stop in days if day not in test_days]
    test = [(start, stop) for day, start, stop in days if day in test_days]
    if not train or not test:
        part = "test" if train else "train on"
        hint = "" if train else "; dataset.test_fraction=0 trains on all rows"
        raise ArgumentError(f"dataset.test_days={test_days} leaves no day to {part}; days found: {listed(days)}{hint}")
    return train, test


def listed(days: list[Day]) -> str:
    """The days of a log, for messages."""
    found = sorted({day for day, _, _ in days})
    return ", ".join(map(str, found)) or "none: this log names no days, use dataset.test_fraction"


def first_rows(ranges: list[Range], rows: int) -> tuple[list[Range], list[Range]]:
    """The first ``rows`` rows of some ranges, and the rest."""
    before, after = [], []
    for start, stop in ranges:
        middle = min(start + rows, stop)
        rows -= middle - start
        before.append((start, middle))
        after.append((middle, stop))
    return [part for part in before if part[0] < part[1]], [part for part in after if part[0] < part[1]]


def days_of(ranges: list[Range], days: list[Day]) -> np.ndarray | None:
    """The day (YYYYMMDD) of each row of some ranges, in their order, int32 [n]; None where the log names no days."""
    if not days:
        return None
    names, starts = np.array([(day, start) for day, start, _ in days]).T
    rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return names[np.searchsorted(starts, rows, side="right") - 1].astype(np.int32)


def others(rows: int, ranges: list[Range]) -> list[Range]:
    """What the given ranges, which are in order, leave of ``rows`` rows."""
    bounds = [0, *(bound for part in ranges for bound in part), rows]
    return [(start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True) if start < stop]


def count_features(rows: RowSource, ranges: list[tuple[int, int]], chunk: int = 1 << 18) -> int:
    """Number of distinct features (or buckets hit) in some rows."""
    seen = np.zeros(0, bool)
    for start, stop in ranges:
        for at in range(start, stop, chunk):
            ids = flat(rows[at : min(at + chunk, stop)][0])
            largest = int(ids.max()) + 1
            if largest > len(seen):
                seen = np.concatenate([seen, np.zeros(max(largest - len(seen), len(seen)), bool)])
            seen[ids] = True
    return int(seen.sum())


def occurrences(
    rows: RowSource,
    ranges: Sequence[tuple[int, int]],
    num_features: int,
    places: np.ndarray | None = None,
    on_rows: Callable[[int], object] = lambda rows: None,
    chunk: int = 1 << 18,
) -> np.ndarray:
    """How often each feature occurs in some rows, int64 [num_features]; twice in a row counts twice.

    Args:
        rows, ranges: which rows.
        num_features: numbers to count.
        places: int32 [N], the number that each of the rows' ids is counted under; None: its own.
        on_rows: called with the number of rows counted since the last call.
        chunk: rows read at a time.
    """
    counts = np.zeros(num_features, np.int64)
    places = np.arange(num_features, dtype=np.int32) if places is None else places
    for start, stop in ranges:
        for at in range(start, stop, chunk):
            ids = rows[at : min(at + chunk, stop)][0]
            count_ids(flat(ids), places, counts)
            on_rows(len(ids))
    return counts
