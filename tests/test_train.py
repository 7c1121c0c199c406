"""The command as a user meets it: result, table, errors, exit codes, tracking, sweeps."""

import json
import math
import re
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ctr import train
from ctr.errors import CtrError
from ctr.jobs.sweep import Began
from ctr.training.folder import read_result
from ctr.training.result import Result
from tests.commands import Forked, command, composed, execute, job, new_process, refuses, result
from tests.datasets.criteo_text import arguments, lines, write

KEYS = {
    *("dataset", "model", "opt", "seed", "rows_train", "rows_test", "features_present", "features_nonzero"),
    *("feature_rate", "auc", "logloss", "positives_train", "positives_test", "samples_per_second", "train_seconds"),
    *("peak_rss_bytes", "config_hash", "data_hash", "git_sha", "source", "calibration", "normalised_entropy"),
    *("auc_by_day", "auc_blocks", "auc_retrained_blocks", "machine"),
}


def run_job(folder: Path, *overrides: str) -> dict[str, object]:
    """One run within this process, as the command does it."""
    config = composed("train", *arguments(folder, "tracking=none", *overrides))
    out = folder / "run"
    out.mkdir(exist_ok=True)
    job(config, out)
    return json.loads((out / "result.json").read_text())


@pytest.fixture
def database(tmp_path: Path, ready_database: Path) -> Path:
    """A copy of an MLflow database: making a new one takes seconds."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(ready_database.read_bytes())
    return path


def runs(database: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(database) as connection:
        return connection.execute("SELECT name, status FROM runs").fetchall()


def test_the_result_holds_the_counts_of_the_log_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = run_job(tmp_path, "opt.lambda21=0.01", "seed=3")
    assert set(got) >= KEYS
    rows = [line.split("\t") for line in lines(400)]
    train = rows[:342]
    assert (got["dataset"], got["model"], got["opt"], got["seed"]) == ("criteo", "dcn", "group_adam", 3)
    assert (got["rows_train"], got["rows_test"], got["source"]) == (342, 58, "raw")
    assert got["features_present"] == len({(f, v) for row in train for f, v in enumerate(row[14:])})
    assert got["positives_train"] == sum(int(row[0]) for row in train)
    assert got["positives_test"] == sum(int(row[0]) for row in rows[342:])
    options = {"lr": 1e-3, "lambda21": 0.01, "lambda1": 0, "lambda2": 0, "betas": [0.9, 0.999], "eps": 1e-8}
    assert options.items() <= got["opt_options"].items()  # type: ignore[attr-defined]
    assert 0 < got["features_nonzero"] < got["features_present"]  # type: ignore[operator]
    assert got["feature_rate"] == got["features_nonzero"] / got["features_present"]  # type: ignore[operator]
    assert len(got["auc_blocks"]) == 100  # type: ignore[arg-type]
    assert abs(sum(got["auc_blocks"])) < 1e-4 < max(got["auc_blocks"])  # type: ignore[call-overload]
    assert got["auc_retrained_blocks"] == []
    assert f"; torch {torch.__version__}, numpy {np.__version__}" in str(got["machine"])
    printed = capsys.readouterr().out
    assert f"{got['auc']:.4f}" in printed
    assert f"({got['features_nonzero']:,} of {got['features_present']:,} features kept)" in printed


@pytest.mark.parametrize("encoding", ["onehot", "hash"])
def test_same_seed_same_result(tmp_path: Path, encoding: str) -> None:
    options = [f"dataset.encoding={encoding}", "dataset.num_buckets=300"]
    one, two = run_job(tmp_path, *options), run_job(tmp_path, *options)
    other = run_job(tmp_path, "seed=1", *options)
    times = ("samples_per_second", "train_seconds", "peak_rss_bytes", "checksum")
    assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in two.items() if k not in times}
    assert one["auc"] != other["auc"]
    assert one["data_hash"] == other["data_hash"]


def test_days_of_the_test_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One AUC for each test day where the log names days, none where it does not."""
    sample = ["dataset=avazu", "dataset.source=sample", "dataset.sample_rows=3000", "model.embedding_dim=4"]
    days = "dataset.test_days=[20141024,20141030]"
    config = composed("train", *sample, f"dataset.prepared={tmp_path / 'prepared'}", days, "tracking=none")
    job(config, tmp_path)
    got = json.loads((tmp_path / "result.json").read_text())
    assert list(got["auc_by_day"]) == ["20141024", "20141030"]
    assert got["auc"] not in got["auc_by_day"].values()
    printed = capsys.readouterr().out
    for day, auc in got["auc_by_day"].items():
        assert f"{day} {auc:.4f}" in printed
    assert run_job(tmp_path)["auc_by_day"] == {}


