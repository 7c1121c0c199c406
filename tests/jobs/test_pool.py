"""Each job once, in parallel, whatever fails or is killed: with a made-up training (`tests.jobs.fakes`)."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctr.cli import Terminated, run_command
from ctr.errors import SPACE, ArgumentError, CtrError
from ctr.files import sealed
from ctr.jobs import local, worker
from ctr.jobs.cache import Cache
from ctr.jobs.local import PRELOAD, LocalLauncher
from ctr.jobs.pool import Pool
from ctr.jobs.worker import RunFamily, lost, terminate
from ctr.training import identity
from tests.commands import Forked
from tests.datasets.criteo_text import lines, write
from tests.jobs import fakes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with a small log; workers find the made-up training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write(tmp_path / "train.txt", lines(70))


def leave(folder: Path, auc: float) -> None:
    """A result, as of a run that another process has done."""
    hashes = zip(("config_hash", "data_hash", "code_hash"), folder.name.split("-"), strict=True)
    (folder / "result.json").write_text(sealed({"auc": auc, **dict(hashes)}))


def a_runner(workers: int = 2, run: RunFamily = fakes.run_family) -> Pool:
    always = {"dataset.raw": "train.txt", "dataset.prepared": "prepared", "tracking": "none", "threads": 1, "window": 1}
    root = Path("jobs").resolve()
    return Pool(Cache(root), workers, LocalLauncher(root, run), always=always, tags={})


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
    assert "auc_by_day" not in found.columns
    assert found["auc_blocks"].tolist() == [[0.5]] * 4
    assert found["error"].isna().all()
    assert found["command"][1].startswith("python -m ctr.train dataset.raw=train.txt dataset.prepared=prepared")
    assert found["command"][1].endswith("dataset=criteo opt=group_adam seed=2")
    assert [Path(folder, "result.json").exists() for folder in found["folder"]] == [True] * 4
    assert capsys.readouterr().err.count("study") >= 1


@pytest.mark.slow
def test_finished_jobs_are_not_run_by_another_runner() -> None:
    with a_runner() as runner:
        runner.ask([a_job(1), a_job(2)])
    stamps = {path: path.stat().st_ino for path in Path("jobs").rglob("result.json")}
    with a_runner() as runner:
        found = runner.ask([a_job(1), a_job(2), a_job(3)])
    assert found["auc"].tolist() == [0.51, 0.52, 0.53]
    assert all(path.stat().st_ino == inode for path, inode in stamps.items())
    assert sorted(call["seeds"] for call in calls()) == [[1], [2], [3]]


def test_a_page_that_a_finished_job_does_not_get_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    asked = a_job(1, report=True)
    for _ in range(2):
        with a_runner(1) as runner:
            runner.ask([asked])
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "warning: 1 of the runs were finished earlier and have no report.html, which is drawn as a run ends; another "
        f"jobs= than {Path('jobs').resolve()} does them again"
    )


@pytest.mark.slow
def test_jobs_that_share_their_first_part_run_together() -> None:
    with a_runner(workers=1) as runner:
        runner.ask([pruned(0, 0.5), {"opt": "adam", "seed": 0}, pruned(1, 0.5), pruned(0, 0.1, retrain=True)])
    assert sorted(call["seeds"] for call in calls()) == [[0, 0, 0], [1]]
    assert calls()[0]["seeds"] == [0, 0, 0]  # the longest first
    assert len({call["pid"] for call in calls()}) == 2  # a process for each family


@pytest.mark.slow
def test_runs_in_parallel() -> None:
    with a_runner(workers=2) as runner:
        found = runner.ask([a_job(0, window=50), a_job(1, window=50)])
    assert found["pid"].nunique() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_trains_with_the_threads_of_its_settings(threads: int) -> None:
    """Whatever the process that it was forked from has."""
    with a_runner(run=fakes.count_threads) as runner:
        found = runner.ask([a_job(0, threads=threads)])
    assert found["error"].tolist() == [None]
    assert Path(f"threads-{threads}").read_text() == str(threads)


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
        leave(folder, 0.7)  # as of another study that runs it just now
        assert math.isnan(runner.ask([a_job(14)])["auc"][0])


@pytest.mark.slow
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


def test_a_job_that_was_planned_by_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a worker that starts after the sources were edited: nothing is left under the key."""
    monkeypatch.setattr(identity, "CODE", "before")
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(1)])
        ((log, _),) = runner.failures.items()
    assert found["error"][0].startswith(f"the run was planned as {log.parent.name}, but is ")
    assert found["error"][0].endswith("(configuration-data-code): its code changed meanwhile; start it again")
    assert math.isnan(found["auc"][0])
    assert not (log.parent / "result.json").exists()


