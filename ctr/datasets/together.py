"""The preparation of a log by several workers in bounded memory, to the last bit that of one.

1. Each worker reads spans of the log (`ctr.datasets.spans`) and prepares them as chunks (`ctr.datasets.chunk`).
2. The workers find the first place of every value, partition by partition (`ctr.datasets.merge`).
3. The chunks are joined, one after the other, under the ids of the whole log.

Hashed ids are final in the first step; the second counts values.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from ctr.datasets.chunk import Chunk, write_chunk
from ctr.datasets.encode import Encoder
from ctr.datasets.encoded import Encoded, read_ahead
from ctr.datasets.lines import contents
from ctr.datasets.merge import Distinct, Group, first_places, groups, numbered
from ctr.datasets.schema import BadRows, Dataset
from ctr.datasets.spans import Before, Read, Span, SpanReading, spans
from ctr.datasets.text import no_valid_row
from ctr.errors import ArgumentError, CtrError
from ctr.processes import Pool, Tell, WorkerDied, Workers

Progress = Callable[[int, float], None]

CHUNKS = "chunks"  # folder of what is removed at the end
SPANS_PER_WORKER = 4  # so that all end at about the same time
# Bytes of memory: of the process that joins; of each worker beside its distinct values, most of them for the block that
# it reads; of these values at least; and of them where no bound is given.
MAIN_BYTES, WORKER_BYTES, LEAST_BYTES, UNBOUNDED = 160 << 20, 100 << 20, 16 << 20, 1 << 30

log = logging.getLogger("ctr")


@dataclass(frozen=True)
class Limits:
    """How a log is divided.

    Attributes:
        workers: processes that read at the same time.
        memory: bytes that the distinct values may take in each of them.
        span: bytes of the log on disk that a worker reads at a time; None: a quarter of its share.
        pool: makes the workers of their number and what they share.
    """

    workers: int
    memory: int
    span: int | None = None
    pool: Callable[[int, Any], Pool] = Workers


def limits(workers: int, memory: int | None) -> Limits | None:
    """How a log is divided between workers that together take at most ``memory`` bytes (None: see `UNBOUNDED`);
    None where one worker takes what it needs.

    Raises:
        ArgumentError: that is too little.
    """
    if workers < 1:
        raise ArgumentError(f"workers={workers}; expected at least 1")
    if memory is None:
        return None if workers == 1 else Limits(workers, UNBOUNDED)
    least = MAIN_BYTES + workers * (WORKER_BYTES + LEAST_BYTES)
    if memory < least:
        few = f"{workers} worker{'s' * (workers > 1)}"
        raise ArgumentError(f"memory={memory >> 20:,}MiB; {few} need at least {-(-least >> 20):,}MiB")
    return Limits(workers, (memory - MAIN_BYTES) // workers - WORKER_BYTES)


@dataclass(frozen=True)
class _Shared:
    """What all workers know."""

    dataset: Dataset
    num_buckets: int | None
    bad_rows: BadRows
    memory: int


class Together:
    """A log that several workers have read.

    Args:
        dataset: the raw format.
        paths: the files of the log.
        folder: for temporary files, in a folder of its own.
        num_buckets, bad_rows: see `ctr.datasets.prepared.prepare`.
        limits: how the log is divided.
        progress: called with (rows so far, share of the log read).

    Attributes:
        encoder: has seen all values.
        sha256, rows_skipped, first_skipped: see `ctr.datasets.schema.Reading`.
        fraction: share of the rows that `blocks` has yielded.

    Raises:
        CtrError: the log is not as expected: the same error as with one worker; or a worker died.
    """

    def __init__(
        self,
        dataset: Dataset,
        paths: Sequence[Path],
        folder: Path,
        num_buckets: int | None,
        bad_rows: BadRows,
        limits: Limits,
        progress: Progress | None,
    ) -> None:
        self._dataset, self._bad_rows = dataset, bad_rows
        self._folder = folder / CHUNKS
        self._folder.mkdir()
        self.fraction = 0.0
        self.encoder = Encoder(dataset.fields, num_buckets)
        self._before = Before()
        divided = _divided(dataset, paths, limits)
        shared = _Shared(dataset, num_buckets, bad_rows, limits.memory)
        with limits.pool(min(limits.workers, len(divided)), shared) as workers:
            self._chunks, self.sha256 = self._read(workers, divided, paths, progress)
            self._groups, found = self._find(workers, limits.memory)
        hit = np.concatenate([part.hit for part in found])
        self.encoder.go_on_from(np.sum([part.per_field for part in found], axis=0), hit)

    @property
    def rows_skipped(self) -> int:
        return self._before.rows_skipped

    @property
    def first_skipped(self) -> str | None:
        return self._before.first_skipped

    def blocks(self) -> Iterator[Encoded]:
        """The rows, once; removes the temporary files."""
        rows, done = sum(chunk.rows for chunk in self._chunks), 0
        hashed = self.encoder.num_buckets is not None
        for block in _joined(self._chunks) if hashed else numbered(self._dataset, self._chunks, self._groups):
            done += len(block.label)
            self.fraction = done / max(rows, 1)
            yield block
        shutil.rmtree(self._folder)

    def _read(
        self, workers: Pool, divided: Sequence[Span], paths: Sequence[Path], progress: Progress | None
    ) -> tuple[list[Chunk], str]:
        """The chunks of all spans, and the hash of the log's content."""
        total = max(sum(path.stat().st_size for path in paths), 1)
        rows = position = 0

        def told(message: tuple[int, int]) -> None:
            nonlocal rows, position
            rows, position = rows + message[0], position + message[1]
            if progress is not None:
                progress(rows, position / total)

        tasks = [(span, self._folder / str(number)) for number, span in enumerate(divided)]
        results = workers.run(_prepare_span, tasks, lambda task: str(task[0]), told)
        chunks: list[Chunk] = []
        with _hash_of([] if divided[0].whole else paths) as content_hash:
            for span in divided:
                try:
                    made, read = next(results)
                except WorkerDied:
                    raise
                except CtrError:
                    if not span.whole:
                        self._explain(span)
                    raise
                if self._before.latest and read.earliest is not None and read.earliest < self._before.latest[0]:
                    self._explain(span)
                chunks += made
                self._before.add(span, read)
                if span.stop is None:
                    if span.is_part and not self._before.rows:
                        raise no_valid_row(span.paths[0], self.first_skipped)
                    self._before.end_file()
            return chunks, read.sha256 or content_hash.result()

    def _explain(self, span: Span) -> None:
        """Reads a span again, now that all before it is known, for the error that it gives with one worker."""
        for _ in self._dataset.read(span.paths, SpanReading(span, self._bad_rows, self._before)):
            pass

    def _find(self, workers: Pool, memory: int) -> tuple[list[Group], list[Distinct]]:
        """Finds all distinct values."""
        values = [chunk.values for chunk in self._chunks]
        made = groups(values, self._folder if self.encoder.num_buckets is None else None, memory)
        return made, list(workers.run(_first_places, made, lambda group: f"values, {group.first} to {group.stop}"))


