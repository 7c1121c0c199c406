"""Work on the threads of torch, and rows gathered by it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ctr.native.threads import each
from ctr.optim import GroupSGD
from ctr.training.compiled.rows import gather
from tests.native.built import needs_kernels


@pytest.mark.parametrize(("tasks", "count"), [(1, 1), (1, 3), (2, 2), (5, 2), (3, 8)])
def test_each_task_is_called_once(tasks: int, count: int) -> None:
    called: list[int] = []
    each(tasks, count, called.append)
    assert sorted(called) == list(range(tasks))


@needs_kernels
def test_tasks_run_at_once() -> None:
    """Each waits for the other."""
    met = threading.Barrier(2, timeout=30)
    each(2, 2, lambda task: met.wait())


@needs_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads in /proc")
@pytest.mark.slow
def test_threads_of_torch_are_used_where_they_spin_and_others_where_they_sleep(threads: None) -> None:
    """No thread is started where torch has one."""
    program = """if True:
        import os, torch
        from ctr.native.threads import each
        torch.set_num_threads(2)
        torch.zeros(1 << 20).add_(1)
        before = len(os.listdir("/proc/self/task"))
        each(2, 2, lambda task: None)
        print(len(os.listdir("/proc/self/task")) - before)
    """
    for policy, started in (("active", "0"), ("passive", "1")):
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == started, policy


@needs_kernels
@pytest.mark.slow
def test_all_of_it_on_torchs_own_threads() -> None:
    """The other tests run where torch's threads sleep."""
    tests = Path(__file__).parents[1]
    others = ("optim/test_fused.py", "training/test_rows_step.py", "training/test_passes.py")
    others += ("training/test_compiled_net.py",)
    files = [Path(__file__), *(tests / name for name in others)]
    line = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "not slow", *map(str, files)]
    done = subprocess.run(line, env={**os.environ, "OMP_WAIT_POLICY": "active"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2_000:]


@needs_kernels
def test_a_task_may_step_an_optimizer(threads: None) -> None:
    torch.set_num_threads(2)
    weights = [torch.nn.Parameter(torch.randn(3_000, 8)) for _ in range(4)]

    def step(task: int) -> None:
        opt = GroupSGD([weights[task]], lr=0.5, fused=True)
        weights[task].grad = torch.ones(3_000, 8)
        opt.step()

    expected = [weight.detach() - 0.5 for weight in weights]
    each(4, 2, step)
    for weight, right in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), right)


@pytest.mark.parametrize("compiled", [True, False])
def test_no_task_is_nothing(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("ctr.native.threads.available", lambda: False)
    each(0, 2, lambda task: pytest.fail("called"))


def test_without_the_library_tasks_run_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr.native.threads.available", lambda: False)
    met = threading.Barrier(2, timeout=30)
    each(2, 2, lambda task: met.wait())


@pytest.mark.parametrize("count", [1, 2])
def test_the_error_of_the_first_task_that_failed_is_raised(count: int) -> None:
    def work(task: int) -> None:
        if task:
            raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 1"):
        each(3, count, work)


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ids", [0, 7, 5_000])
def test_gathered_rows_are_those_of_the_table(count: int, dtype: torch.dtype, ids: int, threads: None) -> None:
    torch.set_num_threads(count)
    table = torch.randn(300, 20, dtype=dtype)
    wanted = torch.randint(0, 300, (ids,))
    for weight in (table, table[:, 3:8]):
        out = torch.empty(ids, weight.shape[1], dtype=dtype)
        assert torch.equal(gather(weight, wanted, out), weight[wanted])


@needs_kernels
@pytest.mark.parametrize("bad", [-1, 300, 2**40])
def test_the_first_id_beyond_the_table_is_named(bad: int, threads: None) -> None:
    torch.set_num_threads(2)
    wanted = torch.randint(0, 300, (5_000,))
    wanted[1_234], wanted[4_000] = bad, 9_999
    with pytest.raises(IndexError, match=rf"id {bad} is not within the 300 rows"):
        gather(torch.randn(300, 8), wanted, torch.empty(5_000, 8))
