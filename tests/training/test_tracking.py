"""Where runs are recorded: a local database that is made whole, and a store that fails in the middle of a run."""

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ctr.config.compose import resolve
from ctr.errors import CtrError
from ctr.files import TMP_PREFIX
from ctr.training import database, experiment, run
from ctr.training.folder import claim
from ctr.training.identity import run_key
from ctr.training.result import summarise
from ctr.training.tracking import MlflowTracker, NoTracker
from tests.commands import job, jobs, prepared
from tests.limits import file_size_limit
from tests.training.runs import configuration


class Watcher(NoTracker):
    """Notes what it was told; the store ``fails`` at one call."""

    fails = ""
    uri, run_id = "http://store", "7"

    def __init__(self, *_: object, **__: object) -> None:
        self.told: list[str] = []
        watchers.append(self)

    def note(self, told: str) -> None:
        if told == self.fails:
            raise ConnectionError("the store is gone")
        self.told.append(told)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.note("figures" if "auc" in values else "curve")

    def text(self, name: str, text: str) -> None:
        self.note(name)

    def finish(self, status: str) -> None:
        self.note(status)

    def unsent(self) -> list[Metric]:
        return [Metric("train/loss", 0.25, 1234, 50)]


watchers: list[Watcher] = []


@pytest.mark.parametrize("fails", ["figures", "result.json", "FINISHED"])
def test_a_run_whose_store_fails_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fails: str,
) -> None:
    """It warns once, says so in its table, and what the store did not take is beside its result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "MlflowTracker", Watcher)
    monkeypatch.setattr(Watcher, "fails", fails)
    job(configuration(tmp_path, "tracking=mlflow"), tmp_path / "run")
    result = (tmp_path / "run" / "result.json").read_text()
    first, point, *rest = map(json.loads, (tmp_path / "run" / "untracked.jsonl").read_text().splitlines())
    error = "ConnectionError: the store is gone"
    assert first == {"kind": "run", "uri": "http://store", "run_id": "7", "error": error}
    assert point == {"kind": "metrics", "values": {"train/loss": 0.25}, "step": 50, "time": 1234}
    all_kinds = ["metrics", "tags", "text", "finish"]  # the tags are the run's warnings
    assert [line["kind"] for line in rest] == all_kinds[{"figures": 0, "result.json": 2, "FINISHED": 3}[fails] :]
    assert rest[-1] == {"kind": "finish", "status": "FINISHED"}
    if fails == "figures":
        assert rest[0]["values"]["auc"] == json.loads(result)["auc"]
        assert rest[2]["text"] == result
    assert fails not in watchers[-1].told
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"warning: {error}. The run goes on")
    shown = [line for line in capsys.readouterr().out.splitlines() if "not tracked" in line]
    assert shown == [f"  not tracked       {error}; what is missing there is in run/untracked.jsonl"]
    monkeypatch.setattr(Watcher, "fails", "")
    assert jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"]) == [None]
    assert not (tmp_path / "run" / "untracked.jsonl").exists()  # of the run before


@pytest.mark.parametrize("fails", [False, True])
def test_the_page_of_a_run_is_kept_with_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """After the run has ended; a store that does not take it is warned of, and costs nothing else."""

    def artifact(watcher: Watcher, path: Path) -> None:
        if path.name == "report.html":
            if fails:
                raise ConnectionError("the store is gone")
            watcher.told.append(path.read_text())

    monkeypatch.setattr(run, "MlflowTracker", Watcher)
    monkeypatch.setattr(Watcher, "artifact", artifact, raising=False)
    settings = resolve(configuration(tmp_path, "tracking=mlflow", "report=true"))
    one = run.Run(settings, tmp_path / "run", draw=lambda path, *_: path.write_text("the page"))
    experiment.run_family([one], lambda rows: None)
    assert one.error is None
    assert watchers[-1].told[-1] == ("FINISHED" if fails else "the page")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    page = tmp_path / "run" / "report.html"
    assert warnings == [f"warning: the page is not logged: the store is gone. It is {page}"] * fails
    assert not (tmp_path / "run" / "untracked.jsonl").exists()


def test_a_table_that_cannot_be_printed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has ended by then, and well."""
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left"):
            job(configuration(tmp_path), tmp_path / "run")
        with suppress(OSError):
            full.close()
    assert (tmp_path / "run" / "result.json").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """Not even in one family: the second is refused, and takes nothing of the first."""
    config = configuration(tmp_path)
    lock = claim(tmp_path / "run")
    with pytest.raises(CtrError, match="run is in use by another run"):
        job(config, tmp_path / "run")
    assert not (tmp_path / "run" / ".hydra").exists()
    lock.release()
    first, second = jobs([config, config], [tmp_path / "run"] * 2)
    assert first is None
    assert "in use by another run" in str(second)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_result_that_cannot_be_written_is_recorded_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, *arguments: Any, **more: Any) -> int:
        if path.name.endswith("result.json"):
            raise OSError(28, "No space left on device")
        return path.write_bytes(text.encode())

    monkeypatch.setattr(run, "MlflowTracker", Watcher)
    monkeypatch.setattr(Path, "write_text", full)
    (error,) = jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"])
    assert isinstance(error, OSError)
    assert watchers[-1].told[-1] == "FAILED"
    assert "FINISHED" not in watchers[-1].told
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".hydra", ".lock"}


