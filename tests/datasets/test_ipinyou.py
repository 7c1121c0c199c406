"""iPinYou: the join by bid id, what the fields are made of, the kinds of logs, the official split."""

import bz2
import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from ctr.datasets import ipinyou
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.schema import Reading
from ctr.datasets.synthetic.ipinyou import write_ipinyou
from ctr.errors import ArgumentError, CtrError, DataError
from tests.datasets.logs import Read, cells, edit, read_all

ROWS = 600
DAYS = [20130606 + i for i in range(10)]
DATASET = ipinyou.make()
FIELDS = [
    *("weekday", "hour", "IP", "region", "city", "adexchange", "domain", "slotid", "slotwidth", "slotheight"),
    *("slotvisibility", "slotformat", "creative", "advertiser", "useragent", "slotprice"),
]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ipinyou") / "raw"
    write_ipinyou(folder, ROWS, seed=1)
    return folder


@pytest.fixture
def logs(generated: Path, tmp_path: Path) -> Path:
    shutil.copytree(generated, tmp_path / "raw")
    return tmp_path / "raw"


def bucket(price: str) -> str:
    tops = {0: "0", 10: "1-10", 50: "11-50", 100: "51-100", 10**9: "101+"}
    return next(name for top, name in tops.items() if int(price) <= top)


def agent(text: str) -> str:
    text = text.lower()
    system = next((name for name in ["windows", "ios", "mac", "android", "linux"] if name in text), "other")
    browsers = ["chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie"]
    return f"{system}_{next((name for name in browsers if name in text), 'other')}"


def expected(rows: list[list[str]]) -> dict[str, list[str | None]]:
    """The fields, made row by row in plain Python."""
    names = ipinyou.RAW_COLUMNS
    fields: dict[str, list[str | None]] = {name: [] for name in FIELDS}
    for row in rows:
        values: dict[str, str | None] = {k: None if v in ("", "null") else v for k, v in zip(names, row, strict=True)}
        time = row[1]
        weekday = date(int(time[:4]), int(time[4:6]), int(time[6:8])).isoweekday() % 7
        values |= {"weekday": str(weekday), "hour": str(int(time[8:10])), "useragent": agent(row[4])}
        values |= {"slotprice": bucket(row[17])}
        for name in FIELDS:
            fields[name].append(values[name])
    return fields


def test_join_and_fields(logs: Path) -> None:
    impressions = [row for day in DAYS for row in cells(logs / f"imp.{day}.txt", "\t")]
    clicked = {(day, row[0]) for day in DAYS for row in cells(logs / f"clk.{day}.txt", "\t")}
    read = read_all(DATASET, logs)
    assert [field.name for field in DATASET.fields] == FIELDS
    assert read.label == [int((int(row[1][:8]), row[0]) in clicked) for row in impressions]
    assert 0 < sum(read.label) < ROWS
    assert read.fields == expected(impressions)
    assert None in read.fields["domain"]
    assert read.days == [int(row[1][:8]) for row in impressions]


def test_a_click_counts_on_its_day_alone(logs: Path) -> None:
    first, second = (cells(logs / f"imp.{day}.txt", "\t") for day in DAYS[:2])
    clicked = {row[0] for row in cells(logs / f"clk.{DAYS[0]}.txt", "\t")}
    unclicked = next(i for i, row in enumerate(first) if row[0] not in clicked)
    with (logs / f"clk.{DAYS[1]}.txt").open("a") as file:
        file.write("\t".join(first[unclicked]) + "\n")
    assert len(second) > 0
    assert read_all(DATASET, logs).label[unclicked] == 0


def test_duplicate_bid_ids_are_rows_of_their_own(logs: Path) -> None:
    path = logs / f"imp.{DAYS[0]}.txt"
    clicked = cells(logs / f"clk.{DAYS[0]}.txt", "\t")[0][0]
    line = next(line for line in path.read_text().splitlines() if line.startswith(clicked))
    before = read_all(DATASET, logs)
    with path.open("a") as file:
        file.write(line + "\n")
    read = read_all(DATASET, logs)
    assert len(read.label) == ROWS + 1
    assert sum(read.label) == sum(before.label) + 1


def same(one: Read, two: Read) -> bool:
    return (one.label, one.fields, one.days) == (two.label, two.fields, two.days)


def test_bzip2_and_folders_of_the_archive(logs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for path in logs.iterdir():
        target = archive / ("training2nd" if "2013060" in path.name else "elsewhere") / f"{path.name}.bz2"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bz2.compress(path.read_bytes()))
    first_season = archive / "training1st" / "imp.20130311.txt.bz2"
    first_season.parent.mkdir()
    first_season.write_bytes(b"other columns")
    assert same(read_all(DATASET, archive), read_all(DATASET, logs))


