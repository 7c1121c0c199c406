"""``launcher=ray ranks=N``: the workers of one run on a Ray that is started on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctr.config import workers
from ctr.errors import ArgumentError, CtrError
from ctr.jobs import ray_ranks
from ctr.training.distributed import AGENT
from tests.commands import command, refuses
from tests.datasets.criteo_text import arguments, lines, write
from tests.training.runs import untimed
from tests.training.test_workers import group
from tests.training.workers import torchrun

LONG = [
    "batch_size=16",
    "slices=4",
    "epochs=8",
    "threads=1",
    "tracking=none",
    "save=none",
    "report=false",
    "checkpoint.every_steps=10",
]
RAY = {"address": None, "max_failures": 0}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log."""
    folder = tmp_path_factory.mktemp("log")
    write(folder / "train.txt", lines(400))
    return folder


@pytest.fixture(scope="module")
def alone(log: Path) -> dict[str, Any]:
    """The figures of one worker."""
    torchrun(log, 1, *arguments(log, *LONG), "run_dir=alone")
    return figures(log / "alone")


def figures(folder: Path) -> dict[str, Any]:
    return {**untimed(json.loads((folder / "result.json").read_text())), "machine": ""}


@contextmanager
def launched(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "ctr.train", "launcher=ray", "ranks=2", *overrides]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=folder, **pipes) as job:
        try:
            yield job
        finally:
            job.kill()


def processes(folder: Path) -> dict[str, tuple[int, int]]:
    """The workers' processes by rank, and those that have started them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "environ").read_bytes().split(b"\0")
            line = (path / "cmdline").read_text()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if f"{AGENT}=1".encode() in told and f"run_dir={folder}" in line:
            (rank,) = (word[5:].decode() for word in told if word.startswith(b"RANK="))
            found[rank] = (int(path.name), parent)
    return found


def until_a_checkpoint(job: subprocess.Popen[str], folder: Path) -> None:
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/0*")):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_with_the_result_of_one_worker(
    log: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    with launched(tmp_path, *arguments(log, *LONG), "run_dir=run") as job:
        until_a_checkpoint(job, place)
        before = processes(place)
        os.kill(before["1"][1], signal.SIGKILL)  # of Ray: its process ends with it
        printed, said = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert figures(place) == alone
    assert "2 workers of 1 thread" in json.loads((place / "result.json").read_text())["machine"]
    assert "test AUC" in printed
    assert "goes on after step" in said
    assert "ray" not in said.lower()  # nothing but the run's own lines
    assert not processes(place)
    assert not list(place.glob(".ray-*"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_command_that_goes_on(
    log: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    with launched(tmp_path, *arguments(log, *LONG), "run_dir=run") as job:
        until_a_checkpoint(job, place)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=300)
    assert job.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted; resume with: python -m ctr.train resume=run"
    assert not processes(place)
    torchrun(tmp_path, 1, "resume=run")  # goes on with it too, and starts faster than Ray
    assert figures(place) == alone


@pytest.mark.slow
def test_more_workers_than_cores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_ranks, "connect", lambda *_: None)  # Ray takes long to start; then it knows the cores
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ArgumentError, match=r"^launcher=ray: all workers together need 4000 CPU, this machine has 2; "):
        ray_ranks.launch([], tmp_path, 1000, {"CPU": 4}, RAY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"placement": 1}, {"max_failures": "x"}, {"resources_per_worker": {"CPU": -1}}])
def test_wrong_parameters_are_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"^ray=.*{next(iter(wrong))}"):
        ray_ranks.launch([], tmp_path, 2, {"CPU": 1}, {**RAY, **wrong})


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CtrError, match=r'^launcher=ray needs Ray, .*: pip install "sparse-ctr\[cluster\]"$'):
        ray_ranks.launch([], tmp_path, 2, {"CPU": 1}, RAY)


REFUSED = {
    "ranks=4": "ranks=4 needs launcher=ray; without Ray: torchrun --nproc-per-node 4 -m ctr.train",
    "launcher=ray": "launcher=ray ranks=None; expected the number of processes: ranks=4",
    "launcher=ray ranks=2 backend=native": "backend=native trains in one process",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(line: str, log: Path, tmp_path: Path) -> None:
    refuses(tmp_path, "ctr.train", [*arguments(log, "tracking=none"), *line.split()], 2, REFUSED[line])


@pytest.mark.slow
def test_a_sweep_is_refused(log: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "ctr.train", "-m", *arguments(log, "tracking=none"), "launcher=ray", "ranks=2", "seed=0,1")
    assert done.returncode == 2
    assert "error: launcher=ray trains one run, not a sweep (-m); start each job by itself" in done.stderr.splitlines()


@pytest.mark.parametrize("key", ["launcher=ray", "ranks=2"])
def test_torchrun_is_not_told_how_many_workers_twice(key: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{key} under torchrun"):
        workers.command_line(group(0, 2), [key, "run_dir=x"])


def test_workers_of_ray_take_the_keys_that_launched_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AGENT, "1")
    line = ["launcher=ray", "ranks=2", "run_dir=x"]
    assert workers.command_line(group(0, 2), line) == line


def test_what_workers_write_is_shown_once_and_by_whole_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: dict[Path, int] = {}
    out, err = tmp_path / "0.out", tmp_path / "1.err"
    out.write_text("AUC 0.7\nfea")
    err.write_text("a warning\n")
    ray_ranks._show(tmp_path, shown)
    assert capsys.readouterr() == ("AUC 0.7\n", "a warning\n")
    out.write_text("AUC 0.7\nfeature rate 1\n")
    ray_ranks._show(tmp_path, shown)
    assert capsys.readouterr() == ("feature rate 1\n", "")
