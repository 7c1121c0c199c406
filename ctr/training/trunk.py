"""Several runs that begin alike, trained as one: the shared part once, each one's own part from a copy of its state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ctr.training.trainer import TrainingRun


@dataclass(frozen=True)
class Branch:
    """Where one of the runs leaves the shared part.

    Attributes:
        step: the number of the run's steps before it.
        take: does what is left of this run, on the objects of the shared one.
        alters: whether ``take`` changes the run's state; one that only looks on needs no copy.
    """

    step: int
    take: Callable[[], None]
    alters: bool = True


def fork(run: TrainingRun, branches: Sequence[Branch], advance: Callable[[int], None]) -> None:
    """Trains a run and takes every branch at its step; each finds the state of a run of its own, to the last bit.

    There is at most one copy of the state at a time, and none where nothing comes back to it.

    Args:
        run: at or before the first branch.
        branches: in any order.
        advance: trains the run until this number of steps is done in all.
    """
    kept: dict[str, Any] | None = None
    order = sorted(branches, key=lambda branch: (branch.step, branch.alters))
    for branch, following in zip(order, [*order[1:], None], strict=True):
        advance(branch.step)
        if branch.alters and following is not None and kept is None:
            kept = copy.deepcopy(run.state_dict())
        branch.take()
        if branch.alters and following is not None:
            assert kept is not None
            run.load_state_dict(kept)
            if following.step != branch.step:
                kept = None