def test_a_result_is_on_the_disk_before_the_record_closes_and_has_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed between the two is recorded as finished, and its figures were not lost to a full disk."""
    seen: dict[str, str] = {}

    def finish(watcher: Watcher, status: str) -> None:
        seen.update((path.name, path.read_text()) for path in (tmp_path / "run").glob("*result.json"))

    monkeypatch.setattr(run, "MlflowTracker", Watcher)
    monkeypatch.setattr(Watcher, "finish", finish)
    assert jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"]) == [None]
    ((name, text),) = seen.items()
    assert name.startswith(TMP_PREFIX)
    assert text == (tmp_path / "run" / "result.json").read_text()
    assert not list((tmp_path / "run").glob(f"{TMP_PREFIX}*"))


def test_a_result_that_is_not_as_planned_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, written = configuration(tmp_path, "tracking=mlflow"), list[str]()
    now = run_key(resolve(config).config_hash, prepared(config).manifest.data_hash)

    def other(*arguments: Any, **figures: Any) -> Any:
        return replace(summarise(*arguments, **figures), data_hash="other")

    monkeypatch.setattr(run, "MlflowTracker", Watcher)
    monkeypatch.setattr(experiment, "summarise", other)
    monkeypatch.setattr(run, "atomic_write_text", lambda path, _: written.append(path.name))
    (error,) = jobs([config], [tmp_path / "run"], keys=[now])
    assert "its data changed meanwhile" in str(error)
    assert written == ["config.yaml"]
    assert not list((tmp_path / "run").rglob("*result.json"))
    assert watchers[-1].told[-1] == "FAILED"


def tracker(path: Path) -> MlflowTracker:
    return MlflowTracker(f"sqlite:///{path}", "ctr", "a run")


@pytest.mark.slow
def test_the_list_of_runs_has_data_source_and_commit(
    tmp_path: Path, ready_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of two runs that note the same new data at once: the second fails once, as the first has done it."""
    shutil.copy(ready_database, tmp_path / "mlflow.db")
    uri, calls = f"sqlite:///{tmp_path / 'mlflow.db'}", list[str]()
    log_inputs = MlflowClient.log_inputs

    def taken_once(client: MlflowClient, run_id: str, *inputs: Any) -> None:
        calls.append(run_id)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.name")
        log_inputs(client, run_id, *inputs)

    monkeypatch.setattr(MlflowClient, "log_inputs", taken_once)
    generated = configuration(
        tmp_path, "tracking=mlflow", f"tracking.uri={uri}", "dataset.source=sample", "dataset.sample_rows=500"
    )
    for config in (configuration(tmp_path, "tracking=mlflow", f"tracking.uri={uri}"), generated):
        job(config, tmp_path / "run")
        (found,) = MlflowClient(uri).search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)
        (noted,) = found.inputs.dataset_inputs
        name = "criteo" + (", generated rows" if config is generated else "")
        assert (noted.dataset.name, noted.dataset.digest) == (name, found.data.tags["data_hash"][:8])
        assert json.loads(noted.dataset.profile) == {"num_rows": 500 if config is generated else 400}
        assert found.data.tags["mlflow.source.name"] == "ctr.train"
        assert found.data.tags["mlflow.source.git.commit"] == found.data.tags["git_sha"]
    assert len(calls) == 3