def test_generated_rows_are_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = run_job(tmp_path, "dataset.source=sample", "dataset.sample_rows=2000")
    assert got["source"] == "generated"
    assert got["rows_train"] == 1714
    assert "generated rows: says nothing about real clicks" in capsys.readouterr().out
    assert (tmp_path / "sample").is_dir()


def test_skipped_rows_are_in_the_result(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", [*lines(100), "bad"])
    assert run_job(tmp_path, "dataset.bad_rows=skip")["rows_skipped"] == 1


def test_test_rows_of_one_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AUC is undefined there: null, not a number made up."""
    made = lines(100)
    write(tmp_path / "train.txt", made[:80] + ["0" + line[1:] for line in made[80:]])
    got = run_job(tmp_path, "dataset.test_fraction=0.1")
    assert got["auc"] is got["calibration"] is got["normalised_entropy"] is None
    assert "undefined: the test rows are all of one class" in capsys.readouterr().out


def test_help_and_exit_codes(tmp_path: Path) -> None:
    """0 done, 1 failed, 2 wrong arguments; one line on stderr, no traceback."""
    shown = new_process(tmp_path, "ctr.train", "--help")
    assert shown.returncode == 0
    assert "  opt.lambda21=0.001 " in shown.stdout
    for overrides, code, text in [
        (["dataset=criteo", "opt.lamda21=1"], 2, "lamda21"),
        (["dataset=criteo", "opt.lambda21=abc"], 2, "opt.lambda21"),
        (["dataset=criteo", "opt.lr=-1"], 2, "lr"),
        (["dataset=nope"], 2, "nope"),
        (["+foo=1"], 2, "foo"),
        (["dataset=criteo"], 2, "no raw log at data/criteo/raw"),
    ]:
        said = refuses(tmp_path, "ctr.train", overrides, code, text)
        assert not [path for path in tmp_path.iterdir() if path.name != "runs"]  # no database, no data
    assert "dataset.source=sample" in said
    assert "dataset.raw=PATH" in said


def test_a_run_folder_that_cannot_be_written_to_is_named_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "run")
    config = OmegaConf.create({"hydra": {"run": {"dir": folder}, "sweep": {"dir": folder}}})
    for begin in (Began().on_run_start, Began().on_multirun_start):
        with pytest.raises(SystemExit):
            begin(config)
        said = capsys.readouterr().err
        assert said == f"error: run_dir={folder}: Not a directory; expected a folder that can be written to\n"


def test_bad_input_fails_with_its_line(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", [*lines(10), "0\tx"])
    done = command(tmp_path, "ctr.train", *arguments(tmp_path, "tracking=none", "run_dir=out"))
    assert done.returncode == 1
    assert "train.txt, line 11: 2 columns; expected 40 tab-separated columns per line" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (tmp_path / "out" / "train.log").read_text()
    assert not (tmp_path / "out" / "result.json").exists()
    verbose = command(tmp_path, "ctr.train", *arguments(tmp_path, "tracking=none", "hydra.verbose=true"))
    assert verbose.returncode == 1
    assert "Traceback" in verbose.stderr


def test_log_file_holds_the_summary_of_the_model(tmp_path: Path) -> None:
    done = command(tmp_path, "ctr.train", *arguments(tmp_path, "tracking=none", "run_dir=out"))
    assert done.returncode == 0, done.stderr
    features = result(tmp_path)["features_present"]
    written = (tmp_path / "out" / "train.log").read_text()
    assert re.search(r"^deep.0 +Linear +weight 64 x 221, bias 64 +14,208$", written, re.MULTILINE)
    (rows,) = re.findall(r"^embedding +FeatureEmbedding +weight ([0-9,]+) x 8 ", written, re.MULTILINE)
    assert int(rows.replace(",", "")) >= features
    assert "FeatureEmbedding" not in done.stdout + done.stderr


def test_a_run_in_the_folder_of_an_earlier_one_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = composed("train", *arguments(tmp_path, "tracking=none"))
    train.run(config, tmp_path / "out")
    assert "earlier run" not in caplog.text
    train.run(config, tmp_path / "out")
    assert "out holds the result and the model of an earlier run, which this one replaces" in caplog.text


@pytest.mark.slow
def test_an_unforeseen_error_of_a_sweep_is_one_line_too(tmp_path: Path) -> None:
    """A folder where the run folder's file should be: nothing of ours raises that."""
    (tmp_path / "sweep" / "0" / "result.json").mkdir(parents=True)
    sweep = arguments(tmp_path, "tracking=none", "seed=0,1", "run_dir=sweep")
    done = command(tmp_path, "ctr.train", "-m", *sweep)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "sweep" / "1" / "result.json").is_file()


