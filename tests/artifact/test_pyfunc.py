"""A saved model in MLflow: loaded, registered and served from there on the raw log's columns."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

import ctr
from ctr.artifact import pyfunc
from ctr.config.compose import resolve
from ctr.datasets.columns import HEX32
from ctr.errors import ArgumentError
from tests.artifact.runs import Trained, log_of_test_rows, trained
from tests.commands import composed, job, refuses


def frame(run: Trained, folder: Path) -> pd.DataFrame:
    """The rows that a run was tested on, as pandas reads them: columns that look like numbers become some."""
    inputs, log = ctr.load(run.folder).inputs, log_of_test_rows(run, folder)
    path = next(log.glob("imp.*.txt")) if log.is_dir() else log
    names = None if inputs.delimiter == "," else list(inputs.line or ())
    hexadecimal = {name: str for name, type_ in inputs.columns.items() if type_ is HEX32}
    return pd.read_csv(path, sep=inputs.delimiter, names=names, dtype=hexadecimal)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["criteo", "avazu", "ipinyou"])
def test_a_loaded_model_predicts_raw_columns(dataset: str, tmp_path: Path) -> None:
    run = trained(f"dataset={dataset}")
    pyfunc.write(run.folder / "model", tmp_path / "made", Model())
    loaded, saved = mlflow.pyfunc.load_model(str(tmp_path / "made")), ctr.load(run.folder)
    rows = frame(run, tmp_path)[list(saved.inputs.columns)]
    assert len(rows) > 50
    assert np.array_equal(loaded.predict(rows), saved.predict(rows))
    names = list(saved.inputs.columns)
    assert loaded.metadata.signature.inputs.input_names() == names
    assert list(loaded.input_example) == names
    assert np.array_equal(loaded.predict(loaded.input_example), saved.predict(loaded.input_example))
    assert not list((tmp_path / "made").rglob("*.pkl"))


@pytest.mark.slow
def test_the_example_of_hashed_values_is_made_up(tmp_path: Path) -> None:
    run = trained("dataset=criteo", "save.keys=hash")
    pyfunc.write(run.folder / "model", tmp_path / "made", Model())
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "made"))
    assert 0 < loaded.predict(loaded.input_example)[0] < 1


@pytest.mark.slow
def test_a_missing_column_is_named(tmp_path: Path) -> None:
    run = trained("dataset=criteo")
    pyfunc.write(run.folder / "model", tmp_path / "made", Model())
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "made"))
    for name in ("C3", "I3"):
        with pytest.raises(MlflowException, match=name):
            loaded.predict(loaded.input_example.drop(columns=name))


@pytest.mark.slow
def test_the_server_says_what_is_wrong_with_a_row(tmp_path: Path) -> None:
    """It answers with the message of an error of MLflow, and with "an unexpected error" for all others."""
    run = trained("dataset=criteo")
    pyfunc.write(run.folder / "model", tmp_path / "made", Model())
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "made"))
    with pytest.raises(MlflowException, match=r"I3.*'many'") as error:
        loaded.predict(loaded.input_example.assign(I3="many"))
    assert error.value.get_http_status_code() == 400
    assert "\n" not in error.value.message


def test_requirements_can_be_installed_and_do_not_name_ctr() -> None:
    """The package index has another project of this name; local versions are not on it."""
    found = dict(line.split("==") for line in pyfunc.requirements())
    assert {"torch", "numpy", "pyarrow", "safetensors", "mlflow"} <= set(found)
    assert "ctr" not in found
    assert not any("+" in version for version in found.values())


def logged(folder: Path, database: Path, *overrides: str) -> MlflowClient:
    """Runs with a copy of a database, which holds the run and its model afterwards."""
    if not (folder / "mlflow.db").exists():
        shutil.copy(database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    sizes = ["dataset.sample_rows=500", f"dataset.prepared={folder / 'prepared'}", "batch_size=128"]
    on = ["tracking=mlflow", f"tracking.uri={uri}", "tracking.log_model=true", *overrides]
    job(composed("train", "dataset=criteo", "dataset.source=sample", *sizes, *on), folder / "run")
    return MlflowClient(uri)


@pytest.mark.slow
def test_a_run_logs_and_registers_its_model(
    ready_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (1, 2):
        client = logged(tmp_path, ready_database, "tracking.registered_model=clicks")
        assert f"logged model      models:/clicks/{version}" in capsys.readouterr().out
    (found,) = client.search_model_versions("name = 'clicks'", max_results=1)
    run = client.get_run(found.run_id)
    assert (found.version, run.info.status) == (2, "FINISHED")
    (output,) = run.outputs.model_outputs
    entry = client.get_logged_model(output.model_id)
    assert (entry.name, str(entry.status), entry.source_run_id) == ("model", "READY", run.info.run_id)
    loaded = mlflow.pyfunc.load_model(entry.artifact_location)
    saved = ctr.load(tmp_path / "run")
    assert np.array_equal(loaded.predict(loaded.input_example), saved.predict(loaded.input_example))
    assert loaded.metadata.run_id == run.info.run_id


@pytest.mark.slow
def test_a_model_that_cannot_be_logged_does_not_lose_the_run(
    ready_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "artifacts")

    monkeypatch.setattr(pyfunc, "write", full)
    client = logged(tmp_path, ready_database)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "the model is not logged: " in warning
    assert "No space left on device" in warning
    assert warning.endswith(f"The run goes on; the model is in {tmp_path / 'run' / 'model'}")
    (experiment,) = client.search_experiments(filter_string="name = 'ctr'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["auc"] == json.loads((tmp_path / "run" / "result.json").read_text())["auc"]
    (entry,) = client.search_logged_models([experiment.experiment_id])
    assert str(entry.status) == "FAILED"
    assert not (tmp_path / "run" / "untracked.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tracking.log_model=true", "save=none"], "with save=none there is no model to log; give save=model"),
        (["tracking.registered_model=a"], "tracking.registered_model=a: only a logged model can be registered"),
    ],
)
def test_what_cannot_be_logged_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        resolve(composed("train", "dataset=criteo", "dataset.source=sample", *overrides))


@pytest.mark.slow
def test_a_run_without_tracking_has_no_model_to_log(tmp_path: Path) -> None:
    overrides = ["dataset.source=sample", "tracking=none", "tracking.log_model=true"]
    refuses(tmp_path, "ctr.train", overrides, 2, "tracking=none has no such key; it belongs to tracking=mlflow")


@pytest.mark.slow
def test_a_study_refuses_to_log_models(tmp_path: Path) -> None:
    overrides = ["study=fig1", "dataset=criteo", "dataset.source=sample", "tracking.log_model=true"]
    refuses(tmp_path, "ctr.reproduce", overrides, 2, "tracking.log_model: a study logs no models")


@pytest.mark.slow
def test_mlflow_serves_a_model_on_raw_columns(tmp_path: Path) -> None:
    run = trained("dataset=criteo")
    pyfunc.write(run.folder / "model", tmp_path / "made", Model())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    found = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # MLflow starts `uvicorn`
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "made"), *options],
            env={**os.environ, **found, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not answers(f"{address}/ping"):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.5)
        line = log_of_test_rows(run, tmp_path).read_text().splitlines()[0]
        texts = dict(zip(ctr.load(run.folder).inputs.line or (), line.split("\t"), strict=True))
        row = {name: int(value) if name[0] == "I" and value else value or None for name, value in texts.items()}
        body = json.dumps({"dataframe_records": [row]}).encode()
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            (probability,) = json.load(answer)["predictions"]
        assert probability == pytest.approx(float(ctr.load(run.folder).predict([line])[0]), abs=1e-9)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False
