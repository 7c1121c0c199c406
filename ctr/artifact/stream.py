"""Predicts a raw log block by block, in bounded memory, through the reader that prepares it for training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ctr.artifact.saved import SavedModel, sigmoid
from ctr.datasets.encoded import read_ahead
from ctr.datasets.locate import located, missing
from ctr.datasets.prepared import Progress
from ctr.datasets.ragged import joined
from ctr.datasets.schema import BadRows, Block, Reading
from ctr.errors import ArgumentError, CtrError
from ctr.files import atomic_path
from ctr.metrics import of_whole_log
from ctr.training.build import EVAL_BATCH
from ctr.training.trainer import Evaluation, measure

WRITERS: dict[str, Callable[[str, pa.Schema], Any]] = {".parquet": pq.ParquetWriter, ".csv": pacsv.CSVWriter}
FOREIGN = 0.05  # a log of which the model knows less in every field is hardly of its source


@dataclass(frozen=True)
class Summary:
    """What a predicted log held.

    Attributes:
        rows: number of rows predicted.
        mean: of their probabilities.
        figures: against the labels, by the rows' weights; None where the log has no labels.
        weighted: the log has weights.
        negative_rate: share of the negatives that it is taken to hold.
        coverage: by field, the share of the rows whose value the model has a row for; of several, their mean share.
        rows_skipped, first_skipped: bad rows left out, and the first of them.
    """

    rows: int
    mean: float
    figures: Evaluation | None
    weighted: bool
    negative_rate: float
    coverage: dict[str, float]
    rows_skipped: int
    first_skipped: str | None


def locate(model: SavedModel, raws: Sequence[Path]) -> list[Path]:
    """The files of a raw log that the model is to predict, in order.

    Args:
        model: its format says what may be named: a file or folder; of one's own log also globs, and several.
        raws: what the user named.

    Raises:
        ArgumentError: there are none, a file is named twice, or the format takes one name alone.
    """
    if absent := missing(model.dataset, raws):
        raise ArgumentError(f"raw={absent[0]}: no such file or folder")
    return located(replace(model.dataset, locate=model.inputs.locate or model.dataset.locate), raws, "raw")


def predict_log(
    model: SavedModel,
    paths: Sequence[Path],
    out: Path,
    *,
    bad_rows: BadRows = "error",
    negative_rate: float | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Predicts a log's rows, in their order, into a file with the columns row (from 0), p, and label if there is one.

    Of the rows nothing is kept, but for the figures: logit, label, day and weight of each row of a log with labels, up
    to 13 bytes.

    Args:
        model: predicts.
        paths: the log's files, as `locate` gives.
        out: a ``.parquet`` or ``.csv`` file; it appears when all is done.
        bad_rows: as ``dataset.bad_rows``. A row that is left out has no number: those behind it move up.
        negative_rate: share of the negatives that this log holds; the figures are those of the whole one. None: that of
            the training log.
        progress: called after every block with (rows so far, share of the input read).

    Raises:
        DataError: the log is not as expected; no file is left.
        CtrError: a logit is NaN or infinite; no file is left.
    """
    reading = Reading(paths, bad_rows, to_predict=True)
    known = np.zeros(len(model.manifest.fields))
    rows, total = 0, 0.0
    kept: list[Part] = []
    learned = model.dataset.negative_rate
    of_log = learned if negative_rate is None else negative_rate
    with atomic_path(out) as tmp, _Output(tmp) as output:
        for ids, dense, label, day, weight in _batches(model, read_ahead(model.dataset.read(paths, reading))):
            logits = model.net_logits(ids, dense)
            if not np.isfinite(logits).all():
                row = rows + int(np.argmin(np.isfinite(logits)))
                raise CtrError(f"row {row:,}: its logit is NaN or infinite; look for extreme values in dense columns")
            p = sigmoid(of_whole_log(logits, learned))
            output.write(rows, p, label)
            known += model.known(ids).sum(axis=0)
            total += float(p.sum(dtype=np.float64))
            rows += len(ids)
            if label is not None:
                kept.append((of_whole_log(logits, learned / of_log), label, day, weight))
            if progress is not None:
                progress(rows, reading.fraction)
    figures, weighted = None, False
    if kept:
        scores, truth, days, weights = _joined(kept)
        figures, weighted = measure(scores, truth, days, weights, of_log), weights is not None
    names = [field.name for field in model.manifest.fields]
    coverage = dict(zip(names, (known / rows).tolist(), strict=True))
    skipped = reading.rows_skipped, reading.first_skipped
    return Summary(rows, total / rows, figures, weighted, of_log, coverage, *skipped)


