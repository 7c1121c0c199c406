"""Rare values share the row of their field: ids, counts and vocabularies against plain dictionaries."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.datasets import criteo
from ctr.datasets.manifest import Split, SplitRule
from ctr.datasets.prepared import VOCABULARY_SCHEMA, Prepared, prepare, read_vocabulary
from ctr.datasets.rare import Gathered, Unseen, gather
from ctr.datasets.source import DataSettings, check
from ctr.datasets.split import occurrences
from ctr.datasets.vocabulary import REST, Batches, under
from ctr.errors import ArgumentError
from ctr.prepare import table
from tests.datasets.criteo_text import lines, write

Value = tuple[int, str | None]  # field and text
FORMAT = criteo.make()


class Memory:
    """Rows in memory."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __getitem__(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = self.ids[rows]
        return ids, np.zeros((len(ids), 0), np.float32), np.zeros(len(ids), np.uint8)

    def positives(self, rows: slice) -> int:
        return 0


def values_of(made: list[str]) -> list[list[Value]]:
    return [[(f, v or None) for f, v in enumerate(line.split("\t")[14:])] for line in made]


def reference(
    rows: list[list[Value]], train: int, k: int, unseen: Unseen, known: dict[Value, bool] | None = None
) -> tuple[list[Value], list[list[Value]]]:
    """The vocabulary, and what each row reads; ``known``: the values of a model, and whether it trained them."""
    known = known or {}
    counts = Counter(value for row in rows[:train] for value in row)

    def is_rare(value: Value) -> bool:
        return not known.get(value) and (0 < counts[value] < k or (counts[value] == 0 and unseen == "row"))

    first = dict.fromkeys([*known, *(value for row in rows for value in row)])
    vocabulary = [value for value in first if value in known or not is_rare(value)]
    shared = sorted({value[0] for value in first if value[1] != REST and is_rare(value)})
    vocabulary += [(field, REST) for field in shared if (field, REST) not in known]
    return vocabulary, [[(f, REST) if is_rare((f, v)) else (f, v) for f, v in row] for row in rows]


def expect(got: Prepared, rows: list[list[Value]], train: int, expected: tuple[list[Value], list[list[Value]]]) -> None:
    vocabulary, read = expected
    assert [tuple(row.values()) for row in read_vocabulary(got).to_pylist()] == vocabulary
    ids = {value: number for number, value in enumerate(vocabulary)}
    assert got.rows[0 : len(rows)][0].tolist() == [[ids[value] for value in row] for row in read]
    assert got.manifest.num_features == len(vocabulary)
    fields = len(got.manifest.fields)
    assert got.manifest.values_per_field == [sum(f == field for f, _ in vocabulary) for field in range(fields)]
    assert got.split.features_train == len({value for row in read[:train] for value in row})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("log")
    raw = write(folder / "train.txt", lines(120))
    return prepare(FORMAT, raw, folder / "out", split=SplitRule(test_fraction=1 / 3))


@pytest.mark.parametrize("unseen", ["zero", "row", "init"])
@pytest.mark.parametrize("k", [2, 3, 1000])
def test_ids_are_those_of_dictionaries_over_the_lines(data: Prepared, k: int, unseen: Unseen) -> None:
    rows = values_of(lines(120))
    got = gather(data, k, unseen)
    expect(got, rows, 80, reference(rows, 80, k, unseen))
    assert isinstance(got, Gathered)
    assert got.log is data
    assert got.manifest.data_hash == data.manifest.data_hash
    counts = Counter(value for row in rows[:80] for value in row)
    names = [tuple(row.values()) for row in read_vocabulary(data).to_pylist()]
    assert got.seen.tolist() == [counts[name] > 0 for name in names]
    assert occurrences(data.rows, [(0, 80)], len(names)).tolist() == [counts[name] for name in names]


def test_with_a_count_of_one_nothing_changes(data: Prepared) -> None:
    assert gather(data, 1, "zero") is data


