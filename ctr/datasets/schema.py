"""What a reader of a raw format yields: typed columns, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from ctr.datasets.columns import ColumnType
from ctr.datasets.dates import first_fall
from ctr.errors import DataError

BadRows = Literal["error", "skip"]
Pool = Literal["mean", "sum"]
Kind = Literal["hex32", "integer", "text"]


@dataclass(frozen=True)
class Field:
    """One categorical column: its values become one-hot features, one embedding row each.

    ``kind`` says how the value reads in the vocabulary: ``hex32`` (uint32 shown as 8 hex digits), ``integer``
    or ``text``. ``derived`` says in words what the reader makes it of, where it is not the log's column of this name.
    ``multi``: a row may have several values, one embedding row each.
    """

    name: str
    kind: Kind
    derived: str = field(default="", compare=False)
    multi: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one file as typed columns.

    Attributes:
        label: uint8 [n], 0 or 1; None in a log to predict that has no labels.
        fields: one Arrow array [n] per categorical field; integers or strings, null where blank. Of a multi-valued
            field lists of them, none empty.
        dense: float32 [n, K], model inputs that are not one-hot.
        day: int32 [n], YYYYMMDD, the rows of a day together; None where the log names no days.
        test: the rows belong to the test part that the log itself names.
        time: int64 [n], microseconds since 1970; None where the log names no times.
        weight: float32 [n], finite and at least 0: how much each row counts; None where each counts 1.
    """

    label: np.ndarray | None
    fields: list[pa.Array]
    dense: np.ndarray
    day: np.ndarray | None = None
    test: bool = False
    time: np.ndarray | None = None
    weight: np.ndarray | None = None


class Reading:
    """How far the reading of a raw log is and what it left out; kept up to date by the reader.

    Args:
        paths: the files to be read, all of them there.
        bad_rows: ``"error"`` raises at the first row that is not as expected; ``"skip"`` leaves such rows out,
            counts them and keeps the first one's description.
        to_predict: the rows are to be predicted: they need no label, and may be in any order.

    Attributes:
        rows_skipped: rows left out so far.
        first_skipped: the first of them: file, line and reason.
        start, stop: bytes of the one file that is read of a log: a part of it (`ctr.datasets.spans`). 0 and None: all
            files, whole.
        first_line: number of the first line there.
        earliest, latest: of rows that must be in order (`fall`), the first key, and the last one with its file.
    """

    start = 0
    stop: int | None = None
    first_line = 1

    def __init__(self, paths: Sequence[Path], bad_rows: BadRows, to_predict: bool = False) -> None:
        self.bad_rows, self.to_predict = bad_rows, to_predict
        self.rows_skipped = 0
        self.first_skipped: str | None = None
        self.earliest: int | None = None
        self.latest: tuple[int, Path] | None = None
        self._sizes = {path: path.stat().st_size for path in paths}
        self._read: dict[Path, int] = {}
        self._hash = hashlib.sha256()

    def advance(self, path: Path, position: int, content: bytes) -> None:
        """Notes ``content`` (decompressed), which ends at byte ``position`` of the file on disk."""
        self._read[path] = position
        self._note(content)

    def _note(self, content: bytes) -> None:
        self._hash.update(content)

    def skip(self, rows: int, first: DataError) -> None:
        """Notes bad rows; raises ``first`` unless they are to be skipped."""
        if self.bad_rows == "error":
            raise first
        self.rows_skipped += rows
        self.first_skipped = self.first_skipped or str(first)

    def fall(self, path: Path, keys: np.ndarray) -> tuple[int, int, Path] | None:
        """Finds the first of some rows that is not in order; a log's rows are, file after file.

        Args:
            path: the file of the rows.
            keys: int [n], by which they should be in order: times, or days.

        Returns:
            The number of the row, the key before it, and the file of that; None if no key falls.
        """
        if not len(keys):
            return None
        before, of = self.latest or (int(keys[0]), path)
        if (row := first_fall(keys, before)) is not None:
            return (row, int(keys[row - 1]), path) if row else (row, before, of)
        self.earliest = int(keys[0]) if self.earliest is None else self.earliest
        self.latest = int(keys[-1]), path
        return None

    @property
    def position(self) -> int:
        """Bytes on disk read so far."""
        return sum(self._read.values())

    @property
    def fraction(self) -> float:
        """Share of the bytes on disk read so far, 0 to 1."""
        return self.position / max(sum(self._sizes.values()), 1)

    @property
    def sha256(self) -> str:
        """Hash of the content read so far."""
        return self._hash.hexdigest()


class Read(Protocol):
    def __call__(self, paths: Sequence[Path], reading: Reading) -> Iterator[Block]: ...


class WriteSample(Protocol):
    def __call__(self, path: Path, rows: int, seed: int, progress: Callable[[int], None] | None) -> object: ...


