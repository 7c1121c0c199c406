"""Prepared rows against published counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr import parts
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from ctr.datasets.published import compare
from ctr.datasets.schema import Published
from ctr.prepare import table

LINES = ["label,a,b", "1,x,u", "0,y,u", "0,x,v", "0,z,v"]
FULL = Published(rows=4, click_rate=0.25, values_per_field=(3, 2))


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    (tmp_path / "mine.csv").write_text("\n".join(LINES))
    dataset = parts.dataset("csv")(label="label", categorical=["a", "b"])
    return prepare(dataset, tmp_path / "mine.csv", tmp_path / "out", split=SplitRule(test_fraction=0.5))


def test_the_published_counts_match(data: Prepared) -> None:
    assert compare(data, FULL) == "matches the published dataset"
    assert compare(data, replace(FULL, click_rate=0.24)) == "matches the published dataset"  # published rounded


def test_differences_are_named(data: Prepared) -> None:
    assert compare(data, replace(FULL, rows=1_000)) == "is not the full published log: 4 rows of 1,000"
    other = replace(FULL, click_rate=0.5, values_per_field=(3, 7))
    text = (
        "has the published number of rows, but differs in: click rate 0.25000 instead of 0.5; b 2 values instead of 7"
    )
    assert compare(data, other) == text


def test_counts_of_the_training_rows(data: Prepared) -> None:
    # x, y and u are in the first half.
    assert compare(data, replace(FULL, values_per_field=(2, 1), training_only=True)) == "matches the published dataset"
    assert "a 2 values instead of 3" in compare(data, replace(FULL, training_only=True))


def test_hashed_rows_are_compared_too(data: Prepared, tmp_path: Path) -> None:
    dataset = parts.dataset("csv")(label="label", categorical=["a", "b"])
    hashed = prepare(
        dataset, tmp_path / "mine.csv", tmp_path / "hash", num_buckets=2, split=SplitRule(test_fraction=0.5)
    )
    assert compare(hashed, FULL) == "matches the published dataset"
    other = replace(FULL, values_per_field=(9, 9), training_only=True)
    assert compare(hashed, other) == "matches the published dataset in rows and click rate"


@pytest.mark.parametrize("name", ["criteo", "avazu", "ipinyou"])
def test_published_counts_fit_the_fields(name: str) -> None:
    dataset = parts.dataset(name)()
    assert dataset.published is not None
    assert len(dataset.published.values_per_field) == len(dataset.fields)


def test_published_sums() -> None:
    criteo = parts.dataset("criteo")().published
    assert criteo is not None
    assert np.sum(criteo.values_per_field) == 33_762_577


def test_the_command_says_it_of_real_logs_alone(data: Prepared) -> None:
    assert "this log          matches the published dataset" in table(data, FULL)
    assert "this log" not in table(data, None)
    recipe = replace(data.manifest.recipe, source="generated")
    assert "this log" not in table(replace(data, manifest=replace(data.manifest, recipe=recipe)), FULL)
