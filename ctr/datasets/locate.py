"""Finding the files of a raw log in the folder that a user names."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from ctr.datasets.schema import Dataset
from ctr.errors import ArgumentError


def locate_file(raw: Path, name: str, endings: Sequence[str]) -> Path:
    """``raw`` itself if it is a file; in a folder, the one file called ``name`` with one of the endings."""
    if not raw.is_dir():
        return raw
    names = [name + ending for ending in endings]
    found = [raw / name for name in names if (raw / name).exists()]
    if not found:
        raise ArgumentError(f"{raw}: the folder has none of {', '.join(names)}")
    if len(found) > 1:
        raise ArgumentError(f"{raw}: the folder has {' and '.join(path.name for path in found)}; name one of them")
    return found[0]


def locate_files(raw: Path, endings: Sequence[str]) -> list[Path]:
    """``raw`` itself if it is a file; all files with one of the endings in a folder, or all that match a glob, in
    natural order (day_2 before day_10)."""
    if raw.is_dir():
        found = [path for path in raw.iterdir() if path.name.lower().endswith(tuple(endings)) and path.is_file()]
        expected = f"a file that ends with {', '.join(endings)}"
    elif raw.exists() or not glob.has_magic(str(raw)):
        return [raw]
    else:
        found = [path for path in map(Path, glob.glob(str(raw), recursive=True)) if path.is_file()]  # noqa: PTH207
        expected = "a file that matches it"
    found = [path for path in found if not path.name.startswith((".", "_"))]  # _SUCCESS, _metadata of Spark
    if not found:
        raise ArgumentError(f"{raw}: no log; expected {expected}, or list the files: [a.csv,b.csv]")
    once: dict[str, Path] = {}
    for path in sorted(found, key=natural_order):
        unpacked = re.sub(r"\.(gz|bz2|zip)$", "", str(path))
        if unpacked in once:
            raise ArgumentError(f"{raw}: {once[unpacked].name} and {path.name} are one log; keep one of them there")
        once[unpacked] = path
    return list(once.values())


def missing(dataset: Dataset, raws: Sequence[Path]) -> list[Path]:
    """Which of the names that a user gave are of nothing; a glob is not looked at where the format allows it."""
    return [raw for raw in raws if not (raw.exists() or (dataset.several and glob.has_magic(str(raw))))]


def located(dataset: Dataset, raw: Path | Sequence[Path], key: str = "dataset.raw") -> list[Path]:
    """The files of a log, given what the user named: one file or folder, or, where the format allows it, several.

    Args:
        dataset: the format.
        raw: what the user named.
        key: by which, for messages.

    Raises:
        ArgumentError: there are none, a file is named twice, or the format takes one alone.
    """
    parts = [raw] if isinstance(raw, Path) else list(raw)
    if len(parts) > 1 and not dataset.several:
        raise ArgumentError(f"{key}: {len(parts)} names; dataset={dataset.name} expects one file or folder")
    paths = [path for part in parts for path in dataset.locate(part)]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise ArgumentError(f"{key}: {', '.join(twice)} more than once")
    return paths


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sorts numbers within names by their value."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", str(path))]
