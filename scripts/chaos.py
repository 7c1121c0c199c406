"""Disturbs the commands at random, runs them again and compares every figure with that of an undisturbed run.

    python scripts/chaos.py                                  # 1,000 rounds
    python scripts/chaos.py --rounds 200 --seed 7 --only kill9,disk
    python scripts/chaos.py --seed 7 --round 43              # once more, with the rounds that filled its folder before

A round runs one command on a small generated log, in a folder that up to five rounds share, and disturbs it: a signal
at a random moment, a disk or a file size that ends, or damage to what lies on the disk. Then the same command runs
undisturbed. Its figures must be those of a run that nothing ever disturbed, to the last bit. It may refuse to run,
with one line that names a file and says what to do: that is done, and the figures must be right then.

Linux only. As root the folder is a tmpfs of a limited size; otherwise no disk is full (``disk`` is left out).
"""

from __future__ import annotations

import os

# Before the libraries: this process forks, so that it must have no threads.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_OPTIONAL_LOCKS": "0"}

import ctr.environment  # before torch

# isort: split

import argparse
import ctypes
import hashlib
import importlib
import io
import json
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

import ctr.prepare
import ctr.reproduce
import ctr.studies.runner
import ctr.studies.worker
import ctr.train
from ctr import rates
from ctr.cli import INTERRUPTED, TERMINATED, open_data, run_command
from ctr.files import TMP_PREFIX
from ctr.store import RESULT
from ctr.sweep import RECORD

SIGNALS = {"kill9": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
DISTURBANCES = (*SIGNALS, "disk", "fsize", "damage")
SHARE_OF_FRESH, SHARE_OF_TRACKED, SHARE_OF_NEW_DATABASES = 0.05, 0.4, 0.1
ROUNDS_PER_FOLDER = 5
MAX_SECONDS = 180.0  # of one command, on a busy machine
SECONDS_TO_VANISH = 30.0  # for a killed command's workers
DISK = 2**31
DAMAGED = (
    "rows.arrow", "vocabulary.arrow", "manifest.json", "learning_rates.json", "mlflow.db", RESULT, "config.yaml",
    "*.lock", RECORD, "settings.json",
)  # fmt: skip
MEASURED = {"samples_per_second", "train_seconds", "peak_rss_bytes"}  # never the same twice
MODULES = ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "ctr.studies.registry", "ctr.studies.report")
ENTRIES: dict[str, Callable[[], None]] = {
    "ctr.prepare": partial(run_command, ctr.prepare.main, "prepare"),
    "ctr.train": partial(run_command, ctr.train.command, "train"),
    "ctr.reproduce": partial(run_command, ctr.reproduce.main, "reproduce"),
}
libc = ctypes.CDLL(None, use_errno=True)


# What is run, and what it must have found


@dataclass(frozen=True)
class Command:
    """A line to run: ``python -m <module> <arguments>``; kind and variant name it in the report."""

    kind: str
    variant: str
    module: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.variant}"

    def tracked(self, yes: bool) -> tuple[str, ...]:
        return (*self.arguments, "tracking=mlflow" if yes else "tracking=none") if self.kind != "prepare" else ()


def _data(name: str, rows: int, *more: str) -> tuple[str, ...]:
    return (f"dataset={name}", "dataset.source=sample", f"dataset.sample_rows={rows}", *more)


CRITEO = _data("criteo", 3000, "dataset.prepared=data/criteo/prepared")
HASHED = _data(
    "criteo", 3000, "dataset.prepared=data/hashed/prepared", "dataset.encoding=hash", "dataset.num_buckets=900"
)
AVAZU = _data("avazu", 2000, "dataset.prepared=data/avazu/prepared")
SMALL = ("model=mlp", "model.embedding_dim=4", "model.hidden=[8]")
TRAIN = (*CRITEO, *SMALL, "batch_size=64")
PRUNED = ("opt=adam", "prune=magnitude", "prune.feature_rate=0.3", "prune.finetune=0.2")
TABLE2 = ("study=table2", *CRITEO, *SMALL, "seeds=[0]", "lambda21=[1e-3]", "finetune=[0.3]", "lr=1e-3")


