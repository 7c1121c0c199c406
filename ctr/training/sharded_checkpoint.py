"""Checkpoints that the workers of a run write together, and that any number of workers takes up.

Each worker writes the rows of its shard into a file of its own; the first one writes all else, and the manifest last.
The folder is on a disk that all workers see.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctr.errors import CtrError
from ctr.training import snapshot
from ctr.training.checkpoint import Checkpoint, Phase
from ctr.training.checkpointing import Checkpoints
from ctr.training.distributed import Group
from ctr.training.tensors import write_tensors
from ctr.training.tracking import Tracker
from ctr.training.trainer import TrainingRun

STOPPED, DUE = 1, 2  # what a worker tells the others with its step (`Group.raised`)

log = logging.getLogger("ctr")


class ShardedCheckpoints(Checkpoints):
    """Those of a run of several workers: all of them write, and stop, after the same step. The run waits meanwhile.

    Args:
        group: the workers.
        others: as of `Checkpoints`.
    """

    def __init__(self, group: Group, *others: Any) -> None:
        super().__init__(*others)
        self._group = group

    def _of(self, folder: Path) -> Checkpoints:
        data_hash = str(self._identity["data_hash"])
        return ShardedCheckpoints(self._group, folder, self._settings, data_hash, self._interrupts, self._tracked)

    def newest(self, *phases: Phase, most_steps: int | None = None) -> Checkpoint | None:
        return self._group.agree(lambda: Checkpoints.newest(self, *phases, most_steps=most_steps))

    def begin(self) -> None:
        self._group.agree(lambda: Checkpoints.begin(self))

    def after_step(
        self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = (), say: Callable[[str], None] = log.info
    ) -> None:
        self.interrupted(run, phase, trackers)
        if (plan := self._plan) is None:
            return
        if (plan.every_steps is not None and run.steps % plan.every_steps == 0) or self._group.flags & DUE:
            self.write(run, phase, trackers)
        # One clock, and one step after it has struck: then all know of it.
        self._group.raised = DUE if self._group.first and self._late(plan) else 0
        self._note()

    def interrupted(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = ()) -> None:
        if self._group.flags & STOPPED:
            if self._group.first:
                log.info("writing a checkpoint; Ctrl-C again ends at once")
            self.write(run, phase, trackers)
            self._group.stopping = True
            self._interrupts.act()
            raise CtrError("another worker was told to stop, and all stop with it")
        self._note()

    def _note(self) -> None:
        if self._interrupts.pending is not None:
            self._group.raised |= STOPPED

    def write(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = ()) -> None:
        self._since = time.monotonic()
        with self._lasting(), ExitStack() as new:
            manifest = self._manifest(run, phase, trackers)
            taken, rows = snapshot.take(run), snapshot.part(run, run.model.embedding.seen.numpy())
            folder = self._group.agree(lambda: new.enter_context(self._new()))
            name, blocks, problem = f"rows-{self._group.rank}.safetensors", [], None
            try:  # all are to know of it
                blocks = [asdict(block) for block in write_tensors(folder / name, rows)]
            except OSError as error:
                problem = error
            written = self._group.collect((name, blocks, problem))

            def seal() -> None:
                with new.pop_all():
                    for _, _, error in written:
                        if error is not None:
                            raise error
                    self._seal(folder, manifest, taken, {name: blocks for name, blocks, _ in written})

            self._group.agree(seal)
