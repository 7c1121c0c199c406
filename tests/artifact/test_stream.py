"""A raw log is predicted as the run itself would: block by block, with or without labels."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ctr
from ctr.artifact import saved, stream
from ctr.artifact.saved import SavedModel
from ctr.datasets import lines
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.native.library import available
from tests.artifact.runs import Trained, log_of_test_rows, trained
from tests.commands import composed, job, result

BACKENDS = ["native", "torch"] if available() else ["torch"]
CASES = list(itertools.product(["criteo", "avazu", "ipinyou"], ["onehot", "hash"], BACKENDS))


def predicted(model: SavedModel, log: Path, out: Path, **options: Any) -> tuple[stream.Summary, pd.DataFrame]:
    found = stream.predict_log(model, stream.locate(model, [log]), out, **options)
    return found, pq.read_table(out).to_pandas() if out.suffix == ".parquet" else pd.read_csv(out)


@pytest.mark.parametrize(("dataset", "encoding", "backend"), CASES)
def test_the_test_rows_give_the_runs_figures_to_the_last_digit(
    tmp_path: Path, dataset: str, encoding: str, backend: str
) -> None:
    run = trained(f"dataset={dataset}", f"dataset.encoding={encoding}", f"backend={backend}", "opt.lambda21=3e-4")
    assert 0 < run.result["features_nonzero"] < run.result["features_present"]
    model = ctr.load(run.folder)
    assert model.backend == backend
    found, table = predicted(model, log_of_test_rows(run, tmp_path, labels=True), tmp_path / "p.parquet")
    assert found.figures is not None
    assert (found.rows, found.figures.auc) == (run.result["rows_test"], run.result["auc"])
    assert found.figures.logloss == run.result["logloss"]
    assert {str(day): auc for day, auc in found.figures.auc_by_day.items()} == run.result["auc_by_day"]
    assert table["row"].tolist() == list(range(found.rows))
    assert table["label"].sum() == run.result["positives_test"]
    p, y = table["p"].to_numpy(np.float64), table["label"].to_numpy()
    assert -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)) == pytest.approx(found.figures.logloss, rel=1e-4)


@pytest.mark.parametrize("dataset", ["criteo", "avazu", "ipinyou"])
def test_a_log_without_labels_gives_the_same_probabilities(tmp_path: Path, dataset: str) -> None:
    run = trained(f"dataset={dataset}")
    model = ctr.load(run.folder)
    tables = []
    for labels in (True, False):
        place = tmp_path / str(labels)
        place.mkdir()
        found, table = predicted(model, log_of_test_rows(run, place, labels=labels), tmp_path / f"{labels}.parquet")
        assert (found.figures is not None) == ("label" in table) == labels
        tables.append(table)
    assert tables[0]["p"].tolist() == tables[1]["p"].tolist()


def test_one_day_of_impressions_alone(tmp_path: Path) -> None:
    run = trained("dataset=ipinyou")
    log = log_of_test_rows(run, tmp_path, labels=False)
    day = sorted(log.glob("imp.*"))[1]
    model = ctr.load(run.folder)
    found, _ = predicted(model, day, tmp_path / "p.csv")
    assert found.rows == len(day.read_text().splitlines())
    (tmp_path / "clk.20130613.txt").write_bytes((run.raw / "clk.20130613.txt").read_bytes())
    with pytest.raises(ArgumentError, match=r"imp\.2013061\d\.txt: no clk\.2013061\d\.txt with it"):
        stream.locate(model, [tmp_path])


def test_blocks_of_any_size_give_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dataset=criteo", "opt.lambda21=3e-4")
    model = ctr.load(run.folder)
    log = log_of_test_rows(run, tmp_path, labels=True)
    whole, table = predicted(model, log, tmp_path / "whole.parquet")
    monkeypatch.setattr(lines, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(saved, "EVAL_BATCH", 64)
    monkeypatch.setattr(stream, "EVAL_BATCH", 64)
    sizes, said = [], []
    count = model.net_logits
    monkeypatch.setattr(model, "net_logits", lambda ids, dense: (sizes.append(len(ids)), count(ids, dense))[1])
    parts, cut = predicted(model, log, tmp_path / "p.csv", progress=lambda *now: said.append(now))
    assert len(sizes) > 3
    assert all(size % 64 == 0 for size in sizes[:-1])  # batches are cut as in the run's own evaluation
    np.testing.assert_allclose(cut["p"], table["p"], rtol=1e-5)
    assert cut["row"].tolist() == table["row"].tolist()
    assert parts.coverage == whole.coverage
    assert [rows for rows, _ in said] == list(itertools.accumulate(sizes))
    assert said[-1] == (whole.rows, 1.0)


def test_a_bad_line_stops_or_is_left_out(tmp_path: Path) -> None:
    run = trained("dataset=criteo")
    model = ctr.load(run.folder)
    log = log_of_test_rows(run, tmp_path, labels=False)
    text = log.read_text().splitlines()
    text[2] = "what\tis\tthis"
    log.write_text("\n".join(text) + "\n")
    with pytest.raises(DataError, match=r"line 3: 3 columns; expected 39 tab-separated columns per line"):
        predicted(model, log, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
    assert not list(tmp_path.glob(".tmp-*"))
    found, table = predicted(model, log, tmp_path / "p.csv", bad_rows="skip")
    assert (found.rows_skipped, len(table)) == (1, len(text) - 1)
    assert "line 3" in (found.first_skipped or "")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_ones_own_file_without_its_label(tmp_path: Path, ending: str) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": random.normal(size=300).round(3),
            "site": random.choice(["a", "b,c", "", "d"], 300),
            "click": random.integers(2, size=300),
            "user": random.integers(30, size=300),
        }
    )
    write = (lambda frame, path: frame.to_csv(path, index=False)) if ending == ".csv" else pd.DataFrame.to_parquet
    write(frame, tmp_path / f"all{ending}")
    write(frame[200:].drop(columns="click"), tmp_path / f"new{ending}")
    write(frame[200:], tmp_path / f"test{ending}")
    columns = ["dataset.label=click", "dataset.categorical=[site,user]", "dataset.dense=[age]"]
    place = ["dataset=csv", f"dataset.raw={tmp_path / f'all{ending}'}", f"dataset.prepared={tmp_path / 'prepared'}"]
    split = ["dataset.test_fraction=0.33333333", "tracking=none", "batch_size=16", "model=mlp", "opt=adam"]
    job(composed("train", *place, *columns, *split), tmp_path / "run")
    model = ctr.load(tmp_path / "run")
    found, table = predicted(model, tmp_path / f"test{ending}", tmp_path / "p.parquet")
    assert found.figures is not None
    assert found.figures.auc == result(tmp_path / "run")["auc"]
    without, other = predicted(model, tmp_path / f"new{ending}", tmp_path / "q.parquet")
    assert without.figures is None
    assert other["p"].tolist() == table["p"].tolist()
    np.testing.assert_array_equal(model.predict(frame[200:]), table["p"].to_numpy())
    if ending == ".csv":
        text = (tmp_path / "new.csv").read_text().splitlines()
        np.testing.assert_array_equal(model.predict(text), table["p"].to_numpy())
    write(frame.drop(columns="user"), tmp_path / f"bad{ending}")
    with pytest.raises(ArgumentError, match="no column user; the columns are age, site, click"):
        predicted(model, tmp_path / f"bad{ending}", tmp_path / "r.parquet")


def test_coverage_is_the_share_of_values_that_the_model_has(tmp_path: Path) -> None:
    run = trained("dataset=avazu", "opt.lambda21=1e-3")
    model = ctr.load(run.folder)
    log = log_of_test_rows(run, tmp_path, labels=False)
    found, _ = predicted(model, log, tmp_path / "p.csv")
    frame = pd.read_csv(log, dtype=str)
    have = model.features()
    for field in ("device_ip", "C14", "site_id"):
        kept = set(have[have["field"] == field]["value"])
        assert found.coverage[field] == pytest.approx(frame[field].isin(kept).mean())
        assert model.coverage(frame)[field] == pytest.approx(found.coverage[field])
    assert 0 < found.coverage["device_ip"] < found.coverage["site_id"]


def test_nothing_is_kept_of_unknown_texts() -> None:
    model = ctr.load(trained("dataset=ipinyou").folder)
    keys = model._lookup._keys
    before = [len(texts) for texts in keys._texts], model._lookup._index.count
    columns = [pa.array([f"new {n}" if f.kind == "text" else str(n) for n in range(50)]) for f in keys.fields]
    columns = [c.cast(pa.int64()) if f.kind == "integer" else c for c, f in zip(columns, keys.fields, strict=True)]
    ids = model.encode(columns)
    text = [number for number, field in enumerate(keys.fields) if field.kind == "text"]
    assert not ids[:, text].any()
    assert ([len(texts) for texts in keys._texts], model._lookup._index.count) == before


@pytest.mark.slow
def test_real_samples(samples: Path, tmp_path: Path) -> None:
    """The last lines of the real logs, as files of their own."""
    cases = {"criteo": ("criteo/train.txt", 0), "avazu": ("avazu/train.csv", 1), "ipinyou": ("ipinyou", 0)}
    for dataset, (name, header) in cases.items():
        place = [f"dataset={dataset}", f"dataset.raw={samples / name}", f"dataset.prepared={tmp_path / dataset}"]
        days = ["dataset.test_days=[20130611,20130612]"] if dataset == "ipinyou" else []
        job(composed("train", *place, *days, "tracking=none", "opt.lambda21=1e-3"), tmp_path / f"run-{dataset}")
        figures = result(tmp_path / f"run-{dataset}")
        log = tmp_path / "log" / Path(name).name
        log.parent.mkdir(exist_ok=True)
        if days:
            log.mkdir()
            for path in [path for day in figures["auc_by_day"] for path in (samples / name).glob(f"*.{day}.txt")]:
                (log / path.name).write_bytes(path.read_bytes())
        else:
            text = (samples / name).read_text().splitlines(keepends=True)
            log.write_text("".join([*text[:header], *text[-figures["rows_test"] :]]))
        found, _ = predicted(ctr.load(tmp_path / f"run-{dataset}"), log, tmp_path / "p.parquet")
        assert found.figures is not None
        assert found.figures.auc == figures["auc"]


def test_a_prediction_that_is_no_number_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dataset=criteo")
    model = ctr.load(run.folder)
    monkeypatch.setattr(model, "net_logits", lambda ids, dense: np.where(np.arange(len(ids)) == 3, np.nan, dense[:, 0]))
    with pytest.raises(CtrError, match=r"^row 3: its logit is NaN or infinite; look for extreme values"):
        predicted(model, log_of_test_rows(run, tmp_path, labels=False), tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_figures_of_a_log_of_one_class_are_undefined(tmp_path: Path) -> None:
    run: Trained = trained("dataset=criteo")
    log = log_of_test_rows(run, tmp_path, labels=True)
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if line.startswith("0")))
    model = ctr.load(run.folder)
    found, _ = predicted(model, log, tmp_path / "p.csv")
    assert "AUC               undefined: rows of one class" in stream.report(model, found, tmp_path / "p.csv")


def test_a_log_of_another_source_is_warned_of(tmp_path: Path) -> None:
    run: Trained = trained("dataset=criteo")
    model = ctr.load(run.folder)
    found, _ = predicted(model, log_of_test_rows(run, tmp_path, labels=False), tmp_path / "p.csv")
    said = "  warning           the model knows hardly any value of this log"
    assert said not in stream.report(model, found, tmp_path / "p.csv")
    foreign = replace(found, coverage=dict.fromkeys(found.coverage, 0.04))
    assert said in stream.report(model, foreign, tmp_path / "p.csv")