def _train(variant: str, *arguments: str) -> Command:
    return Command("train", variant, "ctr.train", (*arguments, f"run_dir=runs/{variant}"))


def _sweep(variant: str, *arguments: str) -> Command:
    return Command("sweep", variant, "ctr.train", ("-m", *arguments, f"run_dir=runs/{variant}"))


COMMANDS = (
    *(
        Command("prepare", name, "ctr.prepare", data)
        for name, data in (("criteo", CRITEO), ("hashed", HASHED), ("avazu", AVAZU))
    ),
    _train("native", *TRAIN, "backend=native", "opt.lambda21=1e-2"),
    _train("torch", *TRAIN, "backend=torch", "opt.lambda21=1e-2"),
    _train("pruned", *TRAIN, *PRUNED, "backend=native"),
    _train("hashed", *HASHED, *SMALL, "backend=torch", *PRUNED, "retrain=true"),
    _train("days", *AVAZU, *SMALL, "opt.lambda21=1e-3"),
    _train("auto", *TRAIN, "opt.lr=auto"),
    _sweep("lambdas", *TRAIN, "opt.lambda21=1e-4,1e-3,1e-2"),
    _sweep("pruning", *TRAIN, *PRUNED, "seed=3,4"),
    _sweep("forced", *TRAIN, "opt=group_adam,adagrad", "force=true"),
    Command("study", "table2", "ctr.reproduce", (*TABLE2, "workers=1")),
    Command("study", "seeds", "ctr.reproduce", (*TABLE2, "seeds=[1,2]", "workers=2")),
)


def prepared_folder(work: Path, command: Command) -> Path:
    (prepared,) = (argument.partition("=")[2] for argument in command.arguments if argument.startswith(PREPARED))
    return work / prepared


PREPARED = "dataset.prepared="


def figures(command: Command, work: Path) -> Any:
    """Everything that a finished command found, but times, paths and memory."""
    if command.kind == "prepare":
        (folder,) = (path.parent for path in prepared_folder(work, command).glob("*/manifest.json"))
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["input"]["files"]
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.arrow"))}
        return {"manifest": manifest, **hashes}
    if command.kind == "train":
        return _result(work / "runs" / command.variant)
    if command.kind == "sweep":
        lines = (work / "runs" / command.variant / RECORD).read_text().splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["job"])
        return [
            (row["job"], row["overrides"], row["error"], row["error"] or _result(work / row["folder"])) for row in rows
        ]
    (folder,) = (work / "runs" / "studies").glob("table2*")
    runs = pd.read_csv(folder / "runs.csv").drop(columns=[*MEASURED, "folder", "command"])
    return {"result": (folder / "result.csv").read_text(), "runs": runs.to_csv()}


def _result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / RESULT).read_text())
    return {name: value for name, value in result.items() if name not in MEASURED}


# Processes


@dataclass
class Ended:
    """How a command ended: exit status (below 0: the signal that ended it), seconds, its output, and what was wrong
    with it whatever it ran."""

    code: int
    seconds: float
    out: str
    err: str
    problems: list[str]


