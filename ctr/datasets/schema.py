"""What a reader of a raw format yields: typed columns, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from ctr.errors import DataError

BadRows = Literal["error", "skip"]
Kind = Literal["hex32", "integer", "text"]


@dataclass(frozen=True)
class Field:
    """One categorical column: its values become one-hot features, one embedding row each.

    ``kind`` says how the value reads in the vocabulary: ``hex32`` (uint32 shown as 8 hex digits), ``integer``
    or ``text``.
    """

    name: str
    kind: Kind


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one file as typed columns.

    Attributes:
        label: uint8 [n], 0 or 1.
        fields: one Arrow array [n] per categorical field; integers or strings, null where blank.
        dense: float32 [n, K], model inputs that are not one-hot.
        day: int32 [n], YYYYMMDD, the rows of a day together; None where the log names no days.
        test: the rows belong to the test part that the log itself names.
        time: int64 [n], microseconds since 1970; None where the log names no times.
    """

    label: np.ndarray
    fields: list[pa.Array]
    dense: np.ndarray
    day: np.ndarray | None = None
    test: bool = False
    time: np.ndarray | None = None


class Reading:
    """How far the reading of a raw log is and what it left out; kept up to date by the reader.

    Args:
        paths: the files to be read, all of them there.
        bad_rows: ``"error"`` raises at the first row that is not as expected; ``"skip"`` leaves such rows out,
            counts them and keeps the first one's description.

    Attributes:
        rows_skipped: rows left out so far.
        first_skipped: the first of them: file, line and reason.
    """

    def __init__(self, paths: Sequence[Path], bad_rows: BadRows) -> None:
        self.bad_rows = bad_rows
        self.rows_skipped = 0
        self.first_skipped: str | None = None
        self._sizes = {path: path.stat().st_size for path in paths}
        self._read: dict[Path, int] = {}
        self._hash = hashlib.sha256()

    def advance(self, path: Path, position: int, content: bytes) -> None:
        """Notes ``content`` (decompressed), which ends at byte ``position`` of the file on disk."""
        self._read[path] = position
        self._hash.update(content)

    def skip(self, rows: int, first: DataError) -> None:
        """Notes bad rows; raises ``first`` unless they are to be skipped."""
        if self.bad_rows == "error":
            raise first
        self.rows_skipped += rows
        self.first_skipped = self.first_skipped or str(first)

    @property
    def fraction(self) -> float:
        """Share of the bytes on disk read so far, 0 to 1."""
        return sum(self._read.values()) / max(sum(self._sizes.values()), 1)

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
        settle: looks at the files and returns the format with all that depends on them; None: nothing does.
        note, warnings: what settling found, for the user: a table, and lines with a cause and a remedy.
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
