"""Columns with several values in a row: read, encoded, kept on disk and handed out in batches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.datasets import arrange, csv
from ctr.datasets.admission import admit
from ctr.datasets.encode import Keys, hash_ids
from ctr.datasets.manifest import SplitRule
from ctr.datasets.multi import MOST, list_type, parse
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.datasets.ragged import Ragged, joined, side_by_side
from ctr.datasets.split import occurrences
from ctr.datasets.stream import RowStream
from ctr.datasets.together import Limits
from ctr.errors import ArgumentError, DataError
from ctr.models import Bags

OPTIONS: dict[str, Any] = {
    "label": "click",
    "categorical": ["user", "tags"],
    "dense": ["age"],
    "multi": ["tags:|"],
    "transform_default": "none",
}
CELLS = [["a", "b", "a"], [], ["c"], ["b"], ["", "d", ""], ["a", "e"], [""]]


def frame(cells: list[list[str]] | None = None) -> pd.DataFrame:
    cells = CELLS if cells is None else cells
    rows = {"click": [0, 1] * len(cells), "user": [f"u{n % 3}" for n in range(2 * len(cells))]}
    return pd.DataFrame({**rows, "age": np.arange(2.0 * len(cells)), "tags": cells * 2})


def written(path: Path, rows: pd.DataFrame, separator: str = "|") -> Path:
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.assign(tags=[separator.join(cell) for cell in rows["tags"]]).to_csv(path, index=False)
    return path


def prepared(path: Path, num_buckets: int | None = None, bad_rows: Any = "error", **options: Any) -> Prepared:
    dataset = csv.make(**{**OPTIONS, **options})
    split = SplitRule(0.25)
    return prepare(dataset, path, path.parent / "rows", split=split, bad_rows=bad_rows, num_buckets=num_buckets)


def oracle(rows: pd.DataFrame) -> tuple[list[list[list[int]]], list[tuple[int, str | None]]]:
    """Ids [n][F] by a dictionary, and the vocabulary: in order of first appearance, row by row, field by field."""
    known: dict[tuple[int, str | None], int] = {}
    ids = []
    for user, cell in zip(rows["user"], rows["tags"], strict=True):
        several = [value for value in cell if value] or [None]
        ids.append([[known.setdefault((0, user), len(known))], [known.setdefault((1, v), len(known)) for v in several]])
    return ids, list(known)


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_ids_are_those_of_a_dictionary(tmp_path: Path, name: str) -> None:
    data, (ids, values) = prepared(written(tmp_path / name, frame())), oracle(frame())
    found = data.rows[0:14][0]
    assert found.tolist() == ids
    vocabulary = read_vocabulary(data)
    assert list(zip(vocabulary["field"].to_pylist(), vocabulary["value"].to_pylist(), strict=True)) == values
    assert data.manifest.values_per_field == [3, 6]
    assert data.split.features_train == len({i for row in ids[:10] for bag in row for i in bag})
    counts = np.bincount([i for row in ids for bag in row for i in bag])  # "a", "b", "a" holds a twice
    np.testing.assert_array_equal(occurrences(data.rows, [(0, 14)], len(values)), counts)


def test_lists_and_text_give_the_same_rows(tmp_path: Path) -> None:
    for place, name in (("one", "mine.csv"), ("two", "mine.parquet")):
        (tmp_path / place).mkdir()
        written(tmp_path / place / name, frame())
    text, lists = prepared(tmp_path / "one" / "mine.csv"), prepared(tmp_path / "two" / "mine.parquet")
    alone = prepared(tmp_path / "two" / "mine.parquet", multi=["tags"])
    for one in (lists, alone):
        for name in ("rows.arrow", "vocabulary.arrow"):
            assert (one.folder / name).read_bytes() == (text.folder / name).read_bytes()


def test_a_column_of_lists_is_found_by_itself(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.parquet", frame(CELLS * 20))
    auto: dict[str, Any] = {"label": "auto", "categorical": "auto", "dense": None}
    data = prepared(path, multi=(), **auto)
    assert data.manifest.fields == ["user", "tags"]
    assert [field.multi for field in data.dataset.fields] == [False, True]
    assert data.dataset.options["multi"] == ["tags"]
    assert "tags    categorical  lists, 5 values" in data.dataset.note
    assert data.rows[0:280][0].tolist() == oracle(frame(CELLS * 20))[0]
    assert prepared(path, multi=(), **{**auto, "categorical": ["user"], "dense": ["age"]}).dataset.pool is None


def test_a_named_separator_leaves_auto_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.csv", frame(CELLS * 20))
    data = prepared(path, categorical="auto", dense=None)
    assert data.manifest.fields == ["user", "tags"]
    assert "tags    categorical  as you say, multi-valued" in data.dataset.note


def test_buckets_of_numbers_stand_behind_lists(tmp_path: Path) -> None:
    data = prepared(written(tmp_path / "mine.csv", frame()), transform=["age:bucket:2"])
    ids, values = oracle(frame())
    found = data.rows[0:14][0]
    assert [row[:2] for row in found.tolist()] == ids
    assert data.manifest.fields == ["user", "tags", "age"]
    assert [row[2] for row in found.tolist()] == [[len(values)]] * 4 + [[len(values) + 1]] * 10


def test_sorted_rows_keep_their_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrange, "CHUNK_ROWS", 4)
    order = np.random.default_rng(0).permutation(14)
    when = pd.Timestamp("2024-05-01") + pd.to_timedelta(np.argsort(order), "h")
    data = prepared(written(tmp_path / "mine.csv", frame().assign(when=when)), time="when", order="sort")
    ids = oracle(frame())[0]  # as the file has them
    assert data.rows[0:14][0].tolist() == [ids[row] for row in order]
    assert data.rows[0:14][1][:, 0].tolist() == order.tolist()


def test_hashed_ids_are_those_of_single_values(tmp_path: Path) -> None:
    data = prepared(written(tmp_path / "mine.csv", frame()), num_buckets=50)
    keys = Keys(data.dataset.fields, stable=True)
    for row, (user, cell) in enumerate(zip(frame()["user"], frame()["tags"], strict=True)):
        values = [value for value in cell if value] or [None]
        expected = [
            hash_ids(keys.of_field(field, pa.array(some, pa.string())), 50).tolist()
            for field, some in enumerate(([user], values))
        ]
        assert data.rows[row : row + 1][0].tolist() == [expected]


def test_batches_hold_the_bags_of_their_rows(tmp_path: Path) -> None:
    data, ids = prepared(written(tmp_path / "mine.csv", frame())), oracle(frame())[0]
    stream = RowStream(data.rows, [(3, 9), (0, 14)], 8)
    rows = [*ids[3:9], *ids]
    for number, batch in enumerate(stream):
        here = rows[8 * number : 8 * number + 8]
        assert isinstance(batch.ids, Bags)
        assert (len(batch), len(batch.ids)) == (len(here), len(here))
        assert batch.ids.values.tolist() == [i for row in here for bag in row for i in bag]
        assert batch.ids.offsets.diff().tolist() == [len(bag) for row in here for bag in row]


def test_damaged_rows_are_noticed(tmp_path: Path) -> None:
    data = prepared(written(tmp_path / "mine.csv", frame()))
    content = bytearray((data.folder / "rows.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (data.folder / "rows.arrow").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"rows\.arrow: rows 0 to 13 are not as written"):
        prepared(tmp_path / "mine.csv").rows[0:14]


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (["tags:|", "history: "], {"tags": "|", "history": " "}),
        (["tags::", "lists"], {"tags": ":", "lists": None}),
        (["a:b:, ", r"t:\t", "x:||"], {"a:b": ", ", "t": "\t", "x": "||"}),
    ],
)
def test_a_separator_follows_the_last_colon(specs: list[str], found: dict[str, str | None]) -> None:
    assert parse(specs) == found


@pytest.mark.parametrize("specs", [["tags:"], [""], [":|"], ["tags:|", "tags:;"], ["a:\0"]])
def test_what_names_no_column_or_separator_is_refused(specs: list[str]) -> None:
    with pytest.raises(ValueError, match=r"dataset\.multi"):
        parse(specs)


def test_a_pool_without_such_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset\.pool=sum: no column has several values"):
        csv.make(**{**OPTIONS, "multi": [], "pool": "sum"})


def test_single_valued_logs_have_the_options_that_they_had() -> None:
    made = csv.make(**{**OPTIONS, "multi": []})
    assert not {"multi", "pool"} & {*made.options}
    assert made.pool is None


Break = Callable[[pd.DataFrame], pd.DataFrame]


def cell(value: str) -> Break:
    return lambda rows: rows.assign(tags=[["a"], value.split("|"), *rows["tags"][2:]])


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (cell("a|b\0"), "column tags is .*; expected at most 4,096 values, each text in UTF-8 without NUL characters"),
        (cell("|".join("x" * (MOST + 1))), "column tags is .*; expected at most 4,096 values"),
    ],
)
def test_a_bad_cell_is_named_or_left_out(tmp_path: Path, name: str, broken: Break, problem: str) -> None:
    path = written(tmp_path / name, broken(frame()))
    where = "line 3: " if name == "mine.csv" else "row 2: "
    with pytest.raises(DataError, match=where + problem):
        prepared(path)
    data = prepared(path, bad_rows="skip")
    assert (data.manifest.rows, data.manifest.rows_skipped) == (13, 1)
    assert data.rows[0:1][0].tolist() == [[[0], [1]]]


def test_as_many_values_as_may_be_are_read(tmp_path: Path) -> None:
    cells = [[f"{n}" for n in range(MOST)], ["0"] * MOST, ["1"]]
    data = prepared(written(tmp_path / "mine.csv", frame(cells)))
    assert data.rows[0:6][0].lengths[:, 1].tolist() == [MOST, MOST, 1] * 2


def test_text_without_a_separator_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.csv", frame())
    with pytest.raises(DataError, match=r"line 2: column tags is .*; expected a list; of text .*multi=\['tags:\|'\]"):
        prepared(path, multi=["tags"])


def test_lists_in_a_column_of_single_values_are_refused_with_the_key(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.parquet", frame())
    with pytest.raises(DataError, match=r"column tags is of type list<.*several values: dataset\.multi=\[tags\]"):
        prepared(path, multi=[])


def test_lists_of_lists_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"click": [0], "user": ["u"], "age": [1.0], "tags": [[["a"]]]}), tmp_path / "mine.parquet")
    with pytest.raises(DataError, match=r"column tags is of type list<.*, which does not fit"):
        prepared(tmp_path / "mine.parquet")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no column hist"):
        prepared(written(tmp_path / "mine.csv", frame()), multi=["tags:|", "hist: "])


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.float64()), pa.list_(pa.int16(), 2)]
)
def test_lists_of_numbers_are_read_as_single_numbers_are(tmp_path: Path, type_: pa.DataType) -> None:
    cells = [[3, 10], [10, None], [7, 3]]
    table = pa.table({"click": [0, 1, 1], "user": ["u"] * 3, "age": [1.0] * 3, "tags": pa.array(cells, type_)})
    pq.write_table(table, tmp_path / "mine.parquet")
    data = prepared(tmp_path / "mine.parquet", multi=["tags"])
    assert read_vocabulary(data)["value"].to_pylist() == ["u", "3", "10", "7"]
    assert data.rows[0:3][0].tolist() == [[[0], [1, 2]], [[0], [2]], [[0], [3, 1]]]


def test_null_cells_are_blank(tmp_path: Path) -> None:
    cells = pa.array([["a"], None, [], [None], ["a", None]], pa.list_(pa.string()))
    table = pa.table({"click": [0, 1, 1, 0, 0], "user": ["u"] * 5, "age": [1.0] * 5, "tags": cells})
    pq.write_table(table, tmp_path / "mine.parquet")
    data = prepared(tmp_path / "mine.parquet")
    assert read_vocabulary(data)["value"].to_pylist() == ["u", "a", None]
    assert [row[1] for row in data.rows[0:5][0].tolist()] == [[1], [2], [2], [2], [1]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text("ab|x", max_size=9)), max_size=12))
def test_any_text_is_split_as_python_splits_it(texts: list[str | None]) -> None:
    found = list_type("tags", "|x").parse(pa.array([text and text.encode() for text in texts], pa.binary()))
    assert found.to_pylist() == [[part for part in (text or "").split("|x") if part] or [None] for text in texts]


def bags(random: np.random.Generator, rows: int, fields: int) -> Ragged:
    lengths = random.integers(1, 5, rows * fields)
    return Ragged(random.integers(99, size=lengths.sum()).astype(np.int32), np.cumsum([0, *lengths]), fields)


def several() -> Iterator[Ragged]:
    random = np.random.default_rng(1)
    return (bags(random, rows, fields) for rows, fields in ((5, 3), (1, 1), (9, 2)))


def test_lists_are_cut_ordered_and_joined_as_python_lists_are() -> None:
    for ids in several():
        lists, n = ids.tolist(), len(ids)
        for start, stop in ((0, n), (1, n - 1), (2, 2), (n, n), (0, 99)):
            assert ids[start:stop].tolist() == lists[start:stop]
        order = np.random.default_rng(2).permutation(n)
        assert ids.take(order).tolist() == [lists[row] for row in order]
        assert joined([ids[:1], ids[1:], ids]).tolist() == lists + lists
        assert Ragged.of(lists).tolist() == lists
        more = np.arange(2 * n, dtype=np.int32).reshape(n, 2)
        beside = side_by_side([more, ids])
        assert isinstance(beside, Ragged)
        assert beside.tolist() == [[[a], [b], *row] for (a, b), row in zip(more.tolist(), lists, strict=True)]
        means = [[np.mean(bag) for bag in row] for row in lists]
        np.testing.assert_allclose(ids.means(ids.values), np.array(means), rtol=1e-12)


def test_one_worker_reads_fields_of_several_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, raw = csv.make(**OPTIONS), [written(tmp_path / "log.csv", frame())]
    folders = [tmp_path / "one", tmp_path / "two"]
    with caplog.at_level("INFO", "ctr"):
        for folder, divided in zip(folders, (None, Limits(workers=2, memory=1 << 30)), strict=True):
            prepare(dataset, raw, folder, split=SplitRule(0.25), limits=divided)
    assert caplog.text.count("one worker reads this log, in the memory that it needs") == 1
    for name in ("rows.arrow", "vocabulary.arrow"):
        one, two = (folder / name for folder in folders)
        assert one.read_bytes() == two.read_bytes()


def test_admission_is_for_one_value_in_a_row(tmp_path: Path) -> None:
    data = prepared(written(tmp_path / "log.csv", frame()))
    with pytest.raises(ArgumentError, match=r"^admit=3 is for logs whose fields have one value; dataset\.min_count "):
        admit(data, 3, "zero")
