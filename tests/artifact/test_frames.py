"""Frames of all kinds, and raw lines, give the same probabilities; what does not fit is named."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import ctr
from ctr.artifact.saved import SavedModel
from ctr.errors import ArgumentError
from tests.artifact.runs import log_of_test_rows, trained


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return ctr.load(trained("dataset=criteo").folder)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = log_of_test_rows(trained("dataset=criteo"), tmp_path_factory.mktemp("log"), labels=False)
    return path.read_text().splitlines()[:40]


@pytest.fixture(scope="module")
def texts(model: SavedModel, lines: list[str]) -> pd.DataFrame:
    """The raw columns as text, '' for blank."""
    return pd.DataFrame([line.split("\t") for line in lines], columns=list(model.inputs.columns), dtype=str)


class Foreign:
    """A frame of a library that speaks Arrow's interface alone, as polars' do."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def as_read(texts: pd.DataFrame) -> pd.DataFrame:
    """As pandas reads a file: integers with blanks are floats, blank text is NaN."""
    frame = texts.replace("", np.nan)
    return frame.assign(**{name: frame[name].astype(float) for name in frame if name.startswith("I")})


def as_arrow(texts: pd.DataFrame) -> pa.Table:
    table = pa.Table.from_pandas(as_read(texts), preserve_index=False)
    types = {name: pa.int32() if name.startswith("I") else pa.large_string() for name in table.schema.names}
    return table.cast(pa.schema(types))


def test_frames_of_all_kinds_give_what_the_reader_gives(
    model: SavedModel, lines: list[str], texts: pd.DataFrame
) -> None:
    p = model.predict(lines)
    assert p.dtype == np.float32
    assert len(set(p.tolist())) > 30
    table = as_arrow(texts)
    labelled = ["1\t" + line for line in lines]
    categories = {name: texts[name].astype("category") for name in texts if name.startswith("C")}
    frames: list[Any] = [
        labelled, texts, as_read(texts), table, table.to_batches()[0], Foreign(table), texts.assign(**categories),
        texts.to_dict("records"), texts.to_dict("list"), table.to_pylist(), tuple(lines),
        texts.assign(label=3, more=None), texts.apply(lambda column: column.str.upper()),
        pa.Table.from_pandas(texts.assign(**categories), preserve_index=False),
        pa.concat_tables([table.slice(0, 7), table.slice(7)]),
    ]  # fmt: skip
    for frame in frames:
        np.testing.assert_array_equal(model.predict(frame), p, err_msg=str(type(frame)))
    np.testing.assert_allclose([model.predict(lines[n : n + 1])[0] for n in range(len(lines))], p, rtol=1e-6)
    assert model.predict(table.slice(0, 0)).shape == (0,)


def test_many_rows_give_what_few_give(model: SavedModel, texts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    p = model.predict(texts)
    monkeypatch.setattr("ctr.artifact.frames.FEW", 10)
    np.testing.assert_array_equal(model.predict(texts), p)


def test_unknown_blank_and_removed_values_read_as_zero(model: SavedModel, texts: pd.DataFrame) -> None:
    row = dict.fromkeys(texts)
    unknown = {name: "12345678" if name.startswith("C") else None for name in texts}
    known = set(model.features()["value"])
    assert "12345678" not in known
    dense = np.zeros((1, 13), np.float32)
    expected = model.logits(np.zeros((1, 26), np.int32), dense)
    np.testing.assert_allclose(model.predict([unknown]), 1 / (1 + np.exp(-expected)), rtol=1e-6)
    blanks = model.features()
    assert blanks["value"].isna().any()  # a blank is a value, which has a row
    assert model.predict([row]) != model.predict([unknown])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="C7"), "no column C7; the columns are I1, I2"),
        (lambda f: f.assign(C3=range(len(f))), "column C3 is of type int64; expected text: 8 hexadecimal digits"),
        (lambda f: f.assign(C3="xyz"), "column C3, row 0: 'xyz'; expected 8 hexadecimal digits or nothing"),
        (lambda f: f.assign(I2=1.5), "column I2, row 0: '1.5'; expected an integer of up to 16 digits or nothing"),
        (lambda f: f.assign(I2=[3] * 39 + [np.inf]), "column I2, row 39: 'inf'; expected an integer"),
        (lambda f: f.assign(I2=True), "column I2, row 0: 'true'; expected an integer"),
        (lambda f: f.assign(I3=[[1]] * len(f)), "column I3 is of type list<"),
        (lambda f: f.assign(I3=["a", 1] * (len(f) // 2)), "column I3: values of several types"),
        (lambda f: pd.concat([f, f["I1"]], axis=1), "more than one column I1"),
        (lambda f: f["I1"], "a Series; expected a pandas, Arrow or polars frame"),
        (lambda f: 3, "a int; expected a pandas"),
        (lambda f: "0\t1", "a single text; expected a pandas"),
        (lambda f: [1, 2], "a list of neither dicts nor texts"),
        (lambda f: [{"I1": 1}], "row 0: no I2, I3"),
        (lambda f: ["1\t2"], r"row 0: 2 columns; expected 40 or 39, separated by '\t'"),
        (lambda f: {**f.to_dict("list"), "I1": [1]}, "columns of several lengths: I1 1, I2 40"),
    ],
)
def test_what_does_not_fit_is_named(model: SavedModel, texts: pd.DataFrame, change: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match="^" + re.escape(said)):
        model.predict(change(texts))


@pytest.mark.parametrize("hour", ["of_day", "raw"])
def test_avazus_hour_is_derived_as_by_the_reader(tmp_path: Path, hour: str) -> None:
    run = trained("dataset=avazu", f"dataset.hour={hour}")
    path = log_of_test_rows(run, tmp_path, labels=False)
    model = ctr.load(run.folder)
    text = path.read_text().splitlines()
    p = model.predict(text[1:])
    frame = pd.read_csv(
        path, dtype={name: str for name, type_ in model.inputs.columns.items() if "hexa" in type_.expected}
    )
    assert frame["hour"].dtype == np.int64
    np.testing.assert_array_equal(model.predict(frame), p)
    np.testing.assert_array_equal(model.predict(frame.astype({"hour": float, "C14": float})), p)
    with pytest.raises(ArgumentError, match=r"^column hour, row 0: '14102125'; expected a time YYMMDDHH$"):
        model.predict(frame.assign(hour=14102125))


def test_ipinyous_user_agent_and_time_are_derived_as_by_the_reader(tmp_path: Path) -> None:
    run = trained("dataset=ipinyou")
    log = log_of_test_rows(run, tmp_path, labels=False)
    model = ctr.load(run.folder)
    text = min(log.glob("imp.*")).read_text().splitlines()
    p = model.predict(text)
    names = model.inputs.line
    assert names is not None
    frame = pd.DataFrame([line.split("\t") for line in text], columns=list(names), dtype=str)
    np.testing.assert_array_equal(model.predict(frame), p)
    np.testing.assert_array_equal(model.predict(frame.astype({"timestamp": int, "slotprice": int})), p)
    np.testing.assert_array_equal(model.predict(frame.replace("null", None)), p)
