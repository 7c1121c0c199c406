"""Tensors in a safetensors file that is written piece by piece, and checked before any of it is used.

safetensors itself writes whole tensors that are in memory. A table of tens of millions of rows must not be there twice,
so that the file is written here, in its published format: the length of a JSON header (8 bytes, little endian), the
header (dtype, shape and offsets of each tensor), and the tensors one after the other. Reading is the library's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import gcd, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from ctr.datasets.checked import Checksum
from ctr.errors import CtrError, DataError

BUFFER = 1 << 22  # bytes of small pieces that are written together
PAGE = 4096  # bytes; what goes past the system's cache begins with one, in memory and in the file
_NAMES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.bool: "BOOL", torch.uint8: "U8",
}  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """A tensor that comes in pieces along its first dimension.

    Attributes:
        dtype, shape: of the whole tensor.
        pieces: on any device; each is asked for when the one before is written.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Pieces:
        """A tensor in one piece."""
        return cls(tensor.dtype, tuple(tensor.shape), [tensor])

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Pieces]) -> list[Checksum]:
    """Writes a new safetensors file; returns the checksums of its blocks, each a piece or the header.

    Raises:
        CtrError: a tensor of a type that is not stored.
        OSError: the file cannot be written.
    """
    # Each tensor begins at a multiple of its item's size, and the largest, behind the header, with a page.
    ordered = dict(sorted(tensors.items(), key=lambda named: (-gcd(named[1].nbytes, 8), -named[1].nbytes)))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, tensor in ordered.items():
        if tensor.dtype not in _NAMES:
            raise CtrError(f"{name} is of type {tensor.dtype}; expected one of {', '.join(map(str, _NAMES))}")
        start, stop = stop, stop + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    blocks: list[Checksum] = []
    with closing(_Sink(path)) as file:

        def write(data: np.ndarray) -> None:
            file.write(data)
            blocks.append(Checksum(0, file.size, xxh3_64_hexdigest(data.data)))

        write(np.frombuffer(struct.pack("<Q", len(text)) + text, np.uint8))
        for tensor in ordered.values():
            for piece in tensor.pieces:
                if piece.numel():
                    write(piece.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        if file.size != 8 + len(text) + stop:  # a mistake of the caller
            raise CtrError(f"{path}: {file.size:,} bytes were written; expected {8 + len(text) + stop:,}")
        file.flush()
    return blocks


class _Sink:
    """A new file that is written past the system's cache, where the file system allows that.

    Through the cache a file of some gigabytes costs six times the processor time, and drives out the rows that the run
    reads. Whole pages that fall on pages of the file are written from where they are; all else goes through one aligned
    buffer, and what is left at the end through the cache.
    """

    def __init__(self, path: Path) -> None:
        self._name, self._direct = str(path), getattr(os, "O_DIRECT", 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._file = os.open(path, flags | self._direct, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct, self._file = 0, os.open(path, flags, 0o666)
        self._buffer = np.frombuffer(mmap.mmap(-1, BUFFER), np.uint8)  # begins with a page
        self._filled = self.size = 0

    def write(self, data: np.ndarray) -> None:
        """Writes bytes, uint8 [n]."""
        self.size += len(data)
        if len(data) >= PAGE and self._filled % PAGE == data.ctypes.data % PAGE == 0:
            self._empty()
            whole, data = np.split(data, [len(data) // PAGE * PAGE])
            self._put(whole.data)
        while len(data):
            taken, data = np.split(data, [BUFFER - self._filled])
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            if self._filled == BUFFER:
                self._empty()

    def flush(self) -> None:
        """To be called after the last `write`."""
        self._through_cache()
        self._empty()

    def close(self) -> None:
        os.close(self._file)

    def _empty(self) -> None:
        self._put(self._buffer.data[: self._filled])
        self._filled = 0

    def _put(self, left: memoryview) -> None:
        while left:
            try:
                left = left[os.write(self._file, left) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise OSError(error.errno, error.strerror, self._name) from error
                self._through_cache()  # the end of the disk, or of what a file may be, is within a page

    def _through_cache(self) -> None:
        if self._direct:
            fcntl.fcntl(self._file, fcntl.F_SETFL, fcntl.fcntl(self._file, fcntl.F_GETFL) & ~self._direct)
            self._direct = 0


def verify(path: Path, blocks: Sequence[Checksum]) -> None:
    """Checks every byte of a file.

    Raises:
        DataError: no such file, or not as it was written.
    """
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) != blocks[-1].stop:
                raise DataError(path, None, f"{size:,} bytes; expected {blocks[-1].stop:,}")
            start = 0
            for block in blocks:
                if xxh3_64_hexdigest(file.read(block.stop - start)) != block.xxh3:
                    raise DataError(path, None, f"bytes {start:,} to {block.stop - 1:,} are not as written (checksum)")
                start = block.stop
    except OSError as error:
        raise DataError(path, None, error.strerror or str(error)) from error