class Process:
    """A command in a child of this process, in a session of its own: forked from this one, which has imported all that
    takes time, or ``fresh``, from nothing.

    Args:
        limit: bytes beyond which no file can grow.
    """

    def __init__(self, run: Callable[[], object], work: Path, *, limit: int | None = None) -> None:
        # Pipes: a limit on files must not silence the command. 1 MiB holds all that it says.
        pipes = [os.pipe() for _ in range(3)]
        for reader, _ in pipes:
            libc.fcntl(reader, 1031, 2**20)  # F_SETPIPE_SZ
            os.set_blocking(reader, False)
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._become(run, work, limit, [writer for _, writer in pipes])
        for _, writer in pipes:
            os.close(writer)
        self._out, self._err, ready = (reader for reader, _ in pipes)
        select.select([ready], [], [])
        os.close(ready)
        self._began = time.monotonic()
        self._end = os.pidfd_open(self.pid)

    def _become(self, run: Callable[[], object], work: Path, limit: int | None, pipes: list[int]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.chdir(work)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(pipes[0], 1)
            os.dup2(pipes[1], 2)
            signal.signal(signal.SIGINT, ctr.environment.end_at_once)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            os.write(pipes[2], b".")
            run()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def ended(self, within: float) -> bool:
        """Waits for the end."""
        return bool(select.select([self._end], [], [], max(within, 0.0))[0])

    def finish(self) -> Ended:
        """Waits for the end and for that of every process that it began."""
        problems = []
        if not self.ended(MAX_SECONDS):
            problems.append(f"did not end within {MAX_SECONDS:.0f} s")
            os.killpg(self.pid, signal.SIGKILL)
        seconds = time.monotonic() - self._began
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if left := _left():
            problems.append(f"left behind: {'; '.join(left)}")
        texts = []
        for reader in (self._out, self._err):
            with io.FileIO(reader) as file:
                texts.append((file.read(2**20) or b"").decode(errors="replace"))
        os.close(self._end)
        problems += [f"a traceback: {text.strip()[-300:]}" for text in texts if "Traceback (" in text]
        return Ended(code, seconds, *texts, problems)


def _left() -> list[str]:
    """The command lines of the processes that outlived their command; orphans become children of this process."""
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while True:
        with suppress(ChildProcessError):
            if os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() < deadline:
                time.sleep(0.002)
                continue
            left = [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
            names = [Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in left]
            for child in left:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return names
        return []


def fresh(command: Command, arguments: tuple[str, ...]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-m", command.module, *arguments])


def forked(command: Command, arguments: tuple[str, ...]) -> None:
    """What a fresh process does once its libraries are loaded."""
    sys.argv = [command.module, *arguments]
    if command.kind == "study":
        _fork_workers()
    ENTRIES[command.module]()


def _fork_workers() -> None:
    """Has a study's workers forked, too: by a helper that has no threads, as the study itself has by then."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _adopt_orphans()
    if not os.fork():
        here.close()
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            order, descriptors, *_ = socket.recv_fds(there, 4096, 1)
            if not order:
                os._exit(0)
            told, tell = os.pipe()
            if not os.fork():  # it ends at once, so that the worker becomes the study's child
                if worker := os.fork():
                    os.write(tell, str(worker).encode())
                    os._exit(0)
                os.setsid()
                function, root = json.loads(order)
                with suppress(SystemExit):
                    ctr.studies.worker.main(str(descriptors[0]), function, root)
                os._exit(143)
            os.wait()
            os.close(descriptors[0])
            there.send(os.read(told, 100))
    there.close()

    class Worker:
        """As `subprocess.Popen`, as far as the runner uses it."""

        def __init__(self, line: list[str], pass_fds: list[int], **_: object) -> None:
            socket.send_fds(here, [json.dumps(line[4:]).encode()], pass_fds)
            self.pid, self._code = int(here.recv(100)), None
            self._end = os.pidfd_open(self.pid)

        def poll(self) -> int | None:
            return self._code if self._code is not None or not select.select([self._end], [], [], 0)[0] else self.wait()

        def wait(self, timeout: float | None = None) -> int:
            if self._code is None:
                if not select.select([self._end], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired("worker", timeout or 0)
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._code

        def terminate(self) -> None:
            if self.poll() is None:
                os.kill(self.pid, signal.SIGTERM)

        def kill(self) -> None:
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    ctr.studies.runner.subprocess = SimpleNamespace(Popen=Worker, **names)  # type: ignore[assignment]


def _adopt_orphans() -> None:
    if libc.prctl(36, 1, 0, 0, 0):  # PR_SET_CHILD_SUBREAPER
        raise OSError(ctypes.get_errno(), "prctl")


# The disk


@contextmanager
def disk() -> Iterator[tuple[Path, bool]]:
    """A folder for all rounds, and whether its size can be limited: a tmpfs that nobody else sees and that ends with
    this process, where the system allows that."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        mounted = os.geteuid() == 0 and not libc.unshare(0x20000)  # CLONE_NEWNS
        if mounted:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", name]
            mounted = all(
                subprocess.run(line, capture_output=True, check=False).returncode == 0
                for line in (["mount", "--make-rprivate", "/"], mount)
            )
        try:
            yield Path(name), mounted
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", name], check=True)


def used(path: Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def resize(path: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)


def damage(path: Path, chance: random.Random) -> str:
    """Flips bits, zeroes a stretch, cuts or empties a file; says what it did."""
    content = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "flip", "zero", "zero", "cut", "empty"]) if content else "garbage"
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 8])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        start = chance.randrange(len(content))
        stop = min(start + chance.choice([1, 16, 4096]), len(content))
        content[start:stop] = bytes(stop - start)
    elif kind == "cut":
        del content[chance.randrange(len(content)) :]
    else:
        content = bytearray(chance.randbytes(100) if kind == "garbage" else b"")
    path.write_bytes(content)
    return f"{kind} {path.name}"


