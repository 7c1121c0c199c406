"""Each job once, in parallel, whatever fails or is killed: with a made-up training (`tests.studies.fakes`)."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ctr import store
from ctr.cli import run_command
from ctr.errors import CtrError
from ctr.store import Store
from ctr.studies.runner import Runner, Worker
from ctr.studies.worker import load
from tests.commands import Forked
from tests.datasets.criteo_text import lines, write
from tests.studies import fakes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with a small log; workers find the made-up training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write(tmp_path / "train.txt", lines(70))


def a_runner(workers: int = 2, function: str = "tests.studies.fakes:jobs") -> Runner:
    always = {"dataset.raw": "train.txt", "dataset.prepared": "prepared", "tracking": "none", "threads": 1, "window": 1}
    return Runner(
        Store(Path("jobs")),
        workers,
        always=always,
        tags={},
        function=function,
        passes=fakes.passes,
        check=fakes.check,
    )


def a_job(seed: int, **more: object) -> dict[str, object]:
    return {"dataset": "criteo", "opt": "group_adam", "seed": seed, **more}


def pruned(seed: int, rate: float, **more: object) -> dict[str, object]:
    return {"opt": "adam", "seed": seed, "prune": "magnitude", "prune.feature_rate": rate, **more}


def calls() -> list[dict[str, object]]:
    path = Path("calls.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pids: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(running(pid) for pid in pids)


def kill(pid: int) -> None:
    """Ends a worker of this process, until it is gone and not a zombie whose threads still end; the runner is left to
    find that out."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_rows_in_the_jobs_order_each_job_once(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [a_job(5), a_job(2), a_job(5), {"opt": "adam", "seed": 1, "opt.lr": 0.01}]
    with a_runner() as runner:
        found = runner.ask(jobs)
        again = runner.ask(jobs[:1])
    assert sorted(seed for call in calls() for seed in call["seeds"]) == [1, 2, 5]  # type: ignore[attr-defined]
    assert found["seed"].tolist() == [5, 2, 5, 1]
    assert found["opt"].tolist() == ["group_adam", "group_adam", "group_adam", "adam"]  # as asked, not as in the result
    assert found["auc"].tolist() == [0.55, 0.52, 0.55, 0.51]
    assert again["auc"].tolist() == [0.55]
    assert math.isnan(found["opt.lr"][0])
    assert found["opt.lr"][3] == 0.01
    assert found["openmp_threads"].tolist() == ["1"] * 4
    assert "auc_by_day" not in found.columns
    assert found["error"].isna().all()
    assert found["command"][1].startswith("python -m ctr.train dataset.raw=train.txt dataset.prepared=prepared")
    assert found["command"][1].endswith("dataset=criteo opt=group_adam seed=2")
    assert [Path(folder, "result.json").exists() for folder in found["folder"]] == [True] * 4
    assert capsys.readouterr().err.count("study") >= 1


def test_finished_jobs_are_not_run_by_another_runner() -> None:
    with a_runner() as runner:
        runner.ask([a_job(1), a_job(2)])
    stamps = {path: path.stat().st_ino for path in Path("jobs").rglob("result.json")}
    with a_runner() as runner:
        found = runner.ask([a_job(1), a_job(2), a_job(3)])
    assert found["auc"].tolist() == [0.51, 0.52, 0.53]
    assert all(path.stat().st_ino == inode for path, inode in stamps.items())
    assert sorted(call["seeds"] for call in calls()) == [[1], [2], [3]]


def test_jobs_that_share_their_first_part_run_together() -> None:
    with a_runner(workers=1) as runner:
        runner.ask([pruned(0, 0.5), {"opt": "adam", "seed": 0}, pruned(1, 0.5), pruned(0, 0.1, retrain=True)])
    assert sorted(call["seeds"] for call in calls()) == [[0, 0, 0], [1]]
    assert calls()[0]["seeds"] == [0, 0, 0]  # the longest first
    assert len({call["pid"] for call in calls()}) == 1  # a worker is kept


def test_runs_in_parallel() -> None:
    with a_runner(workers=2) as runner:
        found = runner.ask([a_job(0, window=50), a_job(1, window=50)])
    assert found["pid"].nunique() == 2


def test_failed_job_leaves_a_gap() -> None:
    with a_runner() as runner:
        found = runner.ask([a_job(13), a_job(1)])
        runner.ask([a_job(13)])
    assert found["error"][0] == "the loss is nan"
    assert found["error"].isna().tolist() == [False, True]
    assert math.isnan(found["auc"][0])
    assert found["auc"][1] == 0.51
    ((log, error),) = runner.failures.items()
    assert error == "the loss is nan"
    assert "CtrError: the loss is nan" in log.read_text()
    assert [call["seeds"] for call in calls()].count([13]) == 1  # the same runner does not try again
    with a_runner() as runner:
        runner.ask([a_job(13)])
    assert [call["seeds"] for call in calls()].count([13]) == 2  # the next one does


