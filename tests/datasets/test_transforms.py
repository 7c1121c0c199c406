"""Numeric columns of one's own log: fitted on training rows, applied to all, kept in the manifest."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ctr.datasets import csv, transforms
from ctr.datasets.manifest import Manifest, SplitRule
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.datasets.transforms import Transform, apply, fit, parse
from ctr.errors import ArgumentError

NAN = float("nan")


def fitted(spec: str, values: np.ndarray | list[float]) -> Transform:
    column = np.array(values, np.float32)[:, None]
    (made,) = fit({"x": spec}, iter([column]), len(column))
    return made


def floats(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


TRAIN = [0.0, 10.0, 20.0, 30.0, 140.0]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("none", [-5, 30, 1000]),
        ("standard", [(x - 40) / np.std(TRAIN) for x in (-5, 30, 1000)]),
        ("log", [-np.log(6), np.log(31), np.log(1001)]),
        (
            "log_standard",
            [
                (np.sign(x) * np.log1p(abs(x)) - np.mean(np.log1p(TRAIN))) / np.std(np.log1p(TRAIN))
                for x in (-5, 30, 1000)
            ],
        ),
        ("quantile", [-1, 0.5, 1]),  # 3 of 4 steps up; beyond the training values the ends
    ],
)
def test_formulas(spec: str, expected: list[float]) -> None:
    got = fitted(spec, TRAIN).apply(floats([-5, 30, 1000]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-6)


def test_a_missing_number_is_the_mean_with_an_indicator_where_training_rows_miss_some() -> None:
    for spec, at_missing in {
        "standard": 0.0,
        "log_standard": 0.0,
        "quantile": 0.0,
        "log": np.log1p(TRAIN).mean(),
    }.items():
        made = fitted(spec, [*TRAIN, NAN])
        assert made.outputs == ["x", "x is missing"]
        got = made.apply(floats([NAN, 10.0]))
        np.testing.assert_allclose(got[0], [at_missing, 1], rtol=1e-6)
        assert got[1, 1] == 0
        made = fitted(spec, TRAIN)  # none missing in training: no input that is always 0
        assert made.outputs == ["x"]
        np.testing.assert_allclose(made.apply(floats([NAN])), [[at_missing]], rtol=1e-6)
    assert fitted("none", [*TRAIN, NAN]).apply(floats([NAN])).tolist() == [[0]]


def test_quantiles_are_even_where_values_repeat() -> None:
    values = [0.0] * 60 + list(range(1, 41))
    got = fitted("quantile", values).apply(floats(values))[:, 0]
    assert got[:60].std() == 0
    assert (np.diff(got[59:]) > 0).all()
    assert abs(got.mean()) < 0.05


def test_buckets_hold_equal_shares_and_name_their_bounds() -> None:
    made = fitted("bucket:4", list(range(100)))
    values = made.buckets(floats([-1, 24, 24.5, 50, 99, NAN])).to_pylist()
    assert values == ["below 24", "24 to below 49", "24 to below 49", "49 to below 74", "74 or more", None]
    assert made.outputs == []
    counts = made.buckets(np.arange(100, dtype=np.float32)).value_counts().to_pylist()
    assert [count["counts"] for count in counts] == [24, 25, 25, 26]
    few = fitted("bucket:10", [0.1] * 50 + [19.9] * 50)
    assert few.buckets(floats([0.1, 19.9])).to_pylist() == ["0.1 to below 19.9", "19.9 or more"]


RANDOM = np.random.default_rng(0)
SHAPES = {
    "shares": (RANDOM.random(1000), "none"),
    "flags": (RANDOM.integers(0, 2, 1000), "none"),
    "ages": (RANDOM.integers(18, 90, 1000), "standard"),
    "normal": (RANDOM.normal(0, 500, 1000), "standard"),
    "prices": (np.exp(RANDOM.normal(3, 1.5, 1000)), "log_standard"),
    "counts": (RANDOM.geometric(0.02, 1000) - 1, "log_standard"),
    "mostly 0": (RANDOM.integers(0, 500, 1000) * (RANDOM.random(1000) < 0.1), "log_standard"),
    "with an outlier": (np.append(RANDOM.normal(50, 5, 1000).clip(0), 1e9), "quantile"),
    "heavy tails": (RANDOM.standard_cauchy(1000) * 10, "quantile"),
    "constant": (np.full(1000, 5000), "standard"),
    "missing": (np.full(1000, np.nan), "none"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_chooses_by_the_values_and_says_why(shape: str) -> None:
    values, expected = SHAPES[shape]
    made = fitted("auto", values)
    assert made.kind == expected
    assert made.why
    inputs = made.apply(np.asarray(values, np.float32))
    assert np.isfinite(inputs).all()
    assert np.abs(inputs).max() < 20
    assert made.why in transforms.table([made])


def test_a_transform_comes_whole_out_of_json() -> None:
    for spec in ("none", "standard", "log", "log_standard", "quantile", "bucket:3"):
        made = fitted(spec, [*TRAIN, NAN])
        assert Transform.from_json(json.loads(json.dumps(asdict(made)))) == made


def test_a_sample_is_fitted_on_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "FIT_ROWS", 2000)
    values = np.random.default_rng(1).normal(7, 3, (50_000, 1)).astype(np.float32)
    one, two = (fit({"x": "standard"}, iter(np.split(values, parts)), 50_000)[0] for parts in (10, 10))
    assert one == two
    assert abs(one.mean - 7) < 0.3
    assert one.mean != values.mean(dtype=np.float64)


def test_apply_keeps_the_order_of_the_columns() -> None:
    made = fit({"a": "none", "b": "bucket:2", "c": "none"}, iter([np.arange(6, dtype=np.float32).reshape(2, 3)]), 2)
    fields, dense = apply(made, floats([1, 2, 3]).reshape(1, 3))
    assert [field.to_pylist() for field in fields] == [["1 or more"]]
    assert dense.tolist() == [[1, 3]]


def test_specs() -> None:
    assert parse(["unit price:log", "a:b:bucket:10"]) == {"unit price": "log", "a:b": "bucket:10"}
    for wrong in ("price", "price:ln", "price:bucket", "price:bucket:1", ":log"):
        with pytest.raises(ValueError, match=f"dataset.transform: {wrong}; expected a column, a colon and auto, none"):
            parse([wrong])
    with pytest.raises(ValueError, match="two for the column a"):
        parse(["a:log", "a:none"])
    with pytest.raises(ValueError, match=r"dataset.transform_default=ln; expected auto, none"):
        csv.make("y", ["a"], transform_default="ln")


ROWS = ["0,u1,1,20,5", "1,u2,3,,5", "0,u1,5,40,5", "1,u3,1000,60,5", "0,u1,,80,700"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["y,user,price,age,same", *ROWS]) + "\n")
    return path


def opened(raw: Path, out: Path, split: SplitRule, buckets: int | None = None, **options: object) -> Prepared:
    options = {"transform": ["price:standard", "age:bucket:2"], "dense": ["price", "age"], **options}
    return prepare(csv.make("y", ["user"], **options), raw, out, split=split, num_buckets=buckets)  # type: ignore[arg-type]


def test_prepared_rows_are_transformed_by_the_training_rows_alone(raw: Path, tmp_path: Path) -> None:
    data = opened(raw, tmp_path / "out", SplitRule(test_fraction=0.4))
    assert data.manifest.fields == ["user", "age"]
    assert data.manifest.dense == ["price"]
    train = np.array([1, 3, 5])
    ids, dense, _ = data.rows[0:5]
    np.testing.assert_allclose(dense[:, 0], [*(np.array([1, 3, 5, 1000]) - 3) / train.std(), 0], rtol=1e-6)
    names = read_vocabulary(data)["value"].to_pylist()
    assert [[names[at] for at in row] for row in ids] == [
        ["u1", "20 or more"],
        ["u2", None],
        ["u1", "20 or more"],
        ["u3", "20 or more"],
        ["u1", "20 or more"],
    ]
    assert data.manifest.values_per_field == [3, 2]
    assert data.manifest.num_features == 5
    (largest,) = data.manifest.largest
    assert largest == dense.max()
    assert Manifest.read(data.folder) == data.manifest
    assert [transform.name for transform in data.manifest.transforms] == ["price", "age"]


def test_another_split_fits_anew_and_the_same_one_does_not(raw: Path, tmp_path: Path) -> None:
    first = opened(raw, tmp_path / "out", SplitRule(test_fraction=0.4))
    assert opened(raw, tmp_path / "out", SplitRule(test_fraction=0.4)).reused
    second = opened(raw, tmp_path / "out", SplitRule(test_fraction=0.2))
    assert not second.reused
    assert second.manifest.transforms[0].mean == (1 + 3 + 5 + 1000) / 4
    assert first.manifest.data_hash != second.manifest.data_hash


def test_without_transforms_rows_suit_any_split(raw: Path, tmp_path: Path) -> None:
    plain = {"transform": [], "transform_default": "none"}
    data = opened(raw, tmp_path / "out", SplitRule(test_fraction=0.4), **plain)
    assert data.rows[0:5][1].tolist() == [[1, 20], [3, 0], [5, 40], [1000, 60], [0, 80]]
    assert data.manifest.transforms == []
    assert opened(raw, tmp_path / "out", SplitRule(test_fraction=0.2), **plain).reused


def test_hashed_buckets(raw: Path, tmp_path: Path) -> None:
    data = opened(raw, tmp_path / "out", SplitRule(test_fraction=0.4), 1000)
    ids, _, _ = data.rows[0:5]
    assert len(set(ids[:, 1].tolist())) == 2
    assert data.manifest.values_per_field == [3, 2]


def test_sorted_rows_are_fitted_on_the_earliest(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("y,user,when,price\n0,a,2024-05-03,900\n1,b,2024-05-01,1\n1,a,2024-05-02,3\n")
    data = opened(
        path, tmp_path / "out", SplitRule(), time="when", order="sort", dense=["price"], transform=["price:standard"]
    )
    (price,) = data.manifest.transforms
    assert (price.mean, price.scale) == (2, 1)
    assert data.rows[0:3][1][:, 0].tolist() == [-1, 1, 898]


def test_a_split_that_cannot_be_is_an_error(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="leaves 0 of 5 rows to train on"):
        opened(raw, tmp_path / "out", SplitRule(test_fraction=0.99))
    assert [path.name for path in (tmp_path).iterdir() if path.is_dir()] == []


def test_damaged_transforms_are_noticed(raw: Path, tmp_path: Path) -> None:
    split = SplitRule(test_fraction=0.4)
    data = opened(raw, tmp_path / "out", split)
    manifest = Manifest.read(data.folder)
    assert manifest is not None
    renamed = replace(manifest, transforms=[replace(manifest.transforms[0], name="cost"), manifest.transforms[1]])
    (data.folder / "manifest.json").write_text(renamed.to_json())
    assert not opened(raw, tmp_path / "out", split).reused


def test_arrow_arrays_of_buckets_are_text() -> None:
    assert fitted("bucket:3", TRAIN).buckets(floats([1])).type == pa.string()
