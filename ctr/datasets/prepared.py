"""Raw log -> folder of prepared rows: written once, atomically; opened by every run.

A folder holds ``rows.arrow`` (see `ctr.datasets.rows`), ``vocabulary.arrow`` (one-hot only: entry i is the field
and the value of feature i) and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock

from ctr.datasets.encode import Encoder
from ctr.datasets.manifest import Input, Manifest, Recipe, Split, SplitRule, stamps
from ctr.datasets.rows import Rows, RowWriter
from ctr.datasets.schema import BadRows, Dataset, Reading
from ctr.datasets.split import split_rows
from ctr.errors import DataError
from ctr.files import TMP_PREFIX, atomic_folder, atomic_write_text

ROWS, VOCABULARY, MANIFEST = "rows.arrow", "vocabulary.arrow", "manifest.json"
VOCABULARY_SCHEMA = pa.schema({"field": pa.uint8(), "value": pa.string()})

# Code that decides what the prepared rows of any format look like.
SHARED_MODULES = tuple(
    f"ctr.datasets.{name}" for name in ("columns", "encode", "hashing", "lines", "prepared", "rows", "text")
)
MAX_DAY_CHANGES = 10_000  # more say that the rows lie in no order

Progress = Callable[[int, float], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A complete folder of prepared rows, memory-mapped. ``reused``: it was there already."""

    folder: Path
    manifest: Manifest
    split: Split
    rows: Rows
    reused: bool


def prepare(
    dataset: Dataset,
    raw: Path,
    folder: Path,
    *,
    source: Literal["raw", "generated"] = "raw",
    num_buckets: int | None = None,
    split: SplitRule,
    bad_rows: BadRows = "error",
    progress: Progress | None = None,
) -> Prepared:
    """Opens the prepared rows of a raw log, preparing them first unless that is done already.

    Processes that ask for the same folder at once wait for the first one. A killed preparation leaves nothing that
    looks complete; the next one clears away its remains.

    Args:
        dataset: the raw format.
        raw: the raw log, a file or a folder.
        folder: where the prepared rows go; replaced as a whole if the input, the settings or the code changed.
        source: ``"raw"`` or ``"generated"``, kept in the manifest.
        num_buckets: None for exact one-hot ids; else ids are hashed into so many buckets.
        split: which rows test; an empty rule takes the test part that the log names, or else the format's test days.
        bad_rows: ``"error"`` raises at the first row that is not as expected, ``"skip"`` leaves such rows out.
        progress: called after every block with (rows so far, share of the input read).

    Raises:
        DataError: a raw log that is not as expected; nothing is left behind.
    """
    paths = dataset.locate(raw)
    for path in paths:
        if not path.is_file():
            raise DataError(path, None, "no such file")
    code = code_hash([*SHARED_MODULES, *dataset.modules])
    recipe = Recipe(dataset.name, dataset.options, source, num_buckets, bad_rows, code)
    found = _open(folder, recipe, paths)
    reused = found is not None
    if found is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            found = _open(folder, recipe, paths)  # another process may have prepared it meanwhile
            reused = found is not None
            if found is None:
                for leftover in folder.parent.glob(f"{TMP_PREFIX}*-{folder.name}"):
                    shutil.rmtree(leftover)
                with atomic_folder(folder) as tmp:
                    manifest = _write(dataset, paths, tmp, recipe, progress)
                found = manifest, Rows(folder / ROWS)
                # Only now: a split that cannot be must not cost the rows.
                parts = split_rows(found[1], _explicit(split, dataset, manifest), manifest.days, manifest.test_part)
                atomic_write_text(folder / MANIFEST, replace(manifest, split=parts).to_json())
    manifest, rows = found
    rule = _explicit(split, dataset, manifest)
    recorded = manifest.split
    if recorded is None or recorded.rule != rule:
        recorded = split_rows(rows, rule, manifest.days, manifest.test_part)
        manifest = replace(manifest, split=recorded)
    return Prepared(folder, manifest, recorded, rows, reused)


