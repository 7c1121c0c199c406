"""Criteo Display Advertising Challenge (Kaggle, 2014): ``train.txt``.

One line per impression, tab separated, no header, in chronological order: label, 13 integers I1..I13 (blank or
negative at times), 26 categories C1..C26 as 8 hexadecimal digits (blank at times). 45,840,617 lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr.datasets.columns import HEX32, INTEGER, LABEL, ColumnType
from ctr.datasets.lines import first_line
from ctr.datasets.locate import locate_file
from ctr.datasets.schema import Block, Columns, Dataset, Field, Inputs, Published, Reading
from ctr.datasets.synthetic.criteo_avazu import write_criteo
from ctr.datasets.text import read_tables

INTEGERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
COLUMNS: dict[str, ColumnType | None] = {
    "label": LABEL,
    **dict.fromkeys(INTEGERS, INTEGER),
    **dict.fromkeys(CATEGORIES, HEX32),
}


# Distinct values of C1..C26 in the whole file; blank is one.
VOCABULARIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
    """Blocks of a Criteo file: 26 fields (uint32, null where blank), 13 dense columns."""
    (path,) = paths
    columns = COLUMNS
    if reading.to_predict and first_line(path, "a line of train.txt").count(b"\t") == len(COLUMNS) - 2:
        columns = dict(INPUTS.columns)  # as in test.txt
    for table in read_tables(path, columns, "\t", reading):
        fields, dense = derive(table.columns)
        yield Block(table["label"].to_numpy() if "label" in columns else None, fields, dense)


def derive(columns: Columns) -> tuple[list[pa.Array], np.ndarray]:
    """The fields, and the integers as `log_count`."""
    dense = [log_count(columns[name]) for name in INTEGERS]
    return [columns[name] for name in CATEGORIES], np.stack(dense, axis=1)


def log_count(values: pa.Array) -> np.ndarray:
    """log(max(x, 0) + 1) as float32 [n]; 0 where blank. Counts here span seven decades."""
    counts = (values.fill_null(0) if values.null_count else values).to_numpy()
    return np.log1p(np.maximum(counts, 0)).astype(np.float32)


INPUTS = Inputs(
    columns={**dict.fromkeys(INTEGERS, INTEGER), **dict.fromkeys(CATEGORIES, HEX32)},
    derive=derive,
    line=tuple(COLUMNS),
    label="label",
    delimiter="\t",
)


def make() -> Dataset:
    return Dataset(
        name="criteo",
        fields=tuple(Field(name, "hex32") for name in CATEGORIES),
        dense=INTEGERS,
        read=read,
        locate=lambda raw: [locate_file(raw, "train.txt", ("", ".gz", ".bz2", ".zip"))],
        where="Criteo's archive of the 2014 Kaggle Display Advertising Challenge (dac.tar.gz, 4.6 GB; its train.txt; "
        "the Criteo_x1 and Criteo_x4 copies are split at random, the paper's split by time cannot be had from them)",
        modules=("ctr.datasets.criteo",),
        write_sample=write_criteo,
        sample_name="train.txt",
        published=Published(45_840_617, 0.256, VOCABULARIES),
        divide=lambda paths: [[path] for path in paths],
        scaling=dict.fromkeys(INTEGERS, "log_count"),
        inputs=INPUTS,
    )
