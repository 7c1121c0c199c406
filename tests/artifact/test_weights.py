"""Weighted rows and downsampled negatives, from the log to the figures and the saved model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import ctr
from ctr import predict
from ctr.api.classifier import SparseCTRClassifier
from ctr.artifact import agreement, onnx, stream
from ctr.artifact.save import save_model
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import scorer_of
from ctr.config.compose import resolve
from ctr.errors import ArgumentError
from ctr.native.library import available
from ctr.training.experiment import Run, run_family
from tests.artifact import shop
from tests.commands import composed, job

BACKENDS = ["native", "torch"] if available() else ["torch"]
RATE = 0.1  # of the negatives kept
FIGURES = ("auc", "logloss", "calibration", "normalised_entropy", "auc_by_day", "feature_rate", "auc_progressive")


def weighted(number: int, weights: np.ndarray | None = None) -> pd.DataFrame:
    """A day of the shop with weights, some of them 0."""
    frame = shop.day(number)
    some = np.random.default_rng(number).choice([0, 0.5, 1, 7], shop.ROWS)
    return frame.assign(w=some if weights is None else weights)


def write(folder: Path, *frames: pd.DataFrame) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        frame.to_csv(folder / f"day_{number}.csv", index=False)
    return folder


def train(folder: Path, raw: Path, *more: str) -> dict[str, Any]:
    job(composed("train", *shop.arguments(raw, *more)), folder)
    return json.loads((folder / "result.json").read_text())


def predicted(model: SavedModel, raw: Path, **options: Any) -> tuple[stream.Summary, np.ndarray]:
    out = raw.parents[1] / "p.parquet"  # not among the files of the log
    found = stream.predict_log(model, stream.locate(model, [raw]), out, **options)
    return found, pd.read_parquet(out)["p"].to_numpy(float)


def pairs(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Weighted AUC by all pairs."""
    above = (p[y == 1][:, None] > p[y == 0]) + (p[y == 1][:, None] == p[y == 0]) / 2
    weight = np.outer(w[y == 1], w[y == 0])
    return float((above * weight).sum() / weight.sum())


def expected(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """The figures of probabilities, by their definitions."""
    losses, rate = -(y * np.log(p) + (1 - y) * np.log(1 - p)), (w @ y) / w.sum()
    logloss = (w @ losses) / w.sum()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return {"logloss": logloss, "calibration": (w @ p) / (w @ y), "normalised_entropy": logloss / entropy}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("weights") / "log", weighted(1), weighted(2))


@pytest.fixture(scope="module")
def run(log: Path) -> Path:
    keys = ["dataset.weight=w", "checkpoint.final=true", "progressive=true"]
    train(log.parent / "run", log, *keys)
    return log.parent / "run"


