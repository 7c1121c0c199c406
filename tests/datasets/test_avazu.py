"""Avazu: columns, hours, days, headers, order."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets import avazu
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.synthetic.criteo_avazu import write_avazu
from ctr.errors import CtrError, DataError
from tests.datasets.logs import cells, edit, read_all

ROWS = 500


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avazu") / "raw" / "train.csv"
    write_avazu(path, ROWS, seed=1)
    return path


@pytest.fixture
def log(generated: Path, tmp_path: Path) -> Path:
    shutil.copytree(generated.parent, tmp_path / "raw")
    return tmp_path / "raw" / "train.csv"


def test_fields_are_the_columns_of_the_file(log: Path) -> None:
    header, *rows = cells(log, ",")
    assert header[:3] == ["id", "click", "hour"]
    read = read_all(avazu.make(), log.parent)
    assert list(read.fields) == header[2:]
    assert len(read.fields) == 22
    assert read.label == [int(row[1]) for row in rows]
    for number, name in enumerate(header[3:], start=3):
        assert read.fields[name] == [row[number] for row in rows]
    assert read.fields["hour"] == [str(int(row[2][6:])) for row in rows]
    assert read.days == [int("20" + row[2][:6]) for row in rows]
    assert read.dense.shape == (ROWS, 0)
    assert not any(read.test)


def test_the_hour_can_be_kept_as_it_is(log: Path) -> None:
    _, *rows = cells(log, ",")
    assert read_all(avazu.make(hour="raw"), log).fields["hour"] == [row[2] for row in rows]
    with pytest.raises(ValueError, match="expected one of of_day, raw"):
        avazu.make(hour="of day")  # type: ignore[arg-type]


def test_the_last_day_tests_by_default(log: Path, tmp_path: Path) -> None:
    data = prepare(avazu.make(), log, tmp_path / "out", split=SplitRule())
    assert data.split.rule == SplitRule(test_days=[20141030])
    assert data.split.train == [(start, start + 50) for start in range(0, 450, 50)]
    assert data.split.test == [(450, 500)]


@pytest.mark.parametrize("hour", ["14102124", "14103221", "14130101", "1410210", "141021001", "", "1410210x"])
def test_what_is_no_hour_is_a_bad_row(hour: str, log: Path) -> None:
    edit(log, 2, 2, hour, ",")
    with pytest.raises(DataError, match=r"line 2: column hour is .*; expected a time YYMMDDHH"):
        read_all(avazu.make(), log)
    read = read_all(avazu.make(), log, "skip")
    assert len(read.label) == ROWS - 1
    assert read.reading.rows_skipped == 1


def test_rows_out_of_order_are_told_from_bad_ones(log: Path) -> None:
    header, *lines = log.read_text().splitlines()
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(ROWS)]
    log.write_text("\n".join([header, *shuffled]) + "\n")
    days = [line.split(",")[2][:6] for line in shuffled]
    first = next(i for i in range(1, ROWS) if days[i] < days[i - 1])
    # Nor can leaving rows out repair it.
    for bad_rows in ("error", "skip"):
        with pytest.raises(DataError, match=r"not in order of time \(the Avazu_x1 and Avazu_x4 copies") as error:
            read_all(avazu.make(), log, bad_rows)  # type: ignore[arg-type]
        assert error.value.line == first + 2


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (",".join(name for name in avazu.COLUMNS if name != "click"), "it looks like test.csv"),
        ("label," + ",".join(f"feat_{i}" for i in range(1, 23)), "Avazu_x1"),
        ("1,2,3", "expected a header: id,click,hour,C1"),
    ],
)
def test_other_headers_are_named_with_a_hint(header: str, hint: str, log: Path) -> None:
    lines = log.read_text().splitlines()
    log.write_text("\n".join([header, *lines[1:]]))
    with pytest.raises(DataError, match=hint) as error:
        read_all(avazu.make(), log)
    assert error.value.line == 1


def test_the_file_in_a_folder(log: Path) -> None:
    assert avazu.make().locate(log.parent) == [log]
    (log.parent / "train.gz").write_bytes(b"")
    with pytest.raises(CtrError, match=r"has train.csv and train.gz; name one"):
        avazu.make().locate(log.parent)
    log.unlink()
    (log.parent / "train.gz").unlink()
    with pytest.raises(CtrError, match=r"has none of train.csv, train.csv.gz"):
        avazu.make().locate(log.parent)


def test_published_vocabularies_add_up() -> None:
    raw, of_day = avazu.make(hour="raw").published, avazu.make().published
    assert raw is not None
    assert of_day is not None
    assert sum(raw.values_per_field) == 9_449_445  # the published number of features
    assert sum(of_day.values_per_field) == 9_449_445 - 240 + 24


def test_another_hour_option_prepares_again(log: Path, tmp_path: Path) -> None:
    one = prepare(avazu.make(), log, tmp_path / "out", split=SplitRule())
    two = prepare(avazu.make(hour="raw"), log, tmp_path / "out", split=SplitRule())
    assert not two.reused
    assert one.manifest.data_hash != two.manifest.data_hash
    assert prepare(avazu.make(hour="raw"), log, tmp_path / "out", split=SplitRule()).reused
