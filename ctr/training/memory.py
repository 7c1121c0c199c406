"""The most memory that this process has held, since it was last reset where the system allows that (Linux); and memory
that it does not need any more."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

PROC = Path("/proc/self")
T = TypeVar("T")


def tidied(items: Iterable[T], every: int) -> Iterator[T]:
    """The items. Each time that ``every`` of them have been used, free pages within the heap are given back to the
    system, where the C library can.

    glibc (2.36) does not use all memory again that was freed; its bug 14581 describes that for aligned memory, as
    torch's is. Each batch leaves holes, of GBs in a long run.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    for number, item in enumerate(items, 1):
        yield item
        if trim is not None and number % every == 0:
            trim(0)


def reset_peak() -> None:
    """Forgets the peak so far. Where that cannot be done `peak` goes on meaning the whole life of the process."""
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")


def peak() -> int:
    """Bytes of physical memory held at most since the last reset, mapped files included.

    Where there is no such figure, or no reset, the most since the process began: too much for a run that others went
    before.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (PROC / "status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
