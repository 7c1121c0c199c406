"""Whether a process has certainly ended: only then may its run be recorded as killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ctr.training import processes
from ctr.training.store import PROCESS
from ctr.training.tracking import MlflowTracker
from tests.commands import Forked, speaking
from tests.report import invented

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs Linux's /proc")

SAY = "import sys; from ctr.training import processes; print(processes.mark(), flush=True); sys.stdin.read()"


def test_a_process_lives_until_it_is_killed() -> None:
    process, mark = speaking(SAY)
    assert not processes.ended(mark)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.ended(mark)  # a zombie already
    process.communicate()
    assert processes.ended(mark)


def test_what_cannot_be_known_is_not_taken_for_dead() -> None:
    mark = processes.mark()
    assert mark is not None
    boot, namespace, process, start = mark.split("/")
    assert int(process) == os.getpid()
    assert not processes.ended(mark)
    assert processes.ended(f"{boot}/{namespace}/{process}/{int(start) - 1}")  # its number was given to this one
    for other in (f"other/{namespace}/999999999/1", f"{boot}/1/999999999/1", "", "x", f"{boot}/{namespace}/x/1"):
        assert not processes.ended(other)


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = processes.mark()
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert processes.mark() is None
    assert not processes.ended(str(mark))


def begin(uri: str) -> None:
    """A run that does not end."""
    MlflowTracker(uri, "ctr", "of another")
    Path("begun").touch()
    signal.pause()


@pytest.mark.slow
def test_the_next_run_closes_what_a_killed_process_left(ready_database: Path, tmp_path: Path) -> None:
    uri = invented.database(ready_database, tmp_path)
    other = Forked(tmp_path, begin, uri)
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    client = MlflowClient(uri)
    client.create_run("1", run_name="elsewhere", tags={PROCESS: "other/1/999999999/1"})
    client.create_run("1", run_name="by hand")

    def states() -> dict[str, str]:
        return {run.info.run_name: run.info.status for run in client.search_runs(["1"])}

    running = {"of another": "RUNNING", "elsewhere": "RUNNING", "by hand": "RUNNING"}
    MlflowTracker(uri, "ctr", "mine").finish("FINISHED")
    assert states() == {**running, "mine": "FINISHED"}
    other.process.kill()
    other.end()
    MlflowTracker(uri, "ctr", "next")
    assert states() == {**running, "of another": "KILLED", "mine": "FINISHED", "next": "RUNNING"}
