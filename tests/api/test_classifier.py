"""`SparseCTRClassifier`: the digits of the command, going on, saving, and what scikit-learn expects."""

import copy
import gc
import inspect
import json
import pickle
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import ctr
from ctr.api.checks import InputError, plain
from ctr.api.classifier import SparseCTRClassifier
from ctr.api.parameters import KEYS
from ctr.datasets.frame import write_log
from ctr.errors import CtrError, DataError
from ctr.native.library import available
from tests.api import shop
from tests.api.shop import BATCH, DAYS, OPTIONS, TRAIN, fitted, frame
from tests.commands import composed, job

LIBRARIES: list[Callable[[pd.DataFrame], Any]] = [
    lambda rows: rows,
    pl.from_pandas,
    lambda rows: pa.Table.from_pandas(rows, preserve_index=False),
]


def of_command(folder: Path, *overrides: str) -> dict[str, Any]:
    """A run of ``ctr.train`` on the shop's files; its figures."""
    prepared = f"dataset.prepared={folder.parent / 'prepared'}"
    job(composed("train", *shop.KEYS, f"dataset.raw={shop.files()}", prepared, *overrides), folder)
    return json.loads((folder / "result.json").read_text())


def unsteady(days: int) -> list[str]:
    """Overrides by which a run trains on the first days, on its numbers as they are."""
    files = ",".join(str(shop.files() / f"day_{day + 1}.csv") for day in range(days))
    return [f"dataset.raw=[{files}]", "dataset.test_fraction=0", "progressive=false"]


def logits(model: SparseCTRClassifier) -> list[float]:
    return model.decision_function(frame(TRAIN)[0]).tolist()


@pytest.mark.parametrize("library", LIBRARIES, ids=["pandas", "polars", "arrow"])
def test_a_frame_gives_the_digits_of_the_command(library: Callable[[pd.DataFrame], Any], tmp_path: Path) -> None:
    result = of_command(tmp_path / "run", "dataset.test_fraction=0.25")
    rows, labels = frame(0, TRAIN)
    model = SparseCTRClassifier(**OPTIONS).fit(library(rows), labels)
    test, truth = frame(TRAIN)
    assert model.score(library(test), truth) == result["auc"]
    assert result["auc"] == pytest.approx(roc_auc_score(truth, model.decision_function(test)), abs=1e-12)
    assert model.feature_rate_ == result["feature_rate"]
    served = ctr.load(tmp_path / "run")
    assert model.predict_proba(library(test))[:, 1].tolist() == served.predict(test).tolist()
    pd.testing.assert_frame_equal(model.features_, served.features())


def test_the_compiled_step_trains_and_serves_it() -> None:
    assert fitted()._contents.manifest.backend == ("native" if available() else "torch")


@pytest.mark.slow
def test_another_optimizer_model_and_encoding_too(tmp_path: Path) -> None:
    keys = ["model=mlp", "opt=adagrad", "opt.lr=0.02", "backend=torch", "dataset.encoding=hash"]
    keys += ["dataset.num_buckets=500", "average=0.5", "seed=3"]
    result = of_command(tmp_path / "run", "dataset.test_fraction=0.25", *keys)
    options: dict[str, Any] = {**OPTIONS, "model": "mlp", "opt": "adagrad", "lr": 0.02, "backend": "torch"}
    options |= {"encoding": "hash"}
    model = SparseCTRClassifier(**options, num_buckets=500, average=0.5, seed=3).fit(*frame(0, TRAIN))
    assert model.score(*frame(TRAIN)) == result["auc"]


def test_two_frames_give_what_one_of_both_gives() -> None:
    options = {**OPTIONS, "transform_default": "none"}
    whole = logits(SparseCTRClassifier(**options).fit(*frame(0, TRAIN)))
    split = 10 * BATCH
    for begin in ("fit", "partial_fit"):
        model = getattr(SparseCTRClassifier(**options), begin)(*frame(0, split))
        assert logits(model.partial_fit(*frame(split, TRAIN))) == whole


def test_going_on_gives_the_digits_of_init(tmp_path: Path) -> None:
    of_command(tmp_path / "first", *unsteady(2), "checkpoint.final=true", "checkpoint.every_minutes=null")
    raw = f"dataset.raw={shop.files() / 'day_3.csv'}"
    of_command(tmp_path / "second", *unsteady(2), raw, f"init={tmp_path / 'first'}")
    model = SparseCTRClassifier(**OPTIONS).fit(*frame(0, 2 * shop.ROWS)).partial_fit(*frame(2 * shop.ROWS, TRAIN))
    assert (
        model.predict_proba(frame(TRAIN)[0])[:, 1].tolist()
        == ctr.load(tmp_path / "second").predict(frame(TRAIN)[0]).tolist()
    )


