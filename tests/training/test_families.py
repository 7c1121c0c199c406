"""Pruned runs, families of them, and what is trained on: holdout, a limit of rows, retraining on the survivors."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr.config.compose import resolve
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError, CtrError
from ctr.metrics import alive_rows
from ctr.training.build import narrowed, retrain, start
from ctr.training.experiment import passes
from ctr.training.identity import run_key
from ctr.training.trainer import evaluate, train
from tests.commands import composed, job, jobs, prepared
from tests.datasets.criteo_text import lines, write
from tests.training.test_pruning import BACKENDS

TIMES = ("samples_per_second", "train_seconds", "peak_rss_bytes", "checksum")


def configuration(folder: Path, *overrides: str, rows: int = 400) -> Any:
    raw = folder / "train.txt"
    if not raw.exists():
        write(raw, lines(rows))
    places = [f"dataset.raw={raw}", f"dataset.prepared={folder / 'prepared'}", "tracking=none", "batch_size=32"]
    return composed("train", "dataset=criteo", *places, *overrides)


def run_family(folder: Path, *members: list[str]) -> list[dict[str, Any]]:
    configs = [configuration(folder, *overrides) for overrides in members]
    folders = [folder / f"family-{number}" for number in range(len(members))]
    assert jobs(configs, folders, lambda rows: None) == [None] * len(members)
    return [json.loads((place / "result.json").read_text()) for place in folders]


def run_one(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_family(folder, list(overrides))[0]


def magnitude(rate: float, finetune: float = 0.0, score: str = "norm") -> list[str]:
    return ["prune=magnitude", f"prune.feature_rate={rate}", f"prune.finetune={finetune}", f"prune.score={score}"]


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMES}


def present(made: list[str]) -> int:
    return len({(f, v) for line in made for f, v in enumerate(line.split("\t")[14:])})


@pytest.mark.parametrize("finetune", [0, 0.3])
def test_feature_rate_is_exact(tmp_path: Path, finetune: float) -> None:
    got = run_one(tmp_path, "opt=adam", *magnitude(0.2, finetune))
    count = present(lines(400)[:342])
    assert (got["features_present"], got["features_nonzero"]) == (count, round(0.2 * count))
    assert got["feature_rate"] == round(0.2 * count) / count
    assert (got["prune_feature_rate"], got["finetune"], got["score"]) == (0.2, finetune, "norm")


def test_without_pruning_nothing_is_said_of_it(tmp_path: Path) -> None:
    got = run_one(tmp_path)
    for key in ("prune_feature_rate", "finetune", "score", "auc_retrained"):
        assert got[key] is None
    assert got["holdout"] == 0


def test_the_rate_of_group_adam_fed_back_gives_as_many_features(tmp_path: Path) -> None:
    for lambda21 in (3e-4, 1e-3, 3e-3, 1e-2):
        wanted = run_one(tmp_path, "opt=group_adam", f"opt.lambda21={lambda21}")
        assert 0 < wanted["features_nonzero"] < wanted["features_present"]
        rate = wanted["feature_rate"]
        for got in run_family(tmp_path, *(["opt=adam", *magnitude(rate, k)] for k in (0, 0.3))):
            assert got["features_nonzero"] == wanted["features_nonzero"]


@pytest.mark.parametrize("model", ["dcn", "opnn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_family_is_its_separate_runs(tmp_path: Path, backend: str, model: str) -> None:
    shared = ["opt=adam", f"backend={backend}", f"model={model}", "model.hidden=[70,3]"]
    options = [[], *(magnitude(r, k, s) for k in (0.3, 0, 0.1) for r in (0.05, 0.5) for s in ("norm", "effect"))]
    members = [[*shared, *own] for own in options]
    together = run_family(tmp_path, *members)
    alone = [run_one(tmp_path, *overrides) for overrides in members]
    assert [untimed(result) for result in together] == [untimed(result) for result in alone]
    assert len({result["config_hash"] for result in together}) == len(members)
    assert len({result["logloss"] for result in together}) == len(members)  # each is a model of its own


@pytest.mark.parametrize("model", ["dcn", "opnn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_retrain_does_not_reach_into_the_others(tmp_path: Path, backend: str, model: str) -> None:
    """As a study of streams asks: some pruned runs are retrained, others fine-tuned, from one trunk."""
    shared = ["opt=adam", f"backend={backend}", f"model={model}", "model.hidden=[70,3]"]
    retrained = ["retrain=true"]
    options = [retrained, [], magnitude(0.2), [*magnitude(0.2), *retrained], [*magnitude(0.2, 0.3), *retrained]]
    options += [magnitude(0.2, 0.3), magnitude(0.05, 0.1), [*magnitude(0.05), *retrained]]
    members = [[*shared, *own] for own in options]
    together = run_family(tmp_path, *members)
    alone = [run_one(tmp_path, *overrides) for overrides in members]
    assert [untimed(result) for result in together] == [untimed(result) for result in alone]
    for result, own in zip(together, options, strict=True):
        assert (result["auc_retrained"] is not None) == ("retrain=true" in own)
    assert len({result["auc_retrained"] for result in together} - {None}) > 1


def test_a_failing_member_does_not_stop_the_others(tmp_path: Path) -> None:
    members = [magnitude(0.2), magnitude(0.5), magnitude(0.2, 0.3)]
    configs = [configuration(tmp_path, "opt=adam", *own) for own in members]
    folders = [tmp_path / name for name in "abc"]
    (folders[0] / "result.json").mkdir(parents=True)  # in the way
    first, second, third = jobs(configs, folders, lambda rows: None, [None, "planned-as-another", None])
    assert isinstance(first, OSError)
    assert isinstance(second, CtrError)
    assert "planned as planned-as-another" in str(second)
    assert third is None
    got = json.loads((folders[2] / "result.json").read_text())
    assert untimed(got) == untimed(run_one(tmp_path, "opt=adam", *members[2]))


def test_a_failing_trunk_fails_whoever_shares_it(tmp_path: Path) -> None:
    configs = [configuration(tmp_path, "opt=sgd", "opt.lr=1e30", *own) for own in ([], magnitude(0.2, 0.99))]
    folders = [tmp_path / name for name in "ab"]
    whole, early = jobs(configs, folders, lambda rows: None)
    for error in (whole, early):
        assert isinstance(error, CtrError)
        assert "lower the learning rate" in str(error)
    assert not (folders[0] / "result.json").exists()


def test_other_differences_are_refused(tmp_path: Path) -> None:
    configs = [configuration(tmp_path, f"seed={seed}") for seed in (0, 1)]
    with pytest.raises(ValueError, match="`prune` and `retrain` alone"):
        jobs(configs, [tmp_path / "a", tmp_path / "b"], lambda rows: None)


def test_progress_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows trained and tested, of trunk, fine-tuning, tests and retraining; silence where a parent shows them."""
    members = [["opt=adam", "retrain=true", *own] for own in ([], magnitude(0.2), magnitude(0.2, 0.3))]
    configs = [configuration(tmp_path, *overrides) for overrides in members]
    rows: list[int] = []
    assert jobs(configs, [tmp_path / name for name in "abc"], rows.append) == [None] * 3
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    tail = 342 - round(0.7 * 11) * 32
    assert sum(rows) == 342 + tail + 3 * 58 + 3 * (342 + 58)
    assert passes([resolve(config) for config in configs]) == pytest.approx(1 + 0.3 + 3)
    generated = configuration(tmp_path, "dataset.source=sample", "dataset.sample_rows=500")
    assert jobs([generated], [tmp_path / "e"], rows.append) == [None]
    assert capsys.readouterr().err == ""
    job(configs[1], tmp_path / "d")
    assert "pruned            by norm, the last 0% of the rows for fine-tuning" in capsys.readouterr().out


