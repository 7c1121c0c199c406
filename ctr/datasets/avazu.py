"""Avazu Click-Through Rate Prediction (Kaggle, 2014): ``train.csv``.

A header, then one line per impression, comma separated, in order of time: id, click, hour (YYMMDDHH), C1,
banner_pos, six site and app columns, device_id, device_ip and device_model as 8 hexadecimal digits, device_type,
device_conn_type, C14..C21. 40,428,967 rows of 2014-10-21 .. 30.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from ctr.datasets.columns import HEX32, INTEGER, LABEL, ColumnType, characters, unlike
from ctr.datasets.dates import to_dates
from ctr.datasets.locate import locate_file
from ctr.datasets.schema import Block, Columns, Dataset, Field, Inputs, Published, Reading
from ctr.datasets.synthetic.criteo_avazu import write_avazu
from ctr.datasets.text import read_header, read_tables
from ctr.errors import DataError

HourMode = Literal["of_day", "raw"]

HEX_FIELDS = (
    *("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model"),
)
# The categorical columns in file order, with the distinct values of each in the whole file.
VOCABULARIES = dict(
    **dict(hour=240, C1=7, banner_pos=7),
    **dict(site_id=4737, site_domain=7745, site_category=26, app_id=8552, app_domain=559, app_category=36),
    **dict(device_id=2686408, device_ip=6729486, device_model=8251, device_type=5, device_conn_type=4),
    **dict(C14=2626, C15=8, C16=9, C17=435, C18=4, C19=68, C20=172, C21=60),
)
FIELDS = tuple(VOCABULARIES)
MIRRORS = "the Avazu_x1 and Avazu_x4 copies are split at random; the split by day needs Kaggle's train.csv"


def _parse_hour(values: pa.Array) -> pa.Array:
    digits = characters(values)
    if values.null_count or len(digits) != 8 * len(values) or np.any((digits < 48) | (digits > 57)):
        raise ValueError("hour")
    hours = INTEGER.parse(values)
    if _no_hour(hours.to_numpy()).any():
        raise ValueError("hour")
    return hours


def _invalid_hour(values: pa.Array) -> np.ndarray:
    invalid = unlike("[0-9]{8}", False)(values)
    invalid[~invalid] = _no_hour(INTEGER.parse(values.filter(pa.array(~invalid))).to_numpy())
    return invalid


def _no_hour(hours: np.ndarray) -> np.ndarray:
    return np.isnat(to_dates(_days(hours))) | (hours % 100 > 23)


def _days(hours: np.ndarray) -> np.ndarray:
    """YYYYMMDD of YYMMDDHH."""
    return 20_000_000 + hours // 100


COLUMNS: dict[str, ColumnType | None] = {
    "id": None,
    "click": LABEL,
    "hour": ColumnType("a time YYMMDDHH", _parse_hour, _invalid_hour),
    **{name: HEX32 if name in HEX_FIELDS else INTEGER for name in FIELDS[1:]},
}
_LAYOUT = f"a header: {','.join(COLUMNS)}"


def _read(paths: Sequence[Path], reading: Reading, hour: HourMode) -> Iterator[Block]:
    (path,) = paths
    columns = _columns(path, reading.to_predict)
    for table in read_tables(path, columns, ",", reading, header=True):
        days = _days(table["hour"].to_numpy())
        if not reading.to_predict and (fall := reading.fall(path, days)) is not None:
            row = fall[0]
            problem = f"{days[row]} comes after a later day: the rows are not in order of time ({MIRRORS})"
            raise DataError(path, int(table.lines[row]), problem)
        fields, dense = _derive(table.columns, hour)
        yield Block(table["click"].to_numpy() if "click" in columns else None, fields, dense, days.astype(np.int32))


def _derive(columns: Columns, hour: HourMode) -> tuple[list[pa.Array], np.ndarray]:
    hours = columns["hour"].to_numpy()
    own = pa.array(hours % 100 if hour == "of_day" else hours)
    return [own, *(columns[name] for name in FIELDS[1:])], np.empty((len(hours), 0), np.float32)


def _columns(path: Path, to_predict: bool) -> dict[str, ColumnType | None]:
    """The columns of a file by its header, which has to be the published one; to predict without clicks too."""
    found = read_header(path, ",", _LAYOUT)
    if found == list(COLUMNS):
        return COLUMNS
    hint = ""
    if found == [name for name in COLUMNS if name != "click"]:
        if to_predict:
            return {name: COLUMNS[name] for name in found}
        hint = " (it looks like test.csv, which has no clicks; train.csv is needed)"
    elif "label" in found or "feat_1" in found:
        hint = f" ({MIRRORS})"
    raise DataError(path, 1, f"the columns are {','.join(found)[:200]}{hint}; expected {_LAYOUT}")


def make(hour: HourMode = "of_day") -> Dataset:
    """The format.

    Args:
        hour: what the field ``hour`` holds: the hour of day, or the hour with its date as in the log (of
            which the test day then has none that was seen in training).
    """
    if hour not in get_args(HourMode):
        raise ValueError(f"dataset.hour={hour}; expected one of {', '.join(get_args(HourMode))}")

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        return _read(paths, reading, hour)

    derived = "the last two digits of hour, YYMMDDHH" if hour == "of_day" else ""
    inputs = Inputs(
        columns={name: type_ for name, type_ in COLUMNS.items() if type_ is not None and name != "click"},
        derive=lambda columns: _derive(columns, hour),
        line=tuple(COLUMNS),
        label="click",
        example={"hour": "14103023"},
    )
    vocabularies = {**VOCABULARIES, "hour": 24} if hour == "of_day" else VOCABULARIES
    return Dataset(
        name="avazu",
        fields=tuple(
            Field(name, "hex32" if name in HEX_FIELDS else "integer", derived if name == "hour" else "")
            for name in FIELDS
        ),
        dense=(),
        read=read,
        locate=lambda raw: [locate_file(raw, "train", (".csv", ".csv.gz", ".csv.bz2", ".csv.zip", ".gz", ".zip"))],
        where=f"https://www.kaggle.com/c/avazu-ctr-prediction/data (train.gz, 1.0 GB; {MIRRORS})",
        modules=("ctr.datasets.avazu", "ctr.datasets.dates"),
        options={"hour": hour},
        write_sample=write_avazu,
        sample_name="train.csv",
        default_test_days=lambda days: days[-1:],
        divide=lambda paths: [[path] for path in paths],
        published=Published(40_428_967, 0.17, tuple(vocabularies.values())),
        inputs=inputs,
    )
