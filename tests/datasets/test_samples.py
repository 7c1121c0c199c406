"""The readers on real rows: known counts. Skipped where the samples are not at hand."""

from pathlib import Path

import pytest

from ctr import parts
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from ctr.datasets.published import compare, values_in


def prepared(name: str, samples: Path, tmp_path: Path, **rule: object) -> Prepared:
    folder = samples / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return prepare(parts.dataset(name)(), folder, tmp_path / "out", split=SplitRule(**rule))  # type: ignore[arg-type]


def test_criteo(samples: Path, tmp_path: Path) -> None:
    data = prepared("criteo", samples, tmp_path, test_fraction=1 / 7)
    assert data.manifest.rows == 137_139
    assert data.manifest.num_features == 316_191
    assert round(data.manifest.positives / data.manifest.rows, 4) == 0.2568


def test_avazu(samples: Path, tmp_path: Path) -> None:
    data = prepared("avazu", samples, tmp_path)
    assert (data.split.rows_train, data.split.rows_test) == (40_136, 8_062)
    assert data.manifest.num_features == 46_264
    assert data.split.features_train == 38_009
    assert sum(values_in(data, data.split.train)) == 38_009
    assert data.split.rule == SplitRule(test_days=[20141022])
    published = parts.dataset("avazu")().published
    assert published is not None
    assert compare(data, published) == "is not the full published log: 48,198 rows of 40,428,967"


def test_ipinyou(samples: Path, tmp_path: Path) -> None:
    data = prepared("ipinyou", samples, tmp_path, test_days=[20130611, 20130612])
    manifest = data.manifest
    assert (data.split.rows_train, manifest.rows) == (36_054, 50_806)
    assert round(manifest.positives / manifest.rows, 3) == 0.174
    values = dict(zip(manifest.fields, manifest.values_per_field, strict=True))
    assert (values["weekday"], values["hour"], values["slotprice"]) == (7, 24, 5)
    assert values["useragent"] <= 40
    assert sum(values_in(data, data.split.train)) == data.split.features_train
