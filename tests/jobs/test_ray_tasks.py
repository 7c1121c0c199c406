"""A log's preparation as tasks of Ray, on one that is started on this machine."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ctr.datasets import csv
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.together import Limits
from ctr.errors import ArgumentError, DataError
from ctr.processes import Tell, WorkerDied
from tests.jobs.test_pool import ROOT

pytest.importorskip("ray")
from ctr.jobs.ray_tasks import RayWorkers

PARAMETERS = {"address": None, "num_cpus": 0.1, "max_retries": 1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def work(shared: Any, task: tuple[str, int], tell: Tell) -> int:
    """Dies, as often as the task says; fails below 0."""
    name, deaths = task
    tell(name)
    if deaths < 0:
        raise DataError(Path(name), 3, "is wrong")
    with Path(name).open("a") as file:
        file.write("x")
    if len(Path(name).read_text()) <= deaths:
        os._exit(1)
    return len(name) + len(shared.dataset.fields)


@pytest.mark.slow
def test_tasks_are_tried_again_and_prepare_what_one_process_does(here: Path) -> None:
    """On one Ray: to start it takes most of the time."""
    raws = []
    for number in range(3):
        rows = [f"{row % 2},u{row % (7 + number)},{row}.5" for row in range(60)]
        raws.append(here / f"{number}.csv")
        raws[-1].write_text("\n".join(["y,user,price", *rows]) + "\n")
    dataset, messages = csv.make("y", ["user"], ["price"], transform_default="none"), []

    def pool(count: int, shared: Any) -> RayWorkers:
        workers = RayWorkers(PARAMETERS, count, shared)
        names = ["a", "bb", "ccc"]
        found = workers.run(work, [(n, int(n == "bb")) for n in names], str)
        assert [*found] == [2, 3, 4]
        assert [len(Path(name).read_text()) for name in names] == [1, 2, 1]
        with pytest.raises(DataError, match=r"wrong.*is wrong"):
            [*workers.run(work, [("wrong", -1)], str, messages.append)]
        with pytest.raises(WorkerDied, match=r"^the name: the Ray task ended: WorkerCrashedError"):
            [*workers.run(work, [("dead", 9)], lambda task: "the name")]
        return workers

    split = SplitRule(test_fraction=0.3)
    prepare(dataset, raws, here / "one", split=split)
    prepare(dataset, raws, here / "ray", split=split, limits=Limits(2, 20_000, 1, pool))
    assert messages == ["wrong"]
    one, other = ({path.name: path.read_bytes() for path in (here / name).iterdir()} for name in ("one", "ray"))
    assert one == other


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"^ray=\{'num_cpu': 1\}: .*num_cpu"):
        partial(RayWorkers, {"num_cpu": 1})(1, None)
