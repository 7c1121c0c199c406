"""Processes of this machine: some that work through tasks together, and how one ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ctr.errors import CtrError, file_of

SECONDS_TO_STOP = 10.0  # for a process to clear up, before it is killed

Task = TypeVar("Task")
Result = TypeVar("Result")
Tell = Callable[[Any], None]


class WorkerDied(CtrError):
    """A process ended without an answer."""


class Pool(Protocol):
    """Works through tasks; a context that ends what still runs. `Workers` is one."""

    def __enter__(self) -> Pool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def run(
        self,
        function: Callable[[Any, Task, Tell], Result],
        tasks: Sequence[Task],
        name: Callable[[Task], str],
        told: Callable[[Any], None] = ...,
    ) -> Iterator[Result]: ...


class Workers:
    """Processes that work through tasks, one at a time each; a context that ends them.

    They are forked from this one: what they share is inherited, not sent, and may hold functions of any kind.

    Args:
        count: number of processes.
        shared: the first argument of every function that they run.
    """

    def __init__(self, count: int, shared: Any) -> None:
        context: Any = multiprocessing.get_context("fork")
        self._processes: dict[Connection, Any] = {}
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, [*self._processes, here], shared), daemon=True)
            with warnings.catch_warnings():  # of threads that a forked process lacks: pyarrow makes its own anew
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            there.close()
            self._processes[here] = process

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            end(process)
            connection.close()

    def run(
        self,
        function: Callable[[Any, Task, Tell], Result],
        tasks: Sequence[Task],
        name: Callable[[Task], str],
        told: Callable[[Any], None] = lambda message: None,
    ) -> Iterator[Result]:
        """Yields the results in the order of the tasks.

        Args:
            function: of a module; its third argument sends messages here.
            tasks: are sent to the workers in their order.
            name: of a task, for the message on a worker that died.
            told: is called with every message.

        Raises:
            Exception: that of the first task, in their order, that failed. No task is begun after one has failed.
            WorkerDied: with the name of its task.
        """
        waiting, idle = deque(enumerate(tasks)), list(self._processes)
        running: dict[Connection, int] = {}
        ended: dict[int, tuple[bool, Any]] = {}
        for number in range(len(tasks)):
            while number not in ended:
                while waiting and idle:
                    place, task = waiting.popleft()
                    idle[-1].send((function, task))
                    running[idle.pop()] = place
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    try:
                        kind, value = ready.recv()
                    except (EOFError, OSError):  # OSError: it died in the middle of a message
                        raise WorkerDied(f"{name(tasks[running[ready]])}: {cause(self._processes[ready])}") from None
                    if kind == "told":
                        told(value)
                        continue
                    ended[running.pop(ready)] = kind == "done", value
                    idle.append(ready)
                    if kind == "failed":
                        waiting.clear()
            done, value = ended.pop(number)
            if not done:
                raise value
            yield value


def _serve(connection: Connection, others: Sequence[Connection], shared: Any) -> None:
    """Runs tasks until the process that sends them is gone, which is only noticed where no other holds its ends of the
    connections."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the process that sends the tasks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    with suppress(EOFError, ConnectionError):
        while True:
            function, task = connection.recv()
            try:
                answer = "done", function(shared, task, lambda message: connection.send(("told", message)))
            except ConnectionError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.filename is None:
                    error.filename = file_of(error)  # known here alone
                answer = "failed", error
            connection.send(answer)
    os._exit(0)  # what the other process would do at its end is not for this one


def end(process: Any) -> None:
    """Waits for a process that was told to end; kills it when it does not in time."""
    process.join(SECONDS_TO_STOP)
    if process.is_alive():
        process.kill()
        process.join()


def cause(process: Any) -> str:
    """How a process ended whose connection is closed."""
    end(process)  # its connection closes a moment before it ends
    code = process.exitcode
    if code is None or code >= 0:
        return f"the worker process ended with {code}"
    hint = "; perhaps out of memory: fewer workers need less" if -code == signal.SIGKILL else ""
    return f"the worker process was ended by {signal.Signals(-code).name}{hint}"
