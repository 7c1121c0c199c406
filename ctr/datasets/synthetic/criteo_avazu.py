"""Generated logs in the raw formats of the real datasets, of any size, with a planted click model.

They stand in for the real files where those are not at hand, for tests, for studies that need to know the
truth, and for measurements at full size. No row of the real data is in them: columns, vocabulary sizes,
shares of blanks and the shape of the frequencies are like the real ones, the values themselves are made up.

Same (rows, seed): the same bytes, on any machine. Memory does not grow with the number of rows. Figures
measured on such rows say nothing about the real data.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import ArrayLike, NDArray

from ctr.datasets.hashing import splitmix64
from ctr.datasets.synthetic.click_model import (
    BLANK,
    BLANK_COUNT,
    ClickModel,
    CountField,
    Impressions,
    Ints,
    ZipfField,
    key,
    rank_names,
)
from ctr.files import atomic_path

Progress = Callable[[int], None]
BLOCK_ROWS = 65_536  # rows made at a time; the result does not depend on it

CRITEO_ROWS = 45_840_617
AVAZU_ROWS = 40_428_967
AVAZU_DAYS = 10  # 2014-10-21 .. 30

# Mean and deviation of log(value), blank share: near those of the real columns.
CRITEO_COUNTS = (
    CountField("I1", 0.35, 1.35, blank=(0.0, 0.45), blank_draw="visits"),
    CountField("I2", 1.40, 2.0, lowest=-3),
    CountField("I3", 1.80, 1.30, blank=(0.0, 0.21), blank_draw="age"),
    CountField("I4", 1.60, 1.00, blank=(0.0, 0.21), blank_draw="age"),
    CountField("I5", 7.60, 2.40, blank=(0.0, 0.026)),
    CountField("I6", 3.40, 1.80, blank=(0.0, 0.22)),
    CountField("I7", 1.30, 1.70, blank=(0.0, 0.043), blank_draw="history"),
    CountField("I8", 2.00, 1.20, blank=(0.0, 0.001)),
    CountField("I9", 3.60, 1.60, blank=(0.0, 0.043), blank_draw="history"),
    CountField("I10", -0.10, 0.75, blank=(0.0, 0.45), blank_draw="visits"),
    CountField("I11", 0.70, 1.10, blank=(0.0, 0.043), blank_draw="history"),
    CountField("I12", -0.50, 1.50, blank=(0.0, 0.765)),
    CountField("I13", 1.60, 1.10, blank=(0.0, 0.21), blank_draw="age"),
)

# Vocabularies: the published ones of the whole file. Exponent and shift reproduce the share of the most
# frequent value and the number of distinct values that a random 0.3 % of the real file shows.
_ITEM = (0.0, 0.034)
_LINK = (0.0, 0.442)
CRITEO_FIELDS = (
    ZipfField("C1", 1460, 1.95),
    ZipfField("C2", 583, 2.45, 10, paired=True),
    ZipfField("C3", 10131227, 1.05, 2, _ITEM, "item"),
    ZipfField("C4", 2202608, 1.20, 5, _ITEM, "item"),
    ZipfField("C5", 305, 2.60),
    ZipfField("C6", 24, 1.75, 0, (0.0, 0.122), paired=True),
    ZipfField("C7", 12517, 1.40, 20, paired=True),
    ZipfField("C8", 633, 2.25),
    ZipfField("C9", 3, 3.00),
    ZipfField("C10", 93145, 1.25),
    ZipfField("C11", 5683, 1.65, 20, paired=True),
    ZipfField("C12", 8351593, 1.05, 2, _ITEM, "item"),
    ZipfField("C13", 3194, 1.65, 20),
    ZipfField("C14", 27, 1.45, paired=True),
    ZipfField("C15", 14992, 1.60, 20, paired=True),
    ZipfField("C16", 5461306, 1.10, 2, _ITEM, "item"),
    ZipfField("C17", 10, 1.65, paired=True),
    ZipfField("C18", 5652, 1.90, 20, paired=True),
    ZipfField("C19", 2173, 1.55, 0, _LINK, "link"),
    ZipfField("C20", 4, 0.70, 20, _LINK, "link"),
    ZipfField("C21", 7046547, 1.05, 2, _ITEM, "item"),
    ZipfField("C22", 18, 2.15, 0, (0.0, 0.761)),
    ZipfField("C23", 15, 1.65, paired=True),
    ZipfField("C24", 286181, 1.35, 5, _ITEM, "item"),
    ZipfField("C25", 105, 1.30, 0, _LINK, "link"),
    ZipfField("C26", 142572, 1.25, 2, _LINK, "link"),
)


def criteo_model(rows: int, seed: int = 0, click_rate: float = 0.256, spread: float = 1.5) -> ClickModel:
    """The planted truth of `write_criteo(path, rows, seed)`: logits by `draw`, support by `is_informative`."""
    return ClickModel(CRITEO_FIELDS, CRITEO_COUNTS, CRITEO_ROWS, rows, seed, click_rate, spread)


def write_criteo(path: Path, rows: int, seed: int = 0, progress: Progress | None = None) -> None:
    """Write a Criteo ``train.txt`` of `rows` generated rows.

    One line per row, tab separated: label, I1..I13 (blank or integer, I2 from -3), C1..C26 (blank or 8
    hexadecimal digits). `progress` is told the number of rows written since the last call.
    At full size (`CRITEO_ROWS`) the categories have the published 33.8 M distinct values.
    """
    model = criteo_model(rows, seed)
    with atomic_path(path) as tmp, pa.OSFile(str(tmp), "wb") as file:
        for first, n in blocks(rows):
            write_csv(file, _criteo_table(model.draw(first, n)), "\t")
            if progress:
                progress(n)


def _criteo_table(block: Impressions) -> pa.Table:
    columns: dict[str, pa.Array] = {"label": pa.array(block.click)}
    for name, values in block.counts.items():
        columns[name] = pa.array(values, mask=values == BLANK_COUNT)
    for name, ranks in block.ranks.items():
        columns[name] = hex_strings(rank_names(name, ranks), blank=ranks == BLANK)
    return pa.table(columns)


# Impressions come from sites or, where the site is "none", from apps. Fields with a parent have flat laws of their own:
# the parent's values are spread over them, steeply enough. C16 follows C15 and has no effect of its own.
_IN_APP = (0.0, 0.30)
_ON_SITE = (0.30, 1.0)
AVAZU_FIELDS = (
    ZipfField("hour", 24, 1.0),
    ZipfField("C1", 7, 3.00),
    ZipfField("banner_pos", 7, 3.00, paired=True),
    ZipfField("site_domain", 7745, 1.70, 0, _IN_APP, "app", paired=True),
    ZipfField("site_id", 4737, 0.40, 0, _IN_APP, "app", parent="site_domain"),
    ZipfField("site_category", 26, 1.90, 0, _IN_APP, "app", parent="site_domain"),
    ZipfField("app_id", 8552, 1.90, 10, _ON_SITE, "app", paired=True),
    ZipfField("app_domain", 559, 1.10, 0, _ON_SITE, "app", parent="app_id"),
    ZipfField("app_category", 36, 1.50, 0, _ON_SITE, "app", parent="app_id"),
    ZipfField("device_id", 2686408, 0.85, 0, (0.0, 0.84)),
    ZipfField("device_ip", 6729486, 0.95, 5),
    ZipfField("device_model", 8251, 1.65, 10, paired=True),
    ZipfField("device_type", 5, 3.00),
    ZipfField("device_conn_type", 4, 3.00, paired=True),
    ZipfField("C14", 2626, 2.60, 30, paired=True),
    ZipfField("C15", 8, 3.00),
    ZipfField("C17", 435, 0.80, 0, parent="C14"),
    ZipfField("C18", 4, 1.70, paired=True),
    ZipfField("C19", 68, 2.50),
    ZipfField("C20", 172, 2.65, 5, (0.0, 0.57)),
    ZipfField("C21", 60, 1.25, paired=True),
)
AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model"),
    *("device_type", "device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
# Rank -> value of the columns that hold small integers: a list, or a first value to count on from.
_AVAZU_CODES = {
    "C1": (1005, 1002, 1010, 1012, 1007, 1001, 1008),
    "banner_pos": (0, 1, 7, 2, 4, 5, 3),
    "device_type": (1, 0, 4, 5, 2),
    "device_conn_type": (0, 2, 3, 5),
    "C15": (320, 300, 216, 728, 120, 1024, 480, 768),
    "C18": (0, 3, 2, 1),
}
_AVAZU_HEIGHTS = (50, 250, 36, 90, 20, 768, 320, 1024)  # C16 by rank of C15
_AVAZU_FIRST = {"C14": 15_000, "C17": 1_700, "C19": 33, "C20": 100_000, "C21": 13}


def avazu_model(rows: int, seed: int = 0, click_rate: float = 0.17, spread: float = 1.2) -> ClickModel:
    """The planted truth of `write_avazu(path, rows, seed)`; the rank of an ``hour`` is the hour of day."""

    def hours(index: Ints) -> dict[str, Ints]:
        return {"hour": clock(index % rows, rows, AVAZU_DAYS)[1] // 3_600_000}

    return ClickModel(AVAZU_FIELDS, (), AVAZU_ROWS, rows, seed, click_rate, spread, hours)


def write_avazu(path: Path, rows: int, seed: int = 0, progress: Progress | None = None) -> None:
    """Write an Avazu ``train.csv`` of `rows` generated rows: a header, then rows by hour over 10 days.

    `progress` is told the number of rows written since the last call.
    """
    model = avazu_model(rows, seed)
    with atomic_path(path) as tmp, pa.OSFile(str(tmp), "wb") as file:
        file.write((",".join(AVAZU_COLUMNS) + "\n").encode())  # Arrow would quote the names
        for first, n in blocks(rows):
            index = np.arange(first, first + n, dtype=np.int64)
            day, milliseconds = clock(index, rows, AVAZU_DAYS)
            hour = 14_10_21_00 + 100 * day + milliseconds // 3_600_000
            write_csv(file, avazu_table(model.draw(first, n), index, hour, seed), ",")
            if progress:
                progress(n)


def avazu_table(block: Impressions, index: Ints, hour: Ints, seed: int) -> pa.Table:
    """The columns of generated rows: what was drawn for them, their numbers in the log and their hours (YYMMDDHH)."""
    # splitmix64 is one to one, so no id comes twice.
    ids = splitmix64(np.uint64(key("id", seed)) + index.view(np.uint64))
    columns: dict[str, ArrayLike | pa.Array] = {"id": ids, "click": block.click, "hour": hour}
    for name, ranks in block.ranks.items():
        if name in _AVAZU_CODES:
            columns[name] = np.array(_AVAZU_CODES[name])[ranks]
        elif name in _AVAZU_FIRST:
            columns[name] = np.where(ranks == BLANK, -1, _AVAZU_FIRST[name] + ranks)
        elif name != "hour":
            columns[name] = hex_strings(rank_names(name, ranks))
    columns["C16"] = np.array(_AVAZU_HEIGHTS)[block.ranks["C15"]]
    return pa.table({name: pa.array(columns[name]) for name in AVAZU_COLUMNS})


def blocks(rows: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of the blocks that make up the rows `first` .. `first + rows - 1`."""
    for start in range(first, first + rows, BLOCK_ROWS):
        yield start, min(BLOCK_ROWS, first + rows - start)


