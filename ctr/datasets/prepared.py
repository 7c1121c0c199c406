"""Raw log -> folder of prepared rows: written once, atomically; opened by every run.

A folder holds ``rows.arrow`` (see `ctr.datasets.rows`), ``vocabulary.arrow`` (one-hot only: entry i is the field
and the value of feature i) and ``manifest.json``. Others may keep small files there too, such as learning rates.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from filelock import FileLock

from ctr.datasets.arrange import arrange, by_time, chunks
from ctr.datasets.checked import CheckedReader, CheckedWriter
from ctr.datasets.encode import Encoder
from ctr.datasets.encoded import encoded, read_ahead
from ctr.datasets.locate import located
from ctr.datasets.manifest import MANIFEST, Input, Manifest, Recipe, Split, SplitRule, stamps
from ctr.datasets.rows import MappedRows, Rows, RowWriter
from ctr.datasets.schema import BadRows, Dataset, Reading
from ctr.datasets.split import parts, split_rows
from ctr.datasets.together import Limits, Together
from ctr.datasets.transforms import Transform, fit, outputs_of
from ctr.errors import CtrError, DataError
from ctr.files import TMP_PREFIX, atomic_folder, atomic_write_text
from ctr.provenance import code_hash, module_paths

ROWS, VOCABULARY = "rows.arrow", "vocabulary.arrow"
READ = "read.arrow"  # rows as they were read, before they are sorted
VOCABULARY_SCHEMA = pa.schema({"field": pa.uint8(), "value": pa.string()})

# Code that decides what the prepared rows of any format look like.
SHARED_MODULES = tuple(
    f"ctr.datasets.{name}"
    for name in (
        "arrange",
        "checked",
        "chunk",
        "columns",
        "encode",
        "encoded",
        "hashing",
        "lines",
        "merge",
        "prepared",
        "ragged",
        "rows",
        "spans",
        "text",
        "together",
        "transforms",
    )
)
MAX_DAY_CHANGES = 10_000  # more mean that the rows are not in order of time

log = logging.getLogger("ctr")

Progress = Callable[[int, float], None]
Opened = tuple[Manifest, Rows, CheckedReader | None]


class Vocabulary(Protocol):
    """The field and the value of each feature, in record batches: a `CheckedReader` of the file, or more."""

    def __len__(self) -> int:
        """Number of record batches."""
        ...

    def batch(self, number: int) -> pa.RecordBatch: ...


@dataclass(frozen=True)
class Prepared:
    """A complete folder of prepared rows, memory-mapped: it stays readable when the folder is replaced.

    Attributes:
        folder: where it is.
        dataset: the raw format, with what its files have settled.
        manifest: what the folder holds: counts, options and checksums.
        split: which rows train and which test.
        rows: ids, dense columns and labels.
        vocabulary: the value of each id, see `read_vocabulary`; None where ids are hashed.
        reused: the folder existed before.
    """

    folder: Path
    dataset: Dataset
    manifest: Manifest
    split: Split
    rows: Rows | MappedRows
    vocabulary: Vocabulary | None
    reused: bool


def prepare(
    dataset: Dataset,
    raw: Path | Sequence[Path],
    folder: Path,
    *,
    source: Literal["raw", "generated"] = "raw",
    num_buckets: int | None = None,
    split: SplitRule,
    bad_rows: BadRows = "error",
    transforms: Sequence[Transform] = (),
    progress: Progress | None = None,
    progress_arranging: Progress | None = None,
    limits: Limits | None = None,
    progress_joining: Progress | None = None,
    verify: bool = False,
) -> Prepared:
    """Opens the prepared rows of a raw log; prepares them first if needed.

    Processes that ask for the same folder wait for the first one. A killed preparation leaves nothing that looks
    complete; the next one removes its remains. A damaged folder is prepared again, with a warning that names the
    damage.

    Args:
        dataset: the raw format.
        raw: the raw log, a file or a folder, or several.
        folder: where the prepared rows go; replaced as a whole if the input, the settings or the code changed.
        source: ``"raw"`` or ``"generated"``, kept in the manifest.
        num_buckets: number of buckets that ids are hashed into; None for exact one-hot ids.
        split: which rows test; an empty rule takes the test part that the log names, or else the format's test days.
        bad_rows: ``"error"`` raises at the first bad row, ``"skip"`` leaves bad rows out.
        transforms: of a known model, for numbers that are to be transformed; empty: they are fitted.
        progress: called after every block with (rows so far, share of the input read).
        progress_arranging: the same for a second pass over the rows (`ctr.datasets.arrange`).
        limits: several workers read the log, in bounded memory (`ctr.datasets.together`); the result is the same.
        progress_joining: the same as ``progress`` for what they have read.
        verify: checks every byte now, instead of each block when it is first read.

    Raises:
        DataError: the raw log is missing or not as expected; nothing is left behind. Without ``verify`` also damaged
            prepared rows, where another split has to be counted.
    """
    paths = located(dataset, raw)
    for path in paths:
        if not path.is_file():
            raise DataError(path, None, "no such file")
    if dataset.settle is not None:
        dataset = dataset.settle(paths)
    code = code_hash(module_paths([*SHARED_MODULES, *dataset.modules]))
    known = list(transforms) if dataset.transforms else []
    fitted_on = split if dataset.transforms and not known else None
    recipe = Recipe(dataset.name, dataset.options, source, num_buckets, bad_rows, code, fitted_on, known)
    names = [field.name for field in dataset.fields], list(dataset.dense)
    found = None
    with suppress(DataError):  # another process may be replacing the folder: checked again under the lock
        found = _open(folder, recipe, paths, names, verify)
    reused = found is not None
    if found is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            try:
                found = _open(folder, recipe, paths, names, verify)
            except DataError as damage:
                log.warning("warning: %s; prepared anew", damage)
            reused = found is not None
            if found is None:
                for leftover in folder.parent.glob(f"{TMP_PREFIX}*-{folder.name}"):
                    shutil.rmtree(leftover)
                if dataset.note:
                    log.info("%s", dataset.note)
                for warning in dataset.warnings:
                    log.warning("warning: %s", warning)
                with atomic_folder(folder) as tmp:
                    manifest = _write(
                        dataset, paths, tmp, recipe, split, progress, progress_arranging, limits, progress_joining
                    )
                    _keep_other_files(folder, tmp, manifest)
                found = manifest, *_map(folder, manifest)
                # Only now: an impossible split must not discard the rows.
                rule = _explicit(split, dataset, manifest.days, manifest.test_part)
                ranges = split_rows(found[1], rule, manifest.days, manifest.test_part)
                atomic_write_text(folder / MANIFEST, replace(manifest, split=ranges).to_json())
    manifest, rows, vocabulary = found
    rule = _explicit(split, dataset, manifest.days, manifest.test_part)
    recorded = manifest.split
    if recorded is None or recorded.rule != rule:
        recorded = split_rows(rows, rule, manifest.days, manifest.test_part)
        manifest = replace(manifest, split=recorded)
    return Prepared(folder, dataset, manifest, recorded, rows, vocabulary, reused)


def _open(
    folder: Path, recipe: Recipe, paths: list[Path], names: tuple[list[str], list[str]], verify: bool
) -> Opened | None:
    """Returns what was prepared from the current files with this recipe; None if there is nothing.

    Writes nothing: prepared rows may be on a read-only disk.

    Raises:
        DataError: it is damaged.
    """
    manifest = Manifest.read(folder)
    if manifest is None or manifest.recipe != recipe or not manifest.input.is_still(paths):
        return None
    if problem := _misfit(manifest, names):
        raise DataError(folder / MANIFEST, None, f"{problem} do not fit the rows")
    rows, vocabulary = _map(folder, manifest)
    if verify:
        rows.file.verify()
        if vocabulary is not None:
            vocabulary.verify()
    return manifest, rows, vocabulary


def _map(folder: Path, manifest: Manifest) -> tuple[Rows, CheckedReader | None]:
    blocks = manifest.blocks
    rows = Rows(folder / ROWS, blocks[ROWS], len(manifest.fields), len(manifest.dense))
    return rows, CheckedReader(folder / VOCABULARY, blocks[VOCABULARY]) if VOCABULARY in blocks else None


def _misfit(manifest: Manifest, names: tuple[list[str], list[str]]) -> str | None:
    """Returns which part of a manifest contradicts the rest of it or the names of the columns; None if none does."""
    rows, features, split = manifest.rows, manifest.num_features, manifest.split
    counts = {name: sum(block.rows for block in blocks) for name, blocks in manifest.blocks.items()}
    onehot = manifest.recipe.num_buckets is None
    days = [(start, stop) for _, start, stop in manifest.days]
    try:
        if counts != ({ROWS: rows, VOCABULARY: features} if onehot else {ROWS: rows}):
            return "numbers of rows or features"
        if not 0 <= manifest.positives <= rows:
            return "positives"
        transforms = manifest.transforms
        columns = [transform.name for transform in transforms] if transforms else manifest.dense
        if (manifest.fields, columns) != names or len(manifest.values_per_field) != len(manifest.fields):
            return "columns"
        if len(manifest.largest) != len(manifest.dense) or (transforms and outputs_of(transforms) != manifest.dense):
            return "numbers"
        if features != (sum(manifest.values_per_field) if onehot else manifest.recipe.num_buckets):
            return "values per field"
        if days and not (_in_order(days, rows) and sum(stop - start for start, stop in days) == rows):
            return "days"
        if not _in_order(manifest.test_part, rows):
            return "rows of the test part"
        if split is not None and (
            (split.train, split.test) != parts(rows, split.rule, manifest.days, manifest.test_part)
            or not 0 < split.features_train <= features
        ):
            return "training and test rows"
    except (CtrError, TypeError, ValueError):
        return "values"
    return None


def _in_order(ranges: list[tuple[int, int]], rows: int) -> bool:
    """Checks that ranges are not empty, do not overlap and end within ``rows``."""
    bounds = [bound for part in ranges for bound in part]
    return all(start < stop for start, stop in ranges) and [0, *bounds, rows] == sorted([0, *bounds, rows])


def _keep_other_files(old: Path, new: Path, manifest: Manifest) -> None:
    """Copies what others keep in a folder, such as learning rates, if the new rows have the same content and recipe.

    Only the hash of the code may differ.
    """
    try:
        before = Manifest.read(old)
    except DataError:  # it does not say which rows the files belong to
        return
    if before is None or before.input.sha256 != manifest.input.sha256:
        return
    if replace(before.recipe, code="") != replace(manifest.recipe, code=""):
        return
    for path in old.iterdir():
        if path.is_file() and path.name not in (ROWS, VOCABULARY, MANIFEST) and not path.name.startswith(TMP_PREFIX):
            shutil.copyfile(path, new / path.name)


def _write(
    dataset: Dataset,
    paths: list[Path],
    folder: Path,
    recipe: Recipe,
    split: SplitRule,
    progress: Progress | None,
    progress_arranging: Progress | None,
    limits: Limits | None,
    progress_joining: Progress | None,
) -> Manifest:
    """Writes rows, vocabulary and manifest into an empty folder."""
    files = stamps(paths)
    if limits is not None and dataset.pool is not None:
        log.info("one worker reads this log, in the memory that it needs: fields have several values")
        limits = None
    if limits is None:
        source: Reading | Together
        source = reading = Reading(paths, recipe.bad_rows)
        encoder = Encoder(dataset.fields, recipe.num_buckets)
        blocks = encoded(read_ahead(dataset.read(paths, reading)), encoder)
    else:
        source = Together(dataset, paths, folder, recipe.num_buckets, recipe.bad_rows, limits, progress)
        encoder = source.encoder
        blocks = read_ahead(source.blocks())
        progress = progress_joining
    shape = len(dataset.read_fields), len(dataset.dense)
    rows = positives = 0
    any_weight = False
    days: list[tuple[int, int, int]] = []
    test_part: list[tuple[int, int]] = []
    times: list[tuple[np.ndarray, np.ndarray]] = []  # and days, where the rows are to be sorted
    transforms = recipe.transforms
    with ExitStack() as outputs:
        vocabulary = None
        if recipe.num_buckets is None:
            vocabulary = outputs.enter_context(CheckedWriter(folder / VOCABULARY, VOCABULARY_SCHEMA))
        kind = {"weighted": dataset.weight is not None, "ragged": dataset.pool is not None}
        with RowWriter(folder / ROWS, *shape, **kind) as writer:
            for block in blocks:
                writer.write(block.ids, block.dense, block.label, block.weight)
                if vocabulary is not None:
                    vocabulary.write_batch(block.vocabulary)
                if dataset.sort:
                    assert block.time is not None
                    assert block.day is not None
                    times.append((block.time, block.day))
                elif block.day is not None:
                    _note_days(days, block.day, rows)
                    if len(days) > MAX_DAY_CHANGES:
                        problem = f"over {MAX_DAY_CHANGES:,} changes of day: not in order of time"
                        raise DataError(paths[-1], None, problem)
                if block.test:
                    start = test_part.pop()[0] if test_part and test_part[-1][1] == rows else rows
                    test_part.append((start, rows + len(block.label)))
                rows += len(block.label)
                positives += int(block.label.sum())
                any_weight = any_weight or block.weight is None or bool(block.weight.any())
                if progress is not None:
                    progress(rows, source.fraction)
        if rows and not any_weight:
            raise DataError(paths[-1], None, f"column {dataset.weight}: all weights are zero")
        order = None
        if times:
            of_time, of_day = map(np.concatenate, zip(*times, strict=True))
            times.clear()
            order = by_time(of_time)
            _note_days(days, of_day if order is None else of_day[order], 0)
        if order is not None or dataset.transforms:
            (folder / ROWS).rename(folder / READ)
            read = Rows(folder / READ, writer.blocks, *shape)
            if dataset.transforms and not transforms:
                train, _ = parts(rows, _explicit(split, dataset, days, test_part), days, test_part)
                transforms = fit(
                    dataset.transforms,
                    (columns[1] for columns in chunks(read, order, train)),
                    sum(stop - start for start, stop in train),
                )
            num_dense = len(outputs_of(transforms)) if transforms else shape[1]
            with RowWriter(folder / ROWS, len(dataset.fields), num_dense, **kind) as writer:
                arrange(read, order, transforms, encoder, writer, vocabulary, progress_arranging)
            (folder / READ).unlink()
    manifest = Manifest(
        recipe=recipe,
        input=Input(files, source.sha256),
        rows=rows,
        positives=positives,
        rows_skipped=source.rows_skipped,
        first_skipped=source.first_skipped,
        fields=[field.name for field in dataset.fields],
        dense=outputs_of(transforms) if transforms else list(dataset.dense),
        largest=writer.largest.tolist(),
        transforms=transforms,
        values_per_field=encoder.values_per_field.tolist(),
        num_features=encoder.num_features,
        collision_rate=encoder.collision_rate,
        days=days,
        test_part=test_part,
        split=None,
        blocks={ROWS: writer.blocks} | ({} if vocabulary is None else {VOCABULARY: vocabulary.blocks}),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def _note_days(days: list[tuple[int, int, int]], column: np.ndarray, first_row: int) -> None:
    """Adds a block's day column, int32 [n] in row order, to the (day, first row, end row) of the days so far."""
    if len(column) == 0:
        return
    starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    for start, stop in zip(starts, [*starts[1:], len(column)], strict=True):
        day, begin = int(column[start]), first_row + int(start)
        if days and days[-1][0] == day:
            begin = days.pop()[1]
        days.append((day, begin, first_row + int(stop)))


def _explicit(
    rule: SplitRule, dataset: Dataset, days: list[tuple[int, int, int]], test_part: list[tuple[int, int]]
) -> SplitRule:
    """Fills in the format's own test days where neither the rule nor the log says which rows test."""
    if rule != SplitRule() or dataset.default_test_days is None or test_part:
        return rule
    return SplitRule(test_days=dataset.default_test_days(sorted({day for day, _, _ in days})))


def read_vocabulary(data: Prepared) -> pa.Table:
    """Returns the vocabulary of one-hot rows, memory-mapped where it is in a file, after checking all of it.

    Row i names feature i: columns field (number) and value (null: blank).

    Raises:
        DataError: it is damaged.
    """
    assert data.vocabulary is not None, "hashed ids have no vocabulary"
    batches = [data.vocabulary.batch(number) for number in range(len(data.vocabulary))]
    return pa.Table.from_batches(batches, VOCABULARY_SCHEMA)