def memory(data: Prepared, rows: list[list[Value]], train: int, vocabulary: list[Value]) -> Prepared:
    """Rows of two fields in memory."""
    numbers = {value: number for number, value in enumerate(vocabulary)}
    ids = np.array([[numbers[value] for value in row] for row in rows], np.int32)
    columns = [pa.array([f for f, _ in vocabulary], pa.uint8()), pa.array([v for _, v in vocabulary], pa.string())]
    manifest = replace(data.manifest, fields=["a", "b"], num_features=len(vocabulary))
    split = Split(SplitRule(0.5), [(0, train)], [(train, len(rows))], 0)
    batch = pa.record_batch(columns, schema=VOCABULARY_SCHEMA)
    made: Any = Memory(ids)
    return replace(data, manifest=manifest, split=split, rows=made, vocabulary=Batches([batch]))


VALUES = st.sampled_from(["x", "y", "z", "w", None])


@settings(max_examples=150, deadline=None)
@given(
    cells=st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=14),
    train=st.integers(1, 13),
    k=st.integers(2, 4),
    unseen=st.sampled_from(["zero", "row"]),
    known=st.dictionaries(st.tuples(st.integers(0, 1), st.sampled_from(["x", "y", None, REST])), st.booleans()),
)
def test_any_rows_any_known_model(
    data: Prepared,
    cells: list[tuple[str | None, str | None]],
    train: int,
    k: int,
    unseen: Unseen,
    known: dict[Value, bool],
) -> None:
    train = min(train, len(cells) - 1)
    rows: list[list[Value]] = [[(0, a), (1, b)] for a, b in cells]
    first = list(dict.fromkeys([*known, *(value for row in rows for value in row)]))
    got = gather(memory(data, rows, train, first), k, unseen, np.array(list(known.values()), bool))
    expect(got, rows, train, reference(rows, train, k, unseen, known))


def test_a_models_own_rows_are_found_again_in_a_log(data: Prepared, tmp_path: Path) -> None:
    """Under the vocabulary of a model with such rows, a field's own row stays where it was."""
    today = gather(data, 3, "row")
    made = lines(90, seed=1)
    raw = write(tmp_path / "train.txt", made)
    tomorrow = prepare(FORMAT, raw, tmp_path / "out", split=SplitRule(test_fraction=1 / 3))
    assert today.vocabulary is not None
    known = {(row["field"], row["value"]): True for row in read_vocabulary(today).to_pylist()}
    got = gather(under(today.vocabulary, FORMAT.fields, tomorrow), 3, "row", np.ones(len(known), bool))
    expect_known = reference(values_of(made), 60, 3, "row", known)
    assert [tuple(row.values()) for row in read_vocabulary(got).to_pylist()] == expect_known[0]
    ids = {value: number for number, value in enumerate(expect_known[0])}
    assert got.rows[0:90][0].tolist() == [[ids[value] for value in row] for row in expect_known[1]]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"min_count": 0}, r"^dataset\.min_count=0; expected at least 1$"),
        ({"unseen": "row"}, r"^dataset\.unseen=row needs dataset\.min_count=2 or more: rare values train the row"),
        ({"min_count": 2, "num_buckets": 9}, r"^dataset\.min_count=2 is for dataset\.encoding=onehot: hashed values"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        check(DataSettings("criteo", (tmp_path,), tmp_path, SplitRule(0.1), **keys))


def test_the_command_that_prepares_says_how_many_are_rare(data: Prepared) -> None:
    counts = Counter(value for row in values_of(lines(120))[:80] for value in row)
    few = [value for value, count in counts.items() if count < 3]
    fields = len({field for field, _ in few})
    left = len(counts) - len(few) + fields
    assert (
        f"rare              {len(few):,} of those occur fewer than 3 times and share {fields} rows: {left:,} are left\n"
        in table(data, None, 3, "zero") + "\n"
    )
    assert "  rare  " not in table(data, None)
