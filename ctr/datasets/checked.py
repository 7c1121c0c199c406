"""Arrow files whose bytes are checked before they are used.

A file is a sequence of blocks: one for each record batch, then the footer. The manifest keeps the checksums of all
blocks, which cover every byte. The footer is checked at opening, any other block when it is first read: Arrow never
parses a damaged byte.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from xxhash import xxh3_64, xxh3_64_hexdigest

from ctr.errors import DataError

CURE = "to prepare it anew, run python -m ctr.prepare with the same dataset settings or delete the folder"


@dataclass(frozen=True)
class Checksum:
    """Identifies the bytes of one block.

    Attributes:
        rows: number of rows in its record batch; 0 for the footer.
        stop: offset of its end; it starts where the previous block ends.
        xxh3: XXH3 of its bytes, 64 bits as 16 hexadecimal digits.
    """

    rows: int
    stop: int
    xxh3: str


class CheckedWriter:
    """Writes a new Arrow file; a context manager that completes it.

    Attributes:
        blocks: the checksums so far; complete at the end of the context.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.blocks: list[Checksum] = []
        self._sink = _HashingSink(path)
        self._writer = pa.ipc.new_file(self._sink, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:  # after an error the file is thrown away
                self._writer.close()
                self._end_block(0)
        finally:
            self._sink.close()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        self._end_block(batch.num_rows)

    def _end_block(self, rows: int) -> None:
        self.blocks.append(Checksum(rows, self._sink.tell(), self._sink.hash.hexdigest()))
        self._sink.hash.reset()


class _HashingSink(io.FileIO):
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "wb")
        self.hash = xxh3_64()

    def write(self, data: Any) -> int:
        """Writes all of a bytes-like object, which may need several system calls; returns its size in bytes."""
        self.hash.update(data)
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error
        return memoryview(data).nbytes


class CheckedReader:
    """A memory-mapped Arrow file with known checksums.

    Args:
        path: the file.
        blocks: its checksums.

    Raises:
        DataError: no such file, or its size or its footer is not as it was written.
    """

    def __init__(self, path: Path, blocks: Sequence[Checksum]) -> None:
        self.path, self.blocks = path, blocks
        try:
            with path.open("rb") as file:
                self._expect_size(os.fstat(file.fileno()).st_size)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(path, None, getattr(error, "strerror", None) or str(error)) from error
        self._checked = [False] * len(blocks)
        self._entered = -1
        self._check(len(blocks) - 1)
        try:
            self._reader = pa.ipc.open_file(pa.py_buffer(self._map))
        except pa.ArrowInvalid as error:  # Arrow reads the first bytes too
            raise DataError(path, None, "not an Arrow file") from error

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def __len__(self) -> int:
        """Number of record batches."""
        return len(self.blocks) - 1

    def enter(self, number: int) -> None:
        """Makes a record batch ready to be read: checks it the first time and releases the pages of the others.

        Pages that were read count as memory of the process until memory is short. A page that is needed again comes
        from the system's cache of files.

        Raises:
            DataError: the batch is damaged.
        """
        if number == self._entered:
            return
        self._release()
        try:
            self._check(number)
        except DataError as error:
            raise DataError(self.path, None, f"{error.problem}; {CURE}") from error
        self._entered = number

    def batch(self, number: int) -> pa.RecordBatch:
        """Returns a record batch without copying it; raises as `enter` does."""
        self.enter(number)
        return self._reader.get_batch(number)

    def verify(self) -> None:
        """Checks every record batch; raises a DataError at the first damaged one."""
        for number in range(len(self)):
            self._check(number)
            self._release()

    def _expect_size(self, size: int) -> None:
        expected = self.blocks[-1].stop
        if size != expected:
            raise DataError(self.path, None, f"{size:,} bytes; expected {expected:,}")

    def _check(self, number: int) -> None:
        self._expect_size(self._map.size())  # reading beyond the end of a cut file would kill the process
        if self._checked[number]:
            return
        block = self.blocks[number]
        start = self.blocks[number - 1].stop if number else 0
        if xxh3_64_hexdigest(memoryview(self._map)[start : block.stop]) != block.xxh3:
            first = sum(before.rows for before in self.blocks[:number])
            what = f"rows {first:,} to {first + block.rows - 1:,} are" if block.rows else "a part without rows is"
            raise DataError(self.path, None, f"{what} not as written (checksum)")
        self._checked[number] = True

    def _release(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
