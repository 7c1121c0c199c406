"""One's own CSV or Parquet file."""

import gzip
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr.datasets import csv
from ctr.datasets import parquet as parquet_reader
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.schema import Reading
from ctr.errors import ArgumentError, DataError
from tests.datasets.logs import Read, read_all

CSV = 'when,bought,city,"unit, of age",age\n1,0,"Paris, TX",y,1.5\n2,1,,m,\n3,0,"say ""hi""",y,-2e1\n'
OPTIONS = {"label": "bought", "categorical": ["unit, of age", "city"], "dense": ["age"], "transform_default": "none"}


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
        ("bought", [0, None, 1], "row 2: column bought is blank; expected 0 or 1"),
        ("age", [1.0, float("inf"), 2.0], "row 2: column age is inf; expected a finite number"),
        ("age", [1.0, 1e300, 2.0], "row 2: column age is 1e\\+300; expected a finite number"),
        ("age", ["1", "x", "2"], "row 2: column age is 'x'; expected a finite number"),
        ("bought", [0, 1, 2**62], "row 3: column bought is 4611686018427387904; expected 0 or 1"),
        ("bought", [0.0, float("nan"), 1.0], "row 2: column bought is nan; expected 0 or 1"),
        ("bought", ["0", "NaN", "1"], "row 2: column bought is 'NaN'; expected 0 or 1, or False or True"),
        ("city", [b"a", b"\xff", b"c"], r"row 2: column city is '\\xff'; expected text in UTF-8"),
        ("city", ["a", "b\0", "c"], r"row 2: column city is 'b\\x00'; expected text in UTF-8 without NUL"),
    ],
)
def test_bad_rows_of_parquet(column: str, values: list[object], problem: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine", **{column: values})
    with pytest.raises(DataError, match=problem):
        read_all(make(), path)
    read = read_all(make(), path, "skip")
    assert (len(read.label), read.reading.rows_skipped) == (2, 1)


def test_unfit_files(tmp_path: Path) -> None:
    for column, values, kind in [
        ("age", [[1], [2], []], "list<.*: int64>"),
        ("city", [{"a": 1}] * 3, "struct<a: int64>"),
        ("bought", pa.array([0, 1, 0], pa.timestamp("ms")), r"timestamp\[ms\]"),
        ("age", pa.array([0, 1, 0], pa.date32()), r"date32\[day\]"),
    ]:
        path = parquet(tmp_path / "mine", **{column: values})
        with pytest.raises(DataError, match=f"column {column} is of type {kind}, which does not fit"):
            read_all(make(), path)
    with pytest.raises(ArgumentError, match="no column town; the columns are when, bought"):
        read_all(make(categorical=["town"]), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not a sound Parquet file"):
        read_all(make(), path)
    pq.write_table(pa.table({"bought": pa.array([], pa.int8()), "city": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=r"no valid row in it$"):
        read_all(make(categorical=["city"], dense=[]), path)
    with pytest.raises(DataError, match=r"no valid row in it; the first problem: .*: row 1: column bought is 7"):
        read_all(make(), parquet(tmp_path / "mine", bought=[7, 8, 9]), "skip")
    with pytest.raises(DataError, match="nothing: cannot be read: No such file or directory"):
        make().read([tmp_path / "nothing"], Reading([], "error")).__next__()


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
        (
            {"dense": ["city"]},
            "named more than once in dataset.label, categorical, dense, ignore, time and weight: city",
        ),
        ({"delimiter": "||"}, "expected one ASCII character"),
        ({"delimiter": '"'}, "expected one ASCII character"),
        ({"categorical": "city"}, "dataset.categorical=city; expected auto or a list of names"),
        ({"dense": [1]}, "dataset.dense=.1.; expected auto or a list of names"),
        ({"time": "city"}, "named more than once in .*: city"),
        ({"weight": "age"}, "named more than once in .*: age"),
        ({"negative_rate": 0.0}, "dataset.negative_rate=0; expected a share above 0 and at most 1"),
        ({"negative_rate": 1.5}, "dataset.negative_rate=1.5; expected a share above 0 and at most 1"),
        ({"order": "sort"}, "dataset.order=sort needs dataset.time"),
        ({"time_format": "iso"}, "dataset.time_format needs dataset.time"),
        ({"time": "when", "time_format": "dd.mm"}, "expected auto, iso, epoch, epoch_ms, yyyymmdd, yymmddhh or a pat"),
    ],
)
def test_options_that_cannot_work(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**changes)


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    """Not that of the first column with one, and in a later batch with its place in the file."""
    path = parquet(tmp_path / "mine", bought=[0, 1, 2], city=["a", "\0", "c"])
    with pytest.raises(DataError, match="row 2: column city"):
        read_all(make(), path)
    rows = parquet_reader.BATCH_ROWS + 9
    labels = np.zeros(rows, int)
    labels[-1] = 7
    pq.write_table(pa.table({"bought": labels, "city": ["a"] * rows}), path)
    with pytest.raises(DataError, match=f"row {rows:,}: column bought is 7"):
        read_all(make(categorical=["city"], dense=[]), path)


VALUES = {
    "bought": (["0", "1", "False", "True", "false", "TRUE", "0.0", "1.0"], [0, 1, 0, 1, 0, 1, 0, 1]),
    "city": (
        ["NaN", "nan", "null", "", None, "é", "1", "\ufeff"],
        ["NaN", "nan", "null", None, None, "é", "1", "\ufeff"],
    ),
    "age": (
        ["NaN", "nan", "", None, "4611686018427387904", "-0.5", "16777217", "True"],
        [0, 0, 0, 0, 2**62, -0.5, 2**24, 1],
    ),
}


def test_one_rule_for_csv_and_parquet(tmp_path: Path) -> None:
    given = {name: values for name, (values, _) in VALUES.items()}
    pq.write_table(pa.table(given), tmp_path / "texts")
    pq.write_table(
        pa.table(
            {
                name: pa.array(values, pa.large_binary())
                for name, values in (
                    (name, [value and value.encode() for value in values]) for name, values in given.items()
                )
            }
        ),
        tmp_path / "bytes",
    )
    lines = [",".join(value or "" for value in row) for row in zip(*given.values(), strict=True)]
    (tmp_path / "csv").write_text("\n".join([",".join(given), *lines]) + "\n")
    numbers = [float("nan"), float("nan"), None, None, 2.0**62, -0.5, 16777217.0, 1.0]
    labels = [False, True, False, True, False, True, False, True]
    pq.write_table(
        pa.table({"bought": labels, "city": pa.array(given["city"]).dictionary_encode(), "age": numbers}),
        tmp_path / "typed",
    )
    for kind in ("csv", "texts", "bytes", "typed"):
        read = read_all(make(categorical=["city"]), tmp_path / kind)
        assert read.label == VALUES["bought"][1], kind
        assert read.fields["city"] == VALUES["city"][1], kind
        np.testing.assert_array_equal(read.dense[:, 0], np.array(VALUES["age"][1], np.float32), kind)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([2**62, 2**24 + 1, None]), [2.0**62, 2.0**24, 0]),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), [2.0**64, 0, 1]),
        (pa.array([Decimal("1.10"), None, Decimal("-3.00")]), [1.1, 0, -3]),
        (pa.array([True, None, False]), [1, 0, 0]),
        (pa.array([1.5, None, 2], pa.float16()), [1.5, 0, 2]),
        (pa.array([7, None, 7]).dictionary_encode(), [7, 0, 7]),
        (pa.nulls(3), [0, 0, 0]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_types_of_dense_columns(values: pa.Array, expected: list[float], tmp_path: Path) -> None:
    read = read_all(make(), parquet(tmp_path / "mine", age=values))
    np.testing.assert_array_equal(read.dense[:, 0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            pa.array([1000, None, 3000], pa.timestamp("ms")),
            ["1970-01-01 00:00:01.000", None, "1970-01-01 00:00:03.000"],
        ),
        (pa.array([1, None, 2], pa.date32()), ["1970-01-02", None, "1970-01-03"]),
        (pa.array([Decimal("1.10"), None, Decimal("2.00")]), ["1.10", None, "2.00"]),
        (pa.array([1.5, float("nan"), None]), ["1.5", "nan", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["a", "", None], pa.large_string()), ["a", None, None]),
        (pa.array([b"a", None, b"c"], pa.binary(1)), ["a", None, "c"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_types_of_categorical_columns(values: pa.Array, expected: list[str | None], tmp_path: Path) -> None:
    assert read_all(make(), parquet(tmp_path / "mine", city=values)).fields["city"] == expected


def test_damaged_column_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine")
    # Names are in the footer twice: as Parquet has them and, in Base64, as Arrow does.
    pq.write_table(pq.read_table(path), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"when", b"wh\xffn"))
    with pytest.raises(DataError, match="not a sound Parquet file: a column's name is not UTF-8"):
        read_all(make(), path)
    path.write_bytes(path.read_bytes().replace(b"wh\xffn", b"city"))
    with pytest.raises(DataError, match="more than one column is called city"):
        read_all(make(), path)


def test_names_with_dots(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine", **{"city.name": ["a", "b", "c"]})
    assert read_all(make(categorical=["city.name"]), path).fields == {"city.name": ["a", "b", "c"]}
    assert read_all(make(), path).fields["city"] == ["Paris, TX", None, 'say "hi"']
