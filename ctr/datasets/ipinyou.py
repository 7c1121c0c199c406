"""iPinYou RTB competition (2013), seasons 2 and 3: impression and click logs, or the two joined.

A folder, at any depth, of one of these kinds (plain, bz2 or gz):

* ``imp.YYYYMMDD.txt`` and ``clk.YYYYMMDD.txt`` for each day: 24 tab-separated columns without a header. A click is an
  impression whose bid id is in the day's click log. Beside them, as in the original archive, the test days as
  ``leaderboard.test.data.*.txt``: 26 columns, the last two being the numbers of clicks and conversions.
* ``train.log.txt`` and ``test.log.txt``: the same rows with a header and a column ``click`` first.

The official test part: what is in a leaderboard or ``test.log.txt`` file; where there is none, the days
2013-06-13 .. 15 and 2013-10-26 .. 28. 19,495,974 rows. Season 1 has other columns and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.columns import INTEGER, LABEL, TEXT, ColumnType, characters, required, unlike
from ctr.datasets.dates import to_dates, weekdays
from ctr.datasets.schema import Block, Columns, Dataset, Field, Inputs, Published, Reading
from ctr.datasets.synthetic.ipinyou import write_ipinyou
from ctr.datasets.text import Table, read_header, read_tables
from ctr.errors import ArgumentError, DataError

# The fields in model order, with the published vocabulary of the training rows less its "other".
VOCABULARIES = dict(
    **dict(weekday=7, hour=24, IP=704964, region=35, city=370, adexchange=5, domain=51320, slotid=180694),
    **dict(slotwidth=21, slotheight=14, slotvisibility=11, slotformat=4, creative=131, advertiser=9),
    **dict(useragent=40, slotprice=5),
)
RAW_COLUMNS = (
    *("bidid", "timestamp", "logtype", "ipinyouid", "useragent", "IP", "region", "city", "adexchange", "domain"),
    *("url", "urlid", "slotid", "slotwidth", "slotheight", "slotvisibility", "slotformat", "slotprice", "creative"),
    *("bidprice", "payprice", "keypage", "advertiser", "usertag"),
)
TEST_DAYS = (20130613, 20130614, 20130615, 20131026, 20131027, 20131028)
FIRST_DAY = 20130606  # of season 2

DERIVED = dict(
    weekday="day of the week of timestamp, 0 (Sunday) to 6",
    hour="hour of timestamp",
    useragent="system_browser: the first known name of each that is in useragent, in lower case, or other",
    slotprice="the bucket of slotprice: 0, 1-10, 11-50, 51-100, 101+",
)
SYSTEMS = ("windows", "ios", "mac", "android", "linux")
BROWSERS = ("chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie")
PRICES = pa.array(["0", "1-10", "11-50", "51-100", "101+"])

# The lowest click rate is 0.00075: hardly one day in a million has that many impressions and no click.
CLICKLESS = 20_000
BLANKS = ("", "null")
PUBLISHED = Published(19_495_974, 0.00075, tuple(VOCABULARIES.values()), training_only=True)


def timestamp(day: int | None = None) -> ColumnType:
    """yyyyMMddHHmmssSSS as an integer, of any day or of this one alone."""

    def wrong(moments: np.ndarray) -> np.ndarray:
        days = moments // 1_000_000_000
        milliseconds = moments % 1_000_000_000
        hour, minute, second = milliseconds // 10_000_000, milliseconds // 100_000 % 100, milliseconds // 1000 % 100
        no_time = (hour > 23) | (minute > 59) | (second > 59)
        return no_time | (np.isnat(to_dates(days)) if day is None else days != day)

    def parse(values: pa.Array) -> pa.Array:
        digits = characters(values)
        if values.null_count or len(digits) != 17 * len(values) or np.any((digits < 48) | (digits > 57)):
            raise ValueError("timestamp")
        moments = pc.cast(values.view(pa.string()), pa.int64())
        if wrong(moments.to_numpy()).any():
            raise ValueError("timestamp")
        return moments

    def invalid(values: pa.Array) -> np.ndarray:
        bad = unlike("[0-9]{17}", False)(values)
        digits = values.filter(pa.array(~bad)).cast(pa.string())
        bad[~bad] = wrong(digits.cast(pa.int64()).to_numpy())
        return bad

    of_day = "" if day is None else f" of {day}, the day in the name of the file"
    return ColumnType(f"a time yyyyMMddHHmmssSSS{of_day}", parse, invalid)


def column_types(day: int | None = None) -> dict[str, ColumnType | None]:
    """The types of the columns that are read; the others are ignored."""
    types: dict[str, ColumnType | None] = dict.fromkeys(RAW_COLUMNS)
    texts = [name for name in VOCABULARIES if name in types]
    return {**types, **dict.fromkeys(texts, TEXT), "timestamp": timestamp(day), "slotprice": required(INTEGER)}


def locate(raw: Path, to_predict: bool = False) -> list[Path]:
    """All files to read, in order: each day's click log before its impressions, training before test files.

    Args:
        raw: a file or a folder.
        to_predict: impressions may be there without any clicks.
    """
    if not raw.is_dir():
        if raw.name.startswith(("imp.", "clk.", "leaderboard.")) and not (to_predict and raw.name.startswith("imp.")):
            raise ArgumentError(f"{raw}: one log says nothing without the others; name the folder that holds them")
        return [raw]
    files = {kind: _find(raw, kind) for kind in ("imp", "clk", "leaderboard.test.data")}
    joined = {kind: _find(raw, f"{kind}.log") for kind in ("train", "test")}
    if joined["train"] or joined["test"]:
        if files["imp"]:
            raise ArgumentError(
                f"{raw}: holds joined logs (train.log.txt) and imp.YYYYMMDD.txt; name a folder with one kind"
            )
        return [path for found in joined.values() for path in found.values()]
    if not files["imp"]:
        raise ArgumentError(
            f"{raw}: no imp.YYYYMMDD.txt of season 2 or 3 and no train.log.txt in it, plain, .bz2 or .gz"
        )
    if to_predict and not files["clk"]:
        return [*files["imp"].values(), *files["leaderboard.test.data"].values()]
    for kind, other in (("imp", "clk"), ("clk", "imp")):
        for day, path in files[kind].items():
            if day not in files[other]:
                raise ArgumentError(f"{path}: no {other}.{day}.txt with it; a day needs its impressions and its clicks")
    pairs = [path for day in files["imp"] for path in (files["clk"][day], files["imp"][day])]
    return [*pairs, *files["leaderboard.test.data"].values()]


def _find(folder: Path, kind: str) -> dict[str, Path]:
    """Files of a kind under a folder by what is between the kind and .txt (a day), in that order."""
    pattern = re.compile(re.escape(kind) + r"(?:\.([0-9_]+))?\.txt(?:\.bz2|\.gz)?")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"{kind}.*"), key=lambda path: (path.name, path)):
        match = pattern.fullmatch(path.name)
        part = (match and match[1]) or ""
        if part and not _begins_with_day(part):
            raise ArgumentError(f"{path}: no day in its name; expected {kind}.YYYYMMDD.txt, plain, .bz2 or .gz")
        if match and (not part or int(part[:8]) >= FIRST_DAY):
            if part in found:
                raise ArgumentError(f"{folder}: both {found[part]} and {path}; name a folder that has one of them")
            found[part] = path
    return dict(sorted(found.items()))


def _begins_with_day(part: str) -> bool:
    return bool(re.match("[0-9]{8}", part)) and not np.isnat(to_dates(np.array([int(part[:8])])))[0]


def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
    """Blocks of the logs that `locate` names: 16 fields, no dense columns."""
    clicks: tuple[Path, pa.Array] | None = None
    for path in paths:
        kind, _, rest = path.name.partition(".")
        if kind == "clk":
            clicks = path, _clicked(path, reading)
        elif kind == "imp":
            yield from _impressions(path, int(rest[:8]), clicks, reading)
        elif kind == "leaderboard":
            types = {**column_types(), "nclick": required(INTEGER), "nconversion": None}
            for table in read_tables(path, types, "\t", reading, blanks=BLANKS):
                yield _block(table, table["nclick"].to_numpy() > 0, test=True)
        else:
            yield from _joined(path, reading, test=kind == "test")


def divide(paths: Sequence[Path]) -> list[list[Path]]:
    """A day's impressions behind its clicks; any other file by itself."""
    groups: list[list[Path]] = []
    for path in paths:
        if path.name.startswith("imp.") and groups and groups[-1][-1].name.startswith("clk."):
            groups[-1].append(path)
        else:
            groups.append([path])
    return groups


