"""Prepared rows on disk."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets.rows import Rows, RowWriter

FIELDS, DENSE, BLOCK, BLOCKS = 26, 13, 40_000, 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    with RowWriter(path, FIELDS, DENSE) as writer:
        for block in range(BLOCKS):
            ids = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int32)[:, None] + np.arange(
                FIELDS, dtype=np.int32
            )
            writer.write(ids, np.full((BLOCK, DENSE), block, np.float32), np.full(BLOCK, block % 2, np.uint8))
    return path


def mapped() -> int:
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_block_is_held_at_a_time(path: Path) -> None:
    rows = Rows(path)
    before, most = mapped(), 0
    block_bytes = path.stat().st_size / BLOCKS
    for start in range(0, len(rows), 1000):
        ids, dense, label = rows[start : start + 1000]
        assert (ids[0, 0], ids[-1, -1]) == (start, start + 999 + FIELDS - 1)
        assert (dense == start // BLOCK).all()
        assert (label == start // BLOCK % 2).all()
        most = max(most, mapped() - before)
    assert block_bytes / 2 < most < 3 * block_bytes


def test_what_was_read_stays_readable(path: Path) -> None:
    """Slices are views of the file: those of a block left behind hold their values."""
    rows = Rows(path)
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
    with pytest.raises(ValueError, match=r"."):
        Rows(tmp_path / "rows.arrow")
