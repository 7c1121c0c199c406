"""Frames in memory as logs: the reader takes their values as it takes those of a CSV file, and as a prediction does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr.artifact.frames import model_inputs
from ctr.datasets import csv, frame
from ctr.datasets.frame import write_log
from ctr.datasets.prepared import prepare, read_vocabulary
from ctr.datasets.schema import Reading
from ctr.datasets.split import SplitRule
from ctr.errors import ArgumentError

CATEGORICAL, DENSE = ["site", "kind", "age", "truth", "code", "none"], ["price", "count"]
FORMAT = csv.make(label="click", categorical=CATEGORICAL, dense=DENSE, transform_default="none")
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=4)
LIBRARIES: list[Callable[[pd.DataFrame], Any]] = [
    lambda rows: rows,
    pl.from_pandas,
    lambda rows: pa.Table.from_pandas(rows, preserve_index=False),
    lambda rows: pa.Table.from_pandas(rows, preserve_index=False).to_batches()[0],
]


def rows(count: int = 50) -> pd.DataFrame:
    """Values of all kinds, some blank; whole floats where pandas has integers with blanks."""
    draw = np.random.default_rng(0)
    made = pd.DataFrame(
        {
            "site": draw.choice(["a", "ü", "", "0"], count),
            "kind": pd.Categorical(draw.choice(["x", "y"], count)),
            "age": draw.integers(18, 90, count).astype(float),
            "truth": draw.random(count) < 0.5,
            "code": draw.integers(-5, 5, count) * 10**15,
            "none": [None] * count,
            "price": draw.normal(0, 9, count),
            "count": draw.integers(0, 9, count).astype(float),
            "click": draw.integers(2, size=count),
        }
    )
    for name in ("site", "kind", "age", "price", "count"):
        made.loc[draw.random(count) < 0.2, name] = None
    return made


@pytest.mark.parametrize("library", LIBRARIES, ids=["pandas", "polars", "arrow", "batch"])
def test_a_frame_is_prepared_as_its_csv_file(
    library: Callable[[pd.DataFrame], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "BATCH_ROWS", 7)  # types are those of the whole column
    made = rows()
    write_log(library(made), tmp_path / "rows.parquet")
    texts = made.assign(age=made["age"].astype("Int64"), truth=made["truth"].map({True: "true", False: "false"}))
    texts.to_csv(tmp_path / "rows.csv", index=False)
    prepared = [
        prepare(FORMAT, tmp_path / name, tmp_path / f"{name}.out", split=SplitRule(test_fraction=0.2))
        for name in ("rows.parquet", "rows.csv")
    ]
    assert read_vocabulary(prepared[0]).equals(read_vocabulary(prepared[1]))
    for of_frame, of_file in zip(*(data.rows[: len(made)] for data in prepared), strict=True):
        np.testing.assert_array_equal(of_frame, of_file)


@pytest.mark.parametrize("library", LIBRARIES[:3], ids=["pandas", "polars", "arrow"])
def test_the_reader_takes_it_as_a_prediction_does(library: Callable[[pd.DataFrame], Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_log(library(rows()), path)
    (block,) = FORMAT.read([path], Reading([path], "error"))
    assert FORMAT.inputs is not None
    fields, dense = model_inputs(library(rows()), FORMAT.inputs)
    assert [column.to_pylist() for column in fields] == [column.to_pylist() for column in block.fields]
    np.testing.assert_array_equal(dense, block.dense)


NUMBERS = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_infinity=False)
COLUMNS = st.one_of(
    *(st.lists(values, min_size=6, max_size=6) for values in (NUMBERS, st.none() | st.booleans(), st.none() | TEXTS)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=COLUMNS, library=st.sampled_from(LIBRARIES[:3]))
def test_any_value_is_the_same_category_in_training_and_prediction(
    values: list[Any], library: Callable[[pd.DataFrame], Any], tmp_path: Path
) -> None:
    form = csv.make(label="y", categorical=["x"])
    assert form.inputs is not None
    made = library(pd.DataFrame({"x": pd.Series(values), "y": 0}))
    write_log(made, tmp_path / "rows.parquet")
    (block,) = form.read([tmp_path / "rows.parquet"], Reading([tmp_path / "rows.parquet"], "error"))
    (predicted,), _ = model_inputs(made, form.inputs)
    assert block.fields[0].to_pylist() == predicted.to_pylist()


def test_more_columns_go_with_it(tmp_path: Path) -> None:
    write_log(rows(9).drop(columns="click"), tmp_path / "rows.parquet", {"label": np.arange(9, dtype=np.uint8)})
    found = pq.read_table(tmp_path / "rows.parquet")
    assert found["label"].to_pylist() == list(range(9))
    assert found["age"].type == pa.int64()
    assert found["price"].type == pa.float64()


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ([1, 2], "a list; expected a pandas, polars or Arrow frame"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column is called a"),
        (pd.DataFrame({"label": [1]}), "more than one column is called label"),
        (pd.DataFrame({3: [1]}), "column name 3 is not text"),
        (pd.DataFrame({"a": [[[1]]]}), "column a is of type list<"),
        (pd.DataFrame({"a": [object()]}), "column a: values of several types"),
        (pd.DataFrame({"a": pd.Series(["x", *[None] * 6, 1], dtype=object)}), "column a: values of several types"),
    ],
)
def test_what_cannot_be_a_log_is_named(
    made: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "BATCH_ROWS", 4)
    more = {"label": np.zeros(len(made), np.uint8)} if "label" in made else None
    with pytest.raises(ArgumentError, match=problem):
        write_log(made, tmp_path / "rows.parquet", more)
    assert list(tmp_path.iterdir()) == []
