"""Fields with several values, from the log to the saved model and back."""

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ctr
from ctr.api import pieces
from ctr.api.classifier import SparseCTRClassifier
from ctr.artifact import onnx, pyfunc, stream
from ctr.artifact.save import save_model
from ctr.artifact.scorer import scorer_of
from ctr.config.compose import resolve
from ctr.errors import ArgumentError, DataError
from ctr.native.library import available
from ctr.training.experiment import Run, run_family
from tests.commands import composed, job

ROWS, BATCH = 480, 32
FIGURES = ("auc", "logloss", "calibration", "normalised_entropy", "features_present", "features_nonzero", "backend")
KEYS = [
    *("dataset=csv", "tracking=none", f"batch_size={BATCH}", "opt.lr=2e-2", "model=mlp"),
    *("dataset.transform=['price:standard','age:bucket:3']", "dataset.test_fraction=0.25", "model.embedding_dim=4"),
]
TEXT, LISTS = ["dataset.multi=['tags:|','seen:, ']"], ["dataset.multi=[tags,seen]"]
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "sum": ["dataset.pool=sum", "model=lr", "model.embedding_dim=1"],
    "rare": ["dataset.min_count=3", "dataset.unseen=row"],
    "rare, zero": ["dataset.min_count=3", "opt.lambda21=2e-2"],
    "hashed values": ["save.keys=hash"],
    "hash": ["dataset.encoding=hash", "dataset.num_buckets=40"],
}


