"""Saved models of runs with ``admit``: the run's own figures from raw rows, and what each value reads."""

from collections import Counter
from pathlib import Path

import pytest

import ctr
from ctr.artifact import stream
from ctr.artifact.lookup import typed_columns
from ctr.datasets.vocabulary import REST
from ctr.native.library import available
from ctr.training.budget import artifact_bytes
from ctr.training.continuing import under_known
from tests.artifact.runs import Trained, log_of_test_rows, trained
from tests.artifact.test_rare import texts_of

NATIVE = "native" if available() else "torch"


def of(dataset: str, unseen: str, backend: str = NATIVE) -> Trained:
    keys = ["admit=3", f"dataset.unseen={unseen}", f"backend={backend}", "opt.lambda21=3e-4"]
    return trained(f"dataset={dataset}", *keys)


@pytest.mark.parametrize(("dataset", "unseen", "backend"), [("criteo", "row", NATIVE), ("avazu", "zero", "torch")])
def test_raw_test_rows_give_the_runs_figures_to_the_last_digit(
    tmp_path: Path, dataset: str, unseen: str, backend: str
) -> None:
    run = of(dataset, unseen, backend)
    model = ctr.load(run.folder)
    found = stream.predict_log(model, stream.locate(model, [log_of_test_rows(run, tmp_path)]), tmp_path / "p.csv")
    assert found.figures is not None
    assert (found.rows, found.figures.auc) == (run.result["rows_test"], run.result["auc"])
    assert found.figures.logloss == run.result["logloss"]


@pytest.mark.parametrize("unseen", ["row", "zero"])
def test_every_value_reads_the_row_that_its_count_says(unseen: str) -> None:
    run = of("criteo", unseen)
    model, rows = ctr.load(run.folder), texts_of(run)
    counts = Counter(pair for row in rows[: run.result["rows_train"]] for pair in enumerate(row))
    named = {(row["field"], row["value"]): i + 1 for i, row in enumerate(model.vocabulary.to_pylist())}
    assert all(value == REST or counts[field, value] >= 3 for field, value in named)

    def expected(field: int, value: str | None) -> int:
        count = counts[field, value]
        shared = 0 < count < 3 or (count == 0 and unseen == "row")
        return named.get((field, REST if shared else value), 0)

    columns = [list(column) for column in zip(*rows, strict=True)]
    got = model.encode(typed_columns(model.manifest.fields, columns))
    assert got.tolist() == [[expected(*pair) for pair in enumerate(row)] for row in rows]
    found = {(row["field"], row["value"]): row["count"] for row in model.vocabulary.to_pylist()}
    held = Counter(field for (field, _), count in counts.items() for _ in range(min(count, 2)))
    assert all(count == (held[f] if v == REST else counts[f, v]) for (f, v), count in found.items())
    assert run.result["features_nonzero"] == len(named)


def test_the_size_stays_below_the_bound_of_a_budget_in_bytes() -> None:
    for unseen in ("row", "zero"):
        run = of("criteo", unseen)
        data, _ = under_known(run.settings, run.data, None)
        model = ctr.load(run.folder)
        weights = sum(p.numel() for name, p in model.net.named_parameters() if not name.startswith("embedding."))
        bound = artifact_bytes(data, model.manifest.embedding_dim, weights)[model.manifest.rows]
        assert sum(path.stat().st_size for path in (run.folder / "model").iterdir()) <= bound
