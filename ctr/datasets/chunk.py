"""A chunk: consecutive rows of a log, prepared on disk as if they were all of it; `ctr.datasets.merge` joins chunks.

Its folder has the rows as a prepared folder has them, with ids of its own, their days and times, and the distinct
values in partitions by a hash of the value: a value is in the same partition of all chunks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from ctr.datasets.checked import CheckedReader, CheckedWriter, Checksum
from ctr.datasets.encode import VALUE_BITS, Encoder
from ctr.datasets.encoded import Encoded
from ctr.datasets.hashing import splitmix64
from ctr.datasets.rows import Rows, RowWriter
from ctr.datasets.schema import Block, Dataset

PARTITIONS = 1 << 10
ROWS, TIMES, VALUES, BOUNDS = "rows.arrow", "times.arrow", "values.arrow", "bounds.npy"
VALUE_BYTES, TEXT_BYTES = 96, 300  # of memory for each distinct value, and more for a text


@dataclass(frozen=True)
class Values:
    """The distinct values of a chunk on disk.

    Attributes:
        folder: of the chunk.
        count: their number.
        texts: how many of them are text.
    """

    folder: Path
    count: int
    texts: int

    @property
    def bounds(self) -> np.ndarray:
        """int64 [PARTITIONS + 1], where each partition begins, and the number of values."""
        bounds: np.ndarray = np.load(self.folder / BOUNDS)
        return bounds

    def read(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, pa.Array | None]:
        """The values of some partitions: keys uint64 [n], ids within the chunk uint32 [n], texts [n] (null for values
        that are no text; None if no value is). A key of text is one of the chunk's own, unless it is a hash."""
        start, end = self.bounds[[first, stop]].tolist()
        with pa.memory_map(str(self.folder / VALUES)) as file:
            batch = pa.ipc.open_file(file).get_batch(0).slice(start, end - start)
            keys, ids = (batch[name].to_numpy().copy() for name in ("key", "id"))
            texts = batch["text"] if "text" in batch.schema.names else None
        return keys, ids, texts


@dataclass(frozen=True)
class Chunk:
    """A chunk on disk.

    Attributes:
        folder: where it is.
        shape: numbers of fields and of dense columns.
        values: the distinct ones.
        new: for each block of rows, how many values are not in the blocks before it.
        test: for each block, whether its rows belong to the test part that the log itself names.
        blocks: the checksums of each file.
    """

    folder: Path
    shape: tuple[int, int]
    values: Values
    new: list[int] = field(repr=False)
    test: list[bool] = field(repr=False)
    blocks: dict[str, list[Checksum]] = field(repr=False)

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks[ROWS])

    def read(self) -> Iterator[Encoded]:
        """The blocks of rows, with ids of the chunk."""
        rows = Rows(self.folder / ROWS, self.blocks[ROWS], *self.shape)
        times = CheckedReader(self.folder / TIMES, self.blocks[TIMES]) if TIMES in self.blocks else None
        for number, test in enumerate(self.test):
            ids, dense, label, *weight = rows[int(rows.starts[number]) : int(rows.starts[number + 1])]
            moments = {} if times is None else dict(zip(times.schema.names, times.batch(number), strict=True))
            day, time = (moments[name].to_numpy() if name in moments else None for name in ("day", "time"))
            yield Encoded(ids, None, dense, label, weight[0] if weight else None, day, time, test)

    def remove(self) -> None:
        """Removes its files; what has been read of them stays."""
        shutil.rmtree(self.folder)


def write_chunk(
    folder: Path,
    dataset: Dataset,
    num_buckets: int | None,
    blocks: Iterator[Block],
    limit: int,
    written: Callable[[int], None],
) -> Chunk:
    """Writes rows as one chunk, up to a number of distinct values.

    Args:
        folder: of the chunk, a new one.
        dataset: the raw format.
        num_buckets: see `Encoder`.
        blocks: of rows, at least one; those that do not belong to the chunk are left there.
        limit: bytes of memory that its distinct values may take: the block with which they take more is its last.
        written: called with the number of rows of each block.
    """
    folder.mkdir(parents=True)
    encoder = Encoder(dataset.fields, num_buckets, count_hit=False)
    shape = len(dataset.read_fields), len(dataset.dense)
    new: list[np.ndarray] = []
    test: list[bool] = []
    with ExitStack() as outputs:
        rows = outputs.enter_context(RowWriter(folder / ROWS, *shape, dataset.weight is not None))
        files: dict[str, CheckedWriter] = {ROWS: rows}
        for block in blocks:
            assert block.label is not None
            ids, more = encoder.encode(block.fields)
            rows.write(ids, block.dense, block.label, block.weight)
            moments = {name: getattr(block, name) for name in ("day", "time") if getattr(block, name) is not None}
            if moments:
                batch = pa.record_batch(moments)
                if TIMES not in files:
                    files[TIMES] = outputs.enter_context(CheckedWriter(folder / TIMES, batch.schema))
                files[TIMES].write_batch(batch)
            new.append(more)
            test.append(block.test)
            written(len(block.label))
            if memory_of(encoder.index.count, encoder.keys.num_texts) > limit:
                break
    keys = np.concatenate(new)
    texts = _texts(encoder, keys)
    _write_values(folder, keys, texts)
    return Chunk(
        folder=folder,
        shape=shape,
        values=Values(folder, len(keys), encoder.keys.num_texts),
        new=[len(some) for some in new],
        test=test,
        blocks={name: file.blocks for name, file in files.items()},
    )


def memory_of(values: int, texts: int) -> int:
    """Bytes that distinct values take in memory while they are told apart."""
    return VALUE_BYTES * values + TEXT_BYTES * texts


def _texts(encoder: Encoder, keys: np.ndarray) -> pa.Array | None:
    """The text of each key, null where it is of no text; None if none is, or all keys are hashes."""
    if not encoder.keys.num_texts:
        return None
    of_text = np.array([field.kind == "text" for field in encoder.keys.fields])
    is_text = pa.array(of_text[(keys >> np.uint64(VALUE_BITS)).astype(np.int64)])
    return pc.if_else(is_text, encoder.keys.vocabulary(keys)["value"], pa.scalar(None, pa.string()))


def _write_values(folder: Path, keys: np.ndarray, texts: pa.Array | None) -> None:
    """Writes the values of a chunk, in order of their ids, by partition."""
    partition = partition_of(keys, texts)
    ids = np.argsort(partition, kind="stable").astype(np.uint32)
    np.save(folder / BOUNDS, np.searchsorted(partition[ids], np.arange(PARTITIONS + 1)))
    columns = {"key": pa.array(keys[ids]), "id": pa.array(ids)}
    if texts is not None:
        columns["text"] = texts.take(pa.array(ids))
    batch = pa.record_batch(columns)
    with CheckedWriter(folder / VALUES, batch.schema) as file:
        file.write_batch(batch)


def partition_of(keys: np.ndarray, texts: pa.Array | None) -> np.ndarray:
    """uint16 [n], the partition of each value: a hash of its key, or of its text where it has one (all in one partition
    would do as well: values are told apart by what they are)."""
    hashes = splitmix64(keys)
    if texts is not None:
        present = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        hashes[present] = [xxh3_64_intdigest(text) for text in texts.drop_null().cast(pa.binary()).to_pylist()]
    return (hashes & np.uint64(PARTITIONS - 1)).astype(np.uint16)  # `key_index` goes by the high bits
