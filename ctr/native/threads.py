"""Runs compiled code on the threads that torch computes with. Others would wait for a core on which torch's threads
spin for a while after their last work."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from ctr.native.library import available, loaded

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_int)
_PROCESS = os.getpid()


@functools.cache
def sharing() -> ctypes.CDLL:
    """The compiled library, which is told of torch's OpenMP, to use its threads.

    It starts threads of its own in three cases. Torch has another OpenMP. This process may be a fork, in which torch's
    threads are not there. Or torch's threads sleep while they wait (``OMP_WAIT_POLICY=passive``): the library's own
    watch for 0.2 ms, and begin the next call sooner.
    """
    found, torch_itself = loaded(), ctypes.CDLL(torch._C.__file__)
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    original = os.getpid() == _PROCESS and multiprocessing.parent_process() is None
    spinning = os.environ.get("OMP_WAIT_POLICY", "active").lower() != "passive"
    if original and spinning and all(hasattr(torch_itself, name) for name in names):
        found.ctr_share_threads(*(ctypes.cast(getattr(torch_itself, name), ctypes.c_void_p) for name in names))
    return found


def each(tasks: int, threads: int, work: Callable[[int], object]) -> None:
    """Calls ``work(0)`` ... ``work(tasks - 1)``, at once as far as there are threads and they give up Python's lock.

    ``work`` must not call this function itself.

    Raises:
        BaseException: of the first of them that raised one; all have ended.
    """
    together = min(tasks, threads)
    if together <= 1:
        for task in range(tasks):
            work(task)
        return
    if not available():
        with ThreadPoolExecutor(together) as pool:
            list(pool.map(work, range(tasks)))
        return
    ended: set[int] = set()
    raised: dict[int, BaseException] = {}

    def caught(task: int) -> None:
        try:
            work(task)
            ended.add(task)
        except BaseException as error:
            raised[task] = error

    sharing().ctr_each(_WORK(caught), tasks, together)
    if raised:
        raise raised[min(raised)]
    if len(ended) < tasks:  # Ctrl-C at the border to the compiled code, which cannot pass it on
        raise KeyboardInterrupt
