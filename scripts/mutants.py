"""Small generated logs with one to three things wrong with them, for `fuzz`: sound logs, what goes wrong, and how many
rows the result has, by plain Python.
"""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctr.datasets import avazu, criteo, csv, ipinyou, lines
from ctr.datasets.schema import Dataset
from ctr.datasets.synthetic.criteo_avazu import write_avazu, write_criteo
from ctr.datasets.synthetic.ipinyou import write_ipinyou

READERS = ("criteo", "avazu", "ipinyou", "ipinyou-joined", "csv", "parquet", "csv-days", "csv-tags")
ROWS = 8
MAX_LINE = 2048  # the readers' limit, lowered
OWN = {"label": "click", "categorical": ["site_id", "C14", "hour"], "dense": ["C15", "C20"]}
# Files in order of time, with columns that are told by their first rows.
DAYS = {"time": "hour", "order": "check", "transform": ["C15:bucket:3", "C20:log_standard", "C17:quantile"]}
# A column of several values, in a log whose columns are named.
TAGS = {"label": "click", "categorical": ["site_id", "tags"], "dense": ["C15"], "multi": ["tags:|"]}

Random = random.Random
Mutate = Callable[[bytes, bytes, Random], bytes]  # content, delimiter, random -> content


@dataclass(frozen=True)
class Log:
    """A sound log.

    Attributes:
        raw: the file that the reader is given, or "" for the folder of all.
        files: name -> content.
        delimiter: what separates values; empty: the file is no text.
        headers: lines of a file that hold no row.
        variants: other contents of the only file.
    """

    dataset: Dataset
    raw: str
    files: dict[str, bytes]
    delimiter: bytes
    headers: int = 0
    variants: tuple[bytes, ...] = ()

    @property
    def rows(self) -> int:
        return sum(_rows(self, *file) for file in self.files.items()) if self.delimiter else ROWS


@dataclass(frozen=True)
class Mutant:
    """What to write instead of one file of a log (None: delete it), and the rows that the log then has."""

    name: str
    content: bytes | None
    rows: int


NASTY = (
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b'"', b'""', b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"null", b"NaN", b"inf", b"True", b"1e999", b"-", b"-1", b"1.0", b"0x10", b" 1", b"1_0", b"9" * 30, b"#", b"\\"),
    *(b"4611686018427387904", b"14102205", b"99999999", b"20130613000000000", "٣".encode(), "é😀".encode(), b"\x1a"),
)


def cut(content: bytes, _: bytes, random: Random) -> bytes:
    return content[: _at(content, random)] if random.random() < 0.9 else b""


def insert(content: bytes, _: bytes, random: Random) -> bytes:
    at = _at(content, random)
    return content[:at] + random.choice(NASTY) + content[at:]


def remove(content: bytes, _: bytes, random: Random) -> bytes:
    at = _at(content, random)
    return content[:at] + content[at + random.randint(1, 40) :]


def flip(content: bytes, _: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(1, 4) if changed else 0):
        at = random.randrange(len(changed))
        changed[at] = changed[at] ^ 1 << random.randrange(8) if random.random() < 0.5 else random.randrange(256)
    return bytes(changed)


def splice(content: bytes, _: bytes, random: Random) -> bytes:
    """A stretch of the content once more, over or before other content."""
    at, start = _at(content, random), _at(content, random)
    piece = content[start : start + random.randint(1, 300)]
    return content[:at] + piece + content[at + random.choice((0, len(piece))) :]


def swap_lines(content: bytes, _: bytes, random: Random) -> bytes:
    rows = content.split(b"\n")
    i, j = random.randrange(len(rows)), random.randrange(len(rows))
    rows[i], rows[j] = rows[j], rows[i]
    return b"\n".join(rows)


def repeat_line(content: bytes, _: bytes, random: Random) -> bytes:
    rows = content.split(b"\n")
    rows.insert(random.randrange(len(rows)), random.choice(rows))
    return b"\n".join(rows)


def recode(content: bytes, _: bytes, random: Random) -> bytes:
    whole = random.choice(("utf-16", "utf-32", "utf-8-sig", "cp037", "windows", "mac"))
    if whole in ("windows", "mac"):
        return content.replace(b"\n", {"windows": b"\r\n", "mac": b"\r"}[whole])
    return content.decode("latin-1").encode(whole, "replace")


def in_line(change: Callable[[list[bytes], Random], list[bytes]]) -> Mutate:
    """Changes the values of one line."""

    def mutate(content: bytes, delimiter: bytes, random: Random) -> bytes:
        rows = content.split(b"\n")
        row = random.randrange(len(rows))
        rows[row] = delimiter.join(change(rows[row].split(delimiter), random))
        return b"\n".join(rows)

    return mutate