Part = tuple[Any, ...]  # an array for each column of the same rows; None where the log has no such column


def _batches(model: SavedModel, blocks: Iterator[Block]) -> Iterator[Part]:
    """ids, dense columns, labels, days and weights of whole batches, several together: cut as in the run's own
    evaluation."""
    waiting: list[Part] = []
    for block in blocks:
        waiting.append((*model.take(block.fields, block.dense), block.label, block.day, block.weight))
        rows = sum(len(part[0]) for part in waiting)
        if whole := rows - rows % EVAL_BATCH:
            ready = _joined(waiting)
            yield tuple(column if column is None else column[:whole] for column in ready)
            waiting = [tuple(column if column is None else column[whole:] for column in ready)]
    if waiting and len((rest := _joined(waiting))[0]):
        yield rest


def _joined(parts: Sequence[Part]) -> Part:
    columns = zip(*parts, strict=True)
    return tuple(None if column[0] is None else joined(column) for column in columns)


class _Output:
    """Writes predictions as they come; the first ones decide whether there is a column of labels."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, first: int, p: np.ndarray, label: np.ndarray | None) -> None:
        columns = {"row": np.arange(first, first + len(p)), "p": p} | ({} if label is None else {"label": label})
        table = pa.table(columns)
        if self._writer is None:
            self._writer = WRITERS[self._path.suffix](str(self._path), table.schema)
        self._writer.write_table(table)


def report(model: SavedModel, found: Summary, out: Path) -> str:
    """What was predicted, for a reader."""
    run, figures = model.manifest.run, found.figures
    lines = {
        "model": f"{os.path.relpath(model.folder)}: {model.manifest.model} on {model.manifest.dataset}, {run['opt']}"
    }
    lines["rows"] = f"{found.rows:,}, mean probability {found.mean:.4f}"
    if figures is not None:
        trained = "" if run["auc"] is None else f"   (of the run's test rows: {run['auc']:.4f})"
        lines |= {
            "click rate": _shown(figures.click_rate),
            "AUC": (_shown(figures.auc) if figures.auc == figures.auc else "undefined: rows of one class") + trained,
            "logloss": _shown(figures.logloss),
            "calibration": f"{_shown(figures.calibration)}   (clicks predicted / clicks observed; 1 is best)",
            "norm. entropy": f"{_shown(figures.normalised_entropy)}   (logloss / that of the click rate alone; "
            "lower is better)",
        }
        if model.dataset.weight is not None:
            counts = "the figures are weighted by it" if found.weighted else "not in this log: each row counts 1"
            lines["weights"] = f"column {model.dataset.weight}: {counts}"
        if found.negative_rate != 1:
            lines["negatives"] = f"taken as {found.negative_rate:g} of all; the figures are those of the whole log"
        if len(figures.auc_by_day) > 1:
            lines["AUC by day"] = "  ".join(f"{day} {_shown(auc)}" for day, auc in figures.auc_by_day.items())
    lines["values known"] = "  ".join(f"{name} {share:.0%}" for name, share in found.coverage.items())
    if max(found.coverage.values()) < FOREIGN:
        lines["warning"] = (
            "the model knows hardly any value of this log; is it of the same source as what it was trained on?"
        )
    if found.rows_skipped:
        lines["bad rows"] = f"{found.rows_skipped:,} left out; the first: {found.first_skipped}"
    lines["predictions"] = os.path.relpath(out)
    return "\n".join(f"  {name:<17} {value}" for name, value in lines.items())


def _shown(figure: float) -> str:
    return f"{figure:.4f}" if figure == figure else "undefined"
