"""Thousands of damaged logs: never a traceback, never a silent loss, and the error names file and line.

Each case damages one file of a small generated log. Read strictly, it gives all rows or a `CtrError`; read with
``bad_rows="skip"``, the rows and the rows that were left out add up to the lines of the file.
"""

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets import avazu, criteo, csv, ipinyou, lines, text
from ctr.datasets.schema import BadRows, Dataset, Reading
from ctr.datasets.synthetic.criteo_avazu import write_avazu, write_criteo
from ctr.datasets.synthetic.ipinyou import write_ipinyou
from ctr.errors import CtrError, DataError
from tests.datasets.logs import cells

Random = np.random.Generator
MAX_LINE = 2048
# Errors that no single line is to blame for.
OF_THE_FILE = ("the file is empty", "no valid row", "bid ids is among")
NASTY = (b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b'"', b"\xff", b"\xc3", b"-", b"null", b"\xef\xbb\xbf", b"9" * 30)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file is read in several blocks."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 2500)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", MAX_LINE)
    monkeypatch.setattr(text, "MAX_LINE_BYTES", MAX_LINE)


def damage(content: bytes, delimiter: bytes, random: Random) -> bytes:
    """The content with one to three things wrong with it."""
    for _ in range(random.integers(1, 4)):
        content = MUTATIONS[random.integers(len(MUTATIONS))](content, delimiter, random)
    return content


def _at(content: bytes, random: Random) -> int:
    return int(random.integers(len(content) + 1))


def _cut(content: bytes, delimiter: bytes, random: Random) -> bytes:
    return content[: _at(content, random)] if random.random() < 0.9 else b""


def _insert(content: bytes, delimiter: bytes, random: Random) -> bytes:
    at = _at(content, random)
    return content[:at] + NASTY[random.integers(len(NASTY))] + content[at:]


def _remove(content: bytes, delimiter: bytes, random: Random) -> bytes:
    at = _at(content, random)
    return content[:at] + content[at + int(random.integers(1, 40)) :]


def _flip(content: bytes, delimiter: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 5)):
        if changed:
            changed[random.integers(len(changed))] = random.integers(256)
    return bytes(changed)


def _line(change: Callable[[list[bytes], Random], list[bytes]]) -> Callable[[bytes, bytes, Random], bytes]:
    """Changes the values of one line."""

    def mutate(content: bytes, delimiter: bytes, random: Random) -> bytes:
        rows = content.split(b"\n")
        row = random.integers(len(rows))
        rows[row] = delimiter.join(change(rows[row].split(delimiter), random))
        return b"\n".join(rows)

    return mutate


def _value(value: Callable[[Random], bytes]) -> Callable[[list[bytes], Random], list[bytes]]:
    def change(values: list[bytes], random: Random) -> list[bytes]:
        values[random.integers(len(values))] = value(random)
        return values

    return change


def _swap_lines(content: bytes, delimiter: bytes, random: Random) -> bytes:
    rows = content.split(b"\n")
    i, j = random.integers(len(rows), size=2)
    rows[i], rows[j] = rows[j], rows[i]
    return b"\n".join(rows)


def _repeat_line(content: bytes, delimiter: bytes, random: Random) -> bytes:
    rows = content.split(b"\n")
    rows.insert(int(random.integers(len(rows))), rows[random.integers(len(rows))])
    return b"\n".join(rows)


def _recode(content: bytes, delimiter: bytes, random: Random) -> bytes:
    return content.decode("latin-1").encode(["utf-16", "utf-32", "utf-8-sig", "cp037"][random.integers(4)], "replace")


MUTATIONS = (
    *(_cut, _insert, _insert, _remove, _flip, _flip, _swap_lines, _repeat_line, _recode),
    _line(_value(lambda random: b"")),
    _line(_value(lambda random: NASTY[random.integers(len(NASTY))])),
    _line(_value(lambda random: b"7" * int(random.integers(1, 3 * MAX_LINE)))),
    _line(_value(lambda random: b"14102205")),
    _line(_value(lambda random: b"20130613000000000")),
    _line(lambda values, random: values[: random.integers(len(values) + 1)]),
    _line(lambda values, random: [*values, b"1"]),
)


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log", content)
    return file.getvalue()


def two_streams(content: bytes) -> bytes:
    return bz2.compress(content[:900]) + bz2.compress(content[900:])


COMPRESSIONS = (gzip.compress, bz2.compress, zipped, two_streams)


def damage_compressed(content: bytes, random: Random) -> bytes:
    packed = COMPRESSIONS[random.integers(len(COMPRESSIONS))](content)
    damaged = (_cut, _remove, _flip)[random.integers(3)](packed, b"", random)
    # Nobody can tell a file that is cut between two streams from a whole one.
    return packed if damaged == bz2.compress(content[:900]) else damaged


