"""What a run's page shows beside the figures of its result (`ctr.report.run_page`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import fields_of
from ctr.datasets.vocabulary import batches
from ctr.metrics import CalibrationBin, alive_rows
from ctr.models import FeatureEmbedding
from ctr.optim.core import CHUNK
from ctr.training.trainer import Evaluation, TrainingRun

BINS = 20  # of the calibration
LOWEST, HIGHEST, PER_DECADE = -10, 4, 8  # of the norms' histogram: powers of ten, and buckets between two of them
ENTRY_BYTES = 17  # of a value in a saved model beside its text: field, end of the text, count and effect
KEY_BYTES = 8  # of a hash or a bucket in place of the text


@dataclass(frozen=True)
class Norms:
    """Lengths of rows at one moment.

    Attributes:
        what: which rows, and when.
        counts: int64 [buckets], rows of a length between 10^(LOWEST + b / PER_DECADE) and the next; those beyond the
            ends are in the outermost, NaN in the last.
        zero: rows that are exactly zero.
    """

    what: str
    counts: np.ndarray
    zero: int


@dataclass(frozen=True)
class FieldCount:
    """How many values of a field training has seen, and how many of them have a row that is not zero at the end."""

    name: str
    seen: int
    kept: int


@dataclass(frozen=True)
class Details:
    """What a run's page shows beside its result.

    Attributes:
        curve: `ctr.training.curve.Curve.points`.
        calibration: bins of the test rows, or where no row tests of the training rows, each scored before it was
            learned from; empty without either.
        fields: in the model's order; empty where they share hashed buckets.
        before, after: norms of the rows; before is None where nothing is known of then.
        dim: length of a row.
        net_bytes: of the net's parameters and buffers.
        dense_values_bytes: of the values, about, in a saved model that had removed none.
    """

    curve: np.ndarray
    calibration: Sequence[CalibrationBin]
    fields: Sequence[FieldCount]
    before: Norms | None
    after: Norms
    dim: int
    net_bytes: int
    dense_values_bytes: int


@torch.no_grad()
def norms(embedding: FeatureEmbedding, what: str, which: Tensor | None = None) -> Norms:
    """Norms of all rows, or of those that are marked, bool [len(weight)]; over all workers, which call it together."""
    size = (HIGHEST - LOWEST) * PER_DECADE
    found = torch.zeros(size + 1, dtype=torch.int64)  # the last: zeros
    # A chunk at a time: a table of tens of millions of rows must not be copied.
    for start in range(0, len(embedding.weight), CHUNK):
        length = torch.linalg.vector_norm(embedding.weight[start : start + CHUNK], dim=1)
        if which is not None:
            length = length[which[start : start + CHUNK]]
        length = length.nan_to_num(torch.inf)
        place = ((length.log10() - LOWEST) * PER_DECADE).clamp(0, size - 1).long().masked_fill(length == 0, size)
        found += place.cpu().bincount(minlength=size + 1)
    counts = embedding.summed(found).numpy()
    return Norms(what, counts[:-1], int(counts[-1]))


def details(
    data: Prepared, training: TrainingRun, figures: Evaluation | None, before: Norms | None, *, hashes: bool
) -> Details:
    """The details of a trained run; all workers call it together.

    Args:
        data: what it was trained on.
        training: the run.
        figures: of its test rows, else of progressive validation, with calibration bins.
        before: the norms that those at the end are to be compared with.
        hashes: its saved model keeps hashes of the values.
    """
    embedding = training.model.embedding
    alive = alive_rows(embedding.weight, embedding.seen)
    after = norms(embedding, "rows that training has touched, at the end", embedding.seen)
    seen, kept = (embedding.whole(marked).cpu().numpy() for marked in (embedding.seen, alive))
    net = cast(nn.Module, training.model).state_dict()
    return Details(
        curve=training.curve.points,
        calibration=figures.calibration_bins if figures else (),
        fields=_by_field(data, seen, kept),
        before=before,
        after=after,
        dim=embedding.weight.shape[1],
        net_bytes=sum(values.nbytes for name, values in net.items() if not name.startswith("embedding.")),
        dense_values_bytes=int(seen.sum()) * ENTRY_BYTES + _values_bytes(data, seen, hashes),
    )


def _by_field(data: Prepared, seen: np.ndarray, kept: np.ndarray) -> list[FieldCount]:
    if data.vocabulary is None:
        return []
    fields, names = fields_of(data), data.manifest.fields
    counts = (np.bincount(fields[marked], minlength=len(names)).tolist() for marked in (seen, kept))
    return [FieldCount(*each) for each in zip(names, *counts, strict=True)]


def _values_bytes(data: Prepared, seen: np.ndarray, hashes: bool) -> int:
    """Of the texts of all values that training has seen, or of what is kept in their place."""
    if data.vocabulary is None or hashes:
        return int(seen.sum()) * KEY_BYTES
    total, start = 0, 0
    for batch in batches(data.vocabulary):
        lengths: Any = pc.binary_length(batch["value"]).fill_null(0).to_numpy()
        total += int(lengths[seen[start : start + len(batch)]].sum())
        start += len(batch)
    return total