@pytest.mark.slow
def test_terminated_run_says_so(tmp_path: Path, database: Path) -> None:
    """SIGTERM, as schedulers send it: the run is recorded as killed, the exit code is 143."""
    overrides = arguments(tmp_path, f"tracking.uri=sqlite:///{database}", "dataset.source=sample")
    run = Forked(tmp_path, execute, "ctr.train", [*overrides, "dataset.sample_rows=3000000", "backend=torch"])
    deadline = time.monotonic() + 100
    while not runs(database) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.process.terminate()
    done = run.end(100)
    assert done.returncode == 143
    assert done.stderr.strip().endswith("error: terminated")
    assert [status for _, status in runs(database)] == ["KILLED"]


def test_prepare_refuses_unknown_keys(tmp_path: Path) -> None:
    for key in ("+foo=1", "+dataset.nope=1"):
        done = command(tmp_path, "ctr.prepare", *arguments(tmp_path, key))
        assert done.returncode == 2
        assert key.split("=")[0].split(".")[-1].lstrip("+") in done.stderr


@pytest.mark.slow
def test_prepare_command(tmp_path: Path) -> None:
    first = new_process(tmp_path, "ctr.prepare", *arguments(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "400: 342 to train on, 58 to test on" in first.stdout
    again = command(tmp_path, "ctr.prepare", *arguments(tmp_path))
    assert "was there already" in again.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"train.txt", "prepared"}  # no run folder, no log


def test_mlflow_holds_the_run(tmp_path: Path, database: Path) -> None:
    config = composed("train", *arguments(tmp_path, f"tracking.uri=sqlite:///{database}", "window=2", "batch_size=50"))
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    job(config, tmp_path / "run")
    got = Result(**read_result(tmp_path / "run" / "result.json"))
    with sqlite3.connect(database) as connection:
        (run_id, status, artifacts) = connection.execute("SELECT run_uuid, status, artifact_uri FROM runs").fetchone()
        params = dict(connection.execute("SELECT key, value FROM params"))
        tags = dict(connection.execute("SELECT key, value FROM tags"))
        curve = connection.execute("SELECT step FROM metrics WHERE key = 'train/loss' ORDER BY step").fetchall()
        latest = dict(connection.execute("SELECT key, value FROM latest_metrics"))
    assert status == "FINISHED"
    assert params["opt.lambda21"] == "0.001"
    assert {k: tags[k] for k in ("dataset", "model", "opt", "seed", "source", "config_hash", "data_hash")} == {
        "dataset": "criteo", "model": "dcn", "opt": "group_adam", "seed": "0", "source": "raw",
        "config_hash": got.config_hash, "data_hash": got.data_hash,
    }  # fmt: skip
    assert curve == [(2,), (4,), (6,)]  # 342 rows in batches of 50 are 7 steps, in windows of 2
    assert (latest["auc"], latest["feature_rate"]) == (got.auc, got.feature_rate)
    assert latest["log10_feature_rate"] == pytest.approx(math.log10(got.feature_rate))
    assert artifacts.endswith(f"mlartifacts/{run_id}/artifacts")
    kept = {path.name for path in Path(artifacts.removeprefix("file://")).iterdir()}
    assert kept == {"result.json", "config.yaml"}


def test_nan_is_a_failed_run(tmp_path: Path, database: Path) -> None:
    """An absurd learning rate: the loss overflows, the run stops, MLflow says FAILED."""
    overrides = ["opt=sgd", "opt.lr=1e30", "batch_size=50", f"tracking.uri=sqlite:///{database}"]
    config = composed("train", *arguments(tmp_path, *overrides))
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").touch()
    with pytest.raises(CtrError, match=r"the loss is (nan|inf) at step 2"):
        job(config, tmp_path / "run")
    assert [status for _, status in runs(database)] == ["FAILED"]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("name", "unused"),
    [("train", {"mlflow", "sklearn", "matplotlib"}), ("prepare", {"mlflow", "sklearn", "matplotlib", "torch"})],
)
def test_a_command_does_not_load_what_it_does_not_need(tmp_path: Path, name: str, unused: set[str]) -> None:
    """Without tracking, MLflow; each takes a second or more."""
    (tmp_path / "check.py").write_text(f"import sys, ctr.{name}; assert not {unused} & set(sys.modules), sys.modules")
    done = new_process(tmp_path, "check")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_parallel_sweep_on_a_new_database(tmp_path: Path) -> None:
    """Jobs that start together make one database and one experiment, and each leaves its own result."""
    sweep = arguments(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "run_dir=sweep")
    done = new_process(tmp_path, "ctr.train", "-m", *sweep)
    assert done.returncode == 0, done.stderr
    seeds = {json.loads((tmp_path / "sweep" / str(job) / "result.json").read_text())["seed"] for job in (0, 1)}
    assert seeds == {0, 1}
    assert [status for _, status in runs(tmp_path / "mlflow.db")] == ["FINISHED", "FINISHED"]


