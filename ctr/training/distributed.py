"""The workers of one run, of torchrun or of Ray: how they meet, exchange tensors, agree, and notice that one of them
is gone.

In a process alone there is no group, and nothing here is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ctr.errors import ArgumentError, CtrError
from ctr.training import processes

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
WAIT = timedelta(minutes=30)  # for a worker that neither answers nor ends
NAMING = 5.0  # seconds in which a worker that has closed its connections is seen to end
PIECE = 1 << 22  # values sent to the first worker at a time
AGENT = "CTR_AGENT"  # set where the process is to end with the one that has started it: `end_with_agent`


class WorkerLost(CtrError):
    """Another worker of the run has ended; this one cannot go on."""


class Group:
    """The workers of one run; each calls the same methods in the same order.

    Args:
        rank, size: which worker this is, of how many.
        store: shared by all workers, and by those that torchrun starts again in their place.
        marks: of the workers' processes (`ctr.training.processes.mark`); of another machine they tell nothing.
        restarted: torchrun has started the workers again.

    Attributes:
        raised: bits that this worker tells the others at the next training step or prediction.
        flags: the bits that any worker told at the last one.
        stopping: a worker was told to stop, and all stop after this step.
        sent: bytes that this worker has sent to others.
        seconds: that this worker has spent in exchanges, waiting included.
    """

    def __init__(
        self, rank: int, size: int, store: Store, marks: Sequence[str] = (), *, restarted: bool = False
    ) -> None:
        self.rank, self.size, self.store, self.restarted, self._marks = rank, size, store, restarted, marks
        self.raised = self.flags = 0
        self.stopping = False
        self.sent, self.seconds = 0, 0.0

    @property
    def first(self) -> bool:
        """Whether this worker writes what the run leaves."""
        return self.rank == 0

    def exchange(self, values: Tensor, given: Sequence[int], taken: Sequence[int]) -> Tensor:
        """Sends ``given[r]`` values of the first dimension to each worker r; returns ``taken[r]`` of each, in order."""
        return self.begin(values, given, taken)()

    def begin(self, values: Tensor, given: Sequence[int], taken: Sequence[int]) -> Callable[[], Tensor]:
        """Begins an :meth:`exchange`, which goes on by itself; returns what waits for its end. All workers begin their
        exchanges in the same order."""
        received = values.new_empty(sum(taken), *values.shape[1:])
        self._count(values, sum(given) - given[self.rank])
        with self._watched():
            work = dist.all_to_all_single(received, values.contiguous(), list(taken), list(given), async_op=True)

        def end() -> Tensor:
            with self._watched():
                work.wait()
            return received

        return end

    def gather(self, values: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The ``counts[r]`` values of each worker, on all of them."""
        return self.begin_gather(values, counts)()

    def begin_gather(self, values: Tensor, counts: Sequence[int]) -> Callable[[], list[Tensor]]:
        """Begins to :meth:`gather`; see :meth:`begin`."""
        if self.size == 1:
            return lambda: [values]
        kind = values.dtype
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        if kind == torch.bool:  # gloo has none
            padded = padded.view(torch.uint8)
        parts = [torch.empty_like(padded) for _ in counts]
        self._count(padded, len(padded) * (self.size - 1))
        with self._watched():
            work = dist.all_gather(parts, padded, async_op=True)

        def end() -> list[Tensor]:
            with self._watched():
                work.wait()
            return [part.view(kind)[:count] for part, count in zip(parts, counts, strict=True)]

        return end

    def to_first(self, values: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The ``counts[r]`` values of each worker, on the first one; nothing on the others."""
        by = max(PIECE // max(values[:1].numel(), 1), 1)
        with self._watched():
            if not self.first:
                for piece in values.contiguous().split(by) if len(values) else ():
                    dist.send(piece, 0)
                return []
            parts = [values, *(values.new_empty(count, *values.shape[1:]) for count in counts[1:])]
            for rank, part in enumerate(parts[1:], 1):
                for piece in part.split(by) if len(part) else ():
                    dist.recv(piece, rank)
        return parts

    def agree(self, decide: Callable[[], T]) -> T:
        """What ``decide`` returns on the first worker, on all of them; likewise an error that it raises for a user."""
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = decide()
            except (CtrError, OSError) as error:
                said[1] = error
        with self._watched():
            dist.broadcast_object_list(said, 0)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def collect(self, value: T) -> list[T]:
        """The value of each worker, on all of them."""
        values: list[Any] = [None] * self.size
        with self._watched():
            dist.all_gather_object(values, value)
        return values

    def expect_equal(self, what: str, value: object) -> None:
        """CtrError, on all workers, where one has another value than the first."""
        values = self.collect(value)
        for rank, its in enumerate(values):
            if its != values[0]:
                raise CtrError(f"rank {rank} has other {what} than rank 0: {its}; rank 0 has {values[0]}")

    def says(self, text: str) -> bool:
        """Whether this worker is to say something that several may have to say: the first one that comes with it."""
        key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
        try:
            return int(self.store.compare_set(key, "", str(self.rank))) == self.rank
        except RuntimeError:  # torchrun has ended
            return True

    def leave(self, code: int = 0) -> None:
        """Ends the process with an exit code.

        Where Python clears up itself, gloo's threads now and then end it with an abort (torch 2.13).
        """
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _count(self, values: Tensor, given: int) -> None:
        self.sent += given * values[:1].numel() * values.element_size() if len(values) else 0

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Names the worker that has ended where an exchange fails."""
        began = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            raise WorkerLost(self._gone(NAMING) or self._unknown(error)) from error
        finally:
            self.seconds += time.perf_counter() - began

    def explained(self, error: BaseException) -> BaseException:
        """What ended this worker: SIGTERM is how torchrun ends those that are left when one is gone.

        After a signal all stop together (`stopping`): who got it says how to go on, and the others end after that, as
        torchrun ends all when the first one has.
        """
        if self.stopping:
            if not isinstance(error, KeyboardInterrupt):
                self._gone(NAMING)
            return error
        gone = self._gone(0) if isinstance(error, KeyboardInterrupt) else None
        return error if gone is None else WorkerLost(gone)

    def _gone(self, seconds: float) -> str | None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # else that would be what this worker ends with
        until = time.monotonic() + seconds
        while True:
            for rank, mark in enumerate(self._marks):
                if rank != self.rank and processes.ended(mark):
                    return f"rank {rank} has ended (of {self.size}); the run cannot go on without it"
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)

    def _unknown(self, error: BaseException) -> str:
        """Where no worker of this machine has ended."""
        here = self._marks[self.rank].rsplit("/", 2)[0] if self._marks else ""
        others = [rank for rank, mark in enumerate(self._marks) if mark.rsplit("/", 2)[0] != here]
        who = f"rank {', '.join(map(str, others))} on other machines" if others else "another worker"
        return f"{who} cannot be reached: {str(error).splitlines()[0]}"