def _clicked(path: Path, reading: Reading) -> pa.Array:
    """The bid ids of a day's click log; an empty log has none."""
    if path.stat().st_size == 0:
        return pa.array([], pa.string())
    types = {**dict.fromkeys(RAW_COLUMNS), "bidid": required(TEXT)}
    tables = [table["bidid"] for table in read_tables(path, types, "\t", reading, blanks=BLANKS)]
    return pa.concat_arrays(tables).unique()


def _impressions(path: Path, day: int, log: tuple[Path, pa.Array] | None, reading: Reading) -> Iterator[Block]:
    """Blocks of a day's impressions; log: the click log and the bid ids in it, None if there are no labels."""
    types = {**column_types(day), "bidid": required(TEXT)}
    if log is None:
        yield from (_block(table, None) for table in read_tables(path, types, "\t", reading, blanks=BLANKS))
        return
    clicked = log[1]
    rows = clicks = 0
    for table in read_tables(path, types, "\t", reading, blanks=BLANKS):
        label = pc.is_in(table["bidid"], value_set=clicked).to_numpy(zero_copy_only=False)
        rows += len(label)
        clicks += int(label.sum())
        yield _block(table, label)
    if clicks == 0 and (len(clicked) or rows >= CLICKLESS):
        raise DataError(
            log[0],
            None,
            f"none of its {len(clicked):,} bid ids is among the {rows:,} of {path.name}: not that day's log?",
        )