def num_lines(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


def attempt(dataset: Dataset, raw: Path, bad_rows: BadRows) -> tuple[int, int] | CtrError:
    """Rows read and rows left out, or the refusal."""
    rows = 0
    try:
        paths = dataset.locate(raw)
        reading = Reading(paths, bad_rows)
        for block in dataset.read(paths, reading):
            assert len({len(block.label), *map(len, block.fields), len(block.dense)}) == 1
            rows += len(block.label)
    except CtrError as error:
        return error
    return rows, reading.rows_skipped


def try_both(dataset: Dataset, raw: Path, damaged: Path, total: int) -> tuple[str, str]:
    """Reads a log strictly and leniently; what happened."""
    return _try(dataset, raw, damaged, total, "error"), _try(dataset, raw, damaged, total, "skip")


def _try(dataset: Dataset, raw: Path, damaged: Path, total: int, bad_rows: BadRows) -> str:
    result = attempt(dataset, raw, bad_rows)
    if isinstance(result, CtrError):
        assert str(damaged) in str(result)
        assert "a bug" not in str(result)
        if isinstance(result, DataError) and result.line is None:
            assert any(reason in str(result) for reason in OF_THE_FILE), result
        return "refused"
    rows, skipped = result
    assert rows + skipped == total
    assert skipped == 0 or bad_rows == "skip"
    return "skipped" if skipped else "read"


def check_spread(outcomes: list[tuple[str, str]]) -> None:
    """The cases are neither all harmless nor all hopeless."""
    possible = [("read", "read"), ("refused", "skipped"), ("refused", "refused")]
    assert set(outcomes) == set(possible)
    for outcome in possible:
        assert outcomes.count(outcome) > len(outcomes) / 50


def fuzz(dataset: Dataset, path: Path, delimiter: bytes, header: int, cases: int) -> None:
    """Damages a log that is one file; ``header``: how many lines hold no rows."""
    content = path.read_bytes()
    outcomes = []
    for case in range(cases):
        random = np.random.default_rng(case)
        if random.random() < 0.2:
            path.write_bytes(damage_compressed(content, random))
            total = num_lines(content) - header
        else:
            damaged = damage(content, delimiter, random)
            path.write_bytes(damaged)
            total = num_lines(damaged) - header
        outcomes.append(try_both(dataset, path, path, total))
    check_spread(outcomes)


def test_criteo(tmp_path: Path) -> None:
    write_criteo(tmp_path / "train.txt", 20, seed=2)
    fuzz(criteo.make(), tmp_path / "train.txt", b"\t", 0, 600)


def test_avazu(tmp_path: Path) -> None:
    write_avazu(tmp_path / "train.csv", 20, seed=2)
    fuzz(avazu.make(), tmp_path / "train.csv", b",", 1, 1000)


def test_csv(tmp_path: Path) -> None:
    write_avazu(tmp_path / "mine.csv", 20, seed=2)
    rows = cells(tmp_path / "mine.csv", ",")
    quoted = "\n".join(",".join(f'"{value}"' if i % 5 == 0 else value for i, value in enumerate(row)) for row in rows)
    (tmp_path / "mine.csv").write_text(quoted + "\n")
    dataset = csv.make(label="click", categorical=["site_id", "C14", "hour"], dense=["C15", "C20"])
    fuzz(dataset, tmp_path / "mine.csv", b",", 1, 900)


def test_ipinyou_joined(tmp_path: Path) -> None:
    write_ipinyou(tmp_path / "raw", 20, seed=2)
    logs = sorted((tmp_path / "raw").glob("imp.*"))
    joined = ["\t".join(["click", *ipinyou.RAW_COLUMNS])]
    joined += [f"{i % 2}\t{line}" for path in logs for i, line in enumerate(path.read_text().splitlines())]
    path = tmp_path / "train.log.txt"
    path.write_text("\n".join(joined) + "\n")
    fuzz(ipinyou.make(), path, b"\t", 1, 700)


def bad_clicks(content: bytes) -> int:
    """Lines of a click log without 24 columns and a bid id."""

    def bad(line: bytes) -> bool:
        values = line.split(b"\t")
        try:
            bid = values[0].decode()
        except UnicodeDecodeError:
            return True
        return len(values) != 24 or bid in ("", "null") or "\0" in bid or b"\r" in line

    return sum(map(bad, content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")))


def test_ipinyou(tmp_path: Path) -> None:
    dataset = ipinyou.make()
    folder = tmp_path / "raw"
    write_ipinyou(folder, 200, seed=2)
    for path in folder.iterdir():
        if int(path.name[4:12]) > 20130607:
            path.unlink()
    contents = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    rows = sum(num_lines(content) for path, content in contents.items() if path.name.startswith("imp"))
    outcomes = []
    for case in range(450):
        random = np.random.default_rng(case)
        path = list(contents)[random.integers(len(contents))]
        total = rows
        if (kind := random.random()) < 0.02:
            path.unlink()
        elif kind < 0.2:
            path.write_bytes(damage_compressed(contents[path], random))
        elif kind < 0.25:  # the log of another day
            kind_of_log = path.name[:3]
            path.write_bytes(next(contents[other] for other in contents if other != path and kind_of_log in other.name))
        else:
            damaged = damage(contents[path], b"\t", random)
            path.write_bytes(damaged)
            if path.name.startswith("imp"):
                total += num_lines(damaged) - num_lines(contents[path])
            elif damaged:
                total += bad_clicks(damaged)
        if path.exists():
            outcomes.append(try_both(dataset, folder, path, total))
        else:
            assert f"no {path.name} with it" in str(attempt(dataset, folder, "skip"))
        path.write_bytes(contents[path])
    check_spread(outcomes)