def log(seed: int = 0, values: int = 40) -> pd.DataFrame:
    """Rows whose clicks depend on the tags; some cells are blank, some hold a value twice."""
    random = np.random.default_rng(seed)
    effect = np.random.default_rng(9).normal(size=values)
    tags = [random.choice(values, random.integers(0, 5)).tolist() for _ in range(ROWS)]
    seen = [random.integers(12, size=random.integers(1, 4)).tolist() for _ in range(ROWS)]
    logit = np.array([2 * effect[some].sum() for some in tags])
    return pd.DataFrame(
        {
            "click": (random.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(int),
            "user": [f"u{n}" for n in random.integers(30, size=ROWS)],
            "tags": [[f"t{n}" for n in some] for some in tags],
            "seen": [[f"i{n}" for n in some] for some in seen],
            "price": random.normal(size=ROWS).round(3),
            "age": random.integers(80, size=ROWS),
        }
    )


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(tags=rows["tags"].map("|".join), seen=rows["seen"].map(", ".join))


def train(folder: Path, raw: Path, *more: str) -> dict[str, Any]:
    keys = [*KEYS, f"dataset.raw={raw}", f"dataset.prepared={raw.parent / 'prepared'}"]
    job(composed("train", *keys, *more), folder)
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multi")
    as_text(log()).to_csv(folder / "log.csv", index=False)
    log().to_parquet(folder / "log.parquet")
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    train(place / "run", place / "log.csv", *TEXT, "checkpoint.final=true")
    return place / "run"


@pytest.fixture(scope="module", params=[*VARIANTS])
def variant(request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    folder, keys = place / request.param.replace(" ", "_"), [*TEXT, *VARIANTS[request.param]]
    train(folder, place / "log.csv", *keys)
    return folder, keys


def of(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in FIGURES if name in result}


def test_text_and_lists_give_the_same_digits(run: Path, place: Path, tmp_path: Path) -> None:
    lists = train(tmp_path, place / "log.parquet", *LISTS)
    assert of(lists) == of(json.loads((run / "result.json").read_text()))
    assert torch.equal(ctr.load(tmp_path).rows, ctr.load(run).rows)


def test_the_saved_model_predicts_what_the_run_evaluated(variant: tuple[Path, list[str]], place: Path) -> None:
    folder, _ = variant
    result, model, rows = json.loads((folder / "result.json").read_text()), ctr.load(folder), log()
    p = model.predict(as_text(rows))
    assert p.tolist() == model.predict(rows).tolist()  # lists, where the log had text
    y, test = rows["click"].to_numpy()[360:], p.astype(float)[360:]
    losses = -(y * np.log(test) + (1 - y) * np.log(1 - test))
    assert losses.mean() == pytest.approx(result["logloss"], rel=1e-5)
    found = stream.predict_log(model, [place / "log.csv"], folder / "p.parquet")
    np.testing.assert_array_equal(pd.read_parquet(folder / "p.parquet")["p"].to_numpy(), p)
    assert found.figures is not None
    lines = as_text(rows).to_csv(index=False).splitlines()
    assert model.predict(lines[:9]).tolist() == pytest.approx(p[:8].tolist(), abs=1e-7)
    dicts = as_text(rows).iloc[:8].to_dict("records")
    assert model.predict(dicts).tolist() == pytest.approx(p[:8].tolist(), abs=1e-7)


def test_a_logit_is_that_of_the_rows_in_the_table(place: Path) -> None:
    """Logistic regression with sums: the weights of `features` by name, added up in Python."""
    train(place / "lr", place / "log.csv", *TEXT, *VARIANTS["sum"], "dataset.transform=[]", "dataset.dense=[]")
    model = ctr.load(place / "lr")
    table = dict(
        zip(
            zip(model.vocabulary["field"].to_pylist(), model.vocabulary["value"].to_pylist(), strict=True),
            model.rows[1:, 0].tolist(),
            strict=True,
        )
    )
    bias = model.net.get_parameter("bias").item()
    names = [field.name for field in model.dataset.fields]
    rows = log(seed=5, values=50)  # ten of the tags are unknown
    for p, (_, row) in zip(model.predict(rows[:40]).tolist(), rows[:40].iterrows(), strict=True):
        logit = bias
        for number, name in enumerate(names):
            cell = row[name]
            for value in (cell or [None]) if isinstance(cell, list) else [str(cell)]:
                logit += table.get((number, value), 0.0)
        assert p == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_the_estimator_and_a_loop_of_ones_own_give_the_digits_of_the_command(run: Path, tmp_path: Path) -> None:
    rows, options = log(), {"embedding_dim": 4, "model": "mlp", "lr": 2e-2, "batch_size": BATCH}
    transforms = ["price:standard", "age:bucket:3"]
    model = SparseCTRClassifier(**options, transforms=transforms).fit(
        rows[:360].drop(columns="click"), rows["click"][:360]
    )
    expected = json.loads((run / "result.json").read_text())
    assert model.score(rows[360:].drop(columns="click"), rows["click"][360:]) == expected["auc"]
    text = as_text(rows).drop(columns="click")
    by_text = SparseCTRClassifier(**options, transforms=transforms, multi=["tags:|", "seen:, "])
    by_text.fit(text[:360], rows["click"][:360])
    assert by_text.score(text[360:], rows["click"][360:]) == expected["auc"]
    pieces.write_log(rows, tmp_path / "log.parquet")
    settings = pieces.configure(
        *KEYS, f"dataset.raw={tmp_path / 'log.parquet'}", f"dataset.prepared={tmp_path / 'prepared'}"
    )
    data = pieces.open_data(settings)
    training = pieces.build(settings, data)
    for batch in training.stream:
        training.step(batch)
    training.finish()
    figures = pieces.evaluate(training, data)
    got = asdict(figures)
    assert {name: got[name] for name in FIGURES[:4]} == {name: expected[name] for name in FIGURES[:4]}
    pieces.save(tmp_path / "model", settings, data, training, figures)
    assert torch.equal(ctr.load(tmp_path / "model").rows, ctr.load(run).rows)


def test_partial_fit_gives_what_one_frame_gives() -> None:
    rows = log()
    options: dict[str, Any] = {"model": "lr", "lr": 2e-2, "batch_size": BATCH, "categorical": ["auto"], "dense": []}
    frame, y = rows.drop(columns=["click", "price", "age"]), rows["click"]
    whole = SparseCTRClassifier(**options).fit(frame, y)
    daily = SparseCTRClassifier(**options)
    for start in (0, 160, 320):
        daily.partial_fit(frame[start : start + 160], y[start : start + 160])
    assert daily.predict_proba(frame).tolist() == whole.predict_proba(frame).tolist()


@pytest.mark.parametrize("more", [[], ["dataset.min_count=3", "dataset.unseen=row"]])
def test_a_stopped_run_goes_on_to_the_last_bit(place: Path, tmp_path: Path, more: list[str]) -> None:
    keys = [*KEYS, *TEXT, *more, f"dataset.raw={place / 'log.csv'}", f"dataset.prepared={place / 'prepared'}"]
    settings, steps = resolve(composed("train", *keys, "checkpoint.every_steps=2")), []

    def stop(rows: int) -> None:
        steps.append(rows)
        if len(steps) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_family([Run(settings, tmp_path / "run", save=save_model)], stop)
    again = Run(settings, tmp_path / "run", save=save_model, resume=True)
    run_family([again], lambda rows: None)
    assert again.error is None
    whole = train(tmp_path / "whole", place / "log.csv", *TEXT, *more)
    assert of(json.loads((tmp_path / "run" / "result.json").read_text())) == of(whole)
    assert torch.equal(ctr.load(tmp_path / "run").rows, ctr.load(tmp_path / "whole").rows)


def test_two_logs_one_after_the_other_are_one(place: Path, tmp_path: Path) -> None:
    keys = [
        "dataset.test_fraction=0",
        "progressive=false",
        "dataset.transform=[]",
        "dataset.dense=[]",
        "checkpoint.final=true",
    ]
    for name, part in (("one", log()[:256]), ("two", log()[256:])):
        as_text(part).to_csv(tmp_path / f"{name}.csv", index=False)
    train(tmp_path / "first", tmp_path / "one.csv", *TEXT, *keys)
    train(tmp_path / "second", tmp_path / "two.csv", *keys, f"init={tmp_path / 'first'}")  # separators are known
    train(tmp_path / "whole", place / "log.csv", *TEXT, *keys)
    assert ctr.load(tmp_path / "second").predict(log()).tolist() == ctr.load(tmp_path / "whole").predict(log()).tolist()
    with pytest.raises(ArgumentError, match=r"its model has dataset\.multi=\['tags:\|', 'seen:, '\]; this run has"):
        train(tmp_path / "x", tmp_path / "two.csv", *keys, f"init={tmp_path / 'first'}", "dataset.multi=['tags:;']")
    with pytest.raises(ArgumentError, match=r"dataset\.pool=mean; this run has dataset\.pool=sum"):
        train(tmp_path / "x", tmp_path / "two.csv", *keys, f"init={tmp_path / 'first'}", "dataset.pool=sum")


@pytest.mark.parametrize("score", ["norm", "effect", "count"])
def test_pruning_keeps_the_best_values(place: Path, tmp_path: Path, score: str) -> None:
    keys = ["opt=adam", "prune=magnitude", "prune.feature_rate=0.4", f"prune.score={score}", "retrain=true"]
    result = train(tmp_path, place / "log.csv", *TEXT, *keys)
    assert result["features_nonzero"] == round(0.4 * result["features_present"])
    if score == "count":
        kept = ctr.load(tmp_path).features()
        of_tags = kept[kept["field"] == "tags"]
        counts = Counter(value for cell in log()["tags"][:360] for value in cell)
        assert {v: n for v, n in zip(of_tags["value"], of_tags["count"], strict=True) if v in counts} == {
            value: counts[value] for value in of_tags["value"] if value in counts
        }


def test_a_budget_is_kept(place: Path, tmp_path: Path) -> None:
    result = train(tmp_path, place / "log.csv", *TEXT, "opt.budget=30")
    assert result["features_nonzero"] == 30
    assert len(ctr.load(tmp_path).features()) == 30


def test_features_have_a_row_each(run: Path) -> None:
    table = ctr.load(run).features()
    counts: dict[str | None, int] = {}
    for cell in log()["tags"][:360]:
        for value in cell or [None]:
            counts[value] = counts.get(value, 0) + 1
    of_tags = table[table["field"] == "tags"]
    values = [value if isinstance(value, str) else None for value in of_tags["value"]]
    assert dict(zip(values, of_tags["count"], strict=True)) == {value: counts[value] for value in values}
    result = json.loads((run / "result.json").read_text())
    others = log()[:360][["user"]].nunique().sum() + 12 + 3  # values of user and seen, buckets of age
    assert result["features_present"] == len(counts) + others
    assert result["features_nonzero"] == len(table) > len(counts) / 2


def test_coverage_is_the_share_of_the_values(run: Path) -> None:
    rows = log()[:2].assign(tags=[["t1", "new", "t1", "newer"], ["t2"]])
    assert ctr.load(run).coverage(rows)["tags"] == (0.5 + 1) / 2


def test_what_a_frame_cannot_hold_is_named(run: Path, place: Path, tmp_path: Path) -> None:
    model, rows = ctr.load(run), log()[:3]
    with pytest.raises(ArgumentError, match=r"column tags, row 1: .*; expected at most 4,096 values"):
        model.predict(rows.assign(tags=[["a"], ["a\0"], ["b"]]))
    with pytest.raises(ArgumentError, match=r"column tags is of type list<.*list<.*; expected"):
        model.predict(rows.assign(tags=[[["a"]], [["b"]], [["c"]]]))
    train(tmp_path, place / "log.parquet", *LISTS)
    with pytest.raises(ArgumentError, match=r"column tags, row 0: .*; expected a list; of text dataset\.multi says"):
        ctr.load(tmp_path).predict(as_text(rows))


def test_an_export_is_refused(run: Path) -> None:
    model = ctr.load(run)
    with pytest.raises(ArgumentError, match=r"a row has several values of tags, seen \(dataset\.multi\)"):
        onnx.to_onnx(model, scorer_of(model, "float32"))


def test_mlflow_gets_an_example_that_the_model_predicts(run: Path) -> None:
    model = ctr.load(run)
    assert len(model.predict(pyfunc.example(model))) == pyfunc.EXAMPLE_ROWS
    pyfunc.signature(model)


@pytest.mark.skipif(not available(), reason="the compiled kernels are not available")
def test_the_compiled_step_is_refused_by_its_name(run: Path, place: Path, tmp_path: Path) -> None:
    for name, keys in (("log.csv", TEXT), ("log.parquet", [])):  # named, and found
        with pytest.raises(ArgumentError, match=r"backend=native cannot serve this run: it looks up one value"):
            train(tmp_path, place / name, *keys, "backend=native")
    with pytest.raises(ArgumentError, match=r"backend=native cannot serve this model: it looks up one value"):
        ctr.load(run, backend="native")
    assert ctr.load(run).backend == ctr.load(run).manifest.backend == "torch"


def test_an_older_version_would_say_that_it_is_too_old(run: Path, tmp_path: Path, place: Path) -> None:
    assert json.loads((run / "model" / "manifest.json").read_text())["format"] == 3
    train(tmp_path, place / "log.csv", "dataset.ignore=[tags,seen]")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert "pool" not in manifest


def test_a_damaged_model_is_noticed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    path.write_text(path.read_text().replace('"pool": "mean"', '"pool": "sum"'))
    with pytest.raises(DataError):
        ctr.load(tmp_path / "model")
