"""Finding the files of a raw log in the folder that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        raise ArgumentError(
            f"{raw}: the folder has {' and '.join(path.name for path in found)}; name one with dataset.raw"
        )
    return found[0]
