"""Weights of rows in one's own log: read strictly, no feature, kept with their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ctr.datasets import csv
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError, DataError

OPTIONS: dict[str, Any] = {"label": "click", "categorical": ["item"], "dense": ["age"], "transform_default": "none"}


def frame(weights: Any = (0.5, 2, 0, 3e-3)) -> pd.DataFrame:
    rows = {"click": [0, 1, 0, 1], "item": ["a", "b", "a", "c"], "age": [1.0, 2, 3, 4], "w": list(weights)}
    return pd.DataFrame(rows)


def written(folder: Path, rows: pd.DataFrame, ending: str) -> Path:
    path = folder / f"mine.{ending}"
    rows.to_csv(path, index=False) if ending == "csv" else rows.to_parquet(path)
    return path


def prepared(path: Path, **options: Any) -> Prepared:
    dataset = csv.make(**{**OPTIONS, "weight": "w", **options})
    return prepare(dataset, path, path.parent / "prepared", split=SplitRule(0.25), bad_rows="error")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_weights_lie_beside_the_labels(tmp_path: Path, ending: str) -> None:
    data = prepared(written(tmp_path, frame(), ending))
    ids, _, label, weight = data.rows[1:4]
    assert (ids[:, 0].tolist(), label.tolist()) == ([1, 0, 2], [1, 0, 1])
    assert weight.dtype == np.float32
    assert weight.tolist() == [2, 0, np.float32(3e-3)]
    assert data.rows.weight(slice(0, 3)) == 2.5
    assert data.manifest.fields + data.manifest.dense == ["item", "age"]
    batches = list(RowStream(data.rows, [(0, 4)], 3))
    assert [batch.weight is not None and batch.weight.tolist() for batch in batches] == [
        [0.5, 2, 0],
        [np.float32(3e-3)],
    ]


def test_without_the_key_there_are_none(tmp_path: Path) -> None:
    data = prepared(written(tmp_path, frame(), "csv"), weight=None)
    assert len(data.rows[0:2]) == 3
    assert data.rows.weight(slice(0, 2)) is None
    assert next(iter(RowStream(data.rows, [(0, 4)], 3))).weight is None


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("wrong", [-1, np.nan, np.inf, -np.inf, "-0.5", "much", None, ""])
def test_a_bad_weight_is_named(tmp_path: Path, ending: str, wrong: Any) -> None:
    weights = ["1", wrong, "1", "1"] if isinstance(wrong, str) else [1.0, wrong, 1.0, 1.0]
    path = written(tmp_path, frame(weights), ending)
    place = "line 3: " if ending == "csv" else "row 2: "
    with pytest.raises(DataError, match=f"{place}column w is .*; expected a finite number, at least 0"):
        prepared(path)


def test_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column w: all weights are zero"):
        prepared(written(tmp_path, frame([0, 0, 0, 0]), "csv"))


def test_rows_with_a_bad_weight_can_be_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, frame([1, -1, 2, np.nan]), "csv")
    dataset = csv.make(**OPTIONS, weight="w")
    data = prepare(dataset, path, tmp_path / "prepared", split=SplitRule(0.5), bad_rows="skip")
    assert data.rows[0:2][3].tolist() == [1, 2]
    assert data.manifest.rows_skipped == 2


def test_auto_does_not_take_it_for_a_feature(tmp_path: Path) -> None:
    rows = pd.concat([frame()] * 50, ignore_index=True)
    data = prepared(written(tmp_path, rows, "csv"), label="auto", categorical="auto", dense=None)
    assert data.manifest.fields + data.manifest.dense == ["item", "age"]
    assert "w       weight       as you say" in data.dataset.note


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, frame().drop(columns="w"), "csv")
    for options in ({}, {"categorical": "auto", "dense": None}):
        with pytest.raises(ArgumentError, match=r"no column w; the columns are click, item, age"):
            prepared(path, **options)


def test_sorted_rows_keep_their_weights(tmp_path: Path) -> None:
    rows = frame().assign(when=["2024-05-04", "2024-05-01", "2024-05-03", "2024-05-02"])
    data = prepared(written(tmp_path, rows, "csv"), time="when", order="sort", transform_default="standard")
    assert data.rows[0:4][3].tolist() == np.array([2, 3e-3, 0, 0.5], np.float32).tolist()
    assert data.rows[0:4][2].tolist() == [1, 1, 0, 0]
