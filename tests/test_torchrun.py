"""``torchrun -m ctr.train``: a worker that dies ends the job or has it started again, several launches make one run."""

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

from tests.datasets.criteo_text import arguments
from tests.scripts import script
from tests.training.runs import untimed
from tests.training.workers import torchrun

pytestmark = pytest.mark.slow

LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
LONG = [
    "batch_size=16",
    "epochs=12",
    "threads=1",
    "tracking=none",
    "save=none",
    "report=false",
    "checkpoint.every_steps=20",
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log."""
    return tmp_path_factory.mktemp("log")


@contextmanager
def launched(folder: Path, how: list[str], *overrides: str) -> Iterator[subprocess.Popen[str]]:
    line = [*LAUNCH, *how, "-m", "ctr.train", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=folder, env=environment, **pipes) as job:
        try:
            yield job
        finally:
            job.kill()


def kill_after_a_checkpoint(job: subprocess.Popen[str], folder: Path, rank: int, signal_number: int) -> None:
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/0*")):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(script("chaos_process").worker_of(job.pid, rank), signal_number)


def figures(folder: Path) -> dict[str, Any]:
    return untimed(json.loads((folder / "result.json").read_text()))


def test_a_killed_worker_ends_the_job_and_is_named_or_the_job_starts_again(log: Path, tmp_path: Path) -> None:
    line = arguments(log, *LONG)
    for how, place in ([], "ended"), (["--max-restarts", "1"], "again"):
        with launched(tmp_path, ["--nproc-per-node", "2", *how], *line, f"run_dir={place}") as job:
            kill_after_a_checkpoint(job, tmp_path / place, 1, signal.SIGKILL)
            _, said = job.communicate(timeout=300)
        assert "error: rank 1 has ended (of 2); the run cannot go on without it" in said.splitlines()
        assert (job.returncode == 0) == (place == "again"), said
    assert "goes on after step" in said
    assert not (tmp_path / "ended" / "result.json").exists()
    torchrun(tmp_path, 1, "resume=ended")
    one, two = figures(tmp_path / "ended"), figures(tmp_path / "again")
    assert {**one, "machine": ""} == {**two, "machine": ""}
    torchrun(tmp_path, 2, *line, "run_dir=whole")
    assert figures(tmp_path / "whole") == two


def test_two_launches_make_one_run(log: Path, tmp_path: Path) -> None:
    """As by hand on two hosts; here both are this machine."""
    line = arguments(log, "batch_size=32", "threads=1", "tracking=none", "save=none")
    meet = ["--nproc-per-node", "1", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "one"]
    place = tmp_path / "port"
    free = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    port = subprocess.run([sys.executable, "-c", free], capture_output=True, text=True, check=True).stdout.strip()
    place.write_text(port)
    meet += ["--rdzv-endpoint", f"127.0.0.1:{port}"]
    with launched(tmp_path, meet, *line) as first, launched(tmp_path, meet, *line) as second:
        told = [job.communicate(timeout=300) for job in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0], told
    (result,) = tmp_path.glob("runs/*/result.json")
    assert "2 workers of 1 thread" in json.loads(result.read_text())["machine"]
    page = (result.parent / "report.html").read_text()  # by the first worker
    assert "<pre>torchrun --nproc-per-node 1 -m ctr.train dataset=criteo" in page


def test_ctrl_c_leaves_a_checkpoint_and_the_command_that_goes_on(log: Path, tmp_path: Path) -> None:
    with launched(tmp_path, ["--nproc-per-node", "2"], *arguments(log, *LONG), "run_dir=run") as job:
        kill_after_a_checkpoint(job, tmp_path / "run", 0, signal.SIGINT)
        _, said = job.communicate(timeout=300)
    assert "resume with: torchrun --nproc-per-node 2 -m ctr.train resume=run" in said
    assert job.returncode != 0
