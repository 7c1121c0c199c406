"""Writes the checkpoints of a run when they are due, and says what those that are there are good for.

A checkpoint (`ctr.training.checkpoint`) is written under another name, forced to the disk and renamed; older ones are
removed after that.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctr.errors import CtrError, DataError, system_message, warn_once
from ctr.files import TMP_PREFIX, atomic_folder, sealed
from ctr.training import snapshot
from ctr.training.checkpoint import (
    FINAL,
    FORMAT,
    MANIFEST,
    PARTS,
    RETRAIN,
    STATE,
    WITHIN_ROUNDING,
    Checkpoint,
    Phase,
    complete,
    net_of,
    read,
    whole,
)
from ctr.training.compiled.step import NativeStep
from ctr.training.identity import CODE, arithmetic
from ctr.training.interrupts import Interrupts
from ctr.training.precopy import Cancelled, PreCopy
from ctr.training.settings import CheckpointSettings, Settings
from ctr.training.snapshot import Snapshot
from ctr.training.step import RowsStep
from ctr.training.tensors import Pieces, write_tensors
from ctr.training.tracking import Tracker, flatten
from ctr.training.trainer import TrainingRun

HOW = ("backend", "compile", "threads", "device")  # a run may go on with others of these, within rounding

log = logging.getLogger("ctr")

# The rows of a checkpoint, part by part; with the last one its manifest so far and all else of the run.
Parts = Generator[tuple[dict[str, Pieces], tuple[dict[str, Any], Snapshot] | None], None, None]


class Checkpoints:
    """Those of one run in its own folder, written when they are due.

    A thread writes them while the run goes on, if its rows are in compiled code (`ctr.training.precopy`); the torch
    step, which is far slower, waits. A checkpoint that cannot be written is warned of once, and does not end the run.

    Args:
        folder: where they go; made with the first one.
        settings: of the run.
        data_hash: of its rows.
        interrupts: on a pending one a checkpoint is written before it acts.
        tracked: where the run is recorded, see `tracked`.
        at_end: writes more files into a checkpoint of the end of training; returns what its manifest says
            of them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        data_hash: str,
        interrupts: Interrupts,
        tracked: Mapping[str, str] | None = None,
        at_end: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder, self._settings, self._interrupts, self._tracked = folder, settings, interrupts, tracked
        self._at_end = at_end
        self._plan = settings.checkpoint
        self._identity: dict[str, Any] = {
            "config_hash": settings.config_hash,
            "data_hash": data_hash,
            "code_hash": CODE,
            "libraries": list(arithmetic()),
            "modules": dict(settings.code),
            "configuration": settings.computed,
        }
        self._since = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._copy: PreCopy[tuple[dict[str, Any], Snapshot]] | None = None
        self._warned = False
        self._inner: list[Checkpoints] = []

    def within(self, name: str) -> Checkpoints:
        """Those of a part of the run that is trained for itself; they end with these."""
        self._inner.append(self._of(self.folder / name))
        return self._inner[-1]

    def _of(self, folder: Path) -> Checkpoints:
        data_hash = str(self._identity["data_hash"])
        return Checkpoints(folder, self._settings, data_hash, self._interrupts, self._tracked)

    def newest(self, *phases: Phase, most_steps: int | None = None) -> Checkpoint | None:
        """The newest one of these phases that is whole, and has at most ``most_steps`` steps; None without any.

        A damaged one is warned of and passed over; so is a difference that changes the rounding alone.

        Raises:
            CtrError: one is of another configuration or other data.
        """
        for path in complete(self.folder):
            try:
                manifest = read(path)
                if manifest["phase"] in phases and (most_steps is None or manifest["steps"] <= most_steps):
                    self._expect_own(path, manifest["identity"])
                    found = whole(path, manifest)
                    self._compare(manifest["identity"])
                    return found
            except DataError as damage:
                warn_once(f"{damage}; this checkpoint is passed over")
        return None

    def begin(self) -> None:
        """For a run that starts at its first row: says what an earlier one left here, and removes what is of no use.

        Another run's go, and what is after training. Those of the same run stay until this one has its own.
        """
        for name in (RETRAIN, FINAL):
            _remove(self.folder / name)
        for path in complete(self.folder):
            try:
                manifest = read(path)
                self._expect_own(path, manifest["identity"])
            except CtrError as error:
                log.warning("warning: %s; it is removed", error)
                _remove(path)
            else:
                log.warning(
                    "warning: the run starts at its first row, though %s is of the same run at step %s: "
                    "resume=%s goes on from there; it is removed when this run has checkpoints of its own, or ends",
                    path, f"{manifest['steps']:,}", self.folder.parent,
                )  # fmt: skip
                return

    def after_step(
        self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = (), say: Callable[[str], None] = log.info
    ) -> None:
        """Writes a checkpoint if one is due. Before a pending interruption acts, writes one in any case.

        Args:
            run: between two steps.
            phase: what it is at.
            trackers: what they hold back is sent before, so that curves have no gap where the run goes on.
            say: told why the run waits.
        """
        self.interrupted(run, phase, trackers)
        if self._copy is not None:
            with self._lasting():
                self._copy.hand_over()
            if self._writing is not None and self._writing.done():
                self.give_up()
        if self._copy is None and self._due(run.steps):
            self._save(run, phase, trackers, say)

    def interrupted(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = ()) -> None:
        """Writes a checkpoint and acts, if an interruption is pending."""
        if self._interrupts.pending is not None:
            log.info("writing a checkpoint; Ctrl-C again ends at once")
            self.write(run, phase, trackers)
            self._interrupts.act()

    def trained(self, run: TrainingRun, trackers: Sequence[Tracker]) -> None:
        """Keeps the end of training, if it is to stay or there is a retraining to come."""
        if self._plan is not None and (self._plan.final or self._settings.retrain):
            self.write(run, "trained", trackers)

    def write(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker] = ()) -> None:
        """Writes one now, while the run waits."""
        self.give_up()
        with self._lasting():
            self._store(self._waiting(run, phase, trackers))

    def give_up(self) -> None:
        """Ends the writing of one, before anything but a step changes rows; warns of what it failed at."""
        copy, writing, self._copy, self._writing = self._copy, self._writing, None, None
        if copy is not None:
            copy.cancel()
        if writing is not None:
            with self._lasting(), suppress(Cancelled):
                writing.result()

    def close(self) -> None:
        """Ends the writing; what is not done is thrown away."""
        with ExitStack() as ends:  # each, whatever the others do
            ends.callback(self._thread.shutdown)
            ends.callback(self.give_up)
            for part in self._inner:
                ends.callback(part.close)

    def keep(self, final: Path) -> None:
        """Puts the end of training at ``final``, if it is to stay: before the run is done, so that no kill loses it.

        Raises:
            OSError: it cannot be put there; a resumed run tries again.
            CtrError: it could not be written.
        """
        self.close()
        if self._plan is None or not self._plan.final:
            return
        for path in complete(self.folder):
            with suppress(DataError):
                if read(path)["phase"] == "trained":
                    with atomic_folder(final) as kept:
                        for file in path.iterdir():
                            _link(file, kept / file.name)
                    return
        raise CtrError(
            f"{final}: the end of training, which checkpoint.final=true keeps, could not be written; make room for it, "
            f"and go on with resume={self.folder.parent}"
        )

    def finish(self, final: Path) -> None:
        """Removes them all but ``final``, as the run is done."""
        self.close()
        try:
            for entry in self.folder.glob("*"):
                if entry != final:
                    _remove(entry)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            log.warning("warning: %s; delete %s, the run is done", system_message(error), self.folder)

    def _due(self, steps: int) -> bool:
        plan = self._plan
        if plan is None:
            return False
        return (plan.every_steps is not None and steps % plan.every_steps == 0) or self._late(plan)

    def _late(self, plan: CheckpointSettings) -> bool:
        return plan.every_minutes is not None and time.monotonic() - self._since >= 60 * plan.every_minutes

    def _save(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker], say: Callable[[str], None]) -> None:
        self._since = time.monotonic()
        with self._lasting():
            if goes_on(run):
                self._copy = PreCopy(run, lambda: (self._manifest(run, phase, trackers), snapshot.take(run)))
                self._writing = self._thread.submit(self._store_beside, self._copy)
                self._copy.hand_over()
                return
            say("writing a checkpoint: the run waits")
            self._store(self._waiting(run, phase, trackers))

    def _store_beside(self, copy: PreCopy[Any]) -> None:
        """In the thread."""
        try:
            self._store(copy.parts())
        finally:
            copy.close()

    def _waiting(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker]) -> Parts:
        """All rows of a run that waits."""
        end = self._manifest(run, phase, trackers), snapshot.take(run)
        yield snapshot.part(run, run.model.embedding.seen.cpu().numpy()), end

    def _manifest(self, run: TrainingRun, phase: Phase, trackers: Sequence[Tracker]) -> dict[str, Any]:
        for tracker in trackers:
            tracker.flush()
        return {
            "format": FORMAT,
            "phase": phase,
            "steps": run.steps,
            "rows": run.stream.position,
            "seconds": run.seconds,
            "identity": self._identity,
            "tracked": self._tracked,
            "net": net_of(run),
        }

    def _store(self, parts: Parts) -> None:
        written, end = {}, None
        with self._new() as folder:
            for number, (rows, rest) in enumerate(parts):
                name = f"rows-{number}.safetensors"
                written[name] = [asdict(block) for block in write_tensors(folder / name, rows)]
                end = rest
            assert end is not None
            self._seal(folder, *end, written)

    def _seal(self, folder: Path, manifest: Mapping[str, Any], taken: Snapshot, parts: Mapping[str, Any]) -> None:
        """Writes the state, and the manifest last.

        Args:
            folder: of the checkpoint.
            manifest: so far.
            taken: all but the rows.
            parts: checksums of the files of rows, by name.
        """
        blocks = [asdict(block) for block in write_tensors(folder / STATE, taken.tensors)]
        values = {**manifest, "columns": taken.columns, "state": taken.values, "blocks": blocks, PARTS: parts}
        if self._at_end is not None and manifest["phase"] == "trained":
            values |= self._at_end(folder)
        (folder / MANIFEST).write_text(sealed(values), encoding="utf-8")

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """A folder for the next checkpoint, which is there when the block ends well; old ones go after that."""
        for left in self.folder.glob(f"{TMP_PREFIX}*"):
            shutil.rmtree(left)
        older = complete(self.folder)
        with atomic_folder(self.folder / f"{int(older[0].name) + 1 if older else 1:06d}") as folder:
            yield folder
        assert self._plan is not None
        for path in older[self._plan.keep - 1 :]:
            _remove(path)

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        """A run is not lost to a checkpoint that cannot be written."""
        try:
            yield
        except (OSError, MemoryError) as error:
            if not self._warned:
                log.warning(
                    "warning: no checkpoint could be written: %s. The run goes on, and tries again when one is due",
                    system_message(error) if isinstance(error, OSError) else "there is no memory for it",
                )
            self._warned = True
            log.debug("%s", error, exc_info=error)

    def _expect_own(self, path: Path, its: Mapping[str, Any]) -> None:
        """CtrError, with what differs, if a checkpoint is of a run that computes something else."""
        then, now = (
            {key: value for key, value in flatten(identity["configuration"]).items() if key not in HOW}
            for identity in (its, self._identity)
        )
        changed = [
            f"{key} was {then.get(key)}, is {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)
        ]
        if its["data_hash"] != self._identity["data_hash"]:
            changed.append(f"the data's hash was {its['data_hash']}, is {self._identity['data_hash']}")
        if changed:
            raise CtrError(
                f"{path} is of another run: {'; '.join(changed)}. Give what it was, or start anew without it"
            )

    def _compare(self, its: Mapping[str, Any]) -> None:
        """Warns of what the last bits depend on, where it differs."""
        mine = self._identity
        changed = [
            f"{key} was {its['configuration'].get(key)}, is {mine['configuration'].get(key)}"
            for key in HOW
            if its["configuration"].get(key) != mine["configuration"].get(key)
        ]
        changed += [
            f"{then}, now {now}" for then, now in zip(its["libraries"], arithmetic(), strict=True) if then != now
        ]
        if its["modules"] != mine["modules"] or (its["code_hash"] != CODE and its["libraries"] == mine["libraries"]):
            changed.append("the code of the training")
        if changed:
            warn_once(f"since the checkpoint changed: {'; '.join(changed)}. {WITHIN_ROUNDING}")


def goes_on(run: TrainingRun) -> bool:
    """Whether a run may go on while its rows are copied: its steps change those of their batch alone, on the CPU."""
    return isinstance(run.learner, NativeStep | RowsStep)


def _link(file: Path, name: Path) -> None:
    """Gives a file a second name, or a copy where the file system has no such names, or the place is on another one."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)


def _remove(path: Path) -> None:
    """Takes the name first: what is half removed does not look like a checkpoint."""
    if path.is_dir():
        doomed = path.rename(path.with_name(f"{TMP_PREFIX}{path.name}"))
        shutil.rmtree(doomed)
