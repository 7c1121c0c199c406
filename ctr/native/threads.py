"""The threads that torch computes with, lent to compiled code: those of another pool would wait for a core on which
torch's spin for a while after their last work."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

import torch

from ctr.native.library import available, loaded

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_int)
_PROCESS = os.getpid()


@functools.cache
def sharing() -> ctypes.CDLL:
    """The compiled library, which is told of torch's OpenMP. The library starts threads of its own where torch has
    another kind, where they may have stayed in the process that this one is a fork of, and where torch's do not spin:
    its own watch for 0.2 ms, and wake up sooner for the next call."""
    found, torch_itself = loaded(), ctypes.CDLL(torch._C.__file__)
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    spinning = os.environ.get("OMP_WAIT_POLICY", "active").lower() != "passive"
    if spinning and os.getpid() == _PROCESS and all(hasattr(torch_itself, name) for name in names):
        found.ctr_share_threads(*(ctypes.cast(getattr(torch_itself, name), ctypes.c_void_p) for name in names))
    return found


def each(tasks: int, threads: int, work: Callable[[int], None]) -> None:
    """Calls ``work(0)`` ... ``work(tasks - 1)``, at once as far as there are threads and they give up Python's lock;
    one after the other where there is no compiled library.

    Raises:
        BaseException: of the first of them that raised one; all have ended.
    """
    if min(tasks, threads) == 1 or not available():
        for task in range(tasks):
            work(task)
        return
    raised: dict[int, BaseException] = {}

    def caught(task: int) -> None:
        try:
            work(task)
        except BaseException as error:
            raised[task] = error

    sharing().ctr_each(_WORK(caught), tasks, min(tasks, threads))
    if raised:
        raise raised[min(raised)]