def value(made: Callable[[bytes, Random], bytes]) -> Mutate:
    """Changes one value."""

    def change(values: list[bytes], random: Random) -> list[bytes]:
        at = random.randrange(len(values))
        values[at] = made(values[at], random)
        return values

    return in_line(change)


def _at(content: bytes, random: Random) -> int:
    return random.randint(0, len(content))


MUTATIONS: tuple[Mutate, ...] = (
    *(cut, insert, insert, remove, flip, flip, splice, swap_lines, repeat_line, recode),
    value(lambda old, random: b""),
    value(lambda old, random: random.choice(NASTY)),
    value(lambda old, random: random.choice(NASTY)),
    value(lambda old, random: b"7" * random.randint(1, 3 * MAX_LINE)),
    value(lambda old, random: b'"' + old + b'"' * random.randint(0, 2)),
    in_line(lambda values, random: values[: random.randint(0, len(values))]),
    in_line(lambda values, random: [*values, b"1"]),
    in_line(lambda values, random: random.sample(values, len(values))),
)


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log", content)
    return file.getvalue()


def two_streams(content: bytes) -> bytes:
    return bz2.compress(content[:900]) + bz2.compress(content[900:])


def damaged_text(log: Log, random: Random) -> Mutant:
    name = random.choice(list(log.files))
    content = log.files[name]
    total = log.rows
    if random.random() < 0.15:
        pack = random.choice((gzip.compress, bz2.compress, zipped, two_streams))
        packed = pack(content)
        broken = random.choice((cut, remove, flip, splice))(packed, b"", random)
        # Nobody can tell a file that is cut between two streams from a whole one.
        return Mutant(name, packed if broken == bz2.compress(content[:900]) else broken, total)
    if name.startswith(("imp.", "clk.")) and random.random() < 0.05:  # no file, or that of another day
        others = [other for other in log.files if other != name and other[:3] == name[:3]]
        return Mutant(name, random.choice([None, *(log.files[other] for other in others)]), total)
    broken = content
    for _ in range(random.randint(1, 3)):
        broken = random.choice(MUTATIONS)(broken, log.delimiter, random)
    return Mutant(name, broken, total + _rows(log, name, broken) - _rows(log, name, content))


def _rows(log: Log, name: str, content: bytes) -> int:
    """Lines that must be read or left out: all but headers; of a click log, whose lines are no rows, the bad ones."""
    if not name.startswith("clk."):
        return content.count(b"\n") + (not content.endswith(b"\n") and content != b"") - log.headers
    rows = content.removeprefix(lines.BYTE_ORDER_MARK).replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    return sum(map(_bad_click, rows)) if content else 0


def _bad_click(line: bytes) -> bool:
    """Not 24 columns with a bid id."""
    try:
        bid = line.split(b"\t")[0].decode()
    except UnicodeDecodeError:
        return True
    return line.count(b"\t") != 23 or bid in ("", "null") or "\0" in bid or b"\r" in line


# Types of Parquet and some of their values; the first two are a label's.
TYPED: tuple[tuple[pa.DataType, tuple[Any, ...]], ...] = (
    *((kind, (0, 1, 7, None)) for kind in (pa.int8(), pa.uint16(), pa.int32())),
    *((kind, (0, 1, 2**62, 2**24 + 1, None)) for kind in (pa.int64(), pa.uint64())),
    *((kind, (0.0, 1.0, float("nan"), float("inf"), None)) for kind in (pa.float16(), pa.float32(), pa.float64())),
    (pa.float64(), (0.0, 1.0, 1e300, 5e-324, -0.0)),
    (pa.bool_(), (False, True, None)),
    *(
        (kind, ("0", "1", "NaN", "", "True", "a\0", "é😀", "x" * 5000, "\n", None))
        for kind in (pa.string(), pa.large_string())
    ),
    *((kind, (b"0", b"1", b"\xff", b"\xc3", b"", b"\0", None)) for kind in (pa.binary(), pa.large_binary())),
    (pa.binary(1), (b"0", b"1", b"\xff", None)),
    (pa.dictionary(pa.int8(), pa.string()), ("0", "1", "", "NaN", "\0", None)),
    *((pa.decimal128(38, 4), (0, 1, 10**30, None)), (pa.null(), (None, None))),
    *((pa.timestamp("us"), (0, 1, 2**62, None)), (pa.date32(), (0, 1, -(10**6))), (pa.duration("s"), (0, 1))),
    *((pa.list_(pa.int8()), ([0], [], None)), (pa.struct({"a": pa.int8()}), ({"a": 1}, None, None))),
)
FIT = 17  # of them, the first: those that any column can be of


