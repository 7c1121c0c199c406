"""Text files: every line is read or named, however the file is compressed or damaged."""

import bz2
import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas  # noqa: F401  # pyarrow loads it late: not memory of a reading
import pyarrow as pa
import pytest

from ctr.datasets import lines
from ctr.datasets.columns import FLOAT, HEX32, INTEGER, LABEL, TEXT, ColumnType, required
from ctr.datasets.dates import first_fall, to_dates, weekdays
from ctr.datasets.lines import first_line, line_blocks
from ctr.datasets.schema import BadRows, Reading
from ctr.datasets.text import read_header, read_tables
from ctr.errors import DataError

COLUMNS = {"label": LABEL, "count": INTEGER, "note": TEXT}


def zipped(content: bytes, *names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names or ("train.txt",):
            archive.writestr(name, content)
    return file.getvalue()


def read(path: Path, reading: Reading | None = None, **options: bool) -> list[tuple[int, int | None, str | None]]:
    reading = reading or Reading([path], "error")
    rows = []
    for table in read_tables(path, COLUMNS, ",", reading, **options):
        rows += list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))
    return rows


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "log"
        path.write_bytes(content)
        return path

    return write


Write = Callable[[bytes], Path]


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, zipped], ids=["plain", "gzip", "bzip2", "zip"]
)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_compression_and_block_size_do_not_matter(
    compress: Callable[[bytes], bytes], block: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    content = "".join(f"{i % 2},{i},é{i}\n" for i in range(300)).encode()
    path = write(compress(content))
    reading = Reading([path], "error")
    assert read(path, reading) == [(i % 2, i, f"é{i}") for i in range(300)]
    assert 0.9 < reading.fraction <= 1  # a zip file ends with its table of contents


def test_a_zip_file_whose_file_has_no_name(write: Write) -> None:
    assert read(write(zipped(b"1,2,a\n", "y").replace(b"y", b"\0"))) == [(1, 2, "a")]


def test_several_bzip2_streams_are_one_file(write: Write) -> None:
    path = write(bz2.compress(b"1,2,a\n") + bz2.compress(b"0,3,b\n"))
    assert read(path) == [(1, 2, "a"), (0, 3, "b")]


HURT = "damaged here or in the lines after it"
LONG = "line 6: longer than 1,048,576 bytes"
DAMAGED = {
    "empty": (b"", "the file is empty; expected 3 comma-separated columns per line"),
    "empty gzip": (gzip.compress(b""), "the file is empty"),
    "cut gzip": (gzip.compress(b"1,2,a\n" * 9)[:-9], "cut off here or in the lines after it"),
    "cut bzip2": (bz2.compress(b"1,2,a\n" * 9)[:-9], "cut off here or in the lines after it"),
    "damaged bzip2": (bz2.compress(b"1,2,a\n") + b"BZh9 damaged", HURT),
    "cut zip": (zipped(b"1,2,a\n")[:-9], HURT),
    "two files": (zipped(b"1,2,a\n", "a", "b"), "the archive holds 2 files (a, b) instead of one; unpack it"),
    "names apart": (zipped(b"1,2,a\n", "é").replace("é".encode(), b"\xff\xff"), HURT),
    "name not UTF-8": (zipped(b"1,2,a\n", "é").replace("é".encode(), b"\xff\xff", 1), HURT),
    "long name": (zipped(b"1,2,a\n", "x" * 5000).replace(b"x", b"y", 1), HURT),
    "zip in zip": (zipped(zipped(b"1,2,a\n")), "an archive within an archive; unpack it"),
    "zip by bzip2": (
        zipped(b"1,2,a\n", method=zipfile.ZIP_BZIP2),
        "not packed by the usual method (deflate); unpack it",
    ),
    "long line": (b"1,2,a\n" * 5 + b"x" * (2 << 20), LONG),
    "long line before more": (b"1,2,a\n" * 5 + b"0" * (3 << 20) + b",1,a\n1,2,a\n", LONG),
}


@pytest.mark.parametrize(("content", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named(content: bytes, problem: str, write: Write) -> None:
    path = write(content)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert problem in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1,2", "2 columns; expected 3"),
        (b"1,2,a,b", "4 columns; expected 3"),
        (b"", "an empty line; expected 3"),
        (b"2,2,a", "column label is '2'; expected 0 or 1"),
        (b",2,a", "column label is blank; expected 0 or 1"),
        (b"1,0x10,a", "column count is '0x10'; expected an integer"),
        (b"1,12345678901234567,a", "expected an integer of up to 16 digits"),
        (b"1,2,a\rb", "a carriage return within the line"),
        (b"1,2,\xff", r"column note is '\xff'; expected text in UTF-8"),
        (b"1,2,a\0b", r"column note is 'a\x00b'; expected text in UTF-8 without NUL"),
    ],
)
def test_bad_lines_are_named_or_skipped_and_counted(line: bytes, problem: str, write: Write) -> None:
    path = write(b"1,1,a\n" + line + b"\n0,-3,\n" + line + b"\n")
    with pytest.raises(DataError) as error:
        read(path)
    assert error.value.line == 2
    assert problem in str(error.value)
    skipping = Reading([path], "skip")
    assert read(path, skipping) == [(1, 1, "a"), (0, -3, None)]
    assert skipping.rows_skipped == 2
    assert skipping.first_skipped == str(error.value)


def test_nothing_but_bad_lines_is_an_error(write: Write) -> None:
    path = write(b"x\ny\n")
    with pytest.raises(DataError, match=r"no valid row in it; the first problem: .*line 1: 1 column; expected 3"):
        read(path, Reading([path], "skip"))


def test_rows_know_their_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 40)
    path = write(b"a,b,c\n" + b"1,1,a\nbad\n" * 20)
    tables = read_tables(path, COLUMNS, ",", Reading([path], "skip"), header=True)
    assert [int(line) for table in tables for line in table.lines] == list(range(2, 42, 2))


