"""What the columns of one's own log are taken as."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from ctr.datasets import csv
from ctr.datasets.guess import Roles, Wanted, roles
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from ctr.errors import ArgumentError

N = 1000
COLUMNS: dict[str, list[object]] = {
    "event": [f"e{n}" for n in range(N)],
    "row": list(range(N)),
    "when": [f"2024-05-01 00:{n // 60:02}:{n % 60:02}" for n in range(N)],
    "since": [1714550400 + n // 3 for n in range(N)],
    "Click": [n % 2 for n in range(N)],
    "device": [("phone", "desktop", "")[n % 3] for n in range(N)],
    "user_id": [n * 7919 % 400 for n in range(N)],
    "shopId": [n * 31 % 300 for n in range(N)],
    "postcode": [f"{n % 300:05}" for n in range(N)],
    "price": [n % 200 / 10 + 0.05 for n in range(N)],
    "stars": [n % 5 / 2 for n in range(N)],
    "clicks before": [n * 7 % 500 for n in range(N)],
    "hour": [n % 24 for n in range(N)],
    "nothing": [None] * N,
}


def found(
    categorical: Sequence[str] = ("auto",),
    dense: Sequence[str] = ("auto",),
    label: str = "auto",
    ignore: Sequence[str] = (),
    time: str | None = None,
    columns: dict[str, list[object]] = COLUMNS,
) -> Roles:
    texts = {
        name: pa.array([None if value in ("", None) else str(value) for value in values], pa.string())
        for name, values in columns.items()
    }
    return roles(texts, Wanted(label, tuple(categorical), tuple(dense), tuple(ignore), time, "auto"))


def test_each_column_gets_its_role() -> None:
    got = found(time="when")
    assert got.label == "Click"
    assert got.time_format == "iso"
    assert got.categorical == ["device", "user_id", "shopId", "postcode", "stars", "hour"]
    assert got.dense == ["price", "clicks before"]
    left_out = {column.name: column.why for column in got.columns if column.role == "left out"}
    assert left_out == {
        "event": "nearly one value per row (1,000 in 1,000)",
        "row": "nearly one value per row (1,000 in 1,000)",
        "since": "a time (epoch), new in every test",
        "nothing": "blank in the first 1,000 rows",
    }
    assert got.warnings[:2] == [
        f"column event is left out: {left_out['event']}; dataset.categorical=[auto,event] takes it",
        f"column row is left out: {left_out['row']}; dataset.dense=[auto,row] takes it",
    ]
    assert len(got.warnings) == len(left_out)


def test_a_time_that_is_not_named_is_left_out_with_the_remedy() -> None:
    (when,) = (column for column in found().columns if column.name == "when")
    assert (when.role, when.why) == ("left out", "a time (iso), new in every test")
    assert when.remedy == "to split by day: dataset.time=when"


def test_names_win_and_auto_beside_names_takes_the_rest() -> None:
    got = found(categorical=["hour", "auto", "event"], dense=["row"], ignore=["device", "shopId", "postcode"])
    assert got.categorical == ["hour", "event", "user_id", "stars"]
    assert got.dense == ["row"]
    (price,) = (column for column in got.columns if column.name == "price")
    assert (price.role, price.why, price.warn) == ("left out", "not named (numbers, 200 values)", False)
    assert found(categorical=["hour"], dense=[]).categorical == ["hour"]


def test_the_label_is_found_by_its_name_or_asked_for() -> None:
    for columns, problem in {
        ("click", "y", "a"): "click and y could be it; name the column that holds 0 or 1: dataset.label=NAME",
        ("bought", "a"): "none is called label, click, clicked, y; name the column",
    }.items():
        with pytest.raises(ArgumentError, match=problem):
            found(columns={name: [0, 1] for name in columns})
    assert found(columns={"click": [0], "y": [1]}, ignore=["y"]).label == "click"
    assert found(columns={"bought": [0], "y": [1]}, label="bought").categorical == ["y"]


def test_random_numbers_of_ten_digits_are_no_times() -> None:
    draw = random.Random(0)
    values: list[object] = [draw.randint(10**9, 4 * 10**9) for _ in range(50)] * 20
    (column,) = (column for column in found(columns={"y": values, "n": values}).columns if column.name == "n")
    assert column.role == "categorical"


def test_numbers_with_decimals_are_no_ids_whatever_their_name() -> None:
    draw = random.Random(0)
    bids: list[object] = [f"{draw.random():.3f}" for _ in range(1000)]
    ids: list[object] = [f"{draw.randint(1, 5000)}.0" for _ in range(1000)]
    roles = {c.name: c.role for c in found(columns={"y": [0, 1] * 500, "bid": bids, "adid": ids}).columns}
    assert (roles["bid"], roles["adid"]) == ("dense", "categorical")


def opened(raw: Path, out: Path, **options: object) -> Prepared:
    return prepare(csv.make(**options), raw, out, split=SplitRule(test_fraction=0.3))  # type: ignore[arg-type]


def test_a_log_without_any_option(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = list(zip(*COLUMNS.values(), strict=True))
    lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
    path = tmp_path / "log.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    with caplog.at_level(logging.INFO, "ctr"):
        data = opened(path, tmp_path / "out")
    assert data.manifest.fields == ["device", "user_id", "shopId", "postcode", "stars", "hour"]
    assert data.manifest.recipe.options["label"] == "Click"
    table = caplog.messages[0].splitlines()
    assert table[0].split() == ["column", "taken", "as", "why", "first", "values"]
    assert [line.split("  ")[1] for line in table[1:]] == list(COLUMNS)
    assert "warning: column event is left out: nearly one value per row" in caplog.text
    caplog.clear()
    assert opened(path, tmp_path / "out").reused
    assert not caplog.messages
    with pytest.raises(ArgumentError, match="no column town; the columns are event, row"):
        opened(path, tmp_path / "out", categorical=["auto", "town"])
    with pytest.raises(ArgumentError, match=r"only one column, event,.*dataset.delimiter=','"):
        opened(path, tmp_path / "out", delimiter=";")


def test_whole_numbers_that_are_spread_like_ids_are_warned_of_with_the_key_to_set() -> None:
    """Counts, amounts with zeros, and what the user names are not."""
    draw = random.Random(0)
    columns: dict[str, list[object]] = {
        "click": [n % 2 for n in range(N)],
        "publisher": [10_000 + 37 * draw.randrange(300) for _ in range(N)],
        "views": [1 + int(draw.expovariate(0.01)) for _ in range(N - 1)] + [50_000],
        "seconds": [draw.randrange(300) for _ in range(N)],
        "cents": [draw.randrange(100, 400) for _ in range(N)],
    }
    got = found(dense=["auto", "cents"], columns=columns)
    assert got.dense == ["cents", "publisher", "views", "seconds"]
    distinct = len({*columns["publisher"]})
    assert got.warnings == [
        f"column publisher is dense: whole numbers, {distinct} values that are spread like ids; if so, "
        "dataset.categorical=[auto,publisher] makes them ids"
    ]