def _open(folder: Path, recipe: Recipe, paths: list[Path]) -> tuple[Manifest, Rows] | None:
    """What was prepared with this recipe of these files as they are now; None if it is not there or not whole.

    Nothing is written: prepared rows may lie on a read-only disk.
    """
    manifest = _read_manifest(folder)
    if manifest is None or manifest.recipe != recipe or not manifest.input.is_still(paths):
        return None
    try:
        rows = Rows(folder / ROWS)
    except (OSError, ValueError, pa.ArrowException):
        return None
    return (manifest, rows) if len(rows) == manifest.rows else None


def _read_manifest(folder: Path) -> Manifest | None:
    """None where there is no manifest, or one of another version of the format."""
    try:
        return Manifest.from_json((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError):
        return None  # prepared by other code; its hash would not fit either


def _write(
    dataset: Dataset,
    paths: list[Path],
    folder: Path,
    recipe: Recipe,
    progress: Progress | None,
) -> Manifest:
    """Writes rows, vocabulary and manifest into an empty folder."""
    files = stamps(paths)
    reading = Reading(paths, recipe.bad_rows)
    encoder = Encoder(dataset.fields, recipe.num_buckets)
    rows = positives = 0
    days: list[tuple[int, int, int]] = []
    test_part: list[tuple[int, int]] = []
    with ExitStack() as outputs:
        writer = outputs.enter_context(RowWriter(folder / ROWS, len(dataset.fields), len(dataset.dense)))
        vocabulary = None
        if recipe.num_buckets is None:
            vocabulary = outputs.enter_context(pa.ipc.new_file(str(folder / VOCABULARY), VOCABULARY_SCHEMA))
        for block in _read_ahead(dataset.read(paths, reading)):
            ids, new = encoder.encode(block.fields)
            writer.write(ids, block.dense, block.label)
            if vocabulary is not None:
                vocabulary.write_batch(encoder.keys.vocabulary(new))
            if block.day is not None:
                _note_days(days, block.day, rows)
                if len(days) > MAX_DAY_CHANGES:
                    raise DataError(paths[-1], None, f"over {MAX_DAY_CHANGES:,} changes of day: not in order of time")
            if block.test:
                _note_test(test_part, rows, rows + len(block.label))
            rows += len(block.label)
            positives += int(block.label.sum())
            if progress is not None:
                progress(rows, reading.fraction)
    manifest = Manifest(
        recipe=recipe,
        input=Input(files, reading.sha256),
        rows=rows,
        positives=positives,
        rows_skipped=reading.rows_skipped,
        first_skipped=reading.first_skipped,
        fields=[field.name for field in dataset.fields],
        dense=list(dataset.dense),
        values_per_field=encoder.values_per_field.tolist(),
        num_features=encoder.num_features,
        collision_rate=encoder.collision_rate,
        days=days,
        test_part=test_part,
        split=None,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def _note_days(days: list[tuple[int, int, int]], column: np.ndarray, first_row: int) -> None:
    """Adds a block's day column, int32 [n] in order, to the (day, first row, end row) of the days so far."""
    if len(column) == 0:
        return
    starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    for start, stop in zip(starts, [*starts[1:], len(column)], strict=True):
        day, begin = int(column[start]), first_row + int(start)
        if days and days[-1][0] == day:
            begin = days.pop()[1]
        days.append((day, begin, first_row + int(stop)))


def _note_test(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    """Adds the rows start .. stop to the row ranges of the test part."""
    if ranges and ranges[-1][1] == start:
        start = ranges.pop()[0]
    ranges.append((start, stop))


def _explicit(rule: SplitRule, dataset: Dataset, manifest: Manifest) -> SplitRule:
    """The rule with the format's own test days filled in where neither it nor the log says what tests."""
    if rule != SplitRule() or dataset.default_test_days is None or manifest.test_part:
        return rule
    return SplitRule(test_days=dataset.default_test_days(sorted({day for day, _, _ in manifest.days})))


def _read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; the next one is made in a thread while the caller works on this one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def code_hash(modules: Sequence[str]) -> str:
    """Hash of the source text of some modules."""
    text = "".join(inspect.getsource(importlib.import_module(name)) for name in modules)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_vocabulary(folder: Path) -> pa.Table:
    """The vocabulary of a prepared folder: row i names feature i; columns field (number) and value (null: blank).

    Memory-mapped: opening costs nothing at any size.
    """
    return pa.ipc.open_file(pa.memory_map(str(folder / VOCABULARY))).read_all()
