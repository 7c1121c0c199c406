"""``python -m ctr.features``: which values a model has kept."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ctr
from ctr import features
from ctr.config import help
from ctr.report.features import by_field
from tests.artifact.runs import trained


def test_the_table_holds_what_is_kept_strongest_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("dataset=avazu", "opt.lambda21=1e-3")
    features.main([f"model={run.folder}", "out=f.csv"])
    said = capsys.readouterr().out
    kept, present = run.result["features_nonzero"], run.result["features_present"]
    assert f"kept              {kept:,} of {present:,} values that training has seen" in said
    table = pd.read_csv("f.csv", dtype={"value": str})
    assert list(table) == ["field", "value", "norm", "effect", "count"]
    assert len(table) == kept
    assert (np.diff(table["effect"]) <= 0).all()
    model = ctr.load(run.folder)
    pd.testing.assert_frame_equal(table, model.features(), check_dtype=False, rtol=1e-5)
    norms = np.sort(np.linalg.norm(model.rows.numpy()[1:].astype(float), axis=1))
    np.testing.assert_allclose(np.sort(table["norm"]), norms, rtol=1e-5)
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")
    assert sum(seen for _, seen, _ in by_field(model)) == present
    counted = table.groupby("field").size()
    assert {name: kept for name, _, kept in by_field(model) if kept} == counted.to_dict()


def test_buckets_have_no_field(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("dataset=avazu", "dataset.encoding=hash", "opt.lambda21=1e-3")
    features.main([f"model={run.folder}", "out=f.parquet"])
    table = pd.read_parquet("f.parquet")
    assert table["field"].isna().all()
    assert table["value"].is_unique
    assert table["value"].max() < 900
    assert len(table) == run.result["features_nonzero"]
    assert f"all fields {len(table):,}/{run.result['features_present']:,}" in capsys.readouterr().out


def test_help_lists_the_keys() -> None:
    said = help.text("features", [])
    assert "\n  model=??? " in said
    assert "\n  out=features.csv " in said
