"""What a folder of prepared rows holds and how it came about: ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctr.datasets.checked import Checksum
from ctr.datasets.schema import BadRows
from ctr.datasets.transforms import Transform
from ctr.errors import DataError
from ctr.files import read_sealed, sealed

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class SplitRule:
    """Which rows are to test: those of ``test_days`` (YYYYMMDD) if given, else the last ``test_fraction``; if neither
    is, the test part that the log itself names."""

    test_fraction: float | None = None
    test_days: list[int] | None = None


@dataclass(frozen=True)
class Recipe:
    """What, beside the raw log, decides the prepared rows.

    Attributes:
        dataset: name of the raw format.
        options: its settings.
        source: ``"raw"`` or ``"generated"``.
        num_buckets: of the hashed encoding; None for exact one-hot ids.
        bad_rows: what happens to rows that are not as expected.
        code: hash of the code that prepares.
        split: on whose training rows the numbers' transforms are fitted; None: none is, and rows suit any split.
        transforms: of a known model, which are taken in place of fitting.
    """

    dataset: str
    options: dict[str, Any]
    source: Literal["raw", "generated"]
    num_buckets: int | None
    bad_rows: BadRows
    code: str
    split: SplitRule | None = None
    transforms: list[Transform] = field(default_factory=list)


@dataclass(frozen=True)
class Input:
    """The raw log as it was when it was read; sizes and times tell cheaply whether it has changed since.

    Attributes:
        files: path, bytes and time of change (ns) of every file, in reading order.
        sha256: of the decompressed content of all files, one after the other.
    """

    files: list[tuple[str, int, int]]
    sha256: str

    def is_still(self, paths: Sequence[Path]) -> bool:
        return self.files == stamps(paths)

    @property
    def path(self) -> str:
        """The file, or the folder that holds all files."""
        return os.path.commonpath([path for path, _, _ in self.files])


def stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, bytes and time of change of files."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


@dataclass(frozen=True)
class Split:
    """Which rows train and which test.

    Attributes:
        rule: what was asked for.
        train, test: half-open row ranges, in the order of streaming.
        features_train: distinct features (hashed: buckets) in the training rows.
    """

    rule: SplitRule
    train: list[tuple[int, int]]
    test: list[tuple[int, int]]
    features_train: int

    @property
    def rows_train(self) -> int:
        return sum(stop - start for start, stop in self.train)

    @property
    def rows_test(self) -> int:
        return sum(stop - start for start, stop in self.test)


@dataclass(frozen=True)
class Manifest:
    """What a folder of prepared rows holds.

    Attributes:
        recipe: how the rows were made.
        input: of what.
        rows, positives: number of rows, and of those with label 1.
        rows_skipped, first_skipped: bad rows left out, and the first of them.
        days: (YYYYMMDD, first row, end row) of every day; empty where the log names no days.
        test_part: row ranges of the test part that the log itself names.
        fields, dense: names of the model's inputs, in its order.
        largest: the largest absolute value of each dense input.
        transforms: how the log's numeric columns became inputs, in its order; empty where they are taken as they are.
        values_per_field: distinct values of each field; blank is one.
        num_features: size of the id space.
        collision_rate: hashed: share of the distinct values that found their bucket taken.
        split: as asked for when the rows were prepared; another one does not touch them.
        blocks: the checksums of each Arrow file in the folder, by its name.
    """

    recipe: Recipe
    input: Input
    rows: int
    positives: int
    rows_skipped: int
    first_skipped: str | None
    days: list[tuple[int, int, int]]
    test_part: list[tuple[int, int]]
    fields: list[str]
    dense: list[str]
    largest: list[float]
    transforms: list[Transform]
    values_per_field: list[int]
    num_features: int
    collision_rate: float
    split: Split | None
    blocks: dict[str, list[Checksum]]

    @property
    def data_hash(self) -> str:
        """Identifies the prepared rows, whatever the machine and the paths."""
        identity = [self.input.sha256, *astuple(self.recipe)]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        lines = {name: [" ".join(map(str, astuple(block))) for block in blocks] for name, blocks in self.blocks.items()}
        return sealed({**asdict(self), "blocks": lines, "data_hash": self.data_hash})

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """The manifest of a folder; None if it has none.

        Raises:
            DataError: not as it was written, or of another version.
        """
        path = folder / MANIFEST
        try:
            return _from_values(read_sealed(path))
        except FileNotFoundError:
            return None
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(path, None, "of another version") from None


def _from_values(values: dict[str, Any]) -> Manifest:
    del values["data_hash"]
    recipe = values["recipe"]
    known = [Transform.from_json(transform) for transform in recipe["transforms"]]
    split = values["split"] and Split(
        rule=SplitRule(**values["split"]["rule"]),
        train=_tuples(values["split"]["train"]),
        test=_tuples(values["split"]["test"]),
        features_train=values["split"]["features_train"],
    )
    blocks = {name: [_checksum(*line.split()) for line in lines] for name, lines in values["blocks"].items()}
    nested = {
        "recipe": Recipe(**{**recipe, "split": recipe["split"] and SplitRule(**recipe["split"]), "transforms": known}),
        "input": Input(_tuples(values["input"]["files"]), values["input"]["sha256"]),
        "days": _tuples(values["days"]),
        "test_part": _tuples(values["test_part"]),
        "split": split,
        "transforms": [Transform.from_json(transform) for transform in values["transforms"]],
        "blocks": blocks,
    }
    return Manifest(**{**values, **nested})


def _tuples(lists: list[list[Any]]) -> list[tuple[Any, ...]]:
    return [tuple(values) for values in lists]


def _checksum(rows: str, stop: str, xxh3: str) -> Checksum:
    return Checksum(int(rows), int(stop), xxh3)