def test_a_row_with_an_error_has_no_result() -> None:
    with a_runner() as runner:
        found = runner.ask([a_job(14)])
        folder = Path(found["folder"][0])
        assert (found["error"][0], math.isnan(found["auc"][0])) == ("not recorded", True)
        assert not (folder / "result.json").exists()
        (folder / "result.json").write_text('{"auc": 0.7}')  # as of another study that runs it just now
        assert math.isnan(runner.ask([a_job(14)])["auc"][0])


def test_data_that_changes_meanwhile_fails_the_run() -> None:
    """Its result must not lie under the key of the data before."""
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(15)])
        assert math.isnan(found["auc"][0])
        folder = Path(found["folder"][0])
        assert f"planned as {folder.name}" in found["error"][0]
        assert not (folder / "result.json").exists()
    with a_runner(workers=1) as runner:
        again = runner.ask([a_job(1)])
    assert Path(again["folder"][0]).name.split("-")[1] in found["error"][0]  # the data that it found
    assert again["auc"][0] == 0.51


def test_a_worker_of_other_code_refuses_its_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that starts after the sources were edited: nothing is run, nothing lies under the key."""
    loaded = store.CODE
    monkeypatch.setattr(store, "CODE", "before")
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(1)])
        ((log, _),) = runner.failures.items()
    assert found["error"][0] == (
        "the sources of ctr changed while the study ran: the run was planned by code before, "
        f"this worker has {loaded}; start the study again"
    )
    assert math.isnan(found["auc"][0])
    assert calls() == []
    assert not (log.parent / "result.json").exists()
    assert "the sources of ctr changed" in log.read_text()


def test_a_worker_whose_sources_change_while_it_loads_them_refuses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("tests.studies.fakes:jobs") is fakes.jobs
    monkeypatch.setattr(store, "CODE", "before")  # as hashed when `ctr.store` was loaded, before the others were
    run = load("tests.studies.fakes:jobs")
    with pytest.raises(CtrError, match="the sources of ctr changed while a worker loaded them; start the study again"):
        run([], [], lambda rows: None, [])


def test_killed_worker_is_replaced() -> None:
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(99, window=2), a_job(1), a_job(2)])
    assert found["error"][0] == (
        "the worker process was ended by SIGKILL; perhaps out of memory: fewer workers need less"
    )
    assert found["auc"].tolist()[1:] == [0.51, 0.52]
    assert len({call["pid"] for call in calls()}) == 2


def test_a_worker_that_is_killed_amid_an_answer() -> None:
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(98, window=2), a_job(1)])
    assert "was ended by SIGKILL" in found["error"][0]
    assert found["auc"][1] == 0.51


def test_a_full_disk_is_named() -> None:
    """Also where the log cannot be written either."""
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(16), a_job(1)])
    assert found["error"][0] == f"{found['folder'][0]}/result.json: No space left on device"
    assert found["auc"][1] == 0.51
    assert len({call["pid"] for call in calls()}) == 1  # the worker goes on


def test_what_stops_a_worker_before_it_runs_is_named() -> None:
    with a_runner(workers=1) as runner:
        key = runner._planner.plan(a_job(1)).key
        Path("jobs", f".{key}.lock").mkdir(parents=True)
        found = runner.ask([a_job(1), a_job(2)])
    assert found["error"][0] == f"{Path.cwd()}/jobs/.{key}.lock: Is a directory"
    assert found["auc"][1] == 0.52


def test_a_store_that_cannot_be_written_is_named_before_anything_runs() -> None:
    Path("jobs").write_text("in the way")
    with a_runner() as runner, pytest.raises(CtrError, match=r"^jobs=jobs: File exists; expected a folder"):
        runner.ask([a_job(1)])
    assert calls() == []


def test_what_a_worker_prints_between_its_jobs_is_not_in_their_logs(tmp_path: Path) -> None:
    (tmp_path / "train.log").touch()
    code = (
        "import os; from pathlib import Path; from ctr.studies.worker import _logged\n"
        "with _logged([Path('.')]): os.write(1, b'within,'); os.write(2, b'both')\n"
        "os.write(1, b'out'); os.write(2, b'err')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("out", "err")
    assert (tmp_path / "train.log").read_text() == "within,both"


def test_jobs_of_another_study_outlive_a_killed_worker() -> None:
    """Its family holds a job that another process runs just now: that one is waited for, not given up."""
    with a_runner(workers=1) as runner:
        shared, own = pruned(99, 0.5, window=2), {"opt": "adam", "seed": 99, "window": 2}
        folder = Path("jobs", runner._planner.plan(shared).key)
        begun = threading.Event()

        def other() -> None:
            with Store(folder.parent).lock(folder.name):
                begun.set()
                until_calls(1)
                time.sleep(1)  # until the runner finds its worker dead; later is as well
                folder.mkdir()
                (folder / "result.json").write_text('{"auc": 0.7}')

        threading.Thread(target=other).start()
        begun.wait()
        found = runner.ask([shared, own])
    assert found["auc"][0] == 0.7
    assert "was ended by SIGKILL" in found["error"][1]


def test_workers_that_died_idle_are_replaced() -> None:
    with a_runner() as runner:
        pids = [int(pid) for pid in runner.ask([a_job(0, window=50), a_job(1, window=50)])["pid"]]
        kill(pids[0])
        found = runner.ask([a_job(2, window=50), a_job(3, window=50), a_job(4)])
        assert found["auc"].tolist() == [0.52, 0.53, 0.54]
        assert pids[0] not in found["pid"].tolist()
        os.kill(pids[1], 0)  # the other one goes on; whether it was given any of the three is a matter of speed


def test_work_given_to_a_worker_that_is_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It died idle, and the runner did not see it yet: the jobs were not begun, another worker runs them."""
    with a_runner(workers=1) as runner:
        (pid,) = runner.ask([a_job(0)])["pid"]
        kill(pid)
        monkeypatch.setattr(Worker, "dead", False)
        found = runner.ask([a_job(1, window=2), a_job(2)])
    assert found["auc"].tolist() == [0.51, 0.52]
    assert sorted(seed for call in calls() for seed in call["seeds"]) == [0, 1, 2]  # type: ignore[attr-defined]