@dataclass(frozen=True)
class Published:
    """What is known of the full log that everybody has.

    Attributes:
        rows: their number.
        click_rate: share of the rows with label 1, as published, hence rounded.
        values_per_field: distinct values of each field, blank being one.
        training_only: the values are those of the training rows.
    """

    rows: int
    click_rate: float
    values_per_field: tuple[int, ...]
    training_only: bool = False


Columns = Mapping[str, pa.Array]


@dataclass(frozen=True)
class Inputs:
    """What a row of the raw log needs for a prediction, and what the reader makes of it.

    Attributes:
        columns: the type of each column that is needed, by name.
        derive: typed columns [n] by name -> one array per field, and dense float32 [n, K], as in `Block`: before their
            transforms.
        line: the names of all columns of a line, in its order; None where a header names them.
        label: name of the label's column, which may be absent; None: the rows of ``line`` have none.
        delimiter: between the values of a line.
        blanks: texts that mean that there is no value.
        locate: as `Dataset.locate`, of a log that may have no labels; None: the same.
        example: of columns that fields are derived from, a value as it may be in a log.
    """

    columns: Mapping[str, ColumnType]
    derive: Callable[[Columns], tuple[list[pa.Array], np.ndarray]]
    line: tuple[str, ...] | None = None
    label: str | None = None
    delimiter: str = ","
    blanks: tuple[str, ...] = ("",)
    locate: Callable[[Path], list[Path]] | None = None
    example: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Everything the shared code needs to know of one raw format.

    Attributes:
        name: as in ``dataset=<name>``.
        fields: the categorical columns, in model order.
        dense: names of the dense columns; NaN in them is a missing number, and allowed where ``transforms`` are.
        transforms: how each dense column becomes an input (`ctr.datasets.transforms`), by its name; those that become
            buckets are the last of ``fields``, and `Block.fields` is without them. Empty: all as they are.
        read: the rows of a raw log, block by block, in order.
        locate: the files to read, in order, given what the user named (a file or a folder).
        modules: the modules, beside the shared ones, whose code decides what the prepared rows look like.
        where: where the real data is to be had, for messages; empty for a format of one's own.
        several: the user may name several files, and a glob.
        options: the settings of this format that decide what the prepared rows look like.
        write_sample: writes generated rows in the raw format; None: there is no generator.
        sample_name: file or folder name of such a sample.
        default_test_days: of the days found (YYYYMMDD, in order), those that test if neither the user nor the log
            names a test part; None where the log names no days.
        published: counts of the full log, to compare a prepared one with.
        sort: the rows are sorted by ``Block.time``; those of one time keep their order. Needs ``Block.day`` too.
        settle: looks at the files and returns the format with all that depends on them; None: nothing does. Its options
            make it again.
        note, warnings: what settling found, for the user: a table, and lines with a cause and a remedy.
        settle_as: takes what the options leave open from the options that another log has settled; None: it is all
            said.
        of_log: options that say how a log is written, and nothing of the model: that of tomorrow may differ in them.
        scaling: what the reader itself does to a dense column, by its name; one that is not there is taken as it is.
            Kept with a saved model for those that serve it elsewhere.
        weight: name of the column of weights, of which each block then has some (in a log to predict it may be absent);
            None: each row counts 1.
        pool: how the embedding rows of a row's values become one, in each field; None: no field is multi-valued.
        negative_rate: share of the negatives that the log holds, with all clicks. The model learns from the log as it
            is; its probabilities, and the figures, are those of the whole log (`ctr.metrics.of_whole_log`).
        divide: the files in groups that can be read apart from each other, by several workers; a file of text that is
            a group by itself also in parts. It first checks what concerns all files together. None: only all files
            together, in order, can be read.
        inputs: how rows become the model's inputs without the reader, to predict a data frame or single lines; None:
            they must have the fields and dense columns as the reader yields them, and logs need labels.
    """

    name: str
    fields: tuple[Field, ...]
    dense: tuple[str, ...]
    read: Read
    locate: Callable[[Path], list[Path]]
    modules: tuple[str, ...]
    where: str = ""
    several: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    write_sample: WriteSample | None = None
    sample_name: str = "sample"
    default_test_days: Callable[[list[int]], list[int]] | None = None
    published: Published | None = None
    transforms: Mapping[str, str] = field(default_factory=dict)
    sort: bool = False
    settle: Callable[[Sequence[Path]], Dataset] | None = None
    note: str = ""
    warnings: Sequence[str] = ()
    settle_as: Callable[[Mapping[str, Any]], Dataset] | None = None
    of_log: tuple[str, ...] = ()
    scaling: Mapping[str, str] = field(default_factory=dict)
    divide: Callable[[Sequence[Path]], list[list[Path]]] | None = None
    inputs: Inputs | None = None
    weight: str | None = None
    negative_rate: float = 1.0
    pool: Pool | None = None

    @property
    def read_fields(self) -> tuple[Field, ...]:
        """The fields that the reader yields: all but the buckets."""
        buckets = sum(transform.startswith("bucket") for transform in self.transforms.values())
        return self.fields[: len(self.fields) - buckets]