def _divided(dataset: Dataset, paths: Sequence[Path], limits: Limits) -> list[Span]:
    whole = [Span(tuple(paths), whole=True)]
    if limits.workers == 1:
        return whole
    if dataset.divide is None:
        log.info("one worker reads the log: the reader of dataset=%s does not say how to divide it", dataset.name)
        return whole
    size = sum(path.stat().st_size for path in paths) // (limits.workers * SPANS_PER_WORKER)
    found = spans(dataset.divide(paths), limits.span or max(size, 1))
    if len(found) < limits.workers:
        log.info(
            "%d of %d workers read: one at least for each file, more for a large file of text that is not compressed",
            len(found),
            limits.workers,
        )
    return found if len(found) > 1 else whole


def _prepare_span(shared: _Shared, task: tuple[Span, Path], tell: Tell) -> tuple[list[Chunk], Read]:
    """What a worker does first: a span of the log as chunks."""
    span, folder = task
    attempt = uuid4().hex  # it may be tried again, while what was lost still writes
    reading = SpanReading(span, shared.bad_rows)
    rows, position = 0, span.start

    def written(more: int) -> None:
        nonlocal rows, position
        tell((more, reading.position - position))
        rows, position = rows + more, reading.position

    blocks = shared.dataset.read(span.paths, reading)
    if span.whole:
        blocks = read_ahead(blocks)
    else:
        pa.set_cpu_count(1)  # the others have the other cores
    chunks: list[Chunk] = []
    for first in blocks:
        place = folder.with_name(f"{folder.name}-{attempt}-{len(chunks)}")
        upcoming = chain([first], blocks)
        chunks.append(write_chunk(place, shared.dataset, shared.num_buckets, upcoming, shared.memory, written))
    return chunks, reading.read(rows)


def _first_places(shared: _Shared, group: Group, tell: Tell) -> Distinct:
    """What a worker does then."""
    return first_places(shared.dataset, shared.num_buckets, group)


def _joined(chunks: Sequence[Chunk]) -> Iterator[Encoded]:
    """The blocks of chunks whose ids are final; removes chunks that have been read."""
    for chunk in chunks:
        yield from chunk.read()
        chunk.remove()


@contextmanager
def _hash_of(paths: Sequence[Path]) -> Iterator[Future[str]]:
    """Hashes the content of files in a thread, which ends with the context."""
    ended = Event()

    def run() -> str:
        found = sha256()
        for piece in contents(paths):
            if ended.is_set():
                break
            found.update(piece)
        return found.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(run)
        finally:
            ended.set()