@pytest.mark.slow
def test_a_loaded_model_goes_on_as_init_of_a_saved_one(tmp_path: Path) -> None:
    of_command(tmp_path / "first", *unsteady(2))
    raw = f"dataset.raw={shop.files() / 'day_3.csv'}"
    of_command(tmp_path / "second", *unsteady(2), raw, f"init={tmp_path / 'first' / 'model'}")
    SparseCTRClassifier(**OPTIONS).fit(*frame(0, 2 * shop.ROWS)).save(tmp_path / "mine")
    expected = ctr.load(tmp_path / "second").predict(frame(TRAIN)[0]).tolist()
    model = SparseCTRClassifier.load(tmp_path / "mine")
    for one in (model, copy.deepcopy(model)):
        one.partial_fit(*frame(2 * shop.ROWS, TRAIN))
        assert one.predict_proba(frame(TRAIN)[0])[:, 1].tolist() == expected


def test_a_model_that_goes_on_keeps_its_classes_and_columns() -> None:
    rows, labels = frame(0, 3 * BATCH)
    model = SparseCTRClassifier(**OPTIONS).partial_fit(rows, np.zeros(len(rows)), classes=[0, 1])
    with pytest.raises(InputError, match=r"classes=\[1, 2\]; the model has \[0, 1\]"):
        model.partial_fit(rows, labels, classes=[1, 2])
    with pytest.raises(InputError, match=r"label 5; the classes are \[0, 1\]"):
        model.partial_fit(rows, labels.replace(1, 5))
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(rows.drop(columns="item"), labels)
    with pytest.raises(InputError, match=r"its model has model.hidden=\[8\]; this run has model.hidden=\[4\]"):
        model.set_params(hidden=(4,)).partial_fit(rows, labels)


