"""Families as Ray tasks, on a Ray that is started on this machine."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctr.errors import ArgumentError, CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.launchers import launcher
from ctr.jobs.pool import Pool
from ctr.jobs.ray import RayLauncher
from tests.datasets.criteo_text import lines, write
from tests.jobs import fakes
from tests.jobs.test_pool import ROOT, a_job, calls, ends, until_calls

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the tasks run in, as Ray starts its workers where it is started itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ray"))
        patch.setenv("PYTHONPATH", str(ROOT))
        write(Path("train.txt"), lines(70))
        yield Path.cwd()


@pytest.fixture
def tasks(place: Path) -> Iterator[RayLauncher]:
    started = RayLauncher(Path("jobs"), {"address": None, "num_cpus": 0.1, "max_retries": 1}, fakes.run_family)
    yield started
    started.close()


def a_pool(tasks: RayLauncher) -> Pool:
    always = {"dataset.raw": "train.txt", "dataset.prepared": "prepared", "tracking": "none", "threads": 1, "window": 1}
    return Pool(Cache(Path("jobs").resolve()), 4, tasks, always=always, tags={})


@pytest.mark.slow
def test_jobs_succeed_fail_and_are_killed_and_close_ends_what_runs(tasks: RayLauncher) -> None:
    """On one Ray: to start it, and the processes of its tasks, takes most of the time."""
    before = signal.getsignal(signal.SIGTERM)
    with a_pool(tasks) as pool:
        found = pool.ask([a_job(1), a_job(13), a_job(99)])
        asked = [call["seeds"] for call in calls()]
        job = pool._planner.plan(a_job(0, window=30_000))
        tasks.start([job], wait=False)
        *_, running = until_calls(len(asked) + 1)
    assert found["auc"][0] == 0.51
    assert (found["error"].isna()[0], found["error"][1]) == (True, "the loss is nan")
    assert found["error"][2].startswith("the Ray task ended: WorkerCrashedError: ")
    assert found["auc"].isna().tolist() == [False, True, True]
    assert sorted(asked) == [[1], [13], [99], [99]]  # Ray tries it once more
    assert ends([running])
    assert not (Path("jobs") / job.key / "result.json").exists()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not ray.is_initialized()


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"^ray=\{'num_cpu': 1\}: .*num_cpu"):
        RayLauncher(Path("jobs"), {"num_cpu": 1})


def test_no_cluster_at_the_address() -> None:
    with pytest.raises(CtrError, match=r"^launcher=ray: .* \(ray.address=auto\)$"):
        RayLauncher(Path("jobs"), {"address": "auto"})
    assert not ray.is_initialized()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CtrError, match=r'^launcher=ray needs Ray, .*: pip install "sparse-ctr\[cluster\]"$'):
        launcher("ray", Path("jobs"), {})