def test_a_worker_whose_sources_changed_while_it_loaded_them_refuses_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(identity, "CODE", "before")  # as hashed before the other modules were imported
    monkeypatch.setattr(worker, "CHANGED", worker._changed())
    job, ran = a_runner()._planner.plan(a_job(1)), []
    outcome = worker.attempt([job], Cache(tmp_path / "jobs"), ran.append, wait=False, run=lambda runs, _: ran.append(1))
    assert outcome.errors == {
        job.key: "the sources of ctr changed while a process loaded them; start the command again"
    }
    assert ran == []


def test_killed_worker_is_replaced() -> None:
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(99, window=2), a_job(1), a_job(2)])
    assert found["error"][0] == (
        "the worker process was ended by SIGKILL; perhaps out of memory: fewer workers need less"
    )
    assert found["auc"].tolist()[1:] == [0.51, 0.52]


def test_a_worker_that_is_killed_while_it_answers() -> None:
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(98, window=2), a_job(1)])
    assert "was ended by SIGKILL" in found["error"][0]
    assert found["auc"][1] == 0.51


def test_a_full_disk_is_named() -> None:
    """Also where the log cannot be written either."""
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(16), a_job(1)])
    assert found["error"][0] == f"{found['folder'][0]}/result.json: No space left on device; {SPACE}"
    assert found["auc"][1] == 0.51


def test_what_stops_a_worker_before_it_runs_is_named() -> None:
    with a_runner(workers=1) as runner:
        key = runner._planner.plan(a_job(1)).key
        Path("jobs", f".{key}.lock").mkdir(parents=True)
        found = runner.ask([a_job(1), a_job(2)])
    assert found["error"][0] == f"{Path.cwd()}/jobs/.{key}.lock: Is a directory"
    assert found["auc"][1] == 0.52


def test_a_store_that_cannot_be_written_is_named_before_anything_runs() -> None:
    Path("jobs").write_text("in the way")
    with a_runner() as runner, pytest.raises(CtrError, match=r"^jobs=.*jobs: File exists; expected a folder"):
        runner.ask([a_job(1)])
    assert calls() == []