def test_a_saved_estimator_comes_back_whole(tmp_path: Path) -> None:
    rows, labels = frame(0, 5 * BATCH)
    model = SparseCTRClassifier(**OPTIONS).fit(rows, np.where(labels == 1, "click", "none"))
    model.save(tmp_path / "mine")
    for same in (SparseCTRClassifier.load(tmp_path / "mine"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        given, kept = ({key: plain(value) for key, value in one.get_params().items()} for one in (model, same))
        assert kept == given
        assert logits(same) == logits(model)
        assert same.predict(rows).tolist() == model.predict(rows).tolist()
        assert same.classes_.tolist() == ["click", "none"]
        assert same.feature_names_in_.tolist() == list(rows.columns)
        assert same.feature_rate_ == model.feature_rate_
    # With the parameters that it has, it can be trained anew.
    again = SparseCTRClassifier.load(tmp_path / "mine").fit(rows, np.where(labels == 1, "click", "none"))
    assert logits(again) == logits(model)


def test_what_load_cannot_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        SparseCTRClassifier.load(tmp_path / "nowhere")
    fitted().save(tmp_path / "mine")
    (tmp_path / "mine" / "estimator.json").unlink()
    with pytest.raises(InputError, match=r"of no estimator; ctr\.load reads it"):
        SparseCTRClassifier.load(tmp_path / "mine")
    (tmp_path / "mine" / "estimator.json").write_text("{}")
    with pytest.raises(DataError, match=r"no checksum.*; copy the saved model again, or train it again"):
        SparseCTRClassifier.load(tmp_path / "mine")


def test_labels_are_any_two_and_the_second_is_the_click() -> None:
    rows, labels = frame(0, 5 * BATCH)
    of_numbers = SparseCTRClassifier(**OPTIONS).fit(rows, labels)
    named = SparseCTRClassifier(**OPTIONS).fit(rows, labels.map({0: "no", 1: "yes"}))
    truths = SparseCTRClassifier(**OPTIONS).fit(rows, labels == 1)
    assert logits(named) == logits(truths) == logits(of_numbers)
    assert set(named.predict(rows)) <= {"no", "yes"}
    assert truths.predict(rows).dtype == bool


def test_it_works_in_pipelines_and_searches() -> None:
    rows, labels = frame(0, TRAIN)
    whole = make_pipeline(FunctionTransformer(lambda X: X.drop(columns="age")), SparseCTRClassifier(**OPTIONS))
    scores = cross_val_score(whole, rows, labels, cv=TimeSeriesSplit(2))
    without, third = rows.drop(columns="age"), TRAIN // 3
    last = clone(fitted()).fit(without[: 2 * third], labels[: 2 * third])
    assert scores[1] == last.score(without[2 * third :], labels[2 * third :])


@pytest.mark.slow
def test_frames_of_polars_are_cut_for_validation() -> None:
    rows, labels = frame(0, TRAIN)
    scores = [cross_val_score(clone(fitted()), f(rows), labels, cv=TimeSeriesSplit(2)) for f in LIBRARIES[:2]]
    assert scores[0].tolist() == scores[1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["dataset.min_count", "admit"])
def test_rare_values_share_a_row_as_in_the_command(tmp_path: Path, key: str) -> None:
    result = of_command(tmp_path / "run", "dataset.test_fraction=0.25", f"{key}=3", "dataset.unseen=row")
    model = SparseCTRClassifier(**OPTIONS, **{key.removeprefix("dataset."): 3}, unseen="row").fit(*frame(0, TRAIN))
    assert model.score(*frame(TRAIN)) == result["auc"]
    assert model.feature_rate_ == result["feature_rate"]


@pytest.mark.slow
def test_several_passes_are_those_of_the_command(tmp_path: Path) -> None:
    result = of_command(tmp_path / "run", "dataset.test_fraction=0.25", "epochs=3")
    assert SparseCTRClassifier(**OPTIONS, epochs=3).fit(*frame(0, TRAIN)).score(*frame(TRAIN)) == result["auc"]


def weights_of(rows: int) -> np.ndarray:
    return np.random.default_rng(0).choice([0, 0.5, 1, 3], rows)


def test_weights_give_the_digits_of_the_command(tmp_path: Path) -> None:
    rows, labels = frame(0, DAYS * shop.ROWS)
    weights = weights_of(len(rows))
    write_log(rows, tmp_path / "log.parquet", {"clicked": labels.to_numpy(), "w": weights})
    raw = f"dataset.raw={tmp_path / 'log.parquet'}"
    result = of_command(tmp_path / "run", raw, "dataset.weight=w", "dataset.test_fraction=0.25")
    model = SparseCTRClassifier(**OPTIONS).fit(rows[:TRAIN], labels[:TRAIN], sample_weight=weights[:TRAIN])
    test, truth, of_test = rows[TRAIN:], labels[TRAIN:], weights[TRAIN:]
    assert model.score(test, truth, sample_weight=of_test) == result["auc"]
    assert result["auc"] == pytest.approx(
        roc_auc_score(truth, model.decision_function(test), sample_weight=of_test), abs=1e-12
    )
    assert model.predict_proba(test)[:, 1].tolist() == ctr.load(tmp_path / "run").predict(test).tolist()
    assert logits(model) != logits(SparseCTRClassifier(**OPTIONS).fit(rows[:TRAIN], labels[:TRAIN]))
    ones = SparseCTRClassifier(**OPTIONS).fit(rows[:TRAIN], labels[:TRAIN], sample_weight=[1] * TRAIN)
    assert logits(ones) == logits(SparseCTRClassifier(**OPTIONS).fit(rows[:TRAIN], labels[:TRAIN]))


def test_weights_of_two_frames_give_what_those_of_one_give() -> None:
    options, (rows, labels), split = {**OPTIONS, "transform_default": "none"}, frame(0, TRAIN), 10 * BATCH
    weights = weights_of(TRAIN)
    whole = SparseCTRClassifier(**options).fit(rows, labels, sample_weight=weights)
    model = SparseCTRClassifier(**options).fit(rows[:split], labels[:split], sample_weight=weights[:split])
    model.partial_fit(rows[split:], labels[split:], sample_weight=weights[split:])
    assert logits(model) == logits(whole)
    model.partial_fit(rows[split:], labels[split:])  # a frame without weights may follow


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ([1] * (BATCH - 1) + [-2], "sample_weight: row 31 has -2; expected at least 0"),
        ([1] * (BATCH - 1), "inconsistent numbers of samples"),
        ([np.nan] * BATCH, "NaN"),
        ([[1, 1]] * BATCH, "1d array"),
    ],
)
def test_weights_that_cannot_work_are_named(weights: list[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SparseCTRClassifier(**OPTIONS).fit(*frame(0, BATCH), sample_weight=weights)


@pytest.mark.parametrize(
    ("options", "change", "problem"),
    [
        ({"lr": "fast"}, {}, "opt.lr=fast; expected a number or auto"),
        ({"opt": "adam", "lambda21": 0.1}, {}, "lambda21=0.1: opt=adam has no such option"),
        ({"dropout": 0.5}, {}, "dropout=0.5: model=dcn has no such option"),
        ({"model": "dnc"}, {}, "model=dnc"),
        ({"threads": 0}, {}, "threads=0; expected 1 to"),
        ({"batch_size": 1.5}, {}, "batch_size"),
        ({"categorical": ["colour"]}, {}, r"^the frame: no column colour; the columns are"),
        ({"dense": ["unit price"]}, {"unit price": np.inf}, "^the frame: row 1: column unit price is inf"),
        ({}, {"time": "yesterday"}, "yesterday"),
        ({}, {"item": [[[1]]]}, r"^column item is of type list<"),
        ({}, {"item": ["a", 1]}, "^column item: values of several types"),
    ],
)
def test_what_cannot_work_is_named(options: dict[str, Any], change: dict[str, Any], problem: str) -> None:
    rows, labels = frame(0, 2 * BATCH)
    for name, value in change.items():
        values = value * (len(rows) // len(value)) if isinstance(value, list) else value
        rows = rows.assign(**{name: pd.Series(values, index=rows.index)})
    with pytest.raises(InputError, match=problem):
        SparseCTRClassifier(**{**OPTIONS, **options}).fit(rows, labels)


def test_input_errors_are_those_of_both_worlds() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, CtrError)


def test_defaults_and_names_are_those_of_the_command() -> None:
    config = composed("train", "dataset=csv", "dataset.raw=x", "model=opnn")
    declared = {name: one.default for name, one in inspect.signature(SparseCTRClassifier).parameters.items()}
    named = [name for names in KEYS.values() for name in names]
    assert sorted([*named, "model", "opt", "verbose"]) == sorted(declared)
    for group, names in KEYS.items():
        part = config[group] if group else config
        for name in names:
            default = part["transform" if name == "transforms" else name]  # and there is such a key
            if group not in ("model", "opt"):
                assert declared[name] == (tuple(default) if name in ("ignore", "transforms") else default), name


def test_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows, labels = frame(0, 2 * BATCH)
    model = SparseCTRClassifier(**OPTIONS)
    for _ in range(2):
        model.fit(rows, labels)
        (kept,) = tmp_path.iterdir()  # the state, without the rows
        assert not [path for path in kept.rglob("*") if path.name in ("rows.parquet", "rows.arrow")]
    with pytest.raises(InputError):
        model.set_params(batch_size=0).fit(rows, labels)
    assert list(tmp_path.iterdir()) == [kept]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert list(tmp_path.iterdir()) == []


def test_the_process_is_as_before() -> None:
    torch.manual_seed(5)
    torch.use_deterministic_algorithms(False)
    state, threads, cpus = torch.get_rng_state(), torch.get_num_threads(), pa.cpu_count()
    SparseCTRClassifier(**OPTIONS, threads=threads + 1).fit(*frame(0, 2 * BATCH))
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), pa.cpu_count()) == (threads, cpus)
    assert not torch.are_deterministic_algorithms_enabled()