def join(logs: Path, days: list[int], path: Path, extra: str = "") -> None:
    """Writes the rows of some days as make-ipinyou-data does: joined, with a header, user agents in short."""
    names = ["click", "weekday", "hour", *ipinyou.RAW_COLUMNS, *extra.split()]
    lines = ["\t".join(names)]
    for day in days:
        clicked = {row[0] for row in cells(logs / f"clk.{day}.txt", "\t")}
        for row in cells(logs / f"imp.{day}.txt", "\t"):
            click = str(int(row[0] in clicked))
            short = [*row[:4], agent(row[4]), *row[5:]]
            lines.append("\t".join([click, "9", "99", *short, *(click for _ in extra.split())]))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_joined_logs_are_the_same_rows_with_their_own_test_part(logs: Path, tmp_path: Path) -> None:
    # As in season 3, a day may be in both parts.
    folder = tmp_path / "joined"
    join(logs, DAYS[:8], folder / "train.log.txt")
    join(logs, DAYS[7:], folder / "test.log.txt", "nclick nconversation")
    read = read_all(DATASET, folder)
    raw = read_all(DATASET, logs)
    assert read.label == raw.label[:480] + raw.label[420:]
    assert read.fields == {name: values[:480] + values[420:] for name, values in raw.fields.items()}
    assert read.test == [False] * 480 + [True] * 180
    data = prepare(DATASET, folder, tmp_path / "out", split=SplitRule())
    assert (data.split.train, data.split.test) == ([(0, 480)], [(480, 660)])
    by_day = prepare(DATASET, folder, tmp_path / "out", split=SplitRule(test_days=[DAYS[7]]))
    assert by_day.split.test == [(420, 540)]  # of both files
    assert by_day.split.rows_train == 420 + 120


def test_leaderboard_files_are_the_test_part(logs: Path, tmp_path: Path) -> None:
    raw = read_all(DATASET, logs)
    folder = tmp_path / "archive"
    folder.mkdir()
    lines = []
    for day in DAYS:
        if day <= DAYS[6]:
            shutil.copy(logs / f"imp.{day}.txt", folder)
            shutil.copy(logs / f"clk.{day}.txt", folder)
            continue
        clicked = {row[0] for row in cells(logs / f"clk.{day}.txt", "\t")}
        rows = cells(logs / f"imp.{day}.txt", "\t")
        lines += ["\t".join([*row, str(2 * (row[0] in clicked)), "0"]) for row in rows]
    (folder / "leaderboard.test.data.20130613_15.txt").write_text("\n".join(lines) + "\n")
    read = read_all(DATASET, folder)
    assert same(read, raw)
    assert read.test == [False] * 420 + [True] * 180
    assert prepare(DATASET, folder, tmp_path / "out", split=SplitRule()).split.test == [(420, 600)]


def test_official_test_days(logs: Path, tmp_path: Path) -> None:
    data = prepare(DATASET, logs, tmp_path / "out", split=SplitRule())
    assert data.split.rule == SplitRule(test_days=[20130613, 20130614, 20130615])
    assert (data.split.rows_train, data.split.rows_test) == (420, 180)
    for day in DAYS[7:]:
        (logs / f"imp.{day}.txt").unlink()
        with pytest.raises(CtrError, match=f"clk.{day}.txt: no imp.{day}.txt with it"):
            DATASET.locate(logs)
        (logs / f"clk.{day}.txt").unlink()
    with pytest.raises(CtrError, match=r"not in the log; days found: 20130606, 20130607, .*, 20130612$"):
        prepare(DATASET, logs, tmp_path / "out", split=SplitRule())


def test_missing_and_foreign_click_logs(logs: Path) -> None:
    path = logs / "clk.20130608.txt"
    content = path.read_text()
    path.unlink()
    with pytest.raises(CtrError, match=r"imp.20130608.txt: no clk.20130608.txt with it"):
        read_all(DATASET, logs)
    path.write_text((logs / "clk.20130607.txt").read_text())
    with pytest.raises(DataError, match=r"clk.20130608.txt: none of its \d+ bid ids is among the 60"):
        read_all(DATASET, logs)
    path.write_text("")
    clicks = len({line.split("\t")[0] for line in content.splitlines()})
    total = len({(day, row[0]) for day in DAYS for row in cells(logs / f"clk.{day}.txt", "\t")})
    assert sum(read_all(DATASET, logs).label) == total
    assert clicks > 0


