"""Criteo's 1TB click logs: a file for each day, of Criteo's lines."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr.errors import ArgumentError, DataError
from tests.commands import composed, prepared
from tests.datasets.criteo_text import expected, lines

DAYS = {0: lines(40, 0), 2: lines(30, 1), 10: lines(20, 2)}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for day, made in DAYS.items():
        with gzip.open(folder / f"day_{day}.gz", "wt") as file:
            file.writelines(f"{line}\n" for line in made)
    (folder / "README").write_text("not a log")
    return folder


def opened(raw: Path | str, *overrides: str) -> Any:
    where = ["dataset=criteo_1tb", f"dataset.raw={raw}", "dataset.encoding=onehot"]
    place = Path(raw).parent if isinstance(raw, Path) else "."
    return prepared(composed("prepare", *where, f"dataset.prepared={place}/prepared", *overrides))


def test_days_are_read_in_their_order_as_one_criteo_log(raw: Path) -> None:
    data = opened(raw)
    ids, dense, labels, vocabulary = expected([line for made in DAYS.values() for line in made])
    got_ids, got_dense, got_labels = data.rows[0 : len(data.rows)]
    assert got_ids.tolist() == ids
    np.testing.assert_allclose(got_dense, dense, rtol=1e-6)
    assert got_labels.tolist() == labels
    assert data.manifest.num_features == len(vocabulary)
    assert [tuple(day) for day in data.manifest.days] == [(0, 0, 40), (2, 40, 70), (10, 70, 90)]
    assert (data.split.train, data.split.test) == ([(0, 40), (40, 70)], [(70, 90)])  # the last day tests


def test_which_days_test_can_be_said(raw: Path) -> None:
    assert opened(raw, "dataset.test_days=[2]").split.test == [(40, 70)]
    with pytest.raises(ArgumentError, match=re.escape("dataset.test_days: [1] not in the log; days found: 0, 2, 10")):
        opened(raw, "dataset.test_days=[1]")


def test_some_days_can_be_named(raw: Path) -> None:
    data = opened(raw, f"dataset.raw=[{raw / 'day_0.gz'},{raw / 'day_10.gz'}]")
    assert [tuple(day) for day in data.manifest.days] == [(0, 0, 40), (10, 40, 60)]
    with pytest.raises(ArgumentError, match="days 10, 0; expected each once, in their order"):
        opened(raw, f"dataset.raw=[{raw / 'day_10.gz'},{raw / 'day_0.gz'}]")


def test_what_is_no_day_is_named(raw: Path) -> None:
    with pytest.raises(ArgumentError, match=r"README: expected the name of a day's file: day_0, day_0\.gz"):
        opened(raw, f"dataset.raw={raw / 'README'}")
    (raw / "day_2").write_text("")
    with pytest.raises(ArgumentError, match=r"day_2.* and day_2.* are one day; keep one of them there"):
        opened(raw)
    empty = raw / "empty"
    empty.mkdir()
    with pytest.raises(ArgumentError, match=r"the folder has none of day_0\.gz"):
        opened(empty)


def test_a_bad_line_is_named_with_its_day(raw: Path) -> None:
    (raw / "day_11").write_text(lines(1)[0] + "\n1\tx\n")
    with pytest.raises(DataError, match=r"day_11, line 2: "):
        opened(raw)
