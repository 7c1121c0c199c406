"""Strictness of the reader: every bad line is named, none is lost."""

import bz2
import gzip
import os
from pathlib import Path

import pytest

from ctr.datasets import lines as text_lines
from ctr.datasets.criteo import COLUMNS
from ctr.datasets.schema import BadRows, Reading
from ctr.datasets.text import read_tables
from ctr.errors import DataError
from tests.datasets.criteo_text import lines


def read(path: Path, bad_rows: BadRows = "error") -> tuple[dict[str, list[object]], Reading]:
    reading = Reading([path], bad_rows)
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for table in read_tables(path, COLUMNS, "\t", reading):
        for name in COLUMNS:
            columns[name] += table[name].to_pylist()
    return columns, reading


def with_column(line: str, column: int, value: str) -> str:
    columns = line.split("\t")
    columns[column] = value
    return "\t".join(columns)


def write(path: Path, made: list[str], end: str = "\n") -> Path:
    path.write_bytes(end.join([*made, ""]).encode())
    return path


def test_values_are_those_of_the_text(tmp_path: Path) -> None:
    made = lines(50)
    columns, _ = read(write(tmp_path / "train.txt", made))
    rows = [line.split("\t") for line in made]
    assert columns["label"] == [int(row[0]) for row in rows]
    assert columns["I2"] == [int(row[2]) if row[2] else None for row in rows]
    assert columns["C1"] == [int(row[14], 16) if row[14] else None for row in rows]
    assert columns["C26"] == [int(row[39], 16) if row[39] else None for row in rows]


@pytest.mark.parametrize("value", ["1e501234", "00000001", "ffffffff", "0e000000"])
def test_hex_is_never_a_float(tmp_path: Path, value: str) -> None:
    columns, _ = read(write(tmp_path / "train.txt", [with_column(lines(1)[0], 20, value)]))
    assert columns["C7"] == [int(value, 16)]


BAD = {
    "label 2": (0, "2", "column label is '2'; expected 0 or 1"),
    "label blank": (0, "", "column label is blank; expected 0 or 1"),
    "label 01": (0, "01", "column label is '01'"),
    "float": (3, "1.5", "column I3 is '1.5'; expected an integer of up to 16 digits or nothing"),
    "hex integer": (3, "0x10", "column I3 is '0x10'"),
    "padded": (3, " 7", "column I3 is ' 7'"),
    "plus": (3, "+7", "column I3 is '+7'"),
    "minus alone": (3, "-", "column I3 is '-'"),
    "too long": (3, "9" * 30, "column I3 is '" + "9" * 30),
    "not hex": (20, "1234567g", "column C7 is '1234567g'; expected 8 hexadecimal digits or nothing"),
    "short": (20, "123", "column C7 is '123'"),
    "space": (20, "1234 678", "column C7 is '1234 678'"),
    "nul": (20, "1234567\0", r"column C7 is '1234567\x00'"),
    "utf8": (20, "1234567é", r"column C7 is '1234567\xc3\xa9'"),
    "extra column": (20, "12345678\t12345678", "41 columns; expected 40 tab-separated columns per line"),
    "carriage return": (20, "1234\r5678", "a carriage return within the line"),
}


@pytest.mark.parametrize(("column", "value", "problem"), BAD.values(), ids=BAD)
def test_bad_line_is_named(tmp_path: Path, column: int, value: str, problem: str) -> None:
    made = lines(30)
    made[16] = with_column(made[16], column, value)
    made[25] = "also bad"
    path = write(tmp_path / "train.txt", made)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 17: {problem}")
    assert caught.value.line == 17

    kept, reading = read(path, "skip")
    good, _ = read(write(tmp_path / "good.txt", [line for i, line in enumerate(made) if i not in (16, 25)]))
    assert kept == good
    assert reading.rows_skipped == 2
    assert reading.first_skipped is not None
    assert reading.first_skipped.startswith(f"{path}, line 17: ")


def test_an_empty_line_is_named(tmp_path: Path) -> None:
    made = lines(5)
    made[2] = ""
    with pytest.raises(DataError, match=r"line 3: an empty line; expected 40 tab-separated columns"):
        read(write(tmp_path / "train.txt", made))


def test_line_numbers_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1000)
    made = lines(200)
    bad = [7, 60, 61, 199]
    for row in bad:
        made[row] = with_column(made[row], 0, "x")
    path = write(tmp_path / "train.txt", made)
    with pytest.raises(DataError, match="line 8: column label is 'x'"):
        read(path)
    columns, reading = read(path, "skip")
    assert reading.rows_skipped == 4
    assert columns["label"] == [int(line[0]) for i, line in enumerate(made) if i not in bad]
    assert reading.fraction == 1.0


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("last_newline", [True, False])
def test_line_ends_do_not_matter(tmp_path: Path, end: str, last_newline: bool) -> None:
    made = lines(20)
    plain, _ = read(write(tmp_path / "plain.txt", made))
    path = tmp_path / "train.txt"
    path.write_bytes(end.join([*made, ""] if last_newline else made).encode())
    assert read(path)[0] == plain


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compression_does_not_matter(tmp_path: Path, compress: type[gzip.compress]) -> None:  # type: ignore[valid-type]
    """Told by content, whatever the name; the hash is that of the content."""
    path = write(tmp_path / "train.txt", lines(300))
    columns, reading = read(path)
    packed = tmp_path / "packed.txt"
    packed.write_bytes(compress(path.read_bytes()))
    columns_packed, reading_packed = read(packed)
    assert columns_packed == columns
    assert reading_packed.sha256 == reading.sha256
    assert reading_packed.fraction == 1.0

    packed.write_bytes(compress(path.read_bytes())[:-20])
    with pytest.raises(DataError, match=r"the compressed file is cut off"):
        read(packed)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    data = bytearray(gzip.compress("\n".join(lines(500)).encode()))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "train.txt.gz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read on from here|line"):
        read(path)


def test_empty_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty.txt: the file is empty; expected 40 tab-separated columns"):
        read(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", lines(1))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path)


def test_a_file_without_a_valid_row_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", ["a,b,c", "d,e,f"])
    with pytest.raises(DataError, match=r"no valid row in it; the first problem: .*line 1: 1 column; expected 40"):
        read(path, "skip")


def test_an_overlong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(lines(1)[0].encode() + b"\n" + b"a" * (text_lines.MAX_LINE_BYTES + 10))
    with pytest.raises(DataError, match="line 2: longer than"):
        read(path)