def end_with_agent() -> None:
    """From now on this process ends with the one that has started it, which holds its standard input open."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def join() -> Group:
    """The group of this process, which torchrun has started, or a worker of Ray as torchrun does.

    Each start of the job has keys of its own in the store that torchrun keeps: what workers of an earlier start have
    left there is not taken for an answer. It is named by its first worker, as hosts may count restarts differently.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # absent from some builds

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        whole = PrefixStore("ctr", TCPStore(*place, is_master=hosts, timeout=WAIT))
        start, number = _meet(whole, rank, size)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group(backend, store=PrefixStore(start, whole), rank=rank, world_size=size, timeout=WAIT)
    except RuntimeError as error:  # of torch, DistError and its kinds among them
        raise WorkerLost(f"rank {rank} cannot meet the other workers: {str(error).splitlines()[0]}") from error
    group = Group(rank, size, whole)
    again = number > 1 or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    told = group.collect((processes.mark() or "", again))
    return Group(rank, size, whole, [mark for mark, _ in told], restarted=any(again for _, again in told))


def _meet(store: Store, rank: int, size: int) -> tuple[str, int]:
    """The name of this start of the job, which its first worker gives, and its number.

    Each worker leaves a name of its own; the first one answers to all names that it finds, those of workers that have
    ended among them, until each of the others has had its answer.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", mine)
        store.wait([f"welcome/{mine}"])
        start, told = store.get(f"welcome/{mine}").decode().split()
        store.set(f"{start}/here/{rank}", "")
        return start, int(told)
    number = store.add("starts", 1)
    until = time.monotonic() + WAIT.total_seconds()
    missing = list(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", f"{mine} {number}")
        time.sleep(0.01)
        missing = [other for other in missing if not store.check([f"{mine}/here/{other}"])]
        if time.monotonic() > until:
            raise WorkerLost(f"rank {', '.join(map(str, missing))} did not start within {WAIT}")
    return mine, number


def run_folder(group: Group, given: str | None, default: Callable[[], str]) -> str:
    """The run's folder, the same for all workers, and for those that torchrun starts again.

    Args:
        group: the workers.
        given: the folder that the user has named; None: none.
        default: names a new one.

    Raises:
        ArgumentError: torchrun has started the workers again, and the folder of before is not known any more.
    """
    if given is not None:
        return given

    def decide() -> str:
        if group.store.check(["run_dir"]):
            return group.store.get("run_dir").decode()
        if group.restarted:
            raise ArgumentError("the workers were started again, and the run's folder is not known; give run_dir=PATH")
        group.store.set("run_dir", folder := default())
        return folder

    return group.agree(decide)
