"""Generated day files: the clicks of one long log, under names that change."""

from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest

from ctr.datasets import avazu
from ctr.datasets.synthetic.days import LIFETIMES, renamed, write_day
from tests.datasets.logs import read_all

DAYS, ROWS = 6, 500


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("days")
    paths = [folder / f"{day}.csv" for day in range(DAYS)]
    for day, path in enumerate(paths):
        write_day(path, day, DAYS, ROWS)
    return paths


def test_each_file_is_a_day_of_avazu(written: list[Path]) -> None:
    for day, path in enumerate(written):
        got = read_all(avazu.make(), path)
        assert set(got.days) == {20141001 + day}
        assert len(got.label) == ROWS
        assert 0.05 < np.mean(got.label) < 0.35


def test_no_row_comes_twice(written: list[Path]) -> None:
    ids = np.concatenate([pacsv.read_csv(path)["id"].to_numpy() for path in written])
    assert len(set(ids.tolist())) == DAYS * ROWS


@pytest.mark.parametrize("field", LIFETIMES)
def test_a_value_has_one_name_for_its_lifetime_and_never_that_of_another(field: str) -> None:
    ranks = np.arange(-1, 300)  # -1: none, which has one name
    names = np.array([renamed(field, ranks, day) for day in range(31)])
    assert set(names[:, 0]) == {-1}
    values = names[:, 1:]
    changes = (values[1:] != values[:-1]).T
    for value in changes:
        days = np.flatnonzero(value)
        assert set(np.diff(days)) <= {LIFETIMES[field]}
        assert len(days) in (30 // LIFETIMES[field], -(-30 // LIFETIMES[field]))
    assert changes.any(axis=0).all()  # on every day some get a new one
    assert len(np.unique(values)) == sum(len(set(value)) for value in values.T)


def test_other_fields_keep_their_names() -> None:
    ranks = np.arange(10)
    assert renamed("site_domain", ranks, 17) is ranks


@pytest.mark.parametrize(("day", "days"), [(-1, 3), (3, 3), (0, 32)])
def test_days_are_those_of_october(day: int, days: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 31 days"):
        write_day(tmp_path / "x.csv", day, days, 10)