@pytest.mark.slow
def test_sweep_goes_on_after_a_failed_job(tmp_path: Path) -> None:
    sweep = arguments(tmp_path, "tracking=none", "dataset.test_fraction=1e-9,0.5", "run_dir=sweep")
    done = command(tmp_path, "ctr.train", "-m", *sweep)
    assert done.returncode == 2
    assert "leaves 400 of 400 rows to train on" in done.stderr
    head, failed, finished = done.stdout.splitlines()[-3:]
    assert head.split() == ["job", "overrides", "test", "AUC", "feature", "rate", "folder"]
    assert failed.startswith(
        "  #0   dataset.test_fraction=1e-09  failed: dataset.test_fraction=1e-09 leaves 400 of 400"
    )
    assert finished.startswith("  #1   dataset.test_fraction=0.5    0.")
    assert result(tmp_path / "sweep")["rows_train"] == 200


@pytest.mark.slow
def test_sweep_skips_what_is_finished(tmp_path: Path) -> None:
    """Started again, with a job more: only that one runs, unless force=true. Single runs always run."""
    options = arguments(tmp_path, "tracking=none", "opt=adam")
    for number, (more, ran) in enumerate([(["seed=0,1"], 2), (["seed=range(3)"], 1), (["seed=0,1", "force=true"], 2)]):
        done = command(tmp_path, "ctr.train", "-m", *options, *more, f"run_dir=sweep{number}")
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / f"sweep{number}").rglob("result.json"))) == ran
        assert done.stdout.count("finished earlier: runs/jobs/") == (2 if number == 1 else 0)
        blocks, _, table = done.stdout.partition("\n\n")
        assert len(table.splitlines()) == (4 if number == 1 else 3)
        for seed, line in enumerate(table.splitlines()[1:]):
            job, overrides, auc, rate, folder = line.split()
            figures = json.loads((tmp_path / folder / "result.json").read_text())
            assert (job, overrides, figures["seed"]) == (f"#{seed}", f"seed={seed}", seed)
            assert (auc, rate) == (f"{figures['auc']:.4f}", f"{figures['feature_rate']:.4f}")
            (head,) = [line for line in blocks.splitlines() if line.startswith(f"#{seed}  ")]
            assert {*options, f"seed={seed}"} <= {*head.split()}
            assert folder in blocks.partition(head)[2]
    kept = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "jobs").rglob("result.json")]
    assert sorted(found["seed"] for found in kept) == [0, 1, 2]
    single = command(tmp_path, "ctr.train", *options, "seed=0", "run_dir=single")
    assert single.returncode == 0
    assert (tmp_path / "single" / "result.json").is_file()
