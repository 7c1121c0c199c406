"""Ids under a known vocabulary, against one dictionary over both logs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.datasets import criteo
from ctr.datasets.encode import Encoder, Keys
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import VOCABULARY_SCHEMA, Prepared, prepare, read_vocabulary
from ctr.datasets.vocabulary import Batches, filtered, keys_of, under
from ctr.errors import CtrError
from tests.datasets.criteo_text import expected, lines, write
from tests.datasets.test_encode import FIELDS, ROWS, arrow

FORMAT = criteo.make()
TODAY, TOMORROW = lines(60), lines(80, seed=1)


def prepared(folder: Path, made: list[str]) -> Prepared:
    folder.mkdir()
    raw = write(folder / "train.txt", made)
    return prepare(FORMAT, raw, folder / "out", split=SplitRule(test_fraction=0.5))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Prepared]:
    folder = tmp_path_factory.mktemp("days")
    return prepared(folder / "today", TODAY), prepared(folder / "tomorrow", TOMORROW)


def test_ids_are_those_of_both_logs_one_after_the_other(days: tuple[Prepared, Prepared]) -> None:
    today, tomorrow = days
    got = under(today.vocabulary, FORMAT.fields, tomorrow)
    ids, dense, labels, vocabulary = expected(TODAY + TOMORROW)
    assert got.rows[0:80][0].tolist() == ids[60:]
    np.testing.assert_allclose(got.rows[0:80][1], dense[60:], rtol=1e-6)
    assert got.rows[0:80][2].tolist() == labels[60:]
    assert got.rows.positives(slice(3, 50)) == sum(labels[63:110])
    assert [tuple(row.values()) for row in read_vocabulary(got).to_pylist()] == vocabulary
    assert got.manifest.num_features == len(vocabulary)
    assert got.manifest.values_per_field == [sum(f == field for f, _ in vocabulary) for field in range(26)]
    assert got.manifest.data_hash == tomorrow.manifest.data_hash


def test_a_log_that_brings_nothing_new_keeps_all_ids(days: tuple[Prepared, Prepared]) -> None:
    today, _ = days
    got = under(today.vocabulary, FORMAT.fields, today)
    assert got.rows[0:60][0].tolist() == today.rows[0:60][0].tolist()
    assert read_vocabulary(got).equals(read_vocabulary(today))


def test_values_that_were_dropped_are_new_again(days: tuple[Prepared, Prepared]) -> None:
    today, _ = days
    count = today.manifest.num_features
    kept = filtered(Batches(read_vocabulary(today).to_batches()), np.arange(count) >= 10)
    got = under(kept, FORMAT.fields, today)
    moved = [(i - 10) % count for i in range(count)]
    assert got.rows[0:60][0].tolist() == [[moved[i] for i in row] for row in today.rows[0:60][0]]


@settings(max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_keys_come_back_from_the_vocabulary(blocks: list[list[tuple[int | None, str | None, int | None]]]) -> None:
    """Of integers, hexadecimal numbers and texts; texts get their numbers again in the same order."""
    encoder, again = Encoder(FIELDS), Keys(FIELDS)
    for rows in blocks:
        _, new = encoder.encode(arrow(rows))
        batch = encoder.keys.vocabulary(new)
        assert keys_of(again, batch["field"].to_numpy(), batch["value"]).tolist() == new.tolist()


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ([0, 0], ["0000000a", "0000000a"], "holds a value twice"),
        ([0, 26], ["0000000a", "0000000b"], "a value of field number 26; there are 26"),
        ([0], ["ten"], "a value of field C1 is not 8 hexadecimal digits"),
    ],
)
def test_a_vocabulary_of_other_columns_is_refused(
    days: tuple[Prepared, Prepared], field: list[int], value: list[str], problem: str
) -> None:
    known = pa.record_batch({"field": pa.array(field, pa.uint8()), "value": value}, schema=VOCABULARY_SCHEMA)
    with pytest.raises(CtrError, match=problem):
        under(Batches([known]), FORMAT.fields, days[0])