# Rounds


@dataclass
class Undisturbed:
    """What a command finds when nothing disturbs it, how long it takes and by how much the disk fills."""

    figures: Any
    seconds: float
    bytes: int


@dataclass
class Round:
    """One round and how it went."""

    number: int
    command: Command
    disturbance: str
    what: str = ""
    interrupted: bool = False
    refused: bool = False
    problems: list[str] = field(default_factory=list)
    outputs: list[Ended] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return "WRONG" if self.problems else "refused" if self.refused else "repaired"


class Campaign:
    """Rounds that share a disk, undisturbed runs and a database to copy.

    Args:
        seed: of all choices. Moments are measured, so that a signal does not hit the same instruction twice.
        only: the disturbances to choose from.
        root: an empty folder.
        kept: where the folders of the rounds that went wrong are copied to.
    """

    def __init__(self, seed: int, only: tuple[str, ...], root: Path, kept: Path) -> None:
        self.seed, self.only, self.root, self.kept = seed, only, root, kept
        self.work = root / "work"
        self._undisturbed: dict[tuple[str, bool], Undisturbed] = {}
        self._database = root / "ready" / "mlflow.db"
        self._kills = 0  # in the present folder
        self._hurt: set[Path] = set()  # what was damaged in it
        self._seconds_to_create = 0.0

    def chain(self, first: int) -> None:
        """Begins a new folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self._kills, self._hurt = 0, set()

    def round(self, number: int) -> Round:
        """Plays a round; its folder must be as the rounds before left it."""
        if number % ROUNDS_PER_FOLDER == 0:
            self.chain(number)
        chance = random.Random(f"{self.seed} {number}")
        kind = chance.choice(["prepare", "train", "train", "train", "sweep", "sweep", "study"])
        command = chance.choice([command for command in COMMANDS if command.kind == kind])
        play = Round(number, command, chance.choice(self.only))
        tracked = command.kind != "prepare" and chance.random() < SHARE_OF_TRACKED
        is_fresh = chance.random() < SHARE_OF_FRESH
        create = chance.random() < SHARE_OF_NEW_DATABASES
        expected = self.undisturbed(command, tracked)
        seconds = expected.seconds
        if tracked and not (self.work / "mlflow.db").exists():
            if create:
                seconds += self._seconds_to_create
            else:
                shutil.copy(self._ready_database(), self.work / "mlflow.db")
        run = partial(self._run, command, tracked)
        if play.disturbance == "damage":
            self._damage(play, run, chance)
        else:
            self._disturb(play, expected, seconds, tracked, is_fresh, chance)
        before = self._temporary()
        self._settle(play, run, expected)
        if len(self._temporary()) > 3 * self._kills or len(self._temporary()) > len(before):
            play.problems.append(f"temporary files were left: {self._temporary()}")
        if play.problems:
            self._keep(play)
        return play

    def undisturbed(self, command: Command, tracked: bool) -> Undisturbed:
        if (command.name, tracked) not in self._undisturbed:
            work = self.root / "undisturbed"
            work.mkdir()
            if tracked:
                shutil.copy(self._ready_database(), work / "mlflow.db")
            before = used(self.root)
            self._prerequisites(command, work)
            ended = Process(partial(forked, command, _arguments(command, tracked)), work).finish()
            if ended.code or ended.problems:
                raise RuntimeError(f"{command.name} fails undisturbed: {ended.code} {ended.problems} {ended.err}")
            found = Undisturbed(figures(command, work), ended.seconds, used(self.root) - before)
            self._undisturbed[command.name, tracked] = found
            shutil.rmtree(work)
        return self._undisturbed[command.name, tracked]

    def _ready_database(self) -> Path:
        if not self._database.exists():
            self._database.parent.mkdir()
            ended = Process(partial(_create, self._database), self.root).finish()
            if ended.code:
                raise RuntimeError(f"no database: {ended.err}")
            self._seconds_to_create = ended.seconds
        return self._database

    def _prerequisites(self, command: Command, work: Path) -> None:
        """A learning rate for ``opt.lr=auto``."""
        if command.variant == "auto" and not [*prepared_folder(work, command).glob(f"*/{rates.RATES}")]:
            Process(partial(_record_rate, command), work).finish()

    def _run(self, command: Command, tracked: bool) -> Ended:
        return Process(partial(forked, command, _arguments(command, tracked)), self.work).finish()

    def _disturb(
        self, play: Round, expected: Undisturbed, seconds: float, tracked: bool, is_fresh: bool, chance: random.Random
    ) -> None:
        """Runs the command under a signal or a limit."""
        command, name = play.command, play.disturbance
        self._prerequisites(command, self.work)
        before = self._temporary()
        limit = None
        if name == "disk":
            free = int(expected.bytes * chance.random() ** 2)
            play.what = f"with {free:,} bytes left"
            resize(self.root, used(self.root) + free)
        elif name == "fsize":
            limit = int(2 ** chance.uniform(0, 20))
            play.what = f"with files of up to {limit:,} bytes"
        process = Process(
            partial(fresh if is_fresh else forked, command, _arguments(command, tracked)), self.work, limit=limit
        )
        if name in SIGNALS:
            part = chance.choice([(0.0, 1.0), (0.0, 1.0), (0.0, 0.3), (0.8, 1.05)])
            moment = chance.uniform(*part) * seconds + (chance.uniform(0, 3) if is_fresh else 0)  # it loads first
            play.what = f"after {moment:.2f} s"
            if not process.ended(moment):
                play.interrupted = True
                send = os.killpg if name == "int" else os.kill  # a terminal sends Ctrl-C to all of its group
                send(process.pid, SIGNALS[name])
        play.what += " of a fresh process" if is_fresh else ""
        play.what += " tracked" if tracked else ""
        ended = process.finish()
        if name == "disk":
            resize(self.root, DISK)
        if name in SIGNALS:
            allowed = {0, {"kill9": -9, "term": TERMINATED, "int": INTERRUPTED}[name]}
            if is_fresh:
                allowed.add(-SIGNALS[name])  # before Python runs at all
            play.interrupted = ended.code != 0
        else:
            allowed = {0, 1}
            play.interrupted = ended.code != 0
        self._kills += ended.code == -signal.SIGKILL
        self._judge(play, ended, allowed)
        if ended.code == 0:
            self._compare(play, expected, "the disturbed run")
        play.problems += [f"half-written: {path}" for path in half_written(self.work, self._hurt)]
        left = [path for path in self._temporary() if path not in before]
        if left and ended.code != -signal.SIGKILL:
            play.problems.append(f"left {left}")

    def _damage(self, play: Round, run: Callable[[], Ended], chance: random.Random) -> None:
        """Damages a file that earlier rounds left, or a first run of the command."""
        self._prerequisites(play.command, self.work)
        if not prepared_folder(self.work, play.command).exists() or chance.random() < 0.3:
            run()
        names = [name for name in DAMAGED if any(self.work.rglob(name))]
        path = chance.choice(sorted(self.work.rglob(chance.choice(names))))
        play.what = f"{damage(path, chance)} ({path.relative_to(self.work)})"
        self._hurt.add(path)

    def _settle(self, play: Round, run: Callable[[], Ended], expected: Undisturbed) -> None:
        """Runs the command undisturbed, and does what its errors ask for, until it is done."""
        self._prerequisites(play.command, self.work)
        for _ in range(5):
            ended = run()
            self._judge(play, ended, {0, 1, 2})
            if ended.code == 0:
                self._compare(play, expected, "the run after it")
                return
            if not self._hurt:
                play.problems.append(f"the run after it failed: {_last_line(ended.err)}")
                return
            path = remedy(ended.err, self.work)
            if path is None:
                play.problems.append(f"refused without a file to delete: {_last_line(ended.err)}")
                return
            play.refused = True
            play.what += f"; deleted {path.relative_to(self.work)}"
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._prerequisites(play.command, self.work)
        play.problems.append("refused five times")

    def _judge(self, play: Round, ended: Ended, allowed: set[int]) -> None:
        """Holds the exit code and what was said against what is documented."""
        play.outputs.append(ended)
        play.problems += ended.problems
        if ended.code not in allowed:
            play.problems.append(f"exit code {ended.code}: {_last_line(ended.err)}")
        said = [line for line in ended.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        if ended.code > 0 and (len(said) != 1 or _last_line(ended.err) != said[0]):
            play.problems.append(f"not one line of error, but {ended.err[-500:]!r}")

    def _compare(self, play: Round, expected: Undisturbed, which: str) -> None:
        try:
            found = figures(play.command, self.work)
        except (OSError, ValueError, KeyError) as error:
            play.problems.append(f"{which} ended with 0 and without its result: {type(error).__name__}: {error}")
            return
        if found != expected.figures:
            play.problems.append(f"{which} has other figures: {_difference(found, expected.figures)}")

    def _temporary(self) -> list[str]:
        return sorted(str(path.relative_to(self.work)) for path in self.work.rglob(f"{TMP_PREFIX}*"))

    def _keep(self, play: Round) -> None:
        folder = self.kept / f"seed-{self.seed}-round-{play.number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work, folder / "work")
        for number, ended in enumerate(play.outputs):
            (folder / f"run-{number}.txt").write_text(f"exit code {ended.code}\n{ended.out}\n{ended.err}")
        (folder / "problems.txt").write_text("\n".join([describe(play), *play.problems]) + "\n")


def _arguments(command: Command, tracked: bool) -> tuple[str, ...]:
    if command.kind == "prepare":
        return command.arguments
    return (*command.arguments, f"tracking={'mlflow' if tracked else 'none'}")


def _create(database: Path) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{database}").search_experiments()


def _record_rate(command: Command) -> None:
    """As study=table5 does once it has chosen one."""
    from hydra import compose, initialize_config_module

    import ctr.config

    with initialize_config_module("ctr.conf", version_base="1.3"):
        config = compose("train", [*command.arguments, "tracking=none"])
    rates.record(open_data(config.dataset).folder, ctr.config.plain_dict(config), 0.01)


def half_written(work: Path, damaged: set[Path]) -> list[str]:
    """Files under their final names that are not whole."""
    readers: dict[str, Callable[[Path], object]] = {
        "*.json": lambda path: json.loads(path.read_text()),
        "*.jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        "*.arrow": lambda path: pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all(),
        "*.csv": pd.read_csv,
    }
    found = []
    for pattern, read in readers.items():
        for path in work.rglob(pattern):
            if path in damaged or any(part.startswith(TMP_PREFIX) for part in path.parts):
                continue
            try:
                read(path)
            except (ValueError, pa.ArrowException):
                found.append(str(path.relative_to(work)))
    return found


def remedy(text: str, work: Path) -> Path | None:
    """What an error asks to delete: the first path below the working folder that it names."""
    line = _last_line(text)
    if not re.search(r"\b(delete|remove|move)\b", line):
        return None
    for token in re.findall(r"[^\s;,'\"()]+", line):
        path = (work / token.rpartition("=")[2].removeprefix("sqlite:///").rstrip(".:")).resolve()
        if path.exists() and work.resolve() in path.parents:
            return path
    return None


def _last_line(text: str) -> str:
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "(nothing on stderr)"


def _difference(found: Any, expected: Any) -> str:
    """Where two figures differ first, by path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                return f"{name} {_difference(found.get(name), expected.get(name))}"
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return f"{number} {_difference(one, other)}"
    return f"{str(found)[:150]}, expected {str(expected)[:150]}"


