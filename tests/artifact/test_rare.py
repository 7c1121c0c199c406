"""Saved models with rows for rare values: the run's own figures from raw rows, by every way in."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

import ctr
from ctr.artifact import agreement, format, onnx, stream
from ctr.artifact.lookup import typed_columns
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import scorer_of
from ctr.datasets.vocabulary import REST
from ctr.errors import ArgumentError, DataError
from ctr.native.library import available
from ctr.report import features
from ctr.training.budget import artifact_bytes
from ctr.training.continuing import under_known
from tests.artifact import shop
from tests.artifact.runs import Trained, log_of_test_rows, trained
from tests.commands import composed, job, result

NATIVE = "native" if available() else "torch"
CASES = [("criteo", "row", NATIVE), ("criteo", "zero", "torch"), ("avazu", "zero", NATIVE), ("ipinyou", "row", "torch")]


def of(dataset: str, unseen: str, backend: str = NATIVE, *more: str) -> Trained:
    rare = ["dataset.min_count=2", f"dataset.unseen={unseen}", f"backend={backend}"]
    return trained(f"dataset={dataset}", *rare, "opt.lambda21=3e-4", *more)


def texts_of(run: Trained) -> list[list[str | None]]:
    """The fields of each row of a generated log in Criteo's format."""
    return [[value or None for value in line.split("\t")[14:]] for line in run.raw.read_text().splitlines()]


