"""Any CSV or Parquet file with a label column, categorical columns and, where there are any, dense ones.

Every categorical value is taken as text; a blank one is a value of its own. Dense columns are taken as they are, blank
as 0: scale them beforehand. Columns that are not named are ignored. The rows should be in order of time: the last test.

One rule for both kinds of file. A null of Parquet and an empty text are blank. NaN is blank in a dense column, an error
in the label, and a value like any other in a categorical column. A label may be True or False. Text is UTF-8 without
NUL characters. Dense numbers, integers of any size too, are rounded to float32; an infinite one is an error. In
a categorical column of Parquet, dates, times, decimals and other numbers are read as Arrow writes them. Nested columns
are an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ctr.datasets.columns import TEXT
from ctr.datasets.locate import locate_files
from ctr.datasets.parquet import NUMBER, TRUTH, check_names, column_names, is_parquet, listed, read_parquet
from ctr.datasets.schema import Block, Dataset, Field, Reading
from ctr.datasets.text import Table, read_header, read_tables
from ctr.errors import DataError

ENDINGS = tuple(f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", ".gz", ".bz2", ".zip"))
ENDINGS += (".parquet", ".pq")
USUAL_DELIMITERS = (",", ";", "\t", "|")


def make(label: str, categorical: Sequence[str], dense: Sequence[str] = (), delimiter: str = ",") -> Dataset:
    """The format of one's own file.

    Args:
        label: name of the column that holds 0 or 1.
        categorical: names of the columns whose values become one-hot features, in model order.
        dense: names of the columns that hold numbers.
        delimiter: one character; of a CSV file. A backslash and a t stand for a tab.
    """
    delimiter = {r"\t": "\t"}.get(delimiter, delimiter)
    names = [label, *categorical, *dense]
    if not categorical:
        raise ValueError("dataset.categorical is empty; name at least one column")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"named more than once in dataset.label, categorical and dense: {', '.join(repeated)}")
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise ValueError(f"dataset.delimiter={delimiter!r}; expected one ASCII character such as , or \\t")

    columns = {label: TRUTH, **dict.fromkeys(categorical, TEXT), **dict.fromkeys(dense, NUMBER)}

    expected = f"a header with the columns {', '.join(names)}, separated by {delimiter!r}"

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        _expect_same_columns(paths, delimiter, expected)
        for path in paths:
            for table in read_parquet(path, columns, reading) if is_parquet(path) else _csv(path, reading):
                numbers = [table[name].fill_null(0).to_numpy() for name in dense]
                yield Block(
                    label=table[label].to_numpy(),
                    fields=[table[name] for name in categorical],
                    dense=np.stack(numbers, axis=1) if numbers else np.empty((len(table), 0), np.float32),
                )

    def _csv(path: Path, reading: Reading) -> Iterator[Table]:
        header = read_header(path, delimiter, expected)
        if twice := sorted(name for name, count in Counter(header).items() if count > 1):
            raise DataError(path, 1, f"more than one column is called {listed(twice)}; expected {expected}")
        check_names(path, names, header, _other_delimiter(header, delimiter))
        of_header = {name: columns.get(name) for name in header}
        return read_tables(path, of_header, delimiter, reading, header=True, quoted=True)

    return Dataset(
        name="csv",
        fields=tuple(Field(name, "text") for name in categorical),
        dense=tuple(dense),
        read=read,
        locate=lambda raw: locate_files(raw, ENDINGS),
        several=True,
        modules=("ctr.datasets.csv", "ctr.datasets.parquet"),
        options={"label": label, "categorical": list(categorical), "dense": list(dense), "delimiter": delimiter},
    )


def _expect_same_columns(paths: Sequence[Path], delimiter: str, expected: str) -> None:
    """Compares the columns of several files, before the first is read: the last may come hours later."""
    if len(paths) == 1:
        return
    of_first: list[str] = []
    for path in paths:
        names = column_names(path) if is_parquet(path) else read_header(path, delimiter, expected)
        of_first = of_first or names
        missing, more = [sorted(set(a) - set(b)) for a, b in ((of_first, names), (names, of_first))]
        if missing or more:
            parts = [f"{what} {listed(some)}" for what, some in (("without", missing), ("with", more)) if some]
            raise DataError(path, None, f"not the columns of {paths[0]}: {' and '.join(parts)}")


def _other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """What to add to a message on a header that has hardly a column, but another usual delimiter."""
    others = [other for other in USUAL_DELIMITERS if other != delimiter and any(other in name for name in header)]
    if len(header) > 1 or not others:
        return ""
    shown = others[0].replace("\t", r"\t")
    return f"; if they are separated by {shown}: \"dataset.delimiter='{shown}'\""