# Impressions per hour of day, any unit: few at night, most in the evening.
_TRAFFIC = np.array(
    [40, 28, 20, 15, 12, 13, 17, 25, 34, 42, 48, 52, 54, 53, 52, 51, 51, 52, 54, 57, 60, 62, 58, 50], dtype=np.int64
)
_HOUR_STARTS = np.concatenate([[0], np.cumsum(_TRAFFIC)]) * 3_600_000


def clock(index: Ints, rows: int, days: int) -> tuple[Ints, Ints]:
    """Day (0, 1, ...) and millisecond of the day of rows [n] in a log of `rows` rows sorted by time.

    All days have equally many rows, the hours of a day their share of `_TRAFFIC`. Whole numbers only: exact.
    """
    day = index * days // rows
    start = -(-day * rows // days)  # the first row of that day: rounded up
    length = -(-(day + 1) * rows // days) - start
    position = (index - start) * _HOUR_STARTS[-1] // length
    hour = np.searchsorted(_HOUR_STARTS, position, side="right") - 1
    return day, hour * 3_600_000 + (position - _HOUR_STARTS[hour]) // _TRAFFIC[hour]


def write_csv(file: pa.NativeFile, table: pa.Table, delimiter: str) -> None:
    """Append a table to an open file as unquoted text without a header; nulls are blank."""
    options = pa.csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
    pa.csv.write_csv(table, file, options)


_HEX4 = np.frombuffer("".join(f"{i:04x}" for i in range(1 << 16)).encode(), dtype=np.uint32)


def hex_strings(*words: NDArray[np.uint32], blank: NDArray[np.bool_] | None = None) -> pa.Array:
    """Arrow strings [n] of 8 hexadecimal digits for each of the given arrays [n], null where `blank`."""
    n, width = len(words[0]), 8 * len(words)
    text = np.empty((n, 2 * len(words)), dtype=np.uint32)  # 4 characters in each element
    for i, word in enumerate(words):
        text[:, 2 * i] = _HEX4[word >> np.uint32(16)]
        text[:, 2 * i + 1] = _HEX4[word & np.uint32(0xFFFF)]
    return fixed_strings(text, n, width, blank)


def fixed_strings(text: NDArray[Any], n: int, width: int, blank: NDArray[np.bool_] | None = None) -> pa.Array:
    """Arrow strings [n] over the bytes of `text`, `width` ASCII characters each, null where `blank`."""
    offsets = pa.py_buffer(np.arange(0, width * n + 1, width, dtype=np.int32))
    present = None if blank is None else pa.array(~blank).buffers()[1]
    return pa.Array.from_buffers(pa.string(), n, [present, offsets, pa.py_buffer(np.ascontiguousarray(text))])
