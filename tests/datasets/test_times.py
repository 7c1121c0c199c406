"""Times of one's own log: formats, order, days."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr.datasets import arrange, csv
from ctr.datasets import lines as text_lines
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.datasets.source import DataSettings, check
from ctr.datasets.split import days_of
from ctr.datasets.times import FORMATS, days_of_times, fitting, time_type
from ctr.errors import ArgumentError, DataError

WHEN = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
SPELLED = {
    "iso": ["2024-05-01T08:00:00", "2024-05-01 08:00", "2024-05-01T08"],
    "iso with an offset": ["2024-05-01T08:00:00Z", "2024-05-01T10:00:00+02:00", "2024-05-01 08:00:00 UTC"],
    "iso with decimals": ["2024-05-01T08:00:00.000", "2024-05-01 08:00:00.000000", "2024-05-01 08:00:00.000000000"],
    "epoch": ["1714550400", "1714550400.0"],
    "epoch_ms": ["1714550400000"],
    "yymmddhh": ["24050108"],
}


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize("kind", SPELLED)
def test_formats(kind: str) -> None:
    name = kind.split()[0]
    texts = pa.array(SPELLED[kind])
    assert fitting(texts) == [name]
    assert time_type(name).parse(texts.cast(pa.binary())).to_pylist() == [micros(WHEN)] * len(texts)


def test_days_and_patterns() -> None:
    midnight = micros(datetime(2024, 5, 1, tzinfo=UTC))
    assert fitting(pa.array(["20240501", None])) == ["yyyymmdd"]
    for format_, text in {"yyyymmdd": "20240501", "iso": "2024-05-01", "%d.%m.%Y": "1.5.2024"}.items():
        assert time_type(format_).parse(pa.array([text.encode()])).to_pylist() == [midnight], format_
    assert time_type("%d/%m/%y %H:%M %z").parse(pa.array([b"01/05/24 02:00 +0200"])).to_pylist() == [midnight]


@pytest.mark.parametrize("format_", [*FORMATS, "%d.%m.%Y"])
@pytest.mark.parametrize(
    "value", [None, b"", b"x", b"\xff", b"2024-13-01", b"20240532", b"24050125", b"31.02.2024", b"1e9", b"-1", b"0"]
)
def test_values_that_are_no_times(format_: str, value: bytes | None) -> None:
    kind = time_type(format_)
    values = pa.array([value], pa.binary())
    with pytest.raises(ValueError, match=r"time|utf8|UTF"):
        kind.parse(values)
    assert kind.invalid(values).tolist() == [True]


def test_days_of_times_are_those_of_the_calendar() -> None:
    days = [datetime(1969, 12, 31, 23, tzinfo=UTC) + timedelta(hours=7 * n) for n in range(12_000)]
    got = days_of_times(np.array([micros(day) for day in days]))
    assert got.tolist() == [day.year * 10_000 + day.month * 100 + day.day for day in days]
    assert days_of_times(np.zeros(0, np.int64)).tolist() == []


def log_of(path: Path, times: list[str]) -> Path:
    rows = [f"{n % 2},{time},user {n}" for n, time in enumerate(times)]
    path.write_text("\n".join(["y,when,user", *rows]) + "\n")
    return path


def opened(raw: Path, out: Path, split: SplitRule | None = None, **options: object) -> Prepared:
    dataset = csv.make("y", ["user"], time="when", **options)  # type: ignore[arg-type]
    return prepare(dataset, raw, out, split=split or SplitRule(test_fraction=0.5))


def users(data: Prepared) -> list[int]:
    names = read_vocabulary(data)["value"].to_pylist()
    return [int(names[row].removeprefix("user ")) for row in data.rows[0 : len(data.rows)][0][:, 0]]


def test_rows_are_split_by_day(tmp_path: Path) -> None:
    raw = log_of(tmp_path / "log.csv", ["2024-05-01", "2024-05-01", "2024-05-02", "2024-05-03"])
    data = opened(raw, tmp_path / "out", SplitRule(test_days=[20240502, 20240503]))
    assert data.manifest.days == [(20240501, 0, 2), (20240502, 2, 3), (20240503, 3, 4)]
    assert (data.split.train, data.split.test) == ([(0, 2)], [(2, 3), (3, 4)])
    days = days_of(data.split.test, data.manifest.days)
    assert days is not None
    assert days.tolist() == [20240502, 20240503]
    assert opened(raw, tmp_path / "out", SplitRule()).split.test == [(3, 4)]  # the last day
    with pytest.raises(ArgumentError, match=r"\[20240504\] not in the log; days found: 20240501, 20240502, 20240503"):
        opened(raw, tmp_path / "out", SplitRule(test_days=[20240504]))


def test_test_days_without_times_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    options = {"label": "y", "categorical": ["a"], "time": None}
    settings = DataSettings("csv", (tmp_path / "x",), tmp_path / "out", SplitRule(test_days=[20240501]), options)
    with pytest.raises(ArgumentError, match=r"name no days.*name the column of their times with dataset.time"):
        check(settings)


def test_a_row_out_of_order_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    log_of(folder / "1.csv", ["2024-05-01 08:00", "2024-05-01 09:00"])
    log_of(folder / "2.csv", ["2024-05-01 08:59", "2024-05-01 10:00"])
    expected = (
        f"line 2: 2024-05-01 08:59:00 comes after 2024-05-01 09:00:00 of {folder / '1.csv'}: "
        "dataset.order=sort puts the rows in order"
    )
    with pytest.raises(DataError) as error:
        opened(folder, tmp_path / "out")
    assert str(error.value) == f"{folder / '2.csv'}, {expected}"
    (folder / "2.csv").unlink()
    table = pa.table({"y": [0, 1], "when": pa.array([3, 2], pa.timestamp("s")), "user": ["a", "b"]})
    (folder / "1.csv").unlink()
    pq.write_table(table, folder / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: row 2: 1970-01-01 00:00:02 comes after 1970-01-01 00:00:03"):
        opened(folder, tmp_path / "out")


def test_rows_are_sorted_by_time_and_those_of_one_time_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(arrange, "CHUNK_ROWS", 90)
    minutes = np.random.default_rng(0).integers(0, 3 * 24 * 60, 800).tolist()
    times = [f"{WHEN + timedelta(minutes=minute):%Y-%m-%d %H:%M}" for minute in minutes]
    raw = log_of(tmp_path / "log.csv", times)
    data = opened(raw, tmp_path / "out", order="sort")
    expected = sorted(range(800), key=lambda row: times[row])
    assert users(data) == expected
    assert data.rows[0:800][2].tolist() == [row % 2 for row in expected]
    days = days_of([(0, 800)], data.manifest.days)
    assert days is not None
    assert days.tolist() == [int(times[row][:10].replace("-", "")) for row in expected]
    names = read_vocabulary(data)["value"].to_pylist()
    assert names == [f"user {row}" for row in range(800)]  # ids are in order of first appearance in the files
    assert opened(raw, tmp_path / "out", order="sort").reused
    assert sorted(path.name for path in data.folder.iterdir()) == ["manifest.json", "rows.arrow", "vocabulary.arrow"]
    data.rows.file.verify()


def test_rows_in_order_are_not_sorted(tmp_path: Path) -> None:
    times = ["2024-05-01", "2024-05-01", "2024-05-02"]
    data = opened(log_of(tmp_path / "log.csv", times), tmp_path / "out", order="sort")
    assert users(data) == [0, 1, 2]
    assert arrange.by_time(np.array([1, 1, 2])) is None


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        (["20101115"], r"20101115 can be yyyymmdd or yymmddhh; say which with dataset.time_format=yyyymmdd"),
        (["May 1"], r"May 1 is none of iso, .*; say which with a pattern: \"dataset.time_format='%d.%m.%Y %H:%M'\""),
        (["2024-05-01", "x"], r"2024-05-01, x is none of iso"),
    ],
)
def test_times_that_are_not_clear(times: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"log.csv: dataset.time=when: {problem}"):
        opened(log_of(tmp_path / "log.csv", times), tmp_path / "out")


def test_a_bad_time_is_named(tmp_path: Path) -> None:
    raw = log_of(tmp_path / "log.csv", ["2024-05-01", "x", "", "2024-05-02"])
    with pytest.raises(DataError, match="line 3: column when is 'x'; expected an ISO date or time such as 2024-05-01"):
        opened(raw, tmp_path / "out", time_format="iso")
    dataset = csv.make("y", ["user"], time="when", time_format="iso")
    data = prepare(dataset, raw, tmp_path / "out", split=SplitRule(0.5), bad_rows="skip")
    assert (data.manifest.rows, data.manifest.rows_skipped) == (2, 2)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (pa.array([1714550400, 1714550401]), "epoch"),
        (pa.array([1714550400.0, 1714550401.0]), "epoch"),
        (pa.array([WHEN, WHEN + timedelta(seconds=1)], pa.timestamp("ns", "Europe/Berlin")), "iso"),
        (pa.array([WHEN, WHEN], pa.date32()), "iso"),
        (pa.array([20240501, 20240501]), "yyyymmdd"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_times_of_parquet(values: pa.Array, name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [0, 1], "when": values, "user": ["a", "b"]}), tmp_path / "log")
    data = opened(tmp_path / "log", tmp_path / "out")
    assert data.manifest.recipe.options["time_format"] == name
    assert data.manifest.days == [(20240501, 0, 2)]
