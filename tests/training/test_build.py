"""What a run trains on: held-out rows, a limit of rows, and the survivors alone, retrained."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr.config.compose import resolve
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError
from ctr.metrics import alive_rows
from ctr.training.build import narrowed, retrain, start
from ctr.training.trainer import evaluate, train
from tests.commands import composed, job, prepared
from tests.datasets.criteo_text import lines, write
from tests.native.built import ALL_BACKENDS, BACKENDS
from tests.training.runs import configuration, magnitude, present, run_one, untimed


def test_held_out_rows_are_the_tail_of_the_training_rows(tmp_path: Path) -> None:
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


def test_a_row_limit_takes_the_first_training_rows(tmp_path: Path) -> None:
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
def test_more_rows_than_the_data_has_are_refused(tmp_path: Path, override: str, problem: str) -> None:
    config = configuration(tmp_path, override)
    with pytest.raises(ArgumentError, match=problem):
        narrowed(resolve(config), prepared(config))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("opt.lambda21=-1", "opt.lambda21=-1.0; expected a finite number >= 0"),
        ("opt.betas=[0.9,2]", "opt.betas=[0.9, 2.0]; expected two numbers in [0, 1)"),
    ],
)
def test_an_option_out_of_range_is_named_by_its_key(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        resolve(configuration(tmp_path, given))
    assert str(error.value) == said


def test_a_row_limit_counts_across_days(tmp_path: Path) -> None:
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
    assert plain["auc_retrained_blocks"] == plain["auc_blocks"]
    grouped = run_one(tmp_path, "opt=group_adam", "opt.lambda21=1e-9", "opt.lambda2=1e-2", *shared)
    assert grouped["feature_rate"] == 1
    assert grouped["logloss"] != plain["logloss"]
    assert grouped["auc_retrained"] == plain["auc"]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
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
    assert got == evaluate(run.learner, stream)
    assert 0 < int(alive_rows(embedding.weight, embedding.seen).sum()) <= int(survivors.sum())


def test_a_run_with_lambdas_is_retrained_on_what_they_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(tmp_path, "opt=group_adam", "opt.lambda21=3e-3", "opt.lambda_schedule=cubic", "retrain=true")
    job(config, tmp_path / "run")
    got = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < got["features_nonzero"] < got["features_present"]
    assert got["auc_retrained"] != got["auc"]
    assert math.isfinite(got["auc_retrained"])
    assert f"{got['auc_retrained']:.4f} on the features kept" in capsys.readouterr().out
