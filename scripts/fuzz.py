"""Reads damaged logs by the million: no traceback, no crash, no silent loss, no endless time or memory.

    python scripts/fuzz.py --mutants 1000000 --workers 2             all readers in turn
    python scripts/fuzz.py --only parquet --first 4711 --mutants 1   one mutant again

A mutant is a small generated log (no real row) with one to three things wrong with it; (seed, reader, number) decide
which. It is read strictly and, where that is refused, with ``bad_rows=skip``. It is a finding if

* anything but a `CtrError` comes out, or the message does not name the damaged file and, in a text, the line;
* the rows read and those left out are not as many as plain Python counts in the file;
* the first row left out is not the one that the strict reading names;
* it takes more than 10 seconds of the processor, 300 seconds or 256 MB, or the process crashes (much of Arrow is native
  code).

The files of a finding and the reason are kept in --out, and the table so far. Ctrl-C or SIGTERM ends early and prints
what is known. Exit status 1: there are findings.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mutants import MAX_LINE, READERS, Log, Mutant, make_logs, make_mutant

from ctr.datasets import lines, text
from ctr.datasets.schema import BadRows, Dataset, Reading
from ctr.datasets.transforms import apply, fit
from ctr.errors import CtrError, DataError
from ctr.files import atomic_write_text
from ctr.progress import bar

SECONDS, WALL, MEGABYTES = 10, 300, 256  # of the processor, by the clock; a busy machine is no finding
CHUNK = 1000  # mutants of one reader in one process
BLOCKS = (1 << 20, 1 << 20, 1000)  # bytes read at a time, in turn: a mutant is one block or several
# Errors that no single line is to blame for.
OF_THE_FILE = ("the file is empty", "no valid row", "bid ids is among")


class Finding(Exception):
    """Something that must not happen."""


def check(log: Log, mutant: Mutant, folder: Path) -> tuple[str, int]:
    """Reads a mutant that is in a folder; "whole", "skipping" or "refused", and the rows read."""
    strict = _attempt(log, mutant, folder, "error")
    if not isinstance(strict, CtrError):
        return "whole", strict[0]
    lenient = _attempt(log, mutant, folder, "skip")
    if isinstance(lenient, CtrError):
        return "refused", 0
    if lenient[1] != str(strict):
        raise Finding(f"strictly: {strict}; skipping: {lenient[1]}")
    return "skipping", lenient[0]


def _attempt(log: Log, mutant: Mutant, folder: Path, bad_rows: BadRows) -> tuple[int, str | None] | CtrError:
    """Rows read and the first one left out, or the refusal."""
    rows = 0
    try:
        paths = log.dataset.locate(folder / log.raw)
        reading = Reading(paths, bad_rows)
        dataset = log.dataset if log.dataset.settle is None else log.dataset.settle(paths)
        dense, latest = [], 0
        for block in dataset.read(paths, reading):
            if {len(block.label), *map(len, block.fields), len(block.dense)} != {len(block.label)}:
                raise Finding("columns of different lengths")
            if not np.isin(block.label, (0, 1)).all():
                raise Finding("a label that cannot be")
            if block.time is not None and block.day is not None and len(block.day):
                latest = _expect_days(block.day, block.time, latest)
            dense.append(block.dense)
            rows += len(block.label)
        _expect_numbers(dataset, np.concatenate(dense))
    except CtrError as error:
        check_message(log, mutant.name, error)
        return error
    if mutant.content is None or rows + reading.rows_skipped != mutant.rows:
        raise Finding(f"{rows} rows read and {reading.rows_skipped} left out of {mutant.rows} ({bad_rows})")
    if reading.rows_skipped and bad_rows == "error":
        raise Finding("strict reading has left rows out")
    return rows, reading.first_skipped


def _expect_days(days: np.ndarray, times: np.ndarray, latest: int) -> int:
    """The last time of a block in order."""
    if (np.diff(times, prepend=latest) < 0).any():
        raise Finding("times that are not in order")
    if days.tolist() != [int(f"{time:%Y%m%d}") for time in times.astype("M8[us]").tolist()]:
        raise Finding("days that are not those of the times")
    return int(times[-1])


def _expect_numbers(dataset: Dataset, dense: np.ndarray) -> None:
    """Missing numbers may only be where transforms take them, and what these make of the numbers is finite."""
    if dataset.transforms:
        fields, dense = apply(fit(dataset.transforms, [dense], len(dense)), dense)
        if any(len(field) != len(dense) for field in fields):
            raise Finding("buckets of another length")
    if not np.isfinite(dense).all():
        raise Finding("a number that cannot be")


def check_message(log: Log, name: str, error: CtrError) -> None:
    message = str(error)
    if name not in message or "a bug" in message or "\n" in message or len(message) > 4000:
        raise Finding(f"a message that does not help: {message[:1000]}")
    of_a_line = log.delimiter and isinstance(error, DataError) and not any(reason in message for reason in OF_THE_FILE)
    if of_a_line and error.line is None:
        raise Finding(f"a message without a line: {message}")


@dataclass
class Counts:
    """What came of the mutants of one reader."""

    mutants: int = 0
    whole: int = 0
    skipping: int = 0
    refused: int = 0
    findings: int = 0
    rows: int = 0
    seconds: float = 0  # of the processor, the longest
    megabytes: float = 0  # the most that a process grew by

    def add(self, other: Sequence[float]) -> None:
        for name, more in zip(COUNTS, other, strict=True):
            so_far = getattr(self, name)
            setattr(self, name, max(so_far, more) if name in ("seconds", "megabytes") else so_far + int(more))


COUNTS = tuple(vars(Counts()))


@dataclass
class Task:
    """Some mutants of one reader for a process of their own, and what it has told of them so far."""

    reader: str
    numbers: range
    folder: Path = Path()
    told: Any = field(default_factory=lambda: multiprocessing.RawArray("d", len(COUNTS)))
    process: Any = None


def work(task: Task, log: Log, seed: int, out: Path) -> None:
    """Checks the mutants of a task one after the other, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    # And so does a mutant that takes too long, whatever it does.
    for end in (signal.SIGTERM, signal.SIGPROF, signal.SIGALRM):
        signal.signal(end, signal.SIG_DFL)
    lines.MAX_LINE_BYTES = text.MAX_LINE_BYTES = MAX_LINE
    pa.set_cpu_count(1)  # a log of a few rows is read in a third less time without threads
    parent, told = os.getppid(), dict(zip(COUNTS, range(len(COUNTS)), strict=True))
    for name, content in log.files.items():
        (task.folder / name).write_bytes(content)
    first = next(iter(log.files))
    check(log, Mutant(first, log.files[first], log.rows), task.folder)  # what all have in common is loaded
    before = _peak()
    for number in task.numbers:
        if os.getppid() != parent:
            return
        mutant = make_mutant(task.reader, log, seed, number)
        path = task.folder / mutant.name
        if mutant.content is None:
            path.unlink()
        else:
            path.write_bytes(mutant.content)
        lines.BLOCK_BYTES = BLOCKS[number % len(BLOCKS)]
        text._SLICE_BYTES = lines.BLOCK_BYTES // 2
        start, rows = time.process_time(), 0
        _limit(SECONDS, WALL)
        try:
            outcome, rows = check(log, mutant, task.folder)
            if _peak() - before > MEGABYTES:
                before = _peak()
                raise Finding(f"took more than {MEGABYTES} MB")
        except Exception as error:
            outcome = "findings"
            keep(task, number, seed, out, str(error) if isinstance(error, Finding) else traceback.format_exc())
        _limit(0, 0)
        path.write_bytes(log.files[mutant.name])
        for name, more in (("mutants", 1), (outcome, 1), ("rows", rows)):
            task.told[told[name]] += more
        seconds, megabytes = told["seconds"], told["megabytes"]
        task.told[seconds] = max(task.told[seconds], time.process_time() - start)
        task.told[megabytes] = max(task.told[megabytes], _peak() - before)


