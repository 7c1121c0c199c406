"""Where runs are recorded: a local database that is made whole, and a store that fails in the middle of a run."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ctr.result import summarise
from ctr.run import check
from mlflow.entities import Metric

from ctr.cli import open_data
from ctr.config import config_hash
from ctr.errors import CtrError
from ctr.files import TMP_PREFIX
from ctr.training import experiment
from ctr.training.folder import claim
from ctr.training.identity import run_key
from ctr.training.tracking import NoTracker
from tests.commands import job, jobs
from tests.test_jobs import configuration


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
    monkeypatch.setattr(experiment, "MlflowTracker", Watcher)
    monkeypatch.setattr(Watcher, "fails", fails)
    assert jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"]) == [None]
    result = (tmp_path / "run" / "result.json").read_text()
    first, point, *rest = map(json.loads, (tmp_path / "run" / "untracked.jsonl").read_text().splitlines())
    error = "ConnectionError: the store is gone"
    assert first == {"kind": "run", "uri": "http://store", "run_id": "7", "error": error}
    assert point == {"kind": "metrics", "values": {"train/loss": 0.25}, "step": 50, "time": 1234}
    all_kinds = ["metrics", "text", "finish"]
    assert [line["kind"] for line in rest] == all_kinds[["figures", "result.json", "FINISHED"].index(fails) :]
    assert rest[-1] == {"kind": "finish", "status": "FINISHED"}
    if fails == "figures":
        assert rest[0]["values"]["auc"] == json.loads(result)["auc"]
        assert rest[1]["text"] == result
    assert fails not in watchers[-1].told
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"warning: {error}. The run goes on")
    shown = [line for line in capsys.readouterr().out.splitlines() if "not tracked" in line]
    assert shown == [f"  not tracked       {error}; what is missing there is in run/untracked.jsonl"]
    monkeypatch.setattr(Watcher, "fails", "")
    assert jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"], lambda rows: None) == [None]
    assert not (tmp_path / "run" / "untracked.jsonl").exists()  # of the run before


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
    first, second = jobs([config, config], [tmp_path / "run"] * 2, lambda rows: None)
    assert first is None
    assert "in use by another run" in str(second)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_result_that_cannot_be_written_is_recorded_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, *arguments: Any, **more: Any) -> int:
        if path.name.endswith("result.json"):
            raise OSError(28, "No space left on device")
        return path.write_bytes(text.encode())

    monkeypatch.setattr(experiment, "MlflowTracker", Watcher)
    monkeypatch.setattr(Path, "write_text", full)
    (error,) = jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"], lambda rows: None)
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

    monkeypatch.setattr(experiment, "MlflowTracker", Watcher)
    monkeypatch.setattr(Watcher, "finish", finish)
    assert jobs([configuration(tmp_path, "tracking=mlflow")], [tmp_path / "run"], lambda rows: None) == [None]
    ((name, text),) = seen.items()
    assert name.startswith(TMP_PREFIX)
    assert text == (tmp_path / "run" / "result.json").read_text()
    assert not list((tmp_path / "run").glob(f"{TMP_PREFIX}*"))


def test_a_result_that_is_not_as_planned_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, written = configuration(tmp_path, "tracking=mlflow"), list[str]()
    check(config)
    now = run_key(config_hash(config), open_data(config.dataset).manifest.data_hash)

    def other(*arguments: Any, **figures: Any) -> Any:
        return replace(summarise(*arguments, **figures), data_hash="other")

    monkeypatch.setattr(experiment, "MlflowTracker", Watcher)
    monkeypatch.setattr(experiment, "summarise", other)
    monkeypatch.setattr(experiment, "atomic_write_text", lambda path, _: written.append(path.name))
    (error,) = jobs([config], [tmp_path / "run"], lambda rows: None, [now])
    assert "its data changed meanwhile" in str(error)
    assert written == ["config.yaml"]
    assert not list((tmp_path / "run").rglob("*result.json"))
    assert watchers[-1].told[-1] == "FAILED"
