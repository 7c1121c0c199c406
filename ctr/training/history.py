"""What is known of each feature beside its row, over all logs that a model has been trained on.

A run with ``checkpoint.final=true`` leaves it, with the values themselves, in ``features.arrow``: entry i is of row i.
That file and the state beside it are all that another run needs to go on with the model (`ctr.training.continuing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr.datasets.admission import row_counts
from ctr.datasets.checked import CheckedReader, CheckedWriter, Checksum
from ctr.datasets.prepared import VOCABULARY_SCHEMA, Prepared
from ctr.datasets.vocabulary import Batches, batches

FEATURES = "features.arrow"
NEVER = np.iinfo(np.uint16).max
_HISTORY_SCHEMA = pa.schema({"count": pa.int64(), "idle": pa.uint16()})
_HASHED_ENTRIES = 1 << 20  # in a record batch where there is no vocabulary to follow


@dataclass(frozen=True)
class History:
    """The history of N features.

    Attributes:
        logs: how many the model has been trained on, one after the other.
        counts: int64 [N], how often each occurred in training rows.
        idle: uint16 [N], logs since it last did: 0 for the latest log, 65,535 for never.
        known: features that were there before the latest log.
        evicted: features that were dropped before the latest log.
    """

    logs: int
    counts: np.ndarray
    idle: np.ndarray
    known: int = 0
    evicted: int = 0

    @staticmethod
    def none() -> History:
        """Of a model that has been trained on no log."""
        return History(0, np.zeros(0, np.int64), np.zeros(0, np.uint16))

    def after(self, data: Prepared) -> History:
        """With one more log, whose first features are these."""
        counts, known = row_counts(data, data.split.train), len(self.counts)
        idle = np.full(len(counts), NEVER, np.uint16)
        idle[:known] = np.where(self.idle == NEVER, NEVER, np.minimum(self.idle, NEVER - 2) + 1)
        idle[counts > 0] = 0
        counts[:known] += self.counts
        return History(self.logs + 1, counts, idle, known, self.evicted)

    def kept(self, keep: np.ndarray) -> History:
        """Without the features for which ``keep``, bool [N], is false."""
        return History(self.logs, self.counts[keep], self.idle[keep], self.known, int((~keep).sum()))


def write_features(path: Path, data: Prepared, history: History) -> list[Checksum]:
    """Writes values (unless they are hashed) and history into a new file; returns its checksums."""
    schema = _HISTORY_SCHEMA if data.vocabulary is None else pa.unify_schemas([VOCABULARY_SCHEMA, _HISTORY_SCHEMA])
    with CheckedWriter(path, schema) as file:
        for start, stop, values in _blocks(data):
            columns = [*values, pa.array(history.counts[start:stop]), pa.array(history.idle[start:stop])]
            file.write_batch(pa.record_batch(columns, schema=schema))
    return file.blocks


def _blocks(data: Prepared) -> Iterator[tuple[int, int, list[pa.Array]]]:
    """First feature, end, and columns of the vocabulary, if there is one, of consecutive features."""
    if data.vocabulary is None:
        for start in range(0, data.manifest.num_features, _HASHED_ENTRIES):
            yield start, min(start + _HASHED_ENTRIES, data.manifest.num_features), []
        return
    start = 0
    for batch in batches(data.vocabulary):
        yield start, start + batch.num_rows, batch.columns
        start += batch.num_rows


def read_features(path: Path, blocks: Sequence[Checksum], logs: int) -> tuple[Batches | None, History]:
    """Values, memory-mapped (None where they are hashed), and history, as they were written after a number of logs.

    Raises:
        DataError: no such file, or damaged.
    """
    file = CheckedReader(path, blocks)
    file.verify()
    found = [file.batch(number) for number in range(len(file))]
    counts, idle = (np.concatenate([batch[name].to_numpy() for batch in found]) for name in _HISTORY_SCHEMA.names)
    history = History(logs, counts, idle)
    if "value" not in file.schema.names:
        return None, history
    return Batches([batch.select(VOCABULARY_SCHEMA.names) for batch in found]), history