def test_the_figures_are_weighted(run: Path, log: Path) -> None:
    result, day = json.loads((run / "result.json").read_text()), weighted(2)
    found, p = predicted(ctr.load(run), log / "day_2.csv")
    y, w = day["click"].to_numpy(), day["w"].to_numpy()
    assert result["auc"] == pytest.approx(pairs(p, y, w), abs=1e-6)
    assert result["auc_by_day"] == {"20240502": result["auc"]}
    for name, value in expected(p, y, w).items():
        assert result[name] == pytest.approx(value, rel=1e-5), name
    assert result["weight_train"] == weighted(1)["w"].sum()
    assert result["weight_test"] == w.sum()
    assert (result["positives_test"], result["rows_test"]) == (y.sum(), shop.ROWS)
    assert found.figures is not None  # of the log that is predicted: the same
    assert {name: getattr(found.figures, name) for name in FIGURES[:4]} == {name: result[name] for name in FIGURES[:4]}
    assert found.figures.click_rate == pytest.approx((w @ y) / w.sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_1_change_no_digit(tmp_path: Path, backend: str) -> None:
    raw = write(tmp_path / "log", *(weighted(number, np.ones(shop.ROWS)) for number in (1, 2)))
    keys = [f"backend={backend}", "progressive=true", "dataset.min_count=2"]
    one = train(tmp_path / "one", raw, *keys, "dataset.weight=w")
    none = train(tmp_path / "none", raw, *keys, "dataset.ignore=[w]")
    assert {name: one[name] for name in FIGURES} == {name: none[name] for name in FIGURES}
    assert (one["weight_train"], none["weight_train"]) == (shop.ROWS, None)
    models = ctr.load(tmp_path / "one"), ctr.load(tmp_path / "none")
    assert torch.equal(models[0].rows, models[1].rows)


def test_a_log_to_predict_needs_no_weights_and_the_report_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "log", shop.day(2)) / "day_1.csv"
    found, p = predicted(ctr.load(run), raw)
    y = shop.day(2)["click"].to_numpy()
    assert found.figures is not None
    assert found.figures.logloss == pytest.approx(expected(p, y, np.ones(len(y)))["logloss"], rel=1e-5)
    predict.main([f"model={run}", f"raw={raw}", f"out={tmp_path / 'p.csv'}"])
    assert "weights           column w: not in this log: each row counts 1" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_last_bit(run: Path, log: Path, tmp_path: Path) -> None:
    """With a window of the training curve half full."""
    keys = ["dataset.weight=w", "checkpoint.final=true", "progressive=true", "checkpoint.every_steps=2", "window=5"]
    settings, steps = resolve(composed("train", *shop.arguments(log, *keys))), []

    def stop(rows: int) -> None:
        steps.append(rows)
        if len(steps) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_family([Run(settings, tmp_path, save=save_model)], stop)
    again = Run(settings, tmp_path, save=save_model, resume=True)
    run_family([again], lambda rows: None)
    assert again.error is None
    result, whole = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path, run))
    assert {name: result[name] for name in FIGURES} == {name: whole[name] for name in FIGURES}
    assert torch.equal(ctr.load(tmp_path).rows, ctr.load(run).rows)


def test_a_run_goes_on_with_a_log_without_weights(run: Path, tmp_path: Path) -> None:
    raw = write(tmp_path / "log", shop.day(2))
    result = train(tmp_path / "next", raw, f"init={run}", "dataset.test_fraction=0.25")
    assert result["weight_train"] is None
    assert result["features_known"] > 0


