"""The most memory that this process has held, since it was last reset where the system allows that (Linux), and how
much it may still take."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

PROC = Path("/proc/self")
# Of a control group, versions 2 and 1, as a container sees its own: limit, use, and how much of that can be given up.
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), "memory.usage_in_bytes", "total_inactive_file"),
)


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


def available() -> int | None:
    """Bytes that this process may still take: of the machine, and of its control group (a container's limit).

    None where the system does not tell.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", (PROC.parent / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    left = [] if found is None else [int(found[1]) * 1024]
    for limit, used, cache in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: no limit ("max")
            cached = re.search(rf"^{cache} (\d+)$", limit.with_name("memory.stat").read_text(), re.MULTILINE)
            taken = int(limit.with_name(used).read_text()) - (int(cached[1]) if cached else 0)
            left.append(int(limit.read_text()) - taken)
    return min(left, default=None)
