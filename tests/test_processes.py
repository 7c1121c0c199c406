"""Processes that work through tasks together."""

import os
import signal
from pathlib import Path

import pytest

from ctr.errors import DataError
from ctr.processes import Tell, WorkerDied, Workers


def work(shared: object, task: int, tell: Tell) -> tuple[object, int]:
    tell(task)
    if task == 13:
        raise DataError(Path("log"), 13, "bad")
    if task == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 77:
        with open("/dev/full", "w") as file:  # noqa: PTH123
            file.write("x")
            file.flush()
    assert callable(shared)
    return shared(), task * task


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    told: list[int] = []
    with Workers(count, lambda: "inherited") as workers:
        found = list(workers.run(work, range(9), str, told.append))
        assert found == [("inherited", task * task) for task in range(9)]
        assert sorted(told) == list(range(9))
        assert list(workers.run(work, [5], str)) == [("inherited", 25)]  # they go on


def test_the_first_task_that_fails_counts_and_no_later_one_begins() -> None:
    told: list[int] = []
    with Workers(1, lambda: None) as workers:
        results = workers.run(work, [1, 13, 2], str, told.append)
        assert next(results) == (None, 1)
        with pytest.raises(DataError, match="log, line 13: bad"):
            next(results)
    assert told == [1, 13]


def test_a_worker_that_dies_is_named_by_its_task() -> None:
    with (
        Workers(2, lambda: None) as workers,
        pytest.raises(WorkerDied, match=r"^task 66: .* ended by SIGKILL"),
    ):
        list(workers.run(work, [66], lambda task: f"task {task}"))


def test_an_error_of_the_system_names_its_file() -> None:
    with Workers(1, lambda: None) as workers, pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        list(workers.run(work, [77], str))


def test_no_process_is_left() -> None:
    with Workers(2, os.getpid) as workers:
        pids = {pid for pid, _ in workers.run(work, range(10), str)}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(pid)), 0)
