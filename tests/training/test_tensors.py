"""Tensors are written piece by piece in the format that safetensors reads, and every byte is checked."""

import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ctr.errors import CtrError, DataError
from ctr.training import tensors
from ctr.training.tensors import Pieces, verify, write_tensors
from tests.limits import file_size_limit
from tests.training.runs import equal


def test_any_byte_that_differs_is_found(tmp_path: Path) -> None:
    """Tensors of all types come back by the library, also those of no or one number."""
    path = tmp_path / "tensors"
    made = {
        "words": torch.arange(7, dtype=torch.uint8), "flags": torch.tensor([True, False]), "one": torch.tensor(2.5),
        "none": torch.zeros(0, 3), "wide": torch.rand(5, 3, dtype=torch.float64), "ids": torch.tensor([2**40]),
    }  # fmt: skip
    pieces = {name: Pieces.of(tensor) for name, tensor in made.items()}
    pieces["cut"] = Pieces(torch.float32, (5, 2), iter(torch.arange(10.0).view(5, 2).split(2)))
    blocks = write_tensors(path, pieces)
    assert equal(load_file(path), {**made, "cut": torch.arange(10.0).view(5, 2)})
    content = path.read_bytes()
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match="not as written"):
            verify(path, blocks)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError, match=rf"{len(content) + 1:,} bytes; expected {len(content):,}"):
        verify(path, blocks)
    with pytest.raises(CtrError, match=r"x is of type torch\.complex64"):
        write_tensors(path, {"x": Pieces.of(torch.zeros(1, dtype=torch.complex64))})


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_of_many_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    """Past the system's cache, where a limit within a page ends it; and on a file system that knows only the cache."""
    real = os.open

    def cached(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *more, **named)

    if not direct:
        monkeypatch.setattr(os, "open", cached)
    monkeypatch.setattr(tensors, "BUFFER", mmap.PAGESIZE)
    values = torch.arange(10_001, dtype=torch.float32)
    verify(tmp_path / "x", write_tensors(tmp_path / "x", {"x": Pieces(values.dtype, (10_001,), values.split(3000))}))
    assert torch.equal(load_file(tmp_path / "x")["x"], values)
    with file_size_limit(10_000), pytest.raises(OSError, match="File too large") as error:
        write_tensors(tmp_path / "y", {"x": Pieces.of(values)})
    assert error.value.filename == str(tmp_path / "y")


def test_whole_pages_are_written_from_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor begins with a page of the file, beside any others; all behind an odd piece is buffered."""
    written: list[tuple[int, int]] = []
    real = os.write

    def write(file: int, left: memoryview) -> int:
        written.append((np.frombuffer(left, np.uint8).ctypes.data, len(left)))
        return real(file, left)

    monkeypatch.setattr(os, "write", write)
    page = mmap.PAGESIZE
    memory = torch.from_numpy(np.frombuffer(mmap.mmap(-1, 8 * page), np.float32))
    memory.copy_(torch.arange(len(memory)))
    cut = [page // 2, page // 2, 3, len(memory) - page - 3]  # 2 pages, 2 pages, 12 bytes, the rest
    others = {"odd": torch.arange(5, dtype=torch.uint8), "wide": torch.arange(3), "half": torch.ones(3)}
    pieces = {name: Pieces.of(tensor) for name, tensor in others.items()}
    pieces["rows"] = Pieces(memory.dtype, tuple(memory.shape), memory.split(cut))
    blocks = write_tensors(tmp_path / "x", pieces)
    verify(tmp_path / "x", blocks)
    assert equal(load_file(tmp_path / "x"), {**others, "rows": memory})
    start = memory.data_ptr()
    assert blocks[0].stop % page == 0
    assert written[1:3] == [(start, 2 * page), (start + 2 * page, 2 * page)]
    assert not any(start <= place < start + 8 * page for place, _ in written[3:])
    header = json.loads((tmp_path / "x").read_bytes()[8 : blocks[0].stop])
    for name, tensor in {**others, "rows": memory}.items():
        assert header[name]["data_offsets"][0] % tensor.dtype.itemsize == 0
