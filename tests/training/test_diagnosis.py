"""Warnings of runs that end without an error: each mistake made once, and none for a sound run."""

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets import criteo
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.training import diagnosis
from ctr.training.trainer import Evaluation
from tests.commands import composed, job
from tests.datasets.criteo_text import arguments, lines, write

SOUND = Evaluation(0.7, 0.4, 1.0, 0.9, rows=100, positives=20, weight=None, click_rate=0.2, auc_by_day={})


def test_predictions() -> None:
    assert diagnosis.of_predictions(SOUND, True) == []
    assert diagnosis.of_predictions(replace(SOUND, normalised_entropy=1.0), True) == []
    (worse,) = diagnosis.of_predictions(replace(SOUND, normalised_entropy=3.24), True)
    assert worse.startswith("normalised entropy is 3.24, above 1: worse than the click rate alone; scale")
    (worse,) = diagnosis.of_predictions(replace(SOUND, normalised_entropy=3.24), False)
    assert worse.endswith("; try another opt.lr")
    (half,) = diagnosis.of_predictions(replace(SOUND, auc=0.5), True)
    assert half.startswith("AUC is exactly .5")
    (undefined,) = diagnosis.of_predictions(
        replace(SOUND, auc=math.nan, normalised_entropy=math.nan, positives=0), True
    )
    assert undefined.startswith("AUC is undefined: 0 of 100 test rows have label 1; choose")
    (weightless,) = diagnosis.of_predictions(replace(SOUND, auc=math.nan, weight=5.0, click_rate=0.0), True)
    assert weightless.startswith("AUC is undefined: all test rows of one label have weight 0")


def test_an_auc_that_no_log_of_clicks_reaches() -> None:
    (leak,) = diagnosis.of_predictions(replace(SOUND, auc=0.9993, rows=1000), True)
    assert leak.startswith("AUC is 0.9993, too good for clicks")
    assert "dataset.ignore=[NAME]" in leak
    for sound in (replace(SOUND, auc=0.9993, rows=999), replace(SOUND, auc=0.98, rows=1000)):
        assert diagnosis.of_predictions(sound, True) == []


def test_features() -> None:
    assert diagnosis.of_features(10, 5, 1e-3) == diagnosis.of_features(10, 10, 0.0) == []
    assert diagnosis.of_features(10, 0, 0.5) == ["no feature is left of 10: opt.lambda21=0.5 is too large; lower it"]
    (kept,) = diagnosis.of_features(10, 10, 1e-6)
    assert kept.startswith("all 10 features are kept at opt.lambda21=1e-06: it is too small")


@pytest.mark.parametrize(
    ("opt", "lr", "steps", "warned"),
    [
        ("adam", 1e-4, 99, True),
        ("group_adam", 1e-4, 101, False),
        ("group_amsgrad", 1e-5, 999, True),
        ("group_adagrad", 1e-4, 2499, True),  # 2 lr sqrt(2500) = 0.01
        ("adagrad", 1e-4, 2501, False),
        ("sgd", 1e-9, 1, False),
    ],
)
def test_a_learning_rate_that_the_stream_is_too_short_for(opt: str, lr: float, steps: int, warned: bool) -> None:
    found = diagnosis.of_learning_rate(opt, lr, steps, 0.01)
    assert bool(found) is warned
    assert all(f"opt.lr={lr:g} is too small for {steps:,} steps" in warning for warning in found)


def test_a_learning_rate_that_is_too_small_explains_that_no_feature_is_removed(tmp_path: Path) -> None:
    config = composed("train", *arguments(tmp_path, "tracking=none", "opt.lr=1e-9", "opt.lambda21=1e-3"))
    job(config, tmp_path / "run")
    got = json.loads((tmp_path / "run" / "result.json").read_text())
    assert got["feature_rate"] == 1
    assert any(warning.startswith("opt.lr=1e-09 is too small") for warning in got["warnings"])
    assert not any("features are kept" in warning for warning in got["warnings"])