def test_each_member_has_its_own_record(tmp_path: Path, ready_database: Path) -> None:
    """One flat MLflow run each, with the whole curve, as if it had run alone."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(ready_database.read_bytes())
    shared = ["opt=adam", "tracking=mlflow", f"tracking.uri=sqlite:///{database}", "window=2"]
    run_family(tmp_path, shared, [*shared, *magnitude(0.2, 0.3)], [*shared, *magnitude(0.1, 0.3)])
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT run_uuid, name, status FROM runs ORDER BY name").fetchall()
        curves = [
            connection.execute("SELECT step FROM metrics WHERE key = 'train/loss' AND run_uuid = ?", [run]).fetchall()
            for run, _, _ in found
        ]
    assert [(name, status) for _, name, status in found] == [
        (f"criteo dcn adam seed 0{pruned}", "FINISHED") for pruned in ("", " pruned to 0.1", " pruned to 0.2")
    ]
    assert [sorted(curve) for curve in curves] == [[(2,), (4,), (6,), (8,), (10,)]] * 3


def test_a_failed_run_leaves_no_older_result(tmp_path: Path) -> None:
    """Of another run in the same folder; a mistyped value, with which nothing starts, takes none away."""
    run_one(tmp_path)
    result = tmp_path / "family-0" / "result.json"
    with pytest.raises(ArgumentError, match="batch_size=0"):
        job(configuration(tmp_path, "batch_size=0"), result.parent)
    assert result.exists()
    jobs([configuration(tmp_path, "opt=sgd", "opt.lr=1e30")], [result.parent], lambda rows: None)
    assert not result.exists()


def test_what_is_not_as_planned_is_not_trained(tmp_path: Path) -> None:
    """The result must not lie under a key that says something else, not even until somebody looks."""
    config, trained = configuration(tmp_path), list[int]()
    now = run_key(resolve(config).config_hash, prepared(config).manifest.data_hash)
    (mine, data, code) = now.split("-")
    for part, planned in (("configuration", f"x-{data}-{code}"), ("data", f"{mine}-x-{code}")):
        folder = tmp_path / part
        (error,) = jobs([config], [folder], trained.append, [planned])
        assert isinstance(error, CtrError)
        assert f"planned as {planned}, but is {now}" in str(error)
        assert f"its {part} changed meanwhile" in str(error)
        assert not (folder / "result.json").exists()
    assert not trained
    assert jobs([config], [tmp_path / "run"], trained.append, [now]) == [None]
    assert (tmp_path / "run" / "result.json").exists()


def test_holdout(tmp_path: Path) -> None:
    """The tail of the training rows tests, the test part is never read: as on a log that ends before it."""
    made = lines(400)
    got = run_one(tmp_path, "holdout=0.25")
    train_rows = 342 * 3 // 4
    labels = [int(line.split("\t")[0]) for line in made]
    assert (got["rows_train"], got["rows_test"]) == (train_rows, 342 - train_rows)
    assert got["positives_train"] == sum(labels[:train_rows])
    assert got["positives_test"] == sum(labels[train_rows:342])
    assert got["features_present"] == present(made[:train_rows])
    assert got["holdout"] == 0.25
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    write(shorter / "train.txt", made[:342])
    wanted = run_one(shorter, f"dataset.test_fraction={86 / 342}")
    assert wanted["rows_train"] == train_rows
    assert (got["auc"], got["logloss"]) == (wanted["auc"], wanted["logloss"])


def test_row_limit(tmp_path: Path) -> None:
    made = lines(400)
    got = run_one(tmp_path, "train_rows=100")
    assert (got["rows_train"], got["rows_test"]) == (100, 58)
    assert got["features_present"] == present(made[:100])
    assert got["positives_train"] == sum(int(line.split("\t")[0]) for line in made[:100])
    assert got["positives_test"] == sum(int(line.split("\t")[0]) for line in made[342:])
    pruned = run_one(tmp_path, "train_rows=100", "opt=adam", *magnitude(0.1))
    assert pruned["features_nonzero"] == round(0.1 * present(made[:100]))
    both = run_one(tmp_path, "train_rows=100", "holdout=0.2")
    assert (both["rows_train"], both["rows_test"]) == (80, 20)
    assert both["positives_test"] == sum(int(line.split("\t")[0]) for line in made[80:100])
    assert untimed(run_one(tmp_path, "train_rows=342"))["auc"] == run_one(tmp_path)["auc"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train_rows=343", "train_rows=343; there are 342 rows"),
        ("holdout=0.95", r"holdout=0.95 leaves 17 of 342 rows .* \(32\)"),
        ("holdout=1e-9", "holdout=1e-09 leaves 342 of 342 rows"),
    ],
)
def test_parts_that_the_data_does_not_have(tmp_path: Path, override: str, problem: str) -> None:
    config = configuration(tmp_path, override)
    with pytest.raises(ArgumentError, match=problem):
        narrowed(resolve(config), prepared(config))


def test_row_limit_over_days(tmp_path: Path) -> None:
    """Ranges that the test days cut apart."""
    days = ["dataset=avazu", "dataset.source=sample", "dataset.sample_rows=3000", "dataset.test_days=[20141024]"]
    config = composed("train", *days, f"dataset.prepared={tmp_path / 'prepared'}", "holdout=0.25", "train_rows=2000")
    data = prepared(config)
    assert len(data.split.train) > 1
    got = narrowed(resolve(config), data).split
    rows = [row for start, stop in data.split.train for row in range(start, stop)][:2000]
    assert [row for start, stop in got.train for row in range(start, stop)] == rows[:1500]
    assert [row for start, stop in got.test for row in range(start, stop)] == rows[1500:]
    assert got.features_train == len(np.unique(np.concatenate([data.rows[r : r + 1][0] for r in rows[:1500]])))


@pytest.mark.parametrize("model", ["dcn", "opnn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_retrained_on_all_features_is_the_plain_run(tmp_path: Path, backend: str, model: str) -> None:
    shared = [f"model={model}", f"backend={backend}", "model.hidden=[70,3]", "retrain=true"]
    plain = run_one(tmp_path, "opt=adam", *shared)
    assert plain["auc_retrained"] == plain["auc"]
    grouped = run_one(tmp_path, "opt=group_adam", "opt.lambda21=1e-9", "opt.lambda2=1e-2", *shared)
    assert grouped["feature_rate"] == 1
    assert grouped["logloss"] != plain["logloss"]
    assert grouped["auc_retrained"] == plain["auc"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_did_not_survive_contributes_nothing_to_the_retrained(tmp_path: Path, backend: str) -> None:
    """Recomputed at full size: the rows of all other features are set to zero before the first and after every step."""
    config = configuration(tmp_path, "opt=adam", f"backend={backend}")
    data = prepared(config)
    survivors = torch.zeros(data.manifest.num_features, dtype=torch.bool)
    survivors[::3] = True
    got = retrain(resolve(config), data, survivors, lambda rows: None)
    run = start(resolve(config), data)
    embedding = run.model.embedding

    def clear(*_: object) -> None:
        embedding.weight.data[~survivors] = 0
        run.learner.row_optimizer.ensure_state(embedding.weight)["u"][~survivors] = 0

    clear()
    train(run, clear)
    stream = RowStream(data.rows, data.split.test, 64)
    assert got == evaluate(run.learner, stream).auc
    assert 0 < int(alive_rows(embedding.weight, embedding.seen).sum()) <= int(survivors.sum())


def test_retrained_after_the_lambdas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(tmp_path, "opt=group_adam", "opt.lambda21=3e-3", "opt.lambda_schedule=cubic", "retrain=true")
    job(config, tmp_path / "run")
    got = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < got["features_nonzero"] < got["features_present"]
    assert got["auc_retrained"] != got["auc"]
    assert math.isfinite(got["auc_retrained"])
    assert f"{got['auc_retrained']:.4f} on the features kept" in capsys.readouterr().out
