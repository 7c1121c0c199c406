"""Telling, later and from another process, whether a process still lives."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def mark() -> str | None:
    """This process in words that no other has: boot and process namespace (a machine or a container), id, start time.
    None where the system does not tell, without Linux's ``/proc``."""
    place, start = _place(), _start(os.getpid())
    return f"{place}/{os.getpid()}/{start}" if place and start else None


def ended(marked: str) -> bool:
    """Whether the process that has a `mark` has certainly ended. False also where that cannot be known: it ran on
    another machine, in another container or before a restart."""
    if marked.count("/") != 3:
        return False
    place, process, start = marked.rsplit("/", 2)
    return place == _place() and process.isdecimal() and _start(int(process)) != start


def _place() -> str | None:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _start(process: int) -> str | None:
    """When a process began, in clock ticks since the machine did; None if it has ended."""
    try:
        state, *fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]
