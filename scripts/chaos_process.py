"""Commands in processes of their own: forked, limited, ended and cleared away; and a disk of a limited size.

Importing torch, MLflow and their like takes three seconds, most commands here a tenth of one. So a process that has
imported everything, and has no threads, forks a child for each command.
"""

from __future__ import annotations

import ctr.environment  # before torch

# isort: split

import ctypes
import io
import multiprocessing
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from tqdm import tqdm

import ctr.jobs.local
import ctr.prepare
import ctr.reproduce
import ctr.train
from ctr.cli import run_command

MAX_SECONDS = 180.0  # of one command, on a busy machine
SECONDS_TO_VANISH = 30.0  # for a killed command's workers
DISK = 2**31
ORDER = 2**17  # bytes of a worker's order, at most
ENTRIES: dict[str, Callable[[], None]] = {
    "ctr.prepare": partial(run_command, ctr.prepare.main, "prepare"),
    "ctr.train": partial(run_command, ctr.train.command, "train"),
    "ctr.reproduce": partial(run_command, ctr.reproduce.main, "reproduce"),
}
libc = ctypes.CDLL(None, use_errno=True)


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
            tqdm._instances.clear()  # the campaign's bar, which messages of the command would draw again
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

    def finish(self, within: float = MAX_SECONDS) -> Ended:
        """Waits for the end and for that of every process that it began."""
        problems = []
        if not self.ended(within):
            problems.append(f"did not end within {within:.0f} s")
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


def workers_of(study: int) -> list[int]:
    """The workers of a running study that was forked: its children in sessions of their own, but the first, the helper
    that forks them."""
    with suppress(OSError):  # it has ended
        children = [int(child) for child in Path(f"/proc/{study}/task/{study}/children").read_text().split()]
        return [child for child in children[1:] if os.getsid(child) == child]
    return []


def worker_of(agent: int, rank: int) -> int:
    """The worker of a rank that torchrun (its process) has started.

    Raises:
        LookupError: there is none.
    """
    for path in Path(f"/proc/{agent}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            with suppress(OSError):  # it has ended
                if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    return child
    raise LookupError(f"no worker of rank {rank}")


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


def fresh(module: str, arguments: tuple[str, ...]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def forked(module: str, arguments: tuple[str, ...]) -> None:
    """What a fresh process does once its libraries are loaded."""
    sys.argv = [module, *arguments]
    if module == "ctr.reproduce":
        _fork_workers()
    ENTRIES[module]()


def _fork_workers() -> None:
    """Has a study's workers forked, too: by a helper that has no threads, as the study itself has by then."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopt_orphans()
    if not os.fork():
        here.close()
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            order, descriptors, *_ = socket.recv_fds(there, ORDER, 1)
            if not order:
                os._exit(0)
            told, tell = os.pipe()
            if not os.fork():  # it ends at once, so that the worker becomes the study's child
                if worker := os.fork():
                    os.write(tell, str(worker).encode())
                    os._exit(0)
                target, arguments = pickle.loads(order)  # of this command alone
                target(Connection(descriptors[0]), *arguments)
                os._exit(0)
            os.wait()
            os.close(descriptors[0])
            with suppress(BrokenPipeError):  # the study was killed
                there.send(os.read(told, 100))
    there.close()

    class Worker:
        """As a process of `multiprocessing`, as far as the launcher uses it."""

        def __init__(self, target: Callable[..., object], args: tuple[Any, ...]) -> None:
            self._connection, self._order = args[0], pickle.dumps((target, args[1:]))
            self.exitcode: int | None = None

        def start(self) -> None:
            socket.send_fds(here, [self._order], [self._connection.fileno()])
            self.pid = int(here.recv(100))
            self._end = os.pidfd_open(self.pid)

        def join(self, timeout: float | None = None) -> None:
            if self.exitcode is None and select.select([self._end], [], [], timeout)[0]:
                self.exitcode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

        def is_alive(self) -> bool:
            self.join(0)
            return self.exitcode is None

        def terminate(self) -> None:
            if self.is_alive():
                os.kill(self.pid, signal.SIGTERM)

        def kill(self) -> None:
            if self.is_alive():
                os.kill(self.pid, signal.SIGKILL)

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Worker, set_forkserver_preload=lambda names: None)
    ctr.jobs.local.multiprocessing = SimpleNamespace(get_context=lambda method: context)  # type: ignore[assignment]


def adopt_orphans() -> None:
    """Makes orphans of this process's descendants its own children, so that none is overlooked."""
    if libc.prctl(36, 1, 0, 0, 0):  # PR_SET_CHILD_SUBREAPER
        raise OSError(ctypes.get_errno(), "prctl")


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
