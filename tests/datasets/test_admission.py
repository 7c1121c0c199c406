"""Admission in the stream against a dictionary of counts: what every occurrence reads, in training and after it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.datasets.admission import admit, row_counts
from ctr.datasets.prepared import Prepared, read_vocabulary
from ctr.datasets.rare import Unseen
from ctr.datasets.split import first_rows
from ctr.datasets.stream import RowStream
from ctr.datasets.vocabulary import REST, Batches
from ctr.training.admission import Admission
from tests.datasets.test_rare import VALUES, Value, data, memory  # noqa: F401  # a fixture

Known = dict[Value, tuple[int, bool]]  # sightings in earlier logs, and whether the value's row was trained


class Oracle:
    """A dictionary of counts, row by row."""

    def __init__(self, k: int, unseen: Unseen, known: Known) -> None:
        self.k, self.unseen = k, unseen
        self.counts = Counter({value: k if trained else count for value, (count, trained) in known.items()})
        self.trained = {value for value, (_, trained) in known.items() if trained}
        self.held: Counter[int] = Counter()

    def learns(self, value: Value, new: bool = True) -> Value:
        self.counts[value] += new
        read = value if self.counts[value] >= self.k else (value[0], REST)
        self.held[value[0]] += new and read[1] == REST
        self.trained.add(read)
        return read

    def reads(self, value: Value) -> Value:
        """As the model stands."""
        if value in self.trained or (self.counts[value] == 0 and self.unseen != "row"):
            return value
        return value[0], REST


def numbered(cells: list[tuple[str | None, str | None]]) -> list[list[Value]]:
    return [[(0, a), (1, b)] for a, b in cells]


KNOWN = st.dictionaries(
    st.tuples(st.integers(0, 1), st.sampled_from(["x", "y", None])), st.tuples(st.integers(1, 4), st.booleans())
)


@settings(max_examples=150, deadline=None)
@given(
    cells=st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=24),
    train=st.integers(1, 23),
    k=st.integers(2, 4),
    unseen=st.sampled_from(["zero", "row", "init"]),
    known=KNOWN,
    own=st.lists(st.integers(0, 1), max_size=2, unique=True),
    batch=st.integers(1, 7),
    epochs=st.integers(1, 3),
)
def test_every_occurrence_reads_what_a_dictionary_says(
    data: Prepared,  # noqa: F811
    cells: list[tuple[str | None, str | None]],
    train: int,
    k: int,
    unseen: Unseen,
    known: Known,
    own: list[int],
    batch: int,
    epochs: int,
) -> None:
    train, rows = min(train, len(cells) - 1), numbered(cells)
    known = {**known, **{(field, REST): (5, True) for field in own}}
    first = list(dict.fromkeys([*known, *(value for row in rows for value in row)]))
    of_log = memory(data, rows, train, first)
    of_log = replace(
        of_log, manifest=replace(of_log.manifest, values_per_field=[sum(f == g for f, _ in first) for g in (0, 1)])
    )
    whole = read_vocabulary(of_log).to_batches()[
        0
    ]  # as `under` gives it: the known values first, in batches of their own
    of_log = replace(of_log, vocabulary=Batches([whole.slice(0, len(known)), whole.slice(len(known))]))
    counts, trained = (np.array([one[i] for one in known.values()], (np.int64, bool)[i]) for i in (0, 1))
    got = admit(of_log, k, unseen, counts, trained)

    names = [tuple(row.values()) for row in read_vocabulary(got).to_pylist()]
    new = [(field, REST) for field in (0, 1) if field not in own]
    assert names == [*known, *new, *first[len(known) :]]
    assert got.manifest.num_features == len(names)
    assert got.manifest.values_per_field == [sum(f == field for f, _ in names) for field in (0, 1)]

    oracle, admission = Oracle(k, unseen, known), Admission(got)
    stream = RowStream(got.log.rows, got.split.train * epochs, batch)
    learned: list[list[Value]] = []
    for part in stream:
        of_part = [rows[number % train] for number in range(stream.position - len(part), stream.position)]
        scored = [[oracle.reads(value) for value in row] for row in of_part]
        assert [[names[i] for i in row] for row in admission.scored(part).ids.tolist()] == scored
        passed = [number < train for number in range(stream.position - len(part), stream.position)]
        expected = [[oracle.learns(value, now) for value in row] for row, now in zip(of_part, passed, strict=True)]
        assert [[names[i] for i in row] for row in admission.trained(part, stream.position).ids.tolist()] == expected
        learned += expected
    assert [[names[i] for i in row] for row in got.rows[0 : len(rows)][0].tolist()] == [
        [oracle.reads(value) for value in row] for row in rows
    ]
    assert got.held.tolist() == [oracle.held[0], oracle.held[1]]
    touched = {value for row in learned for value in row} | {value for value, (_, was) in known.items() if was}
    assert got.split.features_train == len(touched)
    assert got.seen.tolist() == [value in known or any(value in row for row in rows[:train]) for value in names]


def test_rows_count_the_values_that_they_belong_to_and_a_field_s_row_its_readers(data: Prepared) -> None:  # noqa: F811
    """Over any first part of the stream."""
    rows = numbered([("x", "y"), ("x", "z"), ("w", "y"), ("x", "y"), ("x", None), ("x", "y")])
    got = admit(memory(data, rows, 6, list(dict.fromkeys(value for row in rows for value in row))), 3, "zero")
    names = [tuple(row.values()) for row in read_vocabulary(got).to_pylist()]
    for stop in range(1, 7):
        oracle = Oracle(3, "zero", {})
        for row in rows[:stop]:
            for value in row:
                oracle.learns(value)
        expected = {
            **Counter(value for row in rows[:stop] for value in row),
            (0, REST): oracle.held[0],
            (1, REST): oracle.held[1],
        }
        counted = row_counts(got, first_rows(got.split.train, stop)[0])
        assert dict(zip(names, counted.tolist(), strict=True)) == {name: expected.get(name, 0) for name in names}


def test_the_counter_goes_on_from_its_state(data: Prepared) -> None:  # noqa: F811
    """In the middle of a stream; the state can be loaded again."""
    rows = numbered([("x", "y")] * 9)
    got = admit(memory(data, rows, 8, [(0, "x"), (1, "y")]), 5, "zero")
    batches = list(RowStream(got.log.rows, got.split.train, 3))
    first, second = Admission(got), Admission(got)
    first.trained(batches[0], 3)
    state: Any = {"counts": first.state_dict()["counts"].copy()}
    wanted = first.trained(batches[1], 6).ids
    for _ in range(2):
        second.load_state_dict(state)
        assert torch.equal(second.trained(batches[1], 6).ids, wanted)
    assert wanted.tolist() == [[0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize("k", [2, 255])
def test_a_count_is_held_at_k(data: Prepared, k: int) -> None:  # noqa: F811
    rows = numbered([("x", "y")] * 600)
    admission = Admission(admit(memory(data, rows, 599, [(0, "x"), (1, "y")]), k, "zero"))
    (batch,) = RowStream(memory(data, rows, 599, [(0, "x"), (1, "y")]).rows, [(0, 599)], 599)
    batch = replace(batch, ids=batch.ids + 2)  # behind the fields' rows
    ids = admission.trained(batch, 599).ids
    assert (ids[:, 0] == 0).sum() == (ids[:, 1] == 1).sum() == k - 1
    assert admission.counts.tolist() == [0, 0, k, k]