def test_last_line_without_end_and_windows_line_ends(write: Write) -> None:
    assert read(write(b"1,1,a\r\n0,2,b")) == [(1, 1, "a"), (0, 2, "b")]


def test_header(write: Write) -> None:
    path = write(b'\xef\xbb\xbf"a b",c\r\n')
    assert read_header(path, ",", "a header") == ["a b", "c"]
    assert first_line(path, "") == b'"a b",c'
    with pytest.raises(DataError, match="line 1: not a line of column names"):
        read_header(write(b"\xff\xfe\n"), ",", "a header")
    with pytest.raises(DataError, match=r"no valid row in it$"):
        read(write(b"a,b,c\n"), header=True)


def test_quoted_values(write: Write) -> None:
    path = write(b'1,2,"a,b"\n"0","3","say ""x"""\n1,,""\n1,4,5" disk\n')
    assert read(path, quoted=True) == [(1, 2, "a,b"), (0, 3, 'say "x"'), (1, None, None), (1, 4, '5" disk')]
    with pytest.raises(DataError, match="line 1: 4 columns"):
        read(path)


@pytest.mark.parametrize("value", [b'"a', b'x"y","z'])
def test_a_quote_that_does_not_end_on_its_line(value: bytes, write: Write) -> None:
    path = write(b'1,2,"a"\n0,1,' + value + b'\n1,3,"b"\n')
    with pytest.raises(DataError) as error:
        read(path, quoted=True)
    assert error.value.line == 2
    skipping = Reading([path], "skip")
    assert read(path, skipping, quoted=True) == [(1, 2, "a"), (1, 3, "b")]
    assert skipping.rows_skipped == 1


def test_blocks_count_their_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5)
    path = write(b"ab\ncd\nef")
    blocks = list(line_blocks(path, Reading([path], "error"), ""))
    assert blocks == [(1, 1, b"ab\n"), (2, 1, b"cd\n"), (3, 1, b"ef")]


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        (LABEL, {b"0": 0, b"1": 1}, [b"2", b"01", None]),
        (
            INTEGER,
            {b"-3": -3, b"007": 7, None: None, b"9999999999999999": 9999999999999999},
            [b"1.0", b"+1", b" 1", b"-"],
        ),
        (HEX32, {b"1e501234": 0x1E501234, b"0000000A": 10, None: None}, [b"1e5", b"123456789", b"g0000000"]),
        (FLOAT, {b"1e-3": np.float32(1e-3), b"-.5": -0.5, None: None}, [b"nan", b"inf", b"1e99", b"0x1p3", b"1,5"]),
        (TEXT, {b"": "", b"\xc3\xa9": "é", None: None}, [b"\xc3", b"\0"]),
        (required(INTEGER), {b"5": 5}, [None, b"x"]),
    ],
    ids=["label", "integer", "hex32", "float", "text", "required"],
)
def test_column_types(type_: ColumnType, good: dict[bytes | None, object], bad: list[bytes | None]) -> None:
    parsed = type_.parse(pa.array(list(good), pa.binary()))
    assert parsed.to_pylist() == list(good.values())
    values = [*good, *bad]
    assert type_.invalid(pa.array(values, pa.binary())).tolist() == [False] * len(good) + [True] * len(bad)
    for value in bad:
        with pytest.raises(ValueError):  # noqa: PT011
            type_.parse(pa.array([*good, value], pa.binary()))


def test_dates() -> None:
    days = np.array([20130606, 20120229, 20130229, 20131301, 20130600, 20130631, 99999999, 19700101])
    assert np.isnat(to_dates(days)).tolist() == [False, False, True, True, True, True, True, False]
    # 2013-06-06 was a Thursday, 2013-10-20 a Sunday, 2012-02-29 a Wednesday.
    assert weekdays(np.array([20130606, 20131020, 20120229, 19700101])).tolist() == [4, 0, 3, 4]
    assert first_fall(np.array([3, 3, 4]), 0) is None
    assert first_fall(np.array([3, 5, 4]), 0) == 2
    assert first_fall(np.array([3, 5]), 4) == 0
    assert first_fall(np.array([], np.int64), 4) is None


