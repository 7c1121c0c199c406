"""Files and folders that are either whole or absent.

Everything is first written under a temporary name in the same folder, forced to the disk, and only then
renamed. A process that is killed half-way leaves at most an entry whose name starts with ``.tmp-``
(`TMP_PREFIX`): it is hidden, no reader of this package looks at it, and it may be deleted whenever no
writer is at work.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ctr.errors import ArgumentError, CtrError, DataError, file_of

TMP_PREFIX = ".tmp-"


def expect_writable(folder: Path, key: str) -> None:
    """Makes a folder. CtrError, with the ``key`` that named it, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CtrError(f"{key}: {error.strerror}; expected a folder that can be written to") from error


def expect_new_file(path: Path, key: str, suffixes: Iterable[str] = ()) -> None:
    """Refuses a place where a command could not write its file, before it computes anything; makes nothing.

    Args:
        path: of the file; an older one there is to be replaced.
        key: that named it.
        suffixes: that the name may have; empty: any.

    Raises:
        ArgumentError: the name is a folder's, or has another suffix.
        CtrError: nothing can be written there.
    """
    if not path.name or path.is_dir():
        raise ArgumentError(f"{key}={path if path.name else ''}: expected the name of a file")
    if (allowed := [*suffixes]) and path.suffix not in allowed:
        raise ArgumentError(f"{key}={path}: expected a name that ends in {' or '.join(allowed)}")
    try:
        with TemporaryFile(dir=next(folder for folder in path.resolve().parents if folder.exists())):
            pass
    except OSError as error:
        said = os.strerror(error.errno or 0)
        raise CtrError(f"{key}={path}: {said}; expected a file in a folder that can be written to") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there becomes `path` when the block ends well.

    Missing parent folders are made. The temporary name keeps the suffixes of `path`, so that code that
    looks at them (``.gz``) works. On any exception, Ctrl-C included, the temporary file is removed and an
    older `path` stays as it was.

        with atomic_path(Path("out/rows.bin")) as tmp:
            tmp.write_bytes(rows)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = _temporary_name(path)
    try:
        yield tmp
        _fsync(tmp)
        tmp.replace(path)
    except BaseException as error:
        tmp.unlink(missing_ok=True)
        _name(error, tmp, path)
        raise
    _fsync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with its line ends as they are, atomically."""
    with atomic_path(path) as tmp:
        tmp.write_bytes(text.encode("utf-8"))


def sealed(values: Mapping[str, Any]) -> str:
    """JSON text that holds a checksum of its own content, for `read_sealed`."""
    return json.dumps({**values, "checksum": _checksum(values)}, indent=2) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """The values that `sealed` made the text of a file from.

    Raises:
        FileNotFoundError: no such file.
        DataError: another text, or not as it was written.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise DataError(path, None, "not JSON") from None
    if not isinstance(values, dict) or "checksum" not in values:
        raise DataError(path, None, "no checksum: damaged, or of another version")
    if values.pop("checksum") != _checksum(values):
        raise DataError(path, None, "not as it was written (checksum)")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; it becomes `path`, with all it holds, when the block ends
    well.

    A folder that is already at `path` is replaced as a whole, and only after the new one is on the
    disk. POSIX has no portable exchange of two folders: for the moment between two renames nothing is
    at `path` (the older folder then waits under a ``.tmp-`` name), so a reader sees the old one, the new
    one or none, never a mixture.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; a folder was to be written there")
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = _temporary_name(path)
    tmp.mkdir()
    try:
        yield tmp
        for folder, _, files in os.walk(tmp):
            for name in files:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
        _replace_folder(tmp, path)
    except BaseException as error:
        shutil.rmtree(tmp, ignore_errors=True)
        _name(error, tmp, path)
        raise
    _fsync(path.parent)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`, an older one first put out of the way, and back if that fails."""
    if not path.exists():
        new.rename(path)
        return
    old = _temporary_name(path)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def size(number: int) -> str:
    """A number of bytes for a reader: ``6.4 MB``, ``52 kB``."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e5 else f"{number / 1e3:.0f} kB"


def _name(error: BaseException, tmp: Path, path: Path) -> None:
    """Names in an error of the system what was to be written: a full disk is reported without a name, or with the
    temporary one."""
    if isinstance(error, OSError) and error.errno:
        named = error.filename or file_of(error) or tmp
        error.filename = str(named).replace(str(tmp), str(path)) if isinstance(named, str | Path) else named


def _temporary_name(path: Path) -> Path:
    """A name in the same folder (a rename does not cross file systems) that two writers never share."""
    return path.with_name(f"{TMP_PREFIX}{secrets.token_hex(4)}-{path.name}")


def _fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
