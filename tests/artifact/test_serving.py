"""The example clients give the saved model's probabilities for rows of a raw log."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import ctr
from ctr.artifact import agreement, onnx
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import scorer_of
from tests.artifact.clients import SERVING, node_client, probabilities, python_client
from tests.artifact.conftest import Exports
from tests.artifact.runs import log_of_test_rows, trained
from tests.commands import composed, job

Command = Callable[[Path], list[object]]
CLIENTS: dict[str, Command] = {
    "python": lambda folder: [sys.executable, SERVING / "client.py"],
    "node": lambda folder: ["node", node_client(folder)],
}
ROWS = [
    {"site": "wört 7", "device": "007", "hour": None, "price": 2.5},
    {"site": None, "device": 7, "hour": "wört 9", "price": None},
    {"site": "a,b\tc", "device": "", "hour": "x", "price": "12"},
]


def exported(folder: Path, model: SavedModel) -> Path:
    path, scorer = folder / "model.onnx", scorer_of(model, "float32")
    onnx.write(path, onnx.to_onnx(model, scorer))
    return path


def one_by_one(model: SavedModel, rows: Sequence[Mapping[str, object]]) -> list[float]:
    """Rows whose columns differ in type from row to row make no frame."""
    return [float(model.predict([row])[0]) for row in rows]


@pytest.mark.parametrize("client", list(CLIENTS))
def test_json_lines(exports: Exports, client: str, tmp_path: Path) -> None:
    """With values of each type, known ones too."""
    made = exports.file("opnn")
    features = made.model.features()
    known = features[features["value"].notna()].groupby("field")["value"].first().to_dict()
    rows = [*ROWS, {**known, "price": 3}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    found = probabilities([*CLIENTS[client](tmp_path), made.path, path])
    assert found == pytest.approx(one_by_one(made.model, rows), abs=1e-6)


def test_csv_with_quotes(exports: Exports, tmp_path: Path) -> None:
    made, path = exports.file("opnn"), tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROWS[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(ROWS)
    found = probabilities([sys.executable, SERVING / "client.py", made.path, path])
    assert found == pytest.approx(one_by_one(made.model, ROWS), abs=1e-6)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"site": "a", "device": "b", "price": 1}, "no column hour; expected the text of the log"),
        ({"site": 0.5, "device": "b", "hour": "c", "price": 1}, "column site: 0.5 is not of kind text; expected the"),
        ({"site": "a", "device": "b", "hour": "c", "price": "inf"}, "column price: 'inf' is not a finite number; expe"),
    ],
)
def test_what_a_client_cannot_take_is_named(exports: Exports, row: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        python_client().Model(exports.file("opnn").path).predict([row])


def raw_log(name: str, folder: Path, dataset: str) -> list[object]:
    """The rows that a run was tested on, as the arguments of a client."""
    log = log_of_test_rows(trained(f"dataset={dataset}"), folder)
    if not log.is_dir():
        return [log, *columns_of(dataset)]
    whole = folder / f"{name}.txt"
    whole.write_text("".join(path.read_text() for path in sorted(log.glob("imp.*.txt"))))
    return [whole, *columns_of(dataset)]


def columns_of(dataset: str) -> Sequence[str]:
    """Names of the columns, of a log without a header."""
    line = ctr.load(trained(f"dataset={dataset}").folder).inputs.line
    return [] if dataset == "avazu" else ["--columns", *(line or ())]


@pytest.fixture(scope="module", params=["criteo", "avazu", "ipinyou"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, SavedModel, Path]:
    """A dataset, a model of it, and the model's file."""
    model = ctr.load(trained(f"dataset={request.param}").folder)
    return request.param, model, exported(tmp_path_factory.mktemp(request.param), model)


@pytest.mark.parametrize("client", list(CLIENTS))
@pytest.mark.slow
def test_a_client_on_a_raw_log(served: tuple[str, SavedModel, Path], client: str, tmp_path: Path) -> None:
    """The values of the log as they are: the client derives and normalises."""
    dataset, model, path = served
    log = raw_log("all", tmp_path, dataset)
    lines = Path(str(log[0])).read_text().splitlines()
    if dataset == "avazu":
        del lines[0]  # its lines have fixed columns, so that the model takes them without the header
    found = probabilities([*CLIENTS[client](tmp_path), path, *log])
    assert len(found) > 100
    assert found == pytest.approx(model.predict(lines), abs=1e-6)


@pytest.mark.parametrize(
    ("dataset", "log", "options"),
    [
        ("criteo", "criteo/train.txt", []),
        ("avazu", "avazu/train.csv", ["opt.lr=1e-2"]),
        ("ipinyou", "ipinyou", ["dataset.test_days=[20130611,20130612]"]),
    ],
)
@pytest.mark.slow
def test_real_samples(samples: Path, tmp_path: Path, dataset: str, log: str, options: list[str]) -> None:
    """10,000 rows and more: the same probabilities to 1e-6, the same AUC, and nearly the same with narrow rows."""
    raw = samples / log
    places = [f"dataset.raw={raw}", f"dataset.prepared={tmp_path / 'prepared'}"]
    job(composed("train", f"dataset={dataset}", "tracking=none", *places, *options), tmp_path / "run")
    model = ctr.load(tmp_path / "run")
    paths = agreement.locate(model, raw)
    for rows, bound in (("float32", 1e-6), ("float16", 2e-5), ("int8", 5e-4)):
        scorer, path = scorer_of(model, rows), tmp_path / "model.onnx"
        onnx.write(path, onnx.to_onnx(model, scorer))
        found = agreement.aucs(onnx.session(path), model, scorer, paths)
        assert found.rows > 10_000
        assert found.file == pytest.approx(found.model, abs=bound)
        assert found.largest <= (1e-6 if rows == "float32" else 5e-3)


@pytest.mark.slow
def test_a_big_vocabulary(tmp_path: Path) -> None:
    """Of the size of Criteo's full-size result: 22.8 MB, as many bytes as there are keys, numbers and rows."""
    from ctr.artifact import format
    from tests.scripts import script

    bench = script("serving_bench")
    dataset = ctr.parts.dataset("criteo")()
    format.write(tmp_path / "model", bench.made_contents(dataset, bench.criteo_sizes(bench.ROWS), "dcn", 8))
    model = ctr.load(tmp_path / "model")
    for rows, megabytes in (("float32", 23.5), ("float16", 15.5), ("int8", 12.5)):
        scorer, path = scorer_of(model, rows), tmp_path / "model.onnx"
        onnx.write(path, onnx.to_onnx(model, scorer))
        assert path.stat().st_size < 1e6 * megabytes
        generated = agreement.generated_rows(model, 10_000)
        found = agreement.compare(onnx.session(path), model, scorer, generated)
        # The net is random and its numbers go up to 999: its own rounding is about 1e-6.
        assert found.largest <= (2e-6 if rows == "float32" else 5e-3)
        assert np.mean(model.encode(agreement.typed_columns(model.manifest.fields, generated.texts)) > 0) > 0.7