@pytest.mark.slow
def test_what_a_worker_prints_between_its_jobs_is_not_in_their_logs(tmp_path: Path) -> None:
    (tmp_path / "train.log").touch()
    code = (
        "import os; from pathlib import Path; from ctr.jobs.worker import _logged\n"
        "with _logged([Path('.')]): os.write(1, b'within,'); os.write(2, b'both')\n"
        "os.write(1, b'out'); os.write(2, b'err')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("out", "err")
    assert (tmp_path / "train.log").read_text() == "within,both"


@pytest.mark.slow
def test_jobs_of_another_study_outlive_a_killed_worker() -> None:
    """Its family holds a job that another process runs just now: that one is waited for, not given up."""
    with a_runner(workers=1) as runner:
        shared, own = pruned(99, 0.5, window=2), {"opt": "adam", "seed": 99, "window": 2}
        folder = Path("jobs", runner._planner.plan(shared).key)
        begun = threading.Event()

        def other() -> None:
            with Cache(folder.parent).lock(folder.name):
                begun.set()
                until_calls(1)
                time.sleep(1)  # until the runner finds its worker dead; later is as well
                folder.mkdir()
                leave(folder, 0.7)

        threading.Thread(target=other).start()
        begun.wait()
        found = runner.ask([shared, own])
    assert found["auc"][0] == 0.7
    assert "was ended by SIGKILL" in found["error"][1]


def test_a_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies before it answers: the job fails, and is not tried for ever."""
    monkeypatch.setattr("ctr.jobs.local.serve", os._exit)  # called with a connection, which is no exit code
    with a_runner(workers=1) as runner:
        found = runner.ask([a_job(0), a_job(1)])
    assert found["error"].tolist() == ["the worker process ended with 1"] * 2


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm")
def test_a_worker_whose_end_is_told_twice_is_not_disturbed_while_it_ends() -> None:
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("sigterm")
def test_a_worker_whose_end_python_dropped_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cleared:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("sys.unraisablehook", lost)
    with pytest.raises(Terminated):  # noqa: PT012
        Cleared()
        threading.Event().wait(30)


def test_the_bar_is_closed_where_ctrl_c_comes_while_the_workers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    runner = a_runner()
    monkeypatch.setattr(runner._launcher, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), runner:
        runner.ask([a_job(0)])
    assert runner._bar.disable  # tqdm's sign of a closed bar


def test_wrong_jobs_are_refused_before_any_runs() -> None:
    with a_runner() as runner, pytest.raises(Exception, match="lamda21"):
        runner.ask([a_job(1), a_job(1, **{"opt.lamda21": 1e-3})])
    with a_runner() as runner, pytest.raises(ArgumentError, match="seed=-1"):
        runner.ask([a_job(1), a_job(-1)])
    assert calls() == []


def study(window: int, jobs: int) -> Forked:
    """A study in a process of its own: each job takes ``window`` hundredths of a second."""
    return Forked(Path(), _study, window, jobs)


def _study(window: int, jobs: int) -> None:
    local.PRELOAD = PRELOAD[:3]  # without what tracking and training need, which load for seconds

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


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_study_leaves_no_processes(sent: signal.Signals, code: int) -> None:
    process = study(3000, 4)
    workers = until_calls(2)
    os.kill(process.process.pid, sent)  # type: ignore[arg-type]
    done = process.end(30)
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1] == f"error: {'interrupted' if code == 130 else 'terminated'}"
    assert "Traceback" not in done.stderr
    assert not any(running(pid) for pid in workers)


def test_ctrl_c_does_not_reach_the_process_that_workers_come_from_while_it_loads() -> None:
    code = (
        f"import sys, {PRELOAD[0]}, signal; assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_studies_at_once_share_the_jobs() -> None:
    studies = [study(30, 4), study(30, 4)]
    for process in studies:
        done = process.end(60)
        assert done.returncode == 0, done.stderr
    assert sorted(call["seeds"] for call in calls()) == [[0], [1], [2], [3]]


@pytest.mark.slow
def test_a_damaged_result_is_computed_again() -> None:
    with a_runner(workers=1) as runner:
        result = Path(runner.ask([a_job(1)])["folder"][0], "result.json")
        result.write_text(result.read_text().replace("0.51", "0.52"))
        assert runner.ask([a_job(1)])["auc"].tolist() == [0.51]
    assert [call["seeds"] for call in calls()] == [[1], [1]]


@pytest.mark.slow
def test_half_written_folder_is_overwritten() -> None:
    with a_runner() as runner:
        folder = Path(runner.ask([a_job(1)])["folder"][0])
    os.remove(folder / "result.json")  # noqa: PTH107
    (folder / "leftover").touch()
    with a_runner() as runner:
        assert runner.ask([a_job(1)])["auc"].tolist() == [0.51]
    assert not (folder / "leftover").exists()
