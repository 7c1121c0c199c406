"""What the compiled library is built from, as a hash that the build puts into it and the loader compares.

``setup.py`` and the Makefile run this file by itself, before anything is installed: the standard library alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / "src"


def digest(folder: Path) -> str:
    """Hash of the C++ sources and headers in a folder."""
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*.cpp"), *folder.glob("*.h")]):
        found.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


if __name__ == "__main__":
    print(digest(SOURCES))
