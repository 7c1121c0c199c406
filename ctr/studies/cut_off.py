"""The data of a study's runs, looked at before they run: which cut-off leaves how many features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctr.config.command_line import override
from ctr.config.compose import compose, resolve
from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import fields_of
from ctr.datasets.source import open_data
from ctr.datasets.split import occurrences
from ctr.errors import ArgumentError
from ctr.studies.study import Options
from ctr.training.build import narrowed
from ctr.training.settings import Settings


def settings_of(options: Options) -> Settings:
    """Those of a plain Adam run of a study, without what the study itself sets."""
    overrides = {"dataset": options.dataset, "model": options.model, **options.common, "opt": "adam"}
    overrides |= {"tracking": "none", "save": "none"}
    return resolve(compose("train", [override(key, value) for key, value in overrides.items()]))


def cut_offs(settings: Settings, most: Sequence[int]) -> list[int | None]:
    """For each number, the smallest ``dataset.min_count`` that leaves at most that many features in training.

    Raises:
        ArgumentError: its ids are hashed: values have no counts of their own.
    """
    if settings.data.num_buckets is not None:
        raise ArgumentError("methods=[cut,cut_row]: hashed ids have no counts of values; give dataset.encoding=onehot")
    return smallest(narrowed(settings, open_data(settings.data, quiet=True)), most)


def smallest(data: Prepared, most: Sequence[int]) -> list[int | None]:
    """For each number, the smallest min_count that leaves at most that many features; None where none does.

    The values with a row of their own count, and the row of each field that has rarer ones (`ctr.datasets.rare`).
    """
    counts = occurrences(data.rows, data.split.train, data.manifest.num_features)
    seen = counts > 0
    counts, fields = counts[seen], fields_of(data)[seen]
    rarest = np.full(len(data.manifest.fields), np.iinfo(np.int64).max)
    np.minimum.at(rarest, fields, counts)
    tried = np.unique(counts) + 1  # between two of them nothing changes
    left = len(counts) - np.searchsorted(np.sort(counts), tried) + (rarest[:, None] < tried).sum(axis=0)
    return [int(tried[np.argmax(left <= number)]) if left[-1] <= number else None for number in most]