def test_verbose_shows_what_the_columns_are_taken_as(capsys: pytest.CaptureFixture[str]) -> None:
    SparseCTRClassifier(**OPTIONS, verbose=True).fit(*frame(0, 2 * BATCH))
    shown = capsys.readouterr()
    assert "categorical" in shown.out
    assert "train" in shown.err
    SparseCTRClassifier(**OPTIONS).fit(*frame(0, 2 * BATCH))
    shown = capsys.readouterr()
    assert "prepare" not in shown.out + shown.err


def test_what_ruins_a_model_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    SparseCTRClassifier(**{**OPTIONS, "lr": 1.25e-6}).fit(*frame(0, 2 * BATCH))
    assert "opt.lr=1.25e-06 is too small for 2 steps" in caplog.text


# Numbers alone are no log: the first column is taken as it is, each of its values a feature.
CHECKED = SparseCTRClassifier(
    categorical=("auto", "x0"), transform_default="quantile", lr=0.05, lambda21=1e-6, batch_size=8, hidden=(8,)
)


# A row of weight 0 is still a row of its batch, and its values are still seen.
FAILING = {"check_sample_weight_equivalence_on_dense_data": "weights scale a step; they do not repeat or remove rows"}


@pytest.mark.slow
@parametrize_with_checks([CHECKED], expected_failed_checks=lambda estimator: FAILING)
def test_scikit_learn_finds_nothing(estimator: SparseCTRClassifier, check: Callable[[Any], None]) -> None:
    check(estimator)
