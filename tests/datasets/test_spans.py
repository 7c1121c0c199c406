"""A log divided between workers: nothing twice, nothing left out."""

import gzip
from pathlib import Path

import pytest

from ctr.datasets import lines as text_lines
from ctr.datasets.lines import line_blocks
from ctr.datasets.schema import Reading
from ctr.datasets.spans import Span, SpanReading, spans


def blocks(path: Path, reading: Reading) -> list[bytes]:
    return [text for _, _, text in line_blocks(path, reading, "")]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("size", [1, 100, 333])
def test_parts_of_a_file_have_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: str) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 64)
    path = tmp_path / "log.txt"
    # Lines that end where a block does, lines longer than several blocks, and empty ones.
    path.write_text("\n".join(["x" * length for length in [63, 63, 1, 0, 0, 300, 5, 64, 62, 127, 10, 200]]) + end)
    divided = spans([[path]], size)
    assert len(divided) == min(path.stat().st_size // size, -(-path.stat().st_size // 64))
    found, ends = [], 0
    for span in divided:
        reading = SpanReading(span, "error")
        found += blocks(path, reading)
        ends += reading.lines
    assert found == blocks(path, Reading([path], "error"))
    assert ends == path.read_bytes().count(b"\n")


def test_large_files_are_cut_and_small_ones_are_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10)
    sizes = {"a": 5, "b": 5, "c": 5, "large": 100, "d": 5, "pair 1": 60, "pair 2": 60}
    paths = {name: tmp_path / name for name in sizes}
    for name, size in sizes.items():
        paths[name].write_bytes(b"x" * size)
    a, b, c, large, d, *pair = paths.values()
    assert spans([[a], [b], [c], [large], [d], pair], 30) == [
        Span((a, b, c)),
        Span((large,), 0, 30),
        Span((large,), 30, 60),
        Span((large,), 60, None),
        Span((d,)),
        Span(tuple(pair)),
    ]


def test_compressed_files_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10)
    path = tmp_path / "log.txt"  # told by the content
    path.write_bytes(gzip.compress(bytes(range(256))))
    assert spans([[path]], 10) == [Span((path,))]
