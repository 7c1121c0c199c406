"""Copies the rows of a run while it goes on, as virtual machines move between hosts (pre-copy: Clark et al., Live
migration of virtual machines, NSDI 2005): first all, then those that steps have changed meanwhile, and so on, until few
are left, for which the run waits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from threading import Event
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from ctr.training import snapshot
from ctr.training.snapshot import ROWS
from ctr.training.tensors import Pieces
from ctr.training.trainer import TrainingRun

WAIT = 1 << 27  # bytes of rows, about, that a run waits for
ROUNDS = 8  # at most: a disk may be slower than the run

End = TypeVar("End")


class Cancelled(Exception):
    """The copy is of no use any more."""


class PreCopy(Generic[End]):
    """One copy of a run's rows, written by another thread.

    From the first part to the last only rows of the steps' batches may change.

    Args:
        run: between two steps.
        end: called between two steps, with the last part: what the copy is to hold beside the rows.
    """

    def __init__(self, run: TrainingRun, end: Callable[[], End]) -> None:
        self._run, self._end = run, end
        self._handed: SimpleQueue[tuple[np.ndarray, End | None] | None] = SimpleQueue()
        self._waits, self._rounds, self._closed, self._cancelled = Event(), 0, False, False
        self._next = run.changed = run.model.embedding.seen.numpy().copy()
        self._free = np.empty_like(run.changed)
        self._waits.set()

    def hand_over(self) -> None:
        """Between two steps: gives the thread the next part, if it waits for one. If this is the last the run waits."""
        if self._run.changed is None or not self._waits.is_set():
            return
        marked = self._next
        size = np.count_nonzero(marked) * sum(table[:1].nbytes for table in self._run.learner.tables)
        end = self._end() if size <= WAIT or self._rounds + 1 == ROUNDS else None
        self._waits.clear()
        if self._closed:  # the thread has failed
            return
        self._rounds += 1
        self._handed.put((marked, end))
        if end is not None:
            self._run.changed = None
            self._waits.wait()
        else:
            self._free.fill(False)
            self._next = self._run.changed = self._free
            self._free = marked

    def parts(self) -> Generator[tuple[dict[str, Pieces], End | None], None, None]:
        """For the thread: the parts of `ctr.training.snapshot.part`; the end comes with the last one.

        Raises:
            Cancelled: see :meth:`cancel`.
        """
        end = None
        while end is None:
            if (handed := self._handed.get()) is None:
                raise Cancelled
            marked, end = handed
            part = snapshot.part(self._run, marked)
            rows = part[ROWS]
            yield {**part, ROWS: replace(rows, pieces=self._until_cancelled(rows.pieces))}, end
            self._waits.set()

    def close(self) -> None:
        """For the thread, which has written the last part or has failed: the run does not wait for it any more."""
        self._closed = True
        self._waits.set()

    def _until_cancelled(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        for piece in pieces:
            if self._cancelled:
                raise Cancelled
            yield piece

    def cancel(self) -> None:
        """Ends the thread's iteration soon."""
        self._cancelled = True
        self._handed.put(None)
        if self._run.changed is self._next:
            self._run.changed = None