def _limit(processor: float, clock: float) -> None:
    """Seconds after which a signal ends the process; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, processor)
    signal.setitimer(signal.ITIMER_REAL, clock)


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keep(task: Task, number: int, seed: int, out: Path, reason: str) -> None:
    """Keeps the files of a finding."""
    shutil.copytree(task.folder, out / f"{task.reader}-{number}", dirs_exist_ok=True)
    again = f"python scripts/fuzz.py --only {task.reader} --first {number} --mutants 1 --seed {seed}"
    (out / f"{task.reader}-{number}" / "reason.txt").write_text(f"{reason}\n{again}\n")


def campaign(
    readers: Sequence[str],
    numbers: range,
    seed: int,
    workers: int,
    out: Path,
    tell: Callable[[dict[str, Counts]], None],
) -> dict[str, Counts]:
    """Checks the mutants with these numbers of each reader; what is known so far when it is interrupted.

    Args:
        readers: of `READERS`.
        numbers: of the mutants.
        seed: of all of them.
        workers: processes at a time.
        out: folder for the files of findings.
        tell: is told what is known so far, about once a second.
    """
    counts = {reader: Counts() for reader in readers}
    starts = range(0, len(numbers), CHUNK)
    waiting = deque(Task(reader, numbers[start : start + CHUNK]) for start in starts for reader in readers)
    running: list[Task] = []

    def so_far() -> dict[str, Counts]:
        known = {reader: replace(count) for reader, count in counts.items()}
        for task in running:
            known[task.reader].add(task.told)
        return known

    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as scratch:
        logs = make_logs()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_started(waiting.popleft(), logs, seed, out, Path(scratch)))
                wait([task.process.sentinel for task in running], timeout=1)
                for task in [task for task in running if not task.process.is_alive()]:
                    running.remove(task)
                    rest = _ended(task, seed, out)
                    if rest:
                        waiting.appendleft(Task(task.reader, rest))
                    counts[task.reader].add(task.told)
                tell(so_far())
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        for task in running:
            task.process.kill()
            task.process.join()
    return so_far()


def _started(task: Task, logs: dict[str, Log], seed: int, out: Path, scratch: Path) -> Task:
    task.folder = Path(tempfile.mkdtemp(dir=scratch))
    context = multiprocessing.get_context("fork")
    task.process = context.Process(target=work, args=(task, logs[task.reader], seed, out))
    task.process.start()
    return task


def _ended(task: Task, seed: int, out: Path) -> range:
    """The mutants of an ended task that are still to be checked: all after one that took the process with it."""
    task.process.join()
    done, code = int(task.told[0]), task.process.exitcode
    rest = range(0)
    if code:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        limits = {-signal.SIGPROF: f"{SECONDS} seconds of the processor", -signal.SIGALRM: f"{WALL} seconds"}
        slow = f": it took more than {limits[code]}" if code in limits else ""
        keep(task, task.numbers[done], seed, out, f"the process ended with {how}{slow}")
        for name in ("mutants", "findings"):
            task.told[COUNTS.index(name)] += 1
        rest = task.numbers[done + 1 :]
    shutil.rmtree(task.folder)
    return rest


def report(counts: dict[str, Counts]) -> str:
    """The table."""
    total = Counts()
    for count in counts.values():
        total.add(astuple(count))
    cells = ["reader|mutants|read whole|bad rows left out|refused|rows read|findings|longest|most memory"]
    cells += [
        f"{name}|{count.mutants:,}|{count.whole:,}|{count.skipping:,}|{count.refused:,}|{count.rows:,}|"
        f"{count.findings:,}|{count.seconds:.2f} s|{count.megabytes:.0f} MB"
        for name, count in [*counts.items(), ("all", total)]
    ]
    rows = [line.split("|") for line in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * (width - 1) + ":" for width in widths])
    padded = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=60_000, help="in all; default %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant of each reader")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other mutants")
    parser.add_argument("--only", choices=READERS, help="one reader; default: all")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; default %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), help="folder for findings; default %(default)s"
    )
    arguments = parser.parse_args()
    readers = (arguments.only,) if arguments.only else READERS
    numbers = range(arguments.first, arguments.first - (-arguments.mutants // len(readers)))
    for end in (signal.SIGINT, signal.SIGTERM):  # a job in the background ignores Ctrl-C
        signal.signal(end, signal.default_int_handler)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with bar(len(numbers) * len(readers), "mutants", "fuzz") as progress:

        def tell(known: dict[str, Counts]) -> None:
            progress.update(sum(count.mutants for count in known.values()) - progress.n)
            atomic_write_text(arguments.out / "table.md", report(known) + "\n")

        counts = campaign(readers, numbers, arguments.seed, arguments.workers, arguments.out, tell)
    print(report(counts))
    if findings := sum(count.findings for count in counts.values()):
        sys.exit(f"{findings:,} findings; their files are in {arguments.out}")


if __name__ == "__main__":
    main()