def describe(play: Round) -> str:
    return f"round {play.number}: {play.disturbance} {play.what}, {play.command.name}"


def table(rounds: list[Round]) -> str:
    """Disturbance by command: how the rounds went."""
    head = ["disturbance", "command", "rounds", "ended by itself", "interrupted", "repaired", "refused", "WRONG"]
    lines = []
    groups = {(play.disturbance, play.command.kind): [] for play in rounds}
    for play in rounds:
        groups[play.disturbance, play.command.kind].append(play)
    order = {kind: place for place, kind in enumerate(("prepare", "train", "sweep", "study"))}
    keys = sorted(groups, key=lambda key: (DISTURBANCES.index(key[0]), order[key[1]]))
    for key, plays in [*((key, groups[key]) for key in keys), (("all", ""), rounds)]:
        outcomes = Counter(play.outcome for play in plays)
        interrupted = sum(play.interrupted for play in plays)
        counts = [len(plays), len(plays) - interrupted, interrupted]
        lines.append([*key, *map(str, counts), *(str(outcomes[name]) for name in ("repaired", "refused", "WRONG"))])
    rule = ["---", "---", *["--:"] * 6]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(DISTURBANCES), help="of %(default)s")
    parser.add_argument("--round", type=int, help="this one alone, after those that used its folder before")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="for what went wrong: %(default)s")
    given = parser.parse_args(arguments)
    only = tuple(given.only.split(","))
    if unknown := set(only) - {*DISTURBANCES}:
        parser.error(f"--only {','.join(sorted(unknown))}; expected some of {','.join(DISTURBANCES)}")
    numbers = range(given.rounds)
    if given.round is not None:
        numbers = range(given.round - given.round % ROUNDS_PER_FOLDER, given.round + 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tqdm.monitor_interval = 0  # no thread
    for name in MODULES:
        importlib.import_module(name)
    _adopt_orphans()
    rounds: list[Round] = []
    with disk() as (root, limited), tqdm(numbers, unit="round", dynamic_ncols=True) as progress:
        if not limited and "disk" in only:
            only = tuple(name for name in only if name != "disk") or parser.error("--only disk needs root")
            progress.write("no full disks: a file system of a limited size needs root")
        campaign = Campaign(given.seed, only, root, given.folder.absolute())
        for number in progress:
            play = campaign.round(number)
            rounds.append(play)
            wrong = sum(bool(play.problems) for play in rounds)
            progress.set_postfix_str(f"{wrong} wrong", refresh=False)
            if play.problems or given.round is not None:
                progress.write("\n  ".join([f"seed {given.seed} {describe(play)}: {play.outcome}", *play.problems]))
    print(table(rounds))
    used_seconds = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"\n{len(rounds)} rounds, seed {given.seed}: {wrong} wrong; {used_seconds:,.0f} s of processor time")
    if wrong:
        print(f"the folders of the rounds that went wrong: {given.folder}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
