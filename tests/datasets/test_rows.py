"""Prepared rows on disk."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from ctr.datasets.checked import Checksum
from ctr.datasets.rows import Rows, RowWriter
from ctr.errors import DataError

FIELDS, DENSE, BLOCK, BLOCKS = 26, 13, 40_000, 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Checksum]]:
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    with RowWriter(path, FIELDS, DENSE) as writer:
        for block in range(BLOCKS):
            ids = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int32)[:, None] + np.arange(
                FIELDS, dtype=np.int32
            )
            writer.write(ids, np.full((BLOCK, DENSE), block, np.float32), np.full(BLOCK, block % 2, np.uint8))
    return path, writer.blocks


def mapped() -> int:
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("check", ["first pass", "later pass"])
def test_one_block_is_held_at_a_time(written: tuple[Path, list[Checksum]], check: str) -> None:
    rows = Rows(*written, FIELDS, DENSE)
    if check == "later pass":
        rows.file.verify()
    before, most = mapped(), 0
    block_bytes = written[0].stat().st_size / BLOCKS
    for start in range(0, len(rows), 1000):
        ids, dense, label = rows[start : start + 1000]
        assert (ids[0, 0], ids[-1, -1]) == (start, start + 999 + FIELDS - 1)
        assert (dense == start // BLOCK).all()
        assert (label == start // BLOCK % 2).all()
        most = max(most, mapped() - before)
    assert block_bytes / 2 < most < 3 * block_bytes


def test_what_was_read_stays_readable(written: tuple[Path, list[Checksum]]) -> None:
    """Slices are views of the file: those of a block left behind hold their values."""
    rows = Rows(*written, FIELDS, DENSE)
    first = rows[:10]
    across = rows[5 * BLOCK - 5 : 5 * BLOCK + 5]
    rows[11 * BLOCK : 11 * BLOCK + 10]
    assert first[0][:, 0].tolist() == list(range(10))
    assert across[0][:, 0].tolist() == list(range(5 * BLOCK - 5, 5 * BLOCK + 5))
    assert rows[BLOCK : BLOCK + 3][0][:, 0].tolist() == [BLOCK, BLOCK + 1, BLOCK + 2]
    assert rows.positives(slice(BLOCK - 7, 2 * BLOCK)) == BLOCK


@pytest.mark.parametrize("content", [b"", b"no rows"])
def test_no_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.arrow").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.arrow: \d bytes; expected 100"):
        Rows(tmp_path / "rows.arrow", [Checksum(0, 100, "")], 1, 0)
    same_size = [Checksum(0, len(content), xxh3_64_hexdigest(content))]
    with pytest.raises(DataError, match=r"rows\.arrow: "):
        Rows(tmp_path / "rows.arrow", same_size, 1, 0)


def test_other_columns(written: tuple[Path, list[Checksum]]) -> None:
    for columns in ((FIELDS, 0), (FIELDS, DENSE + 1), (FIELDS + 1, DENSE)):
        with pytest.raises(DataError, match=rf"rows\.arrow: no rows of {columns[0]} fields and {columns[1]} dense"):
            Rows(*written, *columns)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_full_disk_is_named() -> None:
    label = np.zeros(1, np.uint8)
    with (
        pytest.raises(OSError, match="No space left on device: '/dev/full'"),
        RowWriter(Path("/dev/full"), 1, 0) as writer,
    ):
        writer.write(np.zeros((1, 1), np.int32), np.zeros((1, 0), np.float32), label)
