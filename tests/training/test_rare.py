"""Runs with rows for rare values: what counts as a feature, and which rows are counted."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.criteo_text import lines
from tests.native.built import needs_kernels
from tests.training.runs import magnitude, run_one, untimed

RARE = ["dataset.min_count=2", "dataset.unseen=row", "opt.lr=0.01", "model.hidden=[6]"]


def features(made: list[str]) -> int:
    """Values that occur at least twice, and a row for each field with others."""
    counts = Counter(pair for line in made for pair in enumerate(line.split("\t")[14:]))
    single = {field for (field, _), count in counts.items() if count == 1}
    return sum(count > 1 for count in counts.values()) + len(single)


def test_the_rows_of_rare_values_count_for_pruning_and_budget(tmp_path: Path) -> None:
    pruned = run_one(tmp_path, "opt=adam", *magnitude(0.2, 0.3), *RARE)
    trained = pruned["rows_train"]
    assert pruned["features_present"] == features(lines(400)[:trained])
    assert pruned["features_nonzero"] == round(0.2 * pruned["features_present"])
    budget = run_one(tmp_path, "opt.budget=0.1", *RARE)
    assert budget["features_nonzero"] == budget["budget"] == round(0.1 * pruned["features_present"])


@pytest.mark.parametrize("held", [["holdout=0.25"], ["train_rows=200"]])
def test_rows_that_are_not_trained_on_do_not_count(tmp_path: Path, held: list[str]) -> None:
    got = run_one(tmp_path, *held, *RARE)
    assert got["features_present"] == features(lines(400)[: got["rows_train"]])
    assert got["rows_train"] < 300


@needs_kernels
def test_both_backends_read_the_same_rows(tmp_path: Path) -> None:
    def of(backend: str) -> dict[str, Any]:
        return untimed(run_one(tmp_path, f"backend={backend}", "opt.lambda21=0", "threads=1", *RARE))

    one, other = of("native"), of("torch")
    same = ("features_present", "features_nonzero", "values_unseen", "table_rows")
    assert [one[key] for key in same] == [other[key] for key in same]
    assert one["logloss"] == pytest.approx(other["logloss"], rel=1e-4)


def test_retraining_keeps_the_rows_of_rare_values(tmp_path: Path) -> None:
    got = run_one(tmp_path, "opt.lambda21=1e-3", "retrain=true", *RARE)
    assert 0 < got["features_nonzero"] < got["features_present"]
    assert got["auc_retrained"] is not None