def test_a_database_is_made_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready_database: Path
) -> None:
    """Making it takes seconds: an interruption leaves none, and the next run removes what ``kill -9`` left."""
    path, left = tmp_path / "my.db", tmp_path / f"{TMP_PREFIX}0a1b2c3d-my.db"
    kept = tmp_path / f"{TMP_PREFIX}0a1b2c3d-another.db"

    class Store:
        def __init__(self, uri: str, artifacts: str) -> None:
            assert not left.exists()
            made = Path(uri.removeprefix("sqlite:///"))
            made.with_name(f"{made.name}-journal").touch()
            made.write_bytes(ready_database.read_bytes()[: 4096 if stopped else None])
            assert made != path
            assert not path.exists() or not path.stat().st_size
            if stopped:
                raise KeyboardInterrupt
            self.engine = SimpleNamespace(dispose=lambda: None)

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Store)
    kept.touch()
    for stopped in (True, False):
        for name in (left, left.with_name(f"{left.name}-journal"), path.with_name("my.db-wal")):
            name.touch()
        with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
            database.make(path, "mlartifacts")
        assert {file.name for file in tmp_path.iterdir()} == {kept.name} | (set() if stopped else {"my.db"})
    assert path.read_bytes() == ready_database.read_bytes()
    database.make(path, "mlartifacts")  # it is there
    path.write_bytes(b"")  # SQLite leaves such a one when it is killed at once
    database.make(path, "mlartifacts")
    assert path.read_bytes() == ready_database.read_bytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the connections that MLflow leaves
def test_a_database_that_cannot_be_used_is_named(
    tmp_path: Path, ready_database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def half(path: Path) -> None:
        path.write_bytes(b"")
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE registered_models (name TEXT)")

    def of(version: str) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE alembic_version SET version_num = ?", [version])

        return write

    def damaged(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
        path.write_bytes(content)

    another = "move it away (the next tracked run makes a new one), or choose another tracking.uri"
    for number, (spoil, said) in enumerate(
        [
            (lambda path: path.write_bytes(b"something else" * 1000), f"is not an SQLite database; {another}"),
            (lambda path: path.write_bytes(ready_database.read_bytes()[:8]), f"is not an SQLite database; {another}"),
            (half, f"is half-made, or of another version of MLflow; {another}"),
            (damaged, f"is damaged; {another}"),
            (of("451aebb31d03"), "is of another version of MLflow; make a copy of it, then: python -m mlflow db "),
            (lambda path: (path.unlink(), path.mkdir()), "is not a file; choose another tracking.uri"),
        ]
    ):
        path = tmp_path / f"{number}.db"
        path.write_bytes(ready_database.read_bytes())
        spoil(path)
        with pytest.raises(CtrError) as error:
            tracker(path)
        assert str(error.value).removeprefix(f"tracking.uri=sqlite:///{path}: ").startswith(f"{path} {said}")
        assert "\n" not in str(error.value)
    path.rmdir()
    path.write_bytes(ready_database.read_bytes())
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(CtrError, match=f"{path} is read-only; expected one that can be written to, in a folder"):
        tracker(path)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("trouble", ["deleted", "full"])
def test_a_database_that_fails_in_the_middle_of_a_run(
    tmp_path: Path, ready_database: Path, trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What reached it and what is beside the result are the whole record."""
    path, run = tmp_path / "mlflow.db", tmp_path / "run"
    shutil.copy(ready_database, path)
    options = ["tracking=mlflow", f"tracking.uri=sqlite:///{path}", "window=2", "save=none"]
    with ExitStack() as undo:
        begun: list[int] = []

        def on_rows(rows: int) -> None:
            if not begun and trouble == "deleted":
                path.unlink()
            elif not begun:
                undo.enter_context(file_size_limit(1 << 16))
            begun.append(rows)

        assert jobs([configuration(tmp_path, *options)], [run], on_rows) == [None]
    assert "Traceback" not in capfd.readouterr().err
    first, *rest = map(json.loads, (run / "untracked.jsonl").read_text().splitlines())
    assert first["kind"] == "run"
    assert str(path) in first["error"]
    figures = next(line["values"] for line in rest if line["kind"] == "metrics" and "auc" in line["values"])
    assert figures["auc"] == json.loads((run / "result.json").read_text())["auc"]
    curve = [line["step"] for line in rest if "train/loss" in line.get("values", {})]
    assert curve == [2, 4, 6, 8, 10]
    assert rest[-1] == {"kind": "finish", "status": "FINISHED"}