def sampled(seed: int, rows: int = 20_000) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of ten items with click rates from 1 % to 10 %; and which of them a log with few negatives has."""
    random = np.random.default_rng(seed)
    item = random.integers(10, size=rows)
    click = random.random(rows) < (item + 1) / 100
    frame = pd.DataFrame({"item": [f"i{n}" for n in item], "click": click.astype(int)})
    return frame, click | (random.random(rows) < RATE)


@pytest.fixture(scope="module")
def downsampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """A run on such a log, its rows, and those of a whole log."""
    folder = tmp_path_factory.mktemp("sampled")
    frame, kept = sampled(1)
    rows = frame[kept]
    raw = write(folder / "log", rows)
    keys = ["dataset=csv", f"dataset.raw={raw}", f"dataset.prepared={folder}/prepared", "model=lr", "opt.lr=0.05",
            "dataset.categorical=[item]", "tracking=none", "batch_size=32"]  # fmt: skip
    for name, rate in (("run", RATE), ("plain", 1.0)):
        job(composed("train", *keys, f"dataset.negative_rate={rate}"), folder / name)
    return folder, rows, sampled(2)[0]


def test_probabilities_are_those_of_the_whole_log(downsampled: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, _, whole = downsampled
    model, plain = ctr.load(folder / "run"), ctr.load(folder / "plain")
    p, q, clicks = model.predict(whole).astype(float), plain.predict(whole).astype(float), whole["click"].sum()
    np.testing.assert_allclose(p, q / (q + (1 - q) / RATE), rtol=1e-5)  # He et al.
    assert p.sum() / clicks == pytest.approx(1, abs=0.12)
    assert q.sum() / clicks > 4
    onnx.write(folder / "m.onnx", onnx.to_onnx(model, scorer_of(model, "float32")))
    session = onnx.session(folder / "m.onnx")
    (found,) = session.run(["probability"], {"item": whole["item"].to_numpy(object)[:, None]})
    np.testing.assert_allclose(found, p, atol=1e-7)
    assert agreement.check(session, model, scorer_of(model, "float32")).largest <= 1e-6


def test_the_figures_are_those_of_the_whole_log(downsampled: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, rows, _ = downsampled
    result, plain = (json.loads((folder / name / "result.json").read_text()) for name in ("run", "plain"))
    assert result["auc"] == plain["auc"]
    test = rows[-result["rows_test"] :]
    p, y = ctr.load(folder / "run").predict(test).astype(float), test["click"].to_numpy()
    weights = np.where(y == 1, 1, 1 / RATE)
    for name, value in expected(p, y, weights).items():
        assert result[name] == pytest.approx(value, rel=1e-5), name
    assert result["calibration"] == pytest.approx(1, abs=0.12)
    assert result["weight_test"] == pytest.approx(weights.sum())
    assert (result["negative_rate"], plain["negative_rate"]) == (RATE, 1)


def test_a_predicted_log_is_sampled_as_the_training_log_unless_it_is_said(
    downsampled: tuple[Path, pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    folder, rows, whole = downsampled
    model = ctr.load(folder / "run")
    for number, (frame, given) in enumerate(((rows, None), (whole, 1.0))):
        found, p = predicted(model, write(tmp_path / str(number) / "log", frame) / "day_1.csv", negative_rate=given)
        np.testing.assert_array_equal(p, model.predict(frame).astype(float))
        y = frame["click"].to_numpy()
        assert found.figures is not None
        for name, value in expected(p, y, np.where((y == 1) | (given == 1), 1, 1 / RATE)).items():
            assert getattr(found.figures, name) == pytest.approx(value, rel=1e-5), name
        assert found.figures.auc == pytest.approx(roc_auc_score(y, p), abs=1e-6)
        report = stream.report(model, found, tmp_path / "p.parquet")
        assert ("negatives         taken as 0.1 of all" in report) == (given is None)
    with pytest.raises(ArgumentError, match="negative_rate=0; expected a share above 0 and at most 1"):
        predict.main([f"model={folder / 'run'}", "raw=x", "out=p.csv", "negative_rate=0"])


def test_a_run_does_not_go_on_at_another_rate(downsampled: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, _, _ = downsampled
    keys = ["dataset=csv", f"dataset.raw={folder / 'log'}", "model=lr", "dataset.categorical=[item]"]
    with pytest.raises(ArgumentError, match=r"its model has dataset.negative_rate=0.1; this run has"):
        job(composed("train", *keys, "tracking=none", f"init={folder / 'run' / 'model'}"), folder / "next")


def test_the_estimator_gives_them_too(downsampled: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, rows, whole = downsampled
    options: dict[str, Any] = {"model": "lr", "lr": 0.05, "batch_size": 32, "categorical": ["item"]}
    split = len(rows) - json.loads((folder / "run" / "result.json").read_text())["rows_test"]
    train, test = rows[:split], rows[split:]
    model = SparseCTRClassifier(**options, negative_rate=RATE).fit(train[["item"]], train["click"])
    p = model.predict_proba(whole[["item"]])[:, 1]
    assert p.tolist() == ctr.load(folder / "run").predict(whole).astype(float).tolist()
    assert model.predict(whole[["item"]]).tolist() == (p > 0.5).astype(int).tolist()
    result = json.loads((folder / "run" / "result.json").read_text())
    assert model.score(test[["item"]], test["click"]) == result["auc"]
