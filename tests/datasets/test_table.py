"""One's own CSV or Parquet file."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr.datasets import csv
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.errors import ArgumentError, CtrError, DataError
from tests.datasets.logs import Read, read_all

CSV = 'when,bought,city,"unit, of age",age\n1,0,"Paris, TX",y,1.5\n2,1,,m,\n3,0,"say ""hi""",y,-2e1\n'
OPTIONS = {"label": "bought", "categorical": ["unit, of age", "city"], "dense": ["age"]}


def make(**changes: object) -> csv.Dataset:
    return csv.make(**{**OPTIONS, **changes})  # type: ignore[arg-type]


def check(read: Read) -> None:
    assert read.label == [0, 1, 0]
    assert read.fields == {"unit, of age": ["y", "m", "y"], "city": ["Paris, TX", None, 'say "hi"']}
    np.testing.assert_array_equal(read.dense, np.array([[1.5], [0], [-20]], np.float32))
    assert read.dense.dtype == np.float32


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CSV)
    check(read_all(make(), path))
    path.write_bytes(gzip.compress(CSV.encode()))
    check(read_all(make(), path))
    path.write_text(CSV.replace(",", ";").replace("Paris;", "Paris,").replace("unit;", "unit,"))
    check(read_all(make(delimiter=";"), path))


def parquet(path: Path, **changes: object) -> Path:
    columns = {
        "when": [1, 2, 3],
        "bought": [False, True, False],
        "city": ["Paris, TX", None, 'say "hi"'],
        "unit, of age": pa.array(["y", "m", "y"]).dictionary_encode(),
        "age": pa.array([1.5, None, -20], pa.float64()),
    }
    pq.write_table(pa.table({**columns, **changes}), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    check(read_all(make(), parquet(tmp_path / "mine")))
    check(read_all(make(), parquet(tmp_path / "mine", bought=pa.array([0.0, 1.0, 0.0]))))
    numbers = read_all(make(categorical=["when"]), parquet(tmp_path / "mine"))
    assert numbers.fields == {"when": ["1", "2", "3"]}


def test_both_prepare_to_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(CSV)
    rows = []
    for name, path in {"a": tmp_path / "mine.csv", "b": parquet(tmp_path / "mine.parquet")}.items():
        data = prepare(make(), path, tmp_path / name, split=SplitRule(test_fraction=0.34))
        rows.append(data.rows[0:3])
        assert (data.split.rows_train, data.split.rows_test) == (1, 2)
        assert data.manifest.recipe.options["label"] == "bought"
        again = prepare(make(), path, tmp_path / name, split=SplitRule(test_fraction=0.34))
        assert again.reused
    for one, two in zip(*rows, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(rows[0][0], [[0, 1], [2, 3], [0, 4]])


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("bought", [0, 1, 2], "row 3: column bought is 2; expected 0 or 1"),
        ("bought", [0, None, 1], "row 2: column bought is None; expected 0 or 1"),
        ("age", [1.0, float("inf"), 2.0], "row 2: column age is inf; expected a finite number"),
        ("age", [1.0, 1e300, 2.0], "row 2: column age is 1e\\+300; expected a finite number"),
    ],
)
def test_bad_rows_of_parquet(column: str, values: list[object], problem: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine", **{column: values})
    with pytest.raises(DataError, match=problem):
        read_all(make(), path)
    read = read_all(make(), path, "skip")
    assert (len(read.label), read.reading.rows_skipped) == (2, 1)


def test_unfit_files(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine", age=["a", "b", "c"])
    with pytest.raises(DataError, match="column age is of type string, which does not fit"):
        read_all(make(), path)
    with pytest.raises(ArgumentError, match="no column town; the columns are when, bought"):
        read_all(make(categorical=["town"]), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not a sound Parquet file"):
        read_all(make(), path)
    pq.write_table(pa.table({"bought": pa.array([], pa.int8()), "city": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="no row in it"):
        read_all(make(categorical=["city"], dense=[]), path)
    with pytest.raises(CtrError, match="is a folder"):
        read_all(make(), tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n", "no column bought, unit, of age, city, age; the columns are a, b"),
        ("bought;city\n1;2\n", "bought;city; if they are separated by ;: \"dataset.delimiter=';'\""),
        ("bought\tcity\n1\t2\n", "if they are separated by \\t: \"dataset.delimiter='\\t'\""),
    ],
)
def test_columns_that_are_not_there(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ArgumentError) as error:
        read_all(make(), path)
    assert str(error.value).endswith(problem)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("bought,bought\n1,2\n", 1, "more than one column is called bought"),
        (CSV + "4,2,x,y,1\n", 5, "column bought is '2'; expected 0 or 1"),
        (CSV + "4,1,x,y,inf\n", 5, "column age is 'inf'; expected a finite number"),
        (CSV + "4,1,x\n", 5, "3 columns; expected 5"),
        (CSV + '4,1,"x\n,y,1\n', 5, "a quoted value does not end on its line"),
    ],
)
def test_bad_csv(text: str, line: int, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_all(make(), path)
    assert error.value.line == line
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"categorical": []}, "dataset.categorical is empty"),
        ({"dense": ["city"]}, "named more than once in dataset.label, categorical and dense: city"),
        ({"delimiter": "||"}, "expected one ASCII character"),
        ({"delimiter": '"'}, "expected one ASCII character"),
    ],
)
def test_options_that_cannot_work(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**changes)