# Never freed: arrays in the traceback of an error outlive it, and return their memory to the pool that they are from.
POOLS: list[pa.MemoryPool] = []


def peak_of(path: Path, bad_rows: BadRows) -> tuple[int, int, str]:
    """Bytes that reading takes at most (of Python and numpy, and of Arrow), the rows left out and the first problem."""
    reading = Reading([path], bad_rows)
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    POOLS.append(counting)
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            read(path, reading)
        return tracemalloc.get_traced_memory()[1] + counting.max_memory(), reading.rows_skipped, str(error.value)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"\n", b"1,2\n", b",,\n", b"1,\0,a\n", b"\0\n"])
def test_bad_lines_take_no_memory(line: bytes, write: Write) -> None:
    lines = 100_000
    path = write(gzip.compress(line * lines))
    peak, _, problem = peak_of(path, "error")
    assert f"{path}, line 1: " in problem
    assert peak < 3 * len(line) * lines + (16 << 20)
    path = write(gzip.compress(b"1,2,a\n" + line * (lines // 10)))
    skipping = Reading([path], "skip")
    assert read(path, skipping) == [(1, 2, "a")]
    assert skipping.rows_skipped == lines // 10
    peak, skipped, problem = peak_of(write(gzip.compress(line * (lines // 4))), "skip")
    assert skipped == lines // 4
    assert f"no valid row in it; the first problem: {path}, line 1: " in problem
    assert peak < 12 << 20


@pytest.mark.slow
def test_an_empty_line_is_no_row_of_blanks(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """For pyarrow it is one, of all columns."""
    monkeypatch.setitem(globals(), "COLUMNS", {f"c{i}": INTEGER for i in range(200)})
    path = write(gzip.compress(b"\n" * 100_000))  # 20 million cells
    for bad_rows in ("error", "skip"):
        peak, _, problem = peak_of(path, bad_rows)
        assert "line 1: an empty line; expected 200 comma-separated columns" in problem
        assert peak < 24 << 20
    with pytest.raises(DataError, match="line 2: an empty line; expected 200"):
        read(write(b"," * 199 + b"\n\n" + b"," * 199 + b"\n"))
    monkeypatch.setitem(globals(), "COLUMNS", {"only": INTEGER})
    assert read(write(b"1\n\n2\n")) == [(1,), (None,), (2,)]


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, *(pytest.param(other, marks=pytest.mark.slow) for other in (bz2.compress, zipped))],
    ids=["gzip", "bzip2", "zip"],
)
def test_an_endless_line_takes_no_memory(compress: Callable[[bytes], bytes], write: Write) -> None:
    path = write(compress(b"1,2,a\n" + b"7" * (100 << 20)))
    for bad_rows in ("error", "skip"):
        peak, _, problem = peak_of(path, bad_rows)
        assert f"{path}, line 2: longer than 1,048,576 bytes" in problem
        assert peak < 50 << 20


def test_a_bad_line_after_many_good_ones(write: Write) -> None:
    good = b"1,2,a\n" * 40_000  # several slices
    path = write(good + b"1,x,a\n" + good + b"\n")
    with pytest.raises(DataError, match=r"line 40,001: column count is 'x'"):
        read(path)
    reading = Reading([path], "skip")
    tables = list(read_tables(path, COLUMNS, ",", reading))
    kept = np.concatenate([np.asarray(table.lines) for table in tables])
    np.testing.assert_array_equal(kept, np.delete(np.arange(1, 80_002), 40_000))
    assert reading.rows_skipped == 2


def test_a_large_quoted_value_is_good_beside_a_bad_row(write: Write) -> None:
    large = "x" * 200_000
    path = write(f'1,2,"{large}"\n1,2\n'.encode())
    assert read(path, Reading([path], "skip"), quoted=True) == [(1, 2, large)]


def test_a_byte_order_mark_counts_at_the_start_of_a_file_only(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = b"\xef\xbb\xbf"
    monkeypatch.setattr(lines, "BLOCK_BYTES", 9)  # the second line begins a block
    assert read(write(mark + b"1,2,a\n0,3,b\n")) == [(1, 2, "a"), (0, 3, "b")]
    with pytest.raises(DataError, match=r"no valid row in it$"):
        read(write(mark))
    for path in (write(b"1,2,abc\n" + mark + b"0,3,b\n"), write(b"1,2,a\n" + mark + b"0,3,b\n")):
        with pytest.raises(DataError, match="line 2: column label is"):
            read(path)


def test_thousands_of_empty_bzip2_streams(write: Write) -> None:
    assert read(write(bz2.compress(b"1,2,a\n") + bz2.compress(b"") * 5000 + bz2.compress(b"0,3,b\n"))) == [
        (1, 2, "a"),
        (0, 3, "b"),
    ]
