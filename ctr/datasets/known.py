"""Whether prepared rows are the log that everybody has: rows, click rate and vocabularies against published counts."""

from __future__ import annotations

import numpy as np

from ctr.datasets.prepared import Prepared, read_vocabulary
from ctr.datasets.schema import Published

RATE_TOLERANCE = 0.05  # the click rates are published rounded


def compare(data: Prepared, published: Published) -> str:
    """What to tell the user: that all counts match, or which do not."""
    manifest = data.manifest
    if manifest.rows != published.rows:
        return f"is not the full published log: {manifest.rows:,} rows of {published.rows:,}"
    differences = []
    rate = manifest.positives / manifest.rows
    if abs(rate / published.click_rate - 1) > RATE_TOLERANCE:
        differences.append(f"click rate {rate:.5f} instead of {published.click_rate:g}")
    counts: list[int] | None = manifest.values_per_field
    if published.training_only:
        # Which values the training rows have cannot be told from buckets.
        counts = values_in(data, data.split.train) if manifest.recipe.num_buckets is None else None
    for name, found, expected in zip(manifest.fields, counts or (), published.values_per_field, strict=False):
        if found != expected:
            differences.append(f"{name} {found:,} values instead of {expected:,}")
    if differences:
        return "has the published number of rows, but differs in: " + "; ".join(differences)
    return "matches the published dataset" + (" in rows and click rate" if counts is None else "")


def values_in(data: Prepared, ranges: list[tuple[int, int]], chunk: int = 1 << 18) -> list[int]:
    """Distinct values of each field in some rows of a one-hot encoded log."""
    seen = np.zeros(data.manifest.num_features, bool)
    for start, stop in ranges:
        for at in range(start, stop, chunk):
            seen[data.rows[at : min(at + chunk, stop)][0]] = True
    fields = read_vocabulary(data)["field"].to_numpy()
    return np.bincount(fields[seen], minlength=len(data.manifest.fields)).tolist()