def test_ids_and_numbers() -> None:
    fields, counts = ["user", "event"], [799, 800]
    (event,) = diagnosis.of_ids(fields, counts, 1000)
    assert event.startswith("field event has nearly one value per row (800 in 1,000)")
    assert diagnosis.of_ids(fields, [99, 99], 100) == []  # in a short log most values are new
    (price,) = diagnosis.of_numbers(["age", "price"], [100.0, 100.5])
    assert price.startswith("numeric column price goes up to 100.5: inputs beyond 100 drown the others; transform it")


def test_new_values() -> None:
    assert diagnosis.of_unseen(["a", "b"], [0.0, 0.89]) == []
    assert diagnosis.of_unseen(["a", "hour"], [0.0, 1.0]) == [
        "nearly all test values are new to the model in: hour 100%; leave such fields out"
    ]
    (most,) = diagnosis.of_unseen(["a", "b"], [0.2, 0.8])
    assert most.startswith("50% of the test values are new to the model")


def test_days() -> None:
    assert diagnosis.of_days([1, 2], [3]) == diagnosis.of_days([], []) == []
    (past,) = diagnosis.of_days([20240501, 20240503], [20240502])
    assert past.startswith("test rows of 20240502 come before training rows of 20240503: the model knows the future")


def test_new_values_are_counted_by_field(tmp_path: Path) -> None:
    made = lines(300)
    data = prepare(criteo.make(), write(tmp_path / "log", made), tmp_path / "out", split=SplitRule(test_fraction=0.5))
    seen = np.zeros(data.manifest.num_features, bool)
    seen[data.rows[0:150][0]] = True
    got = diagnosis.unseen_by_field(data.rows, [(150, 200), (200, 300)], seen)
    values = [line.split("\t")[14:] for line in made]
    for field in range(26):
        known = {row[field] for row in values[:150]}
        assert got[field] == sum(row[field] not in known for row in values[150:]) / 150


def log_with_mistakes(path: Path) -> Path:
    """Prices that say nothing are in the tens of thousands, and an id is among the fields."""
    draw = np.random.default_rng(0)
    rows = [
        f"{int(draw.random() < 0.2 + 0.4 * (n % 2))},2024-05-{1 + n // 500:02},{n % 2},e{n},{draw.integers(0, 90_000)}"
        for n in range(1500)
    ]
    path.write_text("\n".join(["y,when,item,event,price", *rows]) + "\n")
    return path


def test_a_run_tells_its_mistakes_in_table_result_and_tracking(
    tmp_path: Path, ready_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = log_with_mistakes(tmp_path / "log.csv")
    database = tmp_path / "mlflow.db"
    database.write_bytes(ready_database.read_bytes())
    shared = ["dataset=csv", "model=mlp", "model.embedding_dim=2", f"dataset.prepared={tmp_path}/prepared"]
    shared += [f"dataset.raw={raw}", "dataset.time=when", "opt=adam", "opt.lr=1e-2", "batch_size=32"]
    mistakes = ["dataset.categorical=[item,event]", "dataset.dense=[price]", "dataset.transform_default=none"]
    mistakes += ["dataset.test_days=[20240502]", f"tracking.uri=sqlite:///{database}"]
    job(composed("train", *shared, *mistakes), tmp_path / "bad")
    warnings = json.loads((tmp_path / "bad" / "result.json").read_text())["warnings"]
    starts = (
        "field event has nearly",
        "numeric column price goes up",
        "nearly all test values are new",
        "test rows of",
    )
    for start in starts:
        assert any(warning.startswith(start) for warning in warnings), start
    printed = capsys.readouterr().out
    assert all(f"  warning           {warning}" in printed for warning in warnings)
    with sqlite3.connect(database) as connection:
        (tag,) = connection.execute("SELECT value FROM tags WHERE key = 'warnings'").fetchone()
    assert tag == "; ".join(warnings)

    job(
        composed("train", *shared, "dataset.categorical=[item]", "dataset.dense=[price]", "tracking=none"),
        tmp_path / "good",
    )
    good = json.loads((tmp_path / "good" / "result.json").read_text())
    assert good["warnings"] == []
    assert good["values_unseen"] == 0
    assert good["normalised_entropy"] < 1
