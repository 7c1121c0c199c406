"""Tensors in a safetensors file that is written piece by piece, and checked before any of it is used.

safetensors itself writes whole tensors that are in memory. A table of tens of millions of rows must not be there twice,
so that the file is written here, in its published format: the length of a JSON header (8 bytes, little endian), the
header (dtype, shape and offsets of each tensor), and the tensors one after the other. Reading is the library's.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from ctr.datasets.checked import Checksum, HashingFile
from ctr.errors import CtrError, DataError

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
    # Wide types first: each tensor then begins at a multiple of its item's size.
    ordered = dict(sorted(tensors.items(), key=lambda named: -named[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, tensor in ordered.items():
        if tensor.dtype not in _NAMES:
            raise CtrError(f"{name} is of type {tensor.dtype}; expected one of {', '.join(map(str, _NAMES))}")
        start, stop = stop, stop + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blocks: list[Checksum] = []
    with HashingFile(path) as file:

        def write(data: object) -> None:
            file.write(data)
            blocks.append(Checksum(0, file.tell(), file.hash.hexdigest()))
            file.hash.reset()

        write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered.values():
            for piece in tensor.pieces:
                if piece.numel():
                    write(piece.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        if file.tell() != 8 + len(text) + stop:  # a mistake of the caller
            raise CtrError(f"{path}: {file.tell():,} bytes were written; expected {8 + len(text) + stop:,}")
    return blocks


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