@pytest.mark.parametrize(("dataset", "unseen", "backend"), CASES)
def test_raw_test_rows_give_the_runs_figures_to_the_last_digit(
    tmp_path: Path, dataset: str, unseen: str, backend: str
) -> None:
    run = of(dataset, unseen, backend)
    model = ctr.load(run.folder)
    assert model.manifest.others is not None
    assert (model.manifest.others.min_count, model.manifest.others.unseen) == (2, unseen)
    assert max(model.manifest.others.rows) > 0
    assert model.manifest.others.number > 0
    log = log_of_test_rows(run, tmp_path)
    found = stream.predict_log(model, stream.locate(model, [log]), tmp_path / "p.csv")
    assert found.figures is not None
    assert (found.rows, found.figures.auc) == (run.result["rows_test"], run.result["auc"])
    assert found.figures.logloss == run.result["logloss"]
    if dataset != "ipinyou":  # whose lines are of several files
        lines = log.read_text().splitlines()[1 if dataset == "avazu" else 0 :]
        np.testing.assert_allclose(model.predict(lines), pacsv.read_csv(tmp_path / "p.csv")["p"].to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("unseen", ["row", "zero"])
def test_every_value_reads_the_row_that_its_count_says(unseen: str) -> None:
    """Counted in the raw lines: the field's own row below two, its own row or zero from two on."""
    run = of("criteo", unseen, NATIVE if unseen == "row" else "torch")
    model, rows = ctr.load(run.folder), texts_of(run)
    assert model.manifest.others is not None
    counts = Counter(pair for row in rows[: run.result["rows_train"]] for pair in enumerate(row))
    named = {(row["field"], row["value"]): i + 1 for i, row in enumerate(model.vocabulary.to_pylist())}
    own = [named.get((field, REST), 0) for field in range(26)]
    assert own == model.manifest.others.rows

    def expected(field: int, value: str | None) -> int:
        count = counts[field, value]
        return own[field] if count == 1 or (count == 0 and unseen == "row") else named.get((field, value), 0)

    columns = [list(column) for column in zip(*rows, strict=True)]
    got = model.encode(typed_columns(model.manifest.fields, columns))
    assert got.tolist() == [[expected(*pair) for pair in enumerate(row)] for row in rows]
    kinds = {(min(counts[pair], 2), int(number) > 0) for row, ids in zip(rows, got, strict=True)
             for pair, number in zip(enumerate(row), ids, strict=True)}  # fmt: skip
    assert {(0, unseen == "row"), (1, True), (2, True), (2, False)} <= kinds
    share = np.mean([[(f, v) in named for f, v in enumerate(row)] for row in rows])
    assert np.mean(model.known(got)) == pytest.approx(share)
    test = rows[run.result["rows_train"] :]
    assert run.result["values_unseen"] == pytest.approx(np.mean([[counts[p] == 0 for p in enumerate(r)] for r in test]))
    distinct = {(f, REST) if count == 1 else (f, v) for (f, v), count in counts.items()}
    assert run.result["features_present"] == len(distinct)
    found = {(row["field"], row["value"]): row["count"] for row in model.vocabulary.to_pylist()}
    single = Counter(field for (field, _), count in counts.items() if count == 1)
    assert all(count == (single[f] if v == REST else counts[f, v]) for (f, v), count in found.items())


def test_hashed_keys_give_the_same_probabilities(tmp_path: Path) -> None:
    raw, hashed = (ctr.load(of("ipinyou", "row", "torch", *more).folder) for more in ([], ["save.keys=hash"]))
    log = log_of_test_rows(of("ipinyou", "row", "torch"), tmp_path)
    lines = next(log.glob("imp.*")).read_text().splitlines()
    np.testing.assert_array_equal(hashed.predict(lines), raw.predict(lines))
    assert hashed.manifest.others == raw.manifest.others


@pytest.mark.parametrize(("dataset", "unseen"), [("criteo", "row"), ("avazu", "zero")])
@pytest.mark.slow
def test_an_exported_file_reads_rare_unseen_and_blank_values_alike(tmp_path: Path, dataset: str, unseen: str) -> None:
    for library in onnx.LIBRARIES:
        pytest.importorskip(library)
    model = ctr.load(of(dataset, unseen).folder)
    scorer, path = scorer_of(model, "float32"), tmp_path / "model.onnx"
    onnx.write(path, onnx.to_onnx(model, scorer))
    rows = agreement.generated_rows(model, 2000)
    found = agreement.compare(onnx.session(path), model, scorer, rows)
    assert 0 < found.largest <= 1e-6
    ids = model.encode(typed_columns(model.manifest.read_fields, rows.texts))
    own = np.array(model.manifest.others.rows if model.manifest.others else [])
    assert (ids == 0).any()
    assert ((ids == own) & (own > 0)).any()
    assert model.known(ids).any()
    assert agreement.check(onnx.session(path), model, scorer).largest <= 1e-6


def test_features_names_the_row_of_rare_values(tmp_path: Path) -> None:
    model = ctr.load(of("criteo", "row").folder)
    table = model.features()
    own = [number for number in model.manifest.others.rows if number] if model.manifest.others else []
    assert (table["value"] == "(others)").sum() == len(own) > 0
    assert not (table["value"] == REST).any()
    features.write(model, tmp_path / "f.csv")
    assert (tmp_path / "f.csv").read_text().count('"(others)"') == len(own)


def test_the_size_stays_below_the_bound_of_a_budget_in_bytes() -> None:
    for unseen in ("row", "zero"):
        run = of("criteo", unseen, NATIVE if unseen == "row" else "torch")
        data, _ = under_known(run.settings, run.data, None)
        model = ctr.load(run.folder)
        weights = sum(p.numel() for name, p in model.net.named_parameters() if not name.startswith("embedding."))
        bound = artifact_bytes(data, model.manifest.embedding_dim, weights)[model.manifest.rows]
        size = sum(path.stat().st_size for path in (run.folder / "model").iterdir())
        assert size <= bound
        rows = (run.folder / "model" / "others.arrow").stat().st_size
        assert (
            bound - artifact_bytes(run.data, model.manifest.embedding_dim, weights)[model.manifest.rows]
            < 4 * rows + 1e5
        )


def test_models_without_such_rows_are_as_they_were(tmp_path: Path) -> None:
    run = trained("dataset=criteo", "opt.lambda21=3e-4")
    manifest, files = format.read_manifest(run.folder / "model")
    assert manifest.others is None
    assert sorted(files) == ["model.safetensors", "vocabulary.arrow"]
    text = (run.folder / "model" / "manifest.json").read_text()
    assert '"others"' not in text
    assert '"format": 1' in text


def test_damage_of_the_other_values_is_named(tmp_path: Path) -> None:
    model = ctr.load(of("criteo", "row").folder)
    place = tmp_path / "model"
    place.mkdir()
    for path in model.folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    others = place / format.OTHERS
    content = bytearray(others.read_bytes())
    content[len(content) // 2] ^= 1
    others.write_bytes(content)
    with pytest.raises(DataError, match=r"others\.arrow: not as it was written"):
        ctr.load(place)
    others.unlink()
    with pytest.raises(DataError, match=r"others\.arrow: no such file"):
        ctr.load(place)


RARE = ["dataset.min_count=10", "dataset.unseen=row", "opt.lambda21=1e-3"]


def auc(model: SavedModel, raw: Path, out: Path) -> Any:
    found = stream.predict_log(model, stream.locate(model, [raw]), out)
    assert found.figures is not None
    return found.figures.auc


@pytest.mark.parametrize("kept", ["state", "model"])
def test_ones_own_log_and_the_next_one(tmp_path: Path, kept: str) -> None:
    """With buckets of numbers; the second run goes on with the rows of the first, own ones included."""
    log = shop.write(tmp_path / "log", 1, 2)
    job(composed("train", *shop.arguments(log, *RARE, "checkpoint.final=true")), tmp_path / "run")
    first = ctr.load(tmp_path / "run")
    assert first.manifest.others is not None
    assert any(first.manifest.others.rows)
    assert auc(first, log / "day_2.csv", tmp_path / "p.csv") == result(tmp_path / "run")["auc"]
    frame = shop.day(2)[:50].assign(item="never seen")
    read = first.encode([pa.array(["never seen"])])
    assert read[0, 0] == first.manifest.others.rows[0]
    assert np.isfinite(first.predict(frame)).all()
    raw = shop.write(tmp_path / "next", 3, 4)
    origin = tmp_path / "run" / ("model" if kept == "model" else "")
    job(composed("train", *shop.arguments(raw, *RARE, f"init={origin}")), tmp_path / "second")
    second = ctr.load(tmp_path / "second")
    assert auc(second, raw / "day_4.csv", tmp_path / "q.csv") == result(tmp_path / "second")["auc"]
    named = [(row["field"], row["value"]) for row in second.vocabulary.to_pylist()]
    assert len(named) == len(set(named))
    assert (0, REST) in named


def test_initial_values_cannot_be_saved(tmp_path: Path) -> None:
    keys = ["dataset=criteo", "dataset.source=sample", "dataset.min_count=2", "dataset.unseen=init", "tracking=none"]
    with pytest.raises(ArgumentError, match=r"^dataset\.unseen=init: a saved model has no initial values"):
        job(composed("train", *keys), tmp_path)
