"""Pruned runs and families of them: each member is the run that it would be alone."""

import json
import sqlite3
from pathlib import Path

import pytest

from ctr.config.compose import resolve
from ctr.errors import ArgumentError, CtrError
from ctr.training.experiment import passes
from ctr.training.identity import run_key
from tests.commands import job, jobs, prepared
from tests.datasets.criteo_text import lines
from tests.native.built import BACKENDS
from tests.training.runs import configuration, magnitude, present, run_family, run_one, untimed


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


@pytest.mark.slow
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


@pytest.mark.parametrize("model", ["dcn", pytest.param("opnn", marks=pytest.mark.slow)])
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
    first, second, third = jobs(configs, folders, keys=[None, "planned-as-another", None])
    assert isinstance(first, OSError)
    assert isinstance(second, CtrError)
    assert "planned as planned-as-another" in str(second)
    assert third is None
    got = json.loads((folders[2] / "result.json").read_text())
    assert untimed(got) == untimed(run_one(tmp_path, "opt=adam", *members[2]))


def test_a_failing_trunk_fails_all_that_share_it(tmp_path: Path) -> None:
    configs = [configuration(tmp_path, "opt=sgd", "opt.lr=1e30", *own) for own in ([], magnitude(0.2, 0.99))]
    folders = [tmp_path / name for name in "ab"]
    whole, early = jobs(configs, folders)
    for error in (whole, early):
        assert isinstance(error, CtrError)
        assert "lower the learning rate" in str(error)
    assert not (folders[0] / "result.json").exists()


def test_other_differences_are_refused(tmp_path: Path) -> None:
    configs = [configuration(tmp_path, f"seed={seed}") for seed in (0, 1)]
    with pytest.raises(ValueError, match="`prune` and `retrain` alone"):
        jobs(configs, [tmp_path / "a", tmp_path / "b"])


def test_a_family_reports_rows_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        (f"adam {pruned}batch_size=32 lr=0.001 seed=0 criteo dcn embedding_dim=8", "FINISHED")
        for pruned in ("", *(f"pruned={rate} by=norm finetune=0.3 " for rate in (0.1, 0.2)))
    ]
    assert [sorted(curve) for curve in curves] == [[(2,), (4,), (6,), (8,), (10,)]] * 3


def test_a_failed_run_leaves_no_older_result(tmp_path: Path) -> None:
    """Of another run in the same folder; a mistyped value, with which nothing starts, takes none away."""
    run_one(tmp_path)
    result = tmp_path / "family-0" / "result.json"
    with pytest.raises(ArgumentError, match="batch_size=0"):
        job(configuration(tmp_path, "batch_size=0"), result.parent)
    assert result.exists()
    jobs([configuration(tmp_path, "opt=sgd", "opt.lr=1e30")], [result.parent])
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