def damaged_parquet(log: Log, random: Random) -> Mutant:
    content = random.choice(log.variants)
    if random.random() < 0.5:
        content = _typed_table(random)
        if random.random() < 0.7:
            return Mutant(log.raw, content, ROWS)
    for _ in range(random.randint(1, 3)):
        # Most of what can go wrong is in the footer and in the heads of the pages.
        content = random.choice((cut, insert, remove, flip, flip, flip, splice))(content, b"", random)
    return Mutant(log.raw, content, ROWS)


def _typed_table(random: Random) -> bytes:
    columns: dict[str, pa.Array] = {}
    for name in (OWN["label"], *OWN["categorical"], *OWN["dense"]):
        kind, values = random.choice(TYPED[: FIT if random.random() < 0.95 else None])
        rare = random.random() < 0.3
        drawn = [random.choice(values if rare and random.random() < 0.1 else values[:2]) for _ in range(ROWS)]
        columns[name] = pa.array(drawn, kind)
        if kind == pa.binary() and random.random() < 0.5:
            columns[name] = columns[name].view(pa.string())  # not always UTF-8
    return _parquet(pa.table(columns), row_group_size=random.choice((5, ROWS)))


def _parquet(rows: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, **options)
    return file.getvalue()


@cache
def make_logs() -> dict[str, Log]:
    """The sound log of each of `READERS`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_criteo(folder / "train.txt", ROWS, seed=2)
        write_avazu(folder / "train.csv", ROWS, seed=2)
        write_ipinyou(folder / "raw", 10 * ROWS, seed=2)
        content = {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    shown = content["train.csv"]
    cells = [line.split(b",") for line in shown.splitlines()]
    quoted = [b",".join(b'"%s"' % cell if i % 5 == 0 else cell for i, cell in enumerate(row)) for row in cells]
    days = {name: log for name, log in content.items() if "20130606" in name or "20130607" in name}
    joined = [b"\t".join([b"click", *(name.encode() for name in ipinyou.RAW_COLUMNS)])]
    joined += [b"%d\t%s" % (i % 2, line) for i, line in enumerate(days["imp.20130606.txt"].splitlines())]
    own = csv.make(**OWN)  # type: ignore[arg-type]
    few = [
        [row[cells[0].index(name)] for name in (b"click", b"C1", b"site_id", b"C15", b"C17", b"C20")] for row in cells
    ]
    timed = [b",".join([b"141021%02d" % number, *row]) for number, row in enumerate(few[1:])]
    in_days = {
        f"day_{day}.csv": b"\n".join([b",".join([b"hour", *few[0]]), *timed[3 * number : 3 * number + 3]]) + b"\n"
        for number, day in enumerate((1, 2, 10))
    }
    tagged = [b",".join([*few[0][:4], b"tags"])]
    tagged += [b",".join([*row[:4], b"|".join(row[4 - number % 3 :])]) for number, row in enumerate(few[1:])]
    rows = pa.table({name.decode(): [row[i].decode() for row in cells[1:]] for i, name in enumerate(cells[0])})
    packed: list[dict[str, Any]] = [
        {},
        {"compression": "gzip", "row_group_size": 5},
        {"use_dictionary": False, "compression": "none"},
    ]
    packed += [{"data_page_version": "2.0", "compression": "zstd"}, {"write_page_checksum": True}]
    variants = tuple(_parquet(rows, **how) for how in packed)
    return {
        "criteo": Log(criteo.make(), "train.txt", {"train.txt": content["train.txt"]}, b"\t"),
        "avazu": Log(avazu.make(), "train.csv", {"train.csv": shown}, b",", headers=1),
        "ipinyou": Log(ipinyou.make(), "", days, b"\t"),
        "ipinyou-joined": Log(
            ipinyou.make(), "train.log.txt", {"train.log.txt": b"\n".join(joined) + b"\n"}, b"\t", headers=1
        ),
        "csv": Log(own, "mine.csv", {"mine.csv": b"\n".join(quoted) + b"\n"}, b",", headers=1),
        "csv-days": Log(csv.make(**DAYS), "", in_days, b",", headers=1),  # type: ignore[arg-type]
        "csv-tags": Log(csv.make(**TAGS), "mine.csv", {"mine.csv": b"\n".join(tagged) + b"\n"}, b",", headers=1),  # type: ignore[arg-type]
        "parquet": Log(own, "mine", {"mine": variants[0]}, b"", variants=variants),
    }


def make_mutant(reader: str, log: Log, seed: int, number: int) -> Mutant:
    return (damaged_text if log.delimiter else damaged_parquet)(log, Random(f"{seed} {reader} {number}"))