def test_a_worker_that_dies_with_an_order_unread() -> None:
    with a_runner(workers=1) as runner:
        (pid,) = runner.ask([a_job(0)])["pid"]
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(1, os.kill, (pid, signal.SIGKILL)).start()
        found = runner.ask([a_job(1), a_job(2)])
    assert found["auc"].tolist() == [0.51, 0.52]


def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dies before it answers: the jobs fail, instead of being tried for ever."""
    monkeypatch.setenv("PYTHONPATH", "")  # without what the made-up training lies in
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(0), a_job(1)])
    assert found["error"].tolist() == ["the worker process ended with 1"] * 2


def test_a_worker_that_closes_its_connection_before_it_ends_is_told_by_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of every Python process that fails: there is a moment between the two."""
    code = "import os, sys, time\nos.close(int(sys.argv[1]))\ntime.sleep(0.3)\nos._exit(7)\n"
    (tmp_path / "closes_first.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with a_runner(workers=1, function="closes_first:jobs") as runner:
        found = runner.ask([a_job(0)])
    assert found["error"].tolist() == ["the worker process ended with 7"]


def test_wrong_jobs_are_refused_before_any_runs() -> None:
    with a_runner() as runner, pytest.raises(Exception, match="lamda21"):
        runner.ask([a_job(1), a_job(1, **{"opt.lamda21": 1e-3})])
    with a_runner() as runner, pytest.raises(CtrError, match="seed"):
        runner.ask([a_job(1), a_job(-1)])
    assert calls() == []


def study(window: int, jobs: int) -> Forked:
    """A study in a process of its own: jobs of so many hundredths of a second."""
    return Forked(Path(), _study, window, jobs)


def _study(window: int, jobs: int) -> None:
    def main() -> None:
        with a_runner() as runner:
            runner.ask([a_job(seed, window=window) for seed in range(jobs)])

    run_command(main)


def until(condition: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(Path().glob(condition))) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(Path().glob(condition))) >= count


def until_calls(count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while len(calls()) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(str(call["pid"])) for call in calls()]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_study_leaves_no_processes(sent: signal.Signals, code: int) -> None:
    process = study(3000, 4)
    workers = until_calls(2)
    os.kill(process.process.pid, sent)  # type: ignore[arg-type]
    done = process.end(30)
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1] == f"error: {'interrupted' if code == 130 else 'terminated'}"
    assert "Traceback" not in done.stderr
    assert not any(running(pid) for pid in workers)


def test_killed_study_goes_on_where_it_was() -> None:
    process = study(20, 8)
    until("jobs/*/result.json", 3)
    process.process.kill()
    process.end(30)
    assert ends(until_calls(1))  # its workers do not go on by themselves
    finished = {path: path.stat().st_ino for path in Path("jobs").glob("*/result.json")}
    assert 3 <= len(finished) < 8
    done = study(20, 8).end(60)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("jobs").glob("*/result.json"))) == 8
    assert all(path.stat().st_ino == inode for path, inode in finished.items())


def test_two_studies_at_once_share_the_jobs() -> None:
    studies = [study(30, 4), study(30, 4)]
    for process in studies:
        done = process.end(60)
        assert done.returncode == 0, done.stderr
    assert sorted(call["seeds"] for call in calls()) == [[0], [1], [2], [3]]


def test_half_written_folder_is_overwritten() -> None:
    with a_runner() as runner:
        folder = Path(runner.ask([a_job(1)])["folder"][0])
    os.remove(folder / "result.json")  # noqa: PTH107
    (folder / "leftover").touch()
    with a_runner() as runner:
        assert runner.ask([a_job(1)])["auc"].tolist() == [0.51]
    assert not (folder / "leftover").exists()
