"""The parts of a log's preparation as tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ctr.errors import ArgumentError, file_of
from ctr.jobs.ray import connect, imported
from ctr.processes import Result, Task, Tell, WorkerDied


class RayWorkers:
    """`ctr.processes.Workers` on a Ray cluster, which starts a task again if its process or node dies.

    All nodes see the same files, at the same paths. What a task tells arrives when it has ended.

    Args:
        parameters: ``address`` of a cluster (None: that of ``RAY_ADDRESS``, else Ray is started on this machine and
            ended with the context); others are a task's: ``num_cpus``, ``max_retries``, ``memory``, ...
        count: tasks at a time.
        shared: the first argument of every function that they run.

    Raises:
        ArgumentError: a parameter that Ray does not know, or a wrong value.
        CtrError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, parameters: Mapping[str, Any], count: int, shared: Any) -> None:
        self._ray = imported()
        options = {name: value for name, value in parameters.items() if name != "address"}
        try:
            self._task = self._ray.remote(_run).options(**options)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"ray={options}: {str(error).splitlines()[0]}") from error
        connect(self._ray, parameters.get("address"))
        self._count, self._shared = count, self._ray.put(shared)
        self._running: dict[Any, int] = {}

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()

    def run(
        self,
        function: Callable[[Any, Task, Tell], Result],
        tasks: Sequence[Task],
        name: Callable[[Task], str],
        told: Callable[[Any], None] = lambda message: None,
    ) -> Iterator[Result]:
        """See `ctr.processes.Workers.run`; `WorkerDied` when Ray has tried a task as often as it may."""
        waiting = deque(enumerate(tasks))
        ended: dict[int, tuple[bool, Any]] = {}
        for number in range(len(tasks)):
            while number not in ended:
                while waiting and len(self._running) < self._count:
                    place, task = waiting.popleft()
                    self._running[self._task.remote(self._shared, function, task, Path.cwd())] = place
                (ready,), _ = self._ray.wait(list(self._running))
                place = self._running.pop(ready)
                try:
                    messages, done, value = self._ray.get(ready)
                except self._ray.exceptions.RayError as error:
                    lines = str(error).splitlines() or [""]
                    said = f"{name(tasks[place])}: the Ray task ended: {type(error).__name__}: {lines[0]}"
                    messages, done, value = [], False, WorkerDied(said)
                for message in messages:
                    told(message)
                ended[place] = done, value
                if not done:
                    waiting.clear()
            done, value = ended.pop(number)
            if not done:
                raise value
            yield value


def _run(shared: Any, function: Callable[..., Any], task: Any, folder: Path) -> tuple[list[Any], bool, Any]:
    """What a task tells, whether it was done, and its result or its error: Ray hides what error one was."""
    os.chdir(folder)
    messages: list[Any] = []
    try:
        return messages, True, function(shared, task, messages.append)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = file_of(error)
        return messages, False, error
