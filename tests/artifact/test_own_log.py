"""Models of one's own log: settled columns and fitted transforms are part of them, to predict, to export, to go on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ctr
from ctr import predict
from ctr.artifact import agreement, format, onnx, stream
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import scorer_of
from ctr.errors import ArgumentError, DataError
from ctr.native.library import available
from tests.artifact import shop
from tests.commands import composed, job, result

BACKENDS = ["native", "torch"] if available() else ["torch"]
KINDS = {"price": "log_standard", "age": "bucket", "visits": "quantile", "wait": "log"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.write(tmp_path_factory.mktemp("shop") / "log", 1, 2)


@pytest.fixture(scope="module")
def run(log: Path) -> Path:
    job(composed("train", *shop.arguments(log, "checkpoint.final=true")), log.parent / "run")
    return log.parent / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> SavedModel:
    return ctr.load(run)


def predicted(model: SavedModel, raw: Path, out: Path) -> tuple[stream.Summary, pd.DataFrame]:
    found = stream.predict_log(model, stream.locate(model, [raw]), out)
    return found, pd.read_parquet(out)


def test_a_log_is_named_as_for_training(model: SavedModel, log: Path, tmp_path: Path) -> None:
    """A folder, a glob, a list: the same rows in the same order."""
    _, whole = predicted(model, log, tmp_path / "folder.parquet")
    assert len(whole) == 2 * shop.ROWS
    days = [log / "day_1.csv", log / "day_2.csv"]
    for raws in ([log / "day_*.csv"], days):
        stream.predict_log(model, stream.locate(model, raws), tmp_path / "p.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), whole)
    named = ",".join(map(str, days))
    predict.main([f"model={model.folder}", f"raw=[{named}]", f"out={tmp_path / 'p.csv'}"])
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(whole)
    with pytest.raises(ArgumentError, match=r"^raw: .*day_1\.csv more than once"):
        stream.locate(model, [log, days[0]])
    with pytest.raises(ArgumentError, match=r"day_\*\.tsv: no log; expected a file that matches it"):
        stream.locate(model, [log / "day_*.tsv"])


def test_the_model_has_the_settled_columns_and_the_fitted_transforms(model: SavedModel, log: Path) -> None:
    options = model.manifest.dataset_options
    assert (options["label"], options["categorical"]) == ("click", ["item", "device"])
    assert sorted(options["dense"]) == ["age", "price", "visits", "wait"]
    assert options["time_format"] == "iso"
    assert "auto" not in (options["label"], *options["categorical"], *options["dense"])
    assert {made.name: made.kind for made in model.manifest.transforms} == KINDS
    wait = shop.day(1)["wait"].dropna().to_numpy(np.float32)  # the last day tests
    (fitted,) = (made for made in model.manifest.transforms if made.name == "wait")
    assert fitted.mean == pytest.approx((np.sign(wait) * np.log1p(np.abs(wait))).mean())
    assert [field.name for field in model.manifest.fields] == ["item", "device", "age"]
    assert sorted(model.inputs.columns) == ["age", "device", "item", "price", "visits", "wait"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("encoding", ["onehot", "hash"])
def test_raw_test_rows_give_the_runs_figures_to_the_last_digit(
    log: Path, tmp_path: Path, encoding: str, backend: str
) -> None:
    keys = [f"dataset.encoding={encoding}", "dataset.num_buckets=900", f"backend={backend}", "opt.lambda21=1e-4"]
    job(composed("train", *shop.arguments(log, *keys)), tmp_path / "run")
    model, figures = ctr.load(tmp_path / "run"), result(tmp_path / "run")
    assert 0.5 < figures["auc"] < 1
    found, table = predicted(model, log / "day_2.csv", tmp_path / "p.parquet")
    assert found.figures is not None
    assert (found.rows, found.figures.auc) == (figures["rows_test"], figures["auc"])
    assert found.figures.logloss == figures["logloss"]
    assert {str(day): auc for day, auc in found.figures.auc_by_day.items()} == figures["auc_by_day"]
    np.testing.assert_array_equal(model.predict(shop.day(2)), table["p"].to_numpy())


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_neither_label_nor_time_nor_order_is_needed_to_predict(model: SavedModel, tmp_path: Path, ending: str) -> None:
    frame = shop.day(2)
    expected = model.predict(frame)
    for name, rows in {
        "bare": frame.drop(columns=["click", "when"]),
        "unlabelled": frame.drop(columns="click").assign(when="some time"),
        "backwards": frame[::-1],
        "timeless": frame.drop(columns="when"),
    }.items():
        path = tmp_path / f"{name}{ending}"
        rows.to_csv(path, index=False) if ending == ".csv" else rows.to_parquet(path)
        found, table = predicted(model, path, tmp_path / "p.parquet")
        p = table["p"].to_numpy()
        np.testing.assert_allclose(p[::-1] if name == "backwards" else p, expected, rtol=1e-6)
        assert (found.figures is None) == (name in ("bare", "unlabelled"))
        assert (found.figures is None or len(found.figures.auc_by_day)) == (name in ("bare", "unlabelled", "backwards"))
    lines = frame.drop(columns=["click", "when"]).to_csv(index=False).splitlines()
    np.testing.assert_array_equal(model.predict(lines), expected)


def test_a_log_that_would_be_told_otherwise_is_read_as_the_training_log(model: SavedModel, tmp_path: Path) -> None:
    """Of 30 rows nobody could tell a category from a number; loading never guesses."""
    frame = shop.day(2)[:30]
    frame["item"] = range(30)
    frame.to_csv(tmp_path / "few.csv", index=False)
    found, table = predicted(model, tmp_path / "few.csv", tmp_path / "p.parquet")
    assert found.coverage["item"] == 0
    np.testing.assert_array_equal(model.predict(frame), table["p"].to_numpy())
    (tmp_path / "days").mkdir()
    for number in (10, 9):
        frame[number:][:1].to_csv(tmp_path / "days" / f"day_{number}.csv", index=False)
    _, both = predicted(model, tmp_path / "days", tmp_path / "q.parquet")
    np.testing.assert_allclose(both["p"], table["p"][[9, 10]], rtol=1e-6)


def test_golden_rows_are_raw_and_go_through_the_transforms(run: Path, model: SavedModel) -> None:
    golden = model.manifest.golden
    assert golden.values is not None
    assert {len(row) for row in golden.values} == {2}  # item and device; the age is a number
    assert any(None in row for row in golden.dense)
    contents = format.read(run / "model")
    moved = [{**vars(made), "mean": made.mean + 1, "knots": tuple(x + 20 for x in made.knots)} for made in
             contents.manifest.transforms]  # fmt: skip
    for number in range(len(moved)):
        changed = list(contents.manifest.transforms)
        changed[number] = type(changed[number])(**moved[number])
        other = format.Contents(
            format.Manifest(**{**vars(contents.manifest), "transforms": changed}),
            contents.rows, contents.net, contents.vocabulary,
        )  # fmt: skip
        with pytest.raises(DataError, match="golden row"):
            SavedModel(run, other, model.dataset, model.net, None).check_golden()


@pytest.fixture(scope="module")
def exported(model: SavedModel, log: Path) -> Any:
    for library in onnx.LIBRARIES:
        pytest.importorskip(library)
    path = log.parent / "model.onnx"
    onnx.write(path, onnx.to_onnx(model, scorer_of(model, "float32")))
    return onnx.session(path)


@pytest.mark.slow
def test_an_exported_file_takes_raw_numbers(model: SavedModel, exported: Any, log: Path) -> None:
    names = ["item", "device", *model.dataset.dense]
    assert [given.name for given in exported.get_inputs()] == names
    frame = shop.day(2)
    feed = {name: frame[name].fillna("").to_numpy(object)[:, None] for name in names[:2]}
    feed |= {name: frame[name].to_numpy(np.float64)[:, None] for name in names[2:]}
    (found,) = exported.run(["probability"], feed)
    np.testing.assert_allclose(found, model.predict(frame), atol=1e-6)
    scorer = scorer_of(model, "float32")
    assert 0 < agreement.check(exported, model, scorer).largest <= 1e-6
    assert agreement.compare(exported, model, scorer, agreement.generated_rows(model, 5000, seed=1)).rows == 5000
    aucs = agreement.aucs(exported, model, scorer, agreement.locate(model, log / "day_2.csv"))
    assert aucs.file == pytest.approx(aucs.model, abs=1e-6)
    about = json.loads(exported.get_modelmeta().custom_metadata_map["ctr"])
    assert {given["name"]: given.get("transform") for given in about["inputs"]} == {
        "item": None,
        "device": None,
        **KINDS,
    }


@pytest.mark.slow
def test_numbers_that_become_buckets_alone(tmp_path: Path) -> None:
    raw = shop.write(tmp_path / "log", 1)
    keys = ["dataset=csv", f"dataset.raw={raw}", f"dataset.prepared={tmp_path}/prepared", "dataset.categorical=[item]",
            "dataset.transform=['age:bucket:3']", "tracking=none", "model.hidden=[8]"]  # fmt: skip
    job(composed("train", *keys), tmp_path / "run")
    model = ctr.load(tmp_path / "run")
    assert (model.manifest.num_dense, list(model.inputs.columns)) == (0, ["item", "age"])
    p = model.predict({"item": ["i1"] * 4, "age": [18.0, 50, 89, None]})
    assert len(set(p.tolist())) == 4
    onnx.write(tmp_path / "m.onnx", onnx.to_onnx(model, scorer_of(model, "float32")))
    session, scorer = onnx.session(tmp_path / "m.onnx"), scorer_of(model, "float32")
    assert agreement.check(session, model, scorer).largest <= 1e-6


def further(folder: Path, init: Path, raw: Path, *more: str) -> dict[str, Any]:
    """A run on another log that goes on with a model."""
    job(composed("train", *shop.arguments(raw, f"init={init}", "dataset.test_fraction=0.25", *more)), folder)
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("kept", ["state", "model"])
def test_a_run_goes_on_with_the_known_columns_and_transforms(
    run: Path, model: SavedModel, tmp_path: Path, kept: str
) -> None:
    """Although the next day's prices are 1,000 times as high, and its items look like something else."""
    raw = shop.write(tmp_path / "log", 3)
    frame = pd.read_csv(raw / "day_3.csv").assign(new=range(shop.ROWS))
    frame.loc[300:, "item"] = "brand new"
    frame.to_csv(raw / "day_3.csv", index=False)
    got = further(tmp_path / "next", run if kept == "state" else run / "model", raw)
    other = ctr.load(tmp_path / "next")
    assert other.manifest.transforms == model.manifest.transforms
    assert other.manifest.dataset_options == model.manifest.dataset_options
    known = model.vocabulary.select(["field", "value"]).to_pylist()
    assert other.vocabulary.select(["field", "value"]).to_pylist()[: len(known)] == known
    assert got["features_known"] == len(known)
    frame[300:].to_csv(tmp_path / "test.csv", index=False)
    found, _ = predicted(other, tmp_path / "test.csv", tmp_path / "p.parquet")
    assert found.figures is not None
    assert found.figures.auc == got["auc"]
    assert 0.3 < got["values_unseen"] < 0.4  # all items, but no device, and ages of known buckets
    assert "nearly all test values are new to the model in: item 100%; leave such fields out" in got["warnings"]


