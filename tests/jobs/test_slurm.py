"""Families as Slurm jobs: by submitit, whose own executor runs them in processes of this machine."""

import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctr.errors import ArgumentError, CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.launcher import Died
from ctr.jobs.launchers import launcher
from ctr.jobs.local import LocalLauncher
from ctr.jobs.pool import Pool
from ctr.jobs.slurm import SlurmLauncher, _answers
from ctr.jobs.worker import Outcome, RunFamily
from tests.datasets.criteo_text import lines, write
from tests.jobs import fakes
from tests.jobs.test_pool import ROOT, a_job, calls, ends, leave, until_calls

submitit = pytest.importorskip("submitit")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # How long submitit waits on a shared disk for the result of a job that ended without one.
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    write(tmp_path / "train.txt", lines(70))


def on_cluster(run: RunFamily = fakes.run_family, **parameters: object) -> SlurmLauncher:
    return SlurmLauncher(Path("jobs").resolve(), {"timeout_min": 5, **parameters}, run, cluster="local")


def a_pool(workers: int = 4) -> Pool:
    always = {"dataset.raw": "train.txt", "dataset.prepared": "prepared", "tracking": "none", "threads": 1, "window": 1}
    return Pool(Cache(Path("jobs").resolve()), workers, on_cluster(), always=always, tags={})


@pytest.mark.slow
def test_jobs_that_succeed_fail_and_are_killed() -> None:
    with a_pool() as pool:
        found = pool.ask([a_job(1), a_job(13), a_job(99)])
        log = next(Path("jobs/.submitit").resolve().glob(f"{_number(found['error'][2])}_0_log.err"))
        assert (pool._bar.n, pool._bar.total) == (2, 2)  # a row of each job that ended by itself
    assert found["auc"][0] == 0.51
    assert (found["error"].isna()[0], found["error"][1]) == (True, "the loss is nan")
    assert found["error"][2] == f"the Slurm job {_number(found['error'][2])} ended as FINISHED (killed); log: {log}"
    assert found["auc"].isna().tolist() == [False, True, True]
    assert len({call["pid"] for call in calls()}) == 3
    with a_pool() as pool:
        assert pool.ask([a_job(1)])["auc"].tolist() == [0.51]
    assert len(calls()) == 3  # a finished job is not submitted again


def _number(error: str) -> str:
    return error.removeprefix("the Slurm job ").partition(" ")[0]


@pytest.mark.slow
def test_a_job_that_is_busy_elsewhere_is_waited_for() -> None:
    with a_pool() as pool:
        folder = Path("jobs", pool._planner.plan(a_job(2)).key)
        begun, over = threading.Event(), threading.Event()

        def other() -> None:
            with Cache(folder.parent).lock(folder.name):
                begun.set()
                over.wait(60)
                folder.mkdir()
                leave(folder, 0.7)

        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
        start, waited = pool._launcher.start, []

        def noted(jobs: Sequence[object], *, wait: bool) -> object:
            waited.append(wait)
            if wait:
                over.set()
            return start(jobs, wait=wait)  # type: ignore[arg-type]

        pool._launcher.start = noted  # type: ignore[method-assign]
        found = pool.ask([a_job(2)])
        thread.join()
    assert waited == [False, True]
    assert found["auc"].tolist() == [0.7]
    assert calls() == []


@pytest.mark.slow
def test_close_cancels_what_runs() -> None:
    cluster = on_cluster()
    with a_pool() as pool:
        job = pool._planner.plan(a_job(0, window=30_000))
    started = cluster.start([job], wait=False)
    pids = until_calls(1)
    cluster.close()
    assert ends(pids)
    started._process.wait(60)  # submitit's own, which started it
    assert not (Path("jobs") / job.key / "result.json").exists()


@pytest.mark.slow
def test_scancel_records_the_runs_as_killed() -> None:
    """Slurm sends SIGTERM, which submitit alone would ignore."""
    cluster = on_cluster()
    with a_pool() as pool:
        job = pool._planner.plan(a_job(0, window=30_000))
    cluster.start([job], wait=False)
    (pid,) = until_calls(1)
    os.kill(pid, signal.SIGTERM)
    ((_, answer),) = cluster.answers()
    assert isinstance(answer, Died)
    assert "(ctr.cli.Terminated); log: " in answer.cause


def test_no_more_jobs_at_a_time_than_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[object] = []
    most = 0

    class Queue:
        def start(self, jobs: Sequence[object], *, wait: bool) -> object:
            nonlocal most
            running.append(object())
            most = max(most, len(running))
            return running[-1]

        def answers(self) -> list[tuple[object, Outcome]]:
            return [(running.pop(), Outcome())]

        def close(self) -> None:
            assert not running

    with a_pool(workers=2) as pool:
        monkeypatch.setattr(pool, "_launcher", Queue())
        found = pool.ask([a_job(seed) for seed in range(5)])
    assert most == 2
    assert math.isnan(found["auc"][4])


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"slurm_partitio": "long"}, r"Unknown argument 'partitio' for executor 'slurm' in parameter 'slurm_partitio'"),
        ({"patience": 1}, r"Parameter 'patience' need to be prefixed by an executor name"),
        ({"timeout_min": "an hour"}, r'Parameter "timeout_min" expected type .*int.* \(but value: "an hour"\)'),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, object], problem: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^slurm=\{{.*\}}: {problem}"):
        on_cluster(**parameters)


def test_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit by itself would run the jobs on this machine."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CtrError, match=r"^launcher=slurm: no Slurm on this machine \(no command srun\)"):
        launcher("slurm", Path("jobs"), {})


def test_without_submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(CtrError, match=r'^launcher=slurm needs submitit, .*: pip install "sparse-ctr\[cluster\]"$'):
        launcher("slurm", Path("jobs"), {})
    assert isinstance(launcher("local", Path("jobs"), {}), LocalLauncher)


@pytest.mark.parametrize(
    ("state", "text", "why"),
    [
        ("OUT_OF_MEMORY", "has not produced any output\nslurmstepd: killed", "+slurm.mem_gb=N asks for more memory"),
        ("TIMEOUT", "has not produced any output", "slurm.timeout_min=N allows more time"),
        ("NODE_FAIL", "has not produced any output", "killed"),
        ("COMPLETED", "trace:\n---\nValueError: no such thing\n---\nat paths:\n  - x.err", "ValueError: no such thing"),
    ],
)
def test_why_a_job_died(state: str, text: str, why: str) -> None:
    def result() -> None:
        raise RuntimeError(text)

    job = SimpleNamespace(job_id="7", state=state, paths=SimpleNamespace(stderr="jobs/7_0_log.err"), result=result)
    assert _answers(job) == [Died(f"the Slurm job 7 ended as {state} ({why}); log: jobs/7_0_log.err")]