def _joined(path: Path, reading: Reading, test: bool) -> Iterator[Block]:
    expected = "a header with click, timestamp and the columns of the impression log, tab-separated"
    header = read_header(path, "\t", expected)
    labelled = "click" in header or not reading.to_predict
    known = {"click": LABEL, **column_types()} if labelled else column_types()
    needed = [name for name, type_ in known.items() if type_]
    if missing := [name for name in needed if header.count(name) != 1]:
        raise DataError(path, 1, f"no column (or more than one) called {', '.join(missing)}; expected {expected}")
    types = {name if known.get(name) else f"{name} {i}": known.get(name) for i, name in enumerate(header)}
    for table in read_tables(path, types, "\t", reading, header=True, blanks=BLANKS):
        block = _block(table, table["click"].to_numpy() if labelled else None, test)
        assert block.day is not None
        if not test and not reading.to_predict and (fall := reading.fall(path, block.day)) is not None:
            row = fall[0]
            problem = f"{block.day[row]} comes after a later day: the rows are not in order of time"
            raise DataError(path, int(table.lines[row]), problem)
        yield block


def _block(table: Table, label: np.ndarray | None, test: bool = False) -> Block:
    days = (table["timestamp"].to_numpy() // 1_000_000_000).astype(np.int32)
    return Block(None if label is None else label.astype(np.uint8), *derive(table.columns), days, test)


def derive(columns: Columns) -> tuple[list[pa.Array], np.ndarray]:
    """The fields; no dense columns."""
    moments = columns["timestamp"].to_numpy()
    made = {
        "weekday": pa.array(weekdays(moments // 1_000_000_000)),
        "hour": pa.array(moments // 10_000_000 % 100),
        "useragent": os_browser(columns["useragent"]),
        "slotprice": price_bucket(columns["slotprice"]),
    }
    fields = [made[name] if name in made else columns[name] for name in VOCABULARIES]
    return fields, np.empty((len(moments), 0), np.float32)


def os_browser(agents: pa.Array) -> pa.Array:
    """ "windows_chrome" and the like: the first system and the first browser whose name is in the user agent.

    The names and their order are those of the public make-ipinyou-data, whose results pass unchanged.
    """
    encoded = agents.fill_null("").dictionary_encode()  # each distinct one once
    lower = pc.ascii_lower(encoded.dictionary)
    parts = (_first_of(SYSTEMS, lower), _first_of(BROWSERS, lower))
    return pc.binary_join_element_wise(*parts, "_").take(encoded.indices)


def _first_of(names: Sequence[str], texts: pa.Array) -> pa.Array:
    found = pa.array(["other"] * len(texts), pa.string())
    for name in reversed(names):
        found = pc.if_else(pc.match_substring(texts, name), name, found)
    return found


def price_bucket(prices: pa.Array) -> pa.Array:
    return PRICES.take(pa.array(np.searchsorted([0, 10, 50, 100], prices.to_numpy())))


def make() -> Dataset:
    return Dataset(
        name="ipinyou",
        fields=tuple(
            Field(name, "integer" if name in ("weekday", "hour") else "text", DERIVED.get(name, ""))
            for name in VOCABULARIES
        ),
        dense=(),
        read=read,
        locate=locate,
        where="the iPinYou contest data set (ipinyou.contest.dataset.zip: training2nd, training3rd, testing2nd, "
        "testing3rd; mirrors are named in the README of github.com/wnzhang/make-ipinyou-data)",
        modules=("ctr.datasets.ipinyou", "ctr.datasets.dates"),
        write_sample=write_ipinyou,
        sample_name="raw",
        default_test_days=lambda days: [day for day in TEST_DAYS if day in days] or list(TEST_DAYS),
        divide=divide,
        published=PUBLISHED,
        inputs=Inputs(
            columns={name: type_ for name, type_ in column_types().items() if type_ is not None},
            derive=derive,
            line=RAW_COLUMNS,
            delimiter="\t",
            blanks=BLANKS,
            locate=lambda raw: locate(raw, to_predict=True),
            example={
                "timestamp": "20130612235958123",
                "useragent": "Mozilla/5.0 (Windows NT 6.1) Chrome/21.0",
                "slotprice": "5",
            },
        ),
    )
