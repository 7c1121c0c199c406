"""The clients' normalising step gives each value the form that it has in a vocabulary, as the readers do."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr import parts
from ctr.datasets.columns import HEX32, INTEGER
from ctr.datasets.ipinyou import RAW_COLUMNS
from ctr.datasets.schema import Dataset
from tests.artifact.clients import node, node_client, python_client
from tests.datasets.logs import cells, read_all

ROWS = 300
client = python_client()

FORMS = [
    ("hex32", "05DB9164", "05db9164"),
    ("hex32", "", ""),
    ("hex32", None, ""),
    ("integer", "7", "7"),
    ("integer", "007", "7"),
    ("integer", "7.0", "7"),
    ("integer", 7, "7"),
    ("integer", 7.0, "7"),
    ("integer", "-007", "-7"),
    ("integer", "-0", "0"),
    ("integer", "000", "0"),
    ("integer", "", ""),
    ("text", "007", "007"),
    ("text", " Red shoes ", " Red shoes "),
    ("text", "Zürich", "Zürich"),
    ("text", 7, "7"),
    ("text", None, ""),
]
NO_FORMS = [
    ("hex32", "5db9164"),
    ("hex32", "05db916g"),
    ("hex32", 12345678.5),
    ("integer", "7.5"),
    ("integer", "1e3"),
    ("integer", "0x7"),
    ("integer", "12345678901234567"),
    ("integer", True),
    ("text", 7.5),
    ("text", True),
]


@pytest.mark.parametrize(("kind", "value", "form"), FORMS)
def test_a_value_gets_its_form(kind: str, value: Any, form: str) -> None:
    assert client.normalise(kind, value) == form


@pytest.mark.parametrize(("kind", "value"), NO_FORMS)
def test_a_value_of_another_kind_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"is not of kind {kind}"):
        client.normalise(kind, value)


def test_nan_is_blank() -> None:
    assert client.normalise("integer", math.nan) == ""


@pytest.mark.parametrize(("value", "found"), [("7.5", 7.5), (-3, -3.0), ("", math.nan), (None, math.nan)])
def test_dense_values_are_numbers(value: Any, found: float) -> None:
    assert client.number(value) == pytest.approx(found, nan_ok=True)


@pytest.mark.parametrize("value", ["inf", "nan", "seven", True])
def test_a_dense_value_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=str(value)):
        client.number(value)


@given(st.from_regex(r"-?0{0,3}[0-9]{1,16}", fullmatch=True))
def test_integers_read_as_the_readers_read_them(text: str) -> None:
    read = INTEGER.parse(pa.array([text.encode()]))
    assert client.normalise("integer", text) == str(read[0].as_py())


@given(st.from_regex(r"[0-9a-fA-F]{8}", fullmatch=True))
def test_hexadecimal_values_read_as_the_readers_read_them(text: str) -> None:
    read = HEX32.parse(pa.array([text.encode()]))
    assert client.normalise("hex32", text) == f"{read[0].as_py():08x}"


Log = tuple[Dataset, list[dict[str, str]], list[dict[str, str]]]


@pytest.fixture(scope="module", params=["avazu", "ipinyou"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A generated log of a reader that derives fields: its rows as they are, and as the reader reads them."""
    dataset, path = parts.dataset(request.param)(), tmp_path_factory.mktemp("log") / "train.csv"
    dataset.write_sample(path, ROWS, 1, None)
    if path.is_dir():
        days = sorted(path.glob("imp.*.txt"))
        raw = [dict(zip(RAW_COLUMNS, row, strict=True)) for day in days for row in cells(day, "\t")]
    else:
        header, *rows = cells(path, ",")
        raw = [dict(zip(header, row, strict=True)) for row in rows]
    fields = read_all(dataset, path).fields
    read = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    return dataset, raw, [{name: value or "" for name, value in row.items()} for row in read]


def test_derived_fields_are_the_readers(log: Log) -> None:
    dataset, raw, read = log
    rows = [client.derived(dataset.name, dataset.options, row) for row in raw]
    made = [{field.name: client.normalise(field.kind, row[field.name]) for field in dataset.fields} for row in rows]
    assert made == read
    assert len(made) == ROWS


def test_node_derives_the_same_fields(log: Log, tmp_path: Path) -> None:
    dataset, raw, read = log
    source = json.dumps({"name": dataset.name, "options": dataset.options})
    made = node(node_client(tmp_path), raw, f"(row) => client.derived({source}, row)")
    kinds = {field.name: field.kind for field in dataset.fields}
    assert [{name: client.normalise(kind, row[name]) for name, kind in kinds.items()} for row in made] == read


def test_node_gives_the_same_forms(tmp_path: Path) -> None:
    program = node_client(tmp_path)
    forms = node(program, [[kind, value] for kind, value, _ in FORMS], "(given) => client.normalise(...given)")
    assert forms == [form for *_, form in FORMS]
    refusal = "(given) => { try { return client.normalise(...given) } catch (error) { return error.message } }"
    refusals = node(program, [list(given) for given in NO_FORMS], refusal)
    for (kind, _), said in zip(NO_FORMS, refusals, strict=True):
        assert said.endswith(f"is not of kind {kind}")


@pytest.mark.parametrize("line", ["1\t2", "1\t2\t3\t4"])
def test_a_row_of_other_columns_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.txt").write_text(f"a\tb\tc\n1\t\t3\n{line}\n")
    rows = client.read(tmp_path / "rows.txt", None, None)
    assert next(rows) == {"a": "1", "b": "", "c": "3"}
    with pytest.raises(ValueError, match=rf"^{tmp_path}/rows\.txt, line 3: expected 3 columns$"):
        next(rows)
