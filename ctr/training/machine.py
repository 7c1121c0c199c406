"""What a run is made on, in words: without the machine's name."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path

import torch

from ctr.native.library import build
from ctr.training.identity import arithmetic

CPUINFO = Path("/proc/cpuinfo")


def machine(threads: int, device: str, workers: int = 1) -> str:
    """``AMD EPYC, AVX2, 2 cores; 1 thread; torch 2.13.0+cpu, numpy 2.4.6``: the processor, its vector unit as torch
    uses it, the cores that this process may use, the threads of the run or of each worker, a GPU if it computes there,
    versions, and how the kernels were compiled."""
    torch_version, numpy_version, vector_unit = arithmetic()
    cores = len(os.sched_getaffinity(0))
    parts = [
        f"{_processor(CPUINFO)}, {vector_unit}, {cores} core{'s' if cores != 1 else ''}",
        f"{f'{workers} workers of ' if workers > 1 else ''}{threads} thread{'s' if threads != 1 else ''}",
        f"{torch_version}, {numpy_version}",
    ]
    if (kernels := build()) is not None:
        parts.append(f"kernels: {kernels}")
    if torch.device(device).type == "cuda":
        parts.insert(1, torch.cuda.get_device_name(device))
    return "; ".join(parts)


@cache
def _processor(cpuinfo: Path) -> str:
    """The model's name where Linux tells it, else the architecture."""
    try:
        found = re.search(r"^model name\s*: *(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()
