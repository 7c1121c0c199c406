"""A text file, compressed or not -> blocks of whole lines, none lost and none invented."""

from __future__ import annotations

import bz2
import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from ctr.datasets.schema import Reading
from ctr.errors import DataError

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 1 << 20
_COMPRESSED_BYTES = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BZIP2, _GZIP, _ZIP = b"BZh", b"\x1f\x8b", b"PK\x03\x04"
# What the standard library raises on damaged gzip, bzip2 and zip files; ValueError: names that are not UTF-8.
_DAMAGED = (OSError, zlib.error, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, ValueError)


def line_blocks(path: Path, reading: Reading, layout: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields (number of the first line, number of lines, text) of whole lines of a plain, gzip, bzip2 or zip file.

    Args:
        path: the file; how it is compressed is told by its content, its ending is the user's to choose.
        reading: is told of every piece read.
        layout: what a line looks like, for messages.

    Raises:
        DataError: a missing, unreadable, empty, cut or damaged file; an endless line.
    """
    line, rest = reading.first_line, _begun(path, reading.start)
    try:
        for piece, position in _pieces(path, layout, reading.start, reading.stop):
            reading.advance(path, position, piece)
            end = piece.rfind(b"\n") + 1
            text, rest = (rest + piece[:end], piece[end:]) if end else (b"", rest + piece)
            if text:
                count = text.count(b"\n")
                yield line, count, text
                line += count
            if len(rest) > MAX_LINE_BYTES:
                raise too_long(path, line, layout)
    except _DamagedError as error:
        raise DataError(path, line, str(error)) from None
    if rest and reading.stop is None:
        yield line, 1, rest


def _begun(path: Path, start: int) -> bytes:
    """What comes before a byte of a plain file on the same line; not all of it if the line is longer than allowed."""
    if not start:
        return b""
    with path.open("rb") as file:
        file.seek(max(start - MAX_LINE_BYTES - 1, 0))
        return file.read(start - file.tell()).rpartition(b"\n")[2]


def first_line(path: Path, layout: str) -> bytes:
    """The first line of a file (see `line_blocks`) without its end and without a byte order mark."""
    start = b""
    try:
        for piece, _ in _pieces(path, layout):
            start += piece
            if b"\n" in start or len(start) > MAX_LINE_BYTES:
                break
    except _DamagedError as error:
        raise DataError(path, 1, str(error)) from None
    line = start.partition(b"\n")[0]
    if len(line) > MAX_LINE_BYTES:
        raise too_long(path, 1, layout)
    return line.removesuffix(b"\r").removeprefix(BYTE_ORDER_MARK)


def too_long(path: Path, line: int, layout: str) -> DataError:
    return DataError(path, line, f"longer than {MAX_LINE_BYTES:,} bytes; expected {layout}")


def is_compressed(path: Path) -> bool:
    """Whether a file can only be read from its beginning."""
    with path.open("rb") as file:
        head = file.read(4)
    return head.startswith((_BZIP2, _GZIP)) or head == _ZIP


def contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """The decompressed content of files, one after the other, in pieces.

    Raises:
        DataError: a missing, unreadable, cut or damaged file.
    """
    for path in paths:
        try:
            if path.stat().st_size:
                yield from (piece for piece, _ in _pieces(path, "text"))
        except _DamagedError as error:
            raise DataError(path, None, str(error)) from None


class _DamagedError(Exception):
    """The file cannot be read to its end."""


def _pieces(path: Path, layout: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Yields pieces of the decompressed content and how many bytes of the file on disk they took so far.

    ``start`` and ``stop`` are bytes of a plain file, multiples of `BLOCK_BYTES`.
    """
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise DataError(path, None, "no such file") from None
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from None
    with raw:
        empty = True
        try:
            for piece in _decompressed(raw) if (start, stop) == (0, None) else _part(raw, start, stop):
                empty = False
                yield piece, raw.tell()
        except EOFError:
            raise _DamagedError("the compressed file is cut off here or in the lines after it") from None
        except _DAMAGED as error:
            raise _DamagedError(f"damaged here or in the lines after it: {str(error)[:200]}") from None
    if empty:
        raise DataError(path, None, f"the file is empty; expected {layout}")


def _decompressed(raw: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces of about `BLOCK_BYTES`."""
    head = raw.read(4)
    raw.seek(0)
    if head.startswith(_BZIP2):
        return _gathered(_bunzip(raw))
    if head.startswith(_GZIP):
        return _read(cast(IO[bytes], gzip.GzipFile(fileobj=raw)))
    if head == _ZIP:
        return _unzip(raw)
    return _read(raw)


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(BLOCK_BYTES):
        yield piece


def _part(raw: IO[bytes], start: int, stop: int | None) -> Iterator[bytes]:
    raw.seek(start)
    while (stop is None or raw.tell() < stop) and (piece := raw.read(BLOCK_BYTES)):
        yield piece


def _unzip(raw: IO[bytes]) -> Iterator[bytes]:
    with zipfile.ZipFile(raw) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
            raise zipfile.BadZipFile(f"the archive holds {len(names)} files ({shown}) instead of one; unpack it")
        if archive.getinfo(names[0]).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The standard library expands all that it has read of such a one at once, without a bound.
            raise zipfile.BadZipFile(f"{names[0]} in it is not packed by the usual method (deflate); unpack it")
        with archive.open(names[0]) as member:
            if cast(zipfile.ZipExtFile, member).peek(4).startswith(_ZIP):  # they can be nested without end
                raise zipfile.BadZipFile("an archive within an archive; unpack it")
            yield from _decompressed(member)


def _bunzip(raw: IO[bytes]) -> Iterator[bytes]:
    # The standard library's BZ2File takes a damaged later stream of a file for its end.
    decompressor = bz2.BZ2Decompressor()
    while True:
        data = b""
        if decompressor.eof:
            data = decompressor.unused_data or raw.read(_COMPRESSED_BYTES)
            if not data:
                return
            decompressor = bz2.BZ2Decompressor()
        elif decompressor.needs_input:
            data = raw.read(_COMPRESSED_BYTES)
            if not data:
                raise EOFError
        yield decompressor.decompress(data, BLOCK_BYTES)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same content in larger pieces."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= BLOCK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