def test_an_empty_click_log_of_a_busy_day(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipinyou, "CLICKLESS", 60)
    (logs / "clk.20130608.txt").write_text("")
    with pytest.raises(DataError, match=r"clk.20130608.txt: none of its 0 bid ids"):
        read_all(DATASET, logs)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        (1, "20130607000000000", "of 20130606, the day in the name of the file"),
        (1, "20130606240000000", "column timestamp is '20130606240000000'; expected a time"),
        (1, "2013060600000000", "expected a time"),
        (0, "null", "column bidid is blank; expected text"),
        (17, "null", "column slotprice is blank; expected an integer"),
        (9, "a\0b", "column domain is .*; expected text in UTF-8 without NUL"),
    ],
)
def test_bad_values(column: int, value: str, problem: str, logs: Path) -> None:
    edit(logs / "imp.20130606.txt", 3, column, value, "\t")
    with pytest.raises(DataError, match=f"imp.20130606.txt, line 3: .*{problem}"):
        read_all(DATASET, logs)
    read = read_all(DATASET, logs, "skip")
    assert (len(read.label), read.reading.rows_skipped) == (ROWS - 1, 1)


def test_folders_that_say_nothing(logs: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CtrError, match=r"no imp.YYYYMMDD.txt of season 2 or 3 and no train.log.txt"):
        DATASET.locate(empty)
    with pytest.raises(CtrError, match="name the folder that holds them"):
        DATASET.locate(logs / "imp.20130606.txt")
    (logs / "imp.20130606.txt.bz2").write_bytes(b"")
    with pytest.raises(CtrError, match=r"both .*imp.20130606.txt and .*imp.20130606.txt.bz2"):
        DATASET.locate(logs)


@pytest.mark.parametrize("name", ["imp._.txt", "imp.2013060.txt", "clk.20130631.txt.gz", "imp.2013_0606.txt"])
def test_a_file_whose_day_is_no_day(name: str, logs: Path) -> None:
    (logs / name).write_text("")
    with pytest.raises(ArgumentError, match=rf"{name}: no day in its name; expected {name[:3]}.YYYYMMDD.txt"):
        DATASET.locate(logs)


def test_joined_log_in_no_order(logs: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.log.txt"
    join(logs, [DAYS[1], DAYS[0]], path)
    with pytest.raises(DataError, match="line 62: 20130606 comes after a later day"):
        read_all(DATASET, path)
    path.write_text("click\ttimestamp\n")
    with pytest.raises(DataError, match=r"line 1: no column \(or more than one\) called useragent, IP"):
        read_all(DATASET, path)


def test_os_browser() -> None:
    agents = {
        "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/537.1 (KHTML, like Gecko) Chrome/21.0 Safari/537.1": "windows_chrome",
        "Mozilla/5.0 (iPad; U; CPU OS 3_2 like Mac OS X) Version/4.0.4 Mobile Safari/531": "mac_safari",
        "Mozilla/5.0 (Linux; U; Android 4.0.4) UC": "android_other",
        "UCWEB": "other_other",
        "windows_theworld": "windows_theworld",
        None: "other_other",
    }
    assert ipinyou.os_browser(pa.array(list(agents))).to_pylist() == list(agents.values())


def test_price_buckets() -> None:
    prices = [-1, 0, 1, 10, 11, 50, 51, 100, 101, 300]
    names = ["0", "0", "1-10", "1-10", "11-50", "11-50", "51-100", "51-100", "101+", "101+"]
    assert ipinyou.price_bucket(pa.array(prices)).to_pylist() == names


def test_published_vocabularies_add_up() -> None:
    # Each of the 16 published sizes counts an "other".
    assert sum(ipinyou.PUBLISHED.values_per_field) + 16 == 937_670


def test_a_changed_file_is_prepared_anew(logs: Path, tmp_path: Path) -> None:
    first = prepare(DATASET, logs, tmp_path / "out", split=SplitRule())
    assert prepare(DATASET, logs, tmp_path / "out", split=SplitRule()).reused
    click = logs / "clk.20130608.txt"
    lines = click.read_text().splitlines()
    click.write_text("\n".join(lines[1:]) + "\n")
    second = prepare(DATASET, logs, tmp_path / "out", split=SplitRule())
    assert not second.reused
    assert first.manifest.data_hash != second.manifest.data_hash
    assert Path(second.manifest.input.path) == logs.resolve()


def test_reading_counts_every_file(logs: Path) -> None:
    paths = DATASET.locate(logs)
    reading = Reading(paths, "error")
    list(DATASET.read(paths, reading))
    assert reading.fraction == 1
    assert len(paths) == 20