def test_a_sorted_log_goes_on_as_the_same_one_in_order(run: Path, tmp_path: Path) -> None:
    in_order = further(tmp_path / "one", run, shop.write(tmp_path / "log", 3))
    again = further(tmp_path / "two", run, shop.write(tmp_path / "mixed", 3, shuffle=True), "dataset.order=sort")
    same = ("auc", "logloss", "features_known", "features_present", "features_nonzero", "values_unseen")
    assert [again[key] for key in same] == [in_order[key] for key in same]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["dataset.categorical=[item]"], r"has dataset.categorical=\['item', 'device'\].*; this run has .*\['item'\]"),
        (["dataset.transform_default=none"], "has dataset.transform_default=auto; this run has .*_default=none"),
        (["dataset.ignore=[device]"], r"dataset.ignore=\['device'\]: the model that the run goes on with takes device"),
        (["dataset.label=bought"], "has dataset.label=click; this run has dataset.label=bought"),
    ],
)
def test_other_columns_than_the_known_ones_are_refused(run: Path, log: Path, more: list[str], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"^init={run}: .*{said}"):
        further(log.parent / "refused", run, log, *more)


def test_a_run_without_test_rows_has_the_warnings_of_its_training(log: Path, tmp_path: Path) -> None:
    keys = ["dataset.test_fraction=0", "progressive=true", "opt=adam", "opt.lr=1e-9", "save=none"]
    job(composed("train", *shop.arguments(log), *keys), tmp_path)
    got = result(tmp_path)
    assert (got["auc"], got["values_unseen"], got["rows_test"]) == (None, None, 0)
    assert [warning.split(";")[0] for warning in got["warnings"]] == [
        "opt.lr=1e-09 is too small for 25 steps: no weight moves by more than about 2.5e-08, less than "
        "model.embedding_init=0.01"
    ]
