"""An exported file gives the saved model's probabilities; what has no ONNX form is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as library
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from ctr.artifact import agreement, onnx
from ctr.artifact.lookup import typed_columns
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import RowType, Scaled, Scorer, quantise
from ctr.errors import ArgumentError, CtrError
from tests.artifact.conftest import MADE, Exports

HERE = str(Path(torch.__file__).parent)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "dcn" else pytest.mark.slow) for name in MADE])
def test_a_file_gives_the_models_probabilities(exports: Exports, name: str) -> None:
    """On rows with known, unseen and blank values."""
    made = exports.file(name)
    rows = agreement.generated_rows(made.model, 10_000, seed=1)
    found = agreement.compare(made.session, made.model, made.scorer, rows)
    assert found.rows == 10_000
    assert 0 < found.largest <= 1e-6
    ids = made.model.encode(typed_columns(made.model.manifest.fields, rows.texts))
    assert {"unseen": (ids == 0).any(), "known": (ids > 0).any()} == {"unseen": True, "known": True}
    assert any(texts.null_count for texts in rows.texts)
    assert np.ptp(agreement.probabilities(made.session, made.model, rows)) > 0.01


@pytest.mark.slow
def test_values_that_are_unknown_read_as_zero(exports: Exports) -> None:
    made = exports.file("opnn")
    feed = {name: np.array([["never seen"]], object) for name in ("site", "device", "hour")}
    (found,) = made.session.run(["probability"], {**feed, "price": np.array([[2.5]])})
    expected = made.model.net.from_rows(torch.zeros(1, 3, 4), torch.tensor([[2.5]])).sigmoid()
    assert found == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_has_any_number_of_rows(exports: Exports, count: int) -> None:
    made = exports.file("opnn")
    rows = agreement.generated_rows(made.model, 5)
    (all_,) = made.session.run(["probability"], agreement.feed(made.model, rows))
    (some,) = made.session.run(
        ["probability"], {name: values[:count] for name, values in agreement.feed(made.model, rows).items()}
    )
    assert some == pytest.approx(all_[:count], abs=1e-7)
    assert some.shape == (count,)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bound"), [("float16", 2e-4), ("int8", 5e-3)])
def test_narrow_rows_change_probabilities_little(exports: Exports, kind: RowType, bound: float) -> None:
    made, whole = exports.file("opnn", kind), exports.file("opnn")
    found = agreement.check(made.session, made.model, made.scorer)
    assert 1e-7 < found.largest < bound
    assert made.scorer.bytes < whole.scorer.bytes


def test_a_row_of_int8_is_near_by_half_its_own_scale() -> None:
    """Also where rows differ in size by many orders of magnitude."""
    sizes = 10.0 ** torch.arange(-7, 3).unsqueeze(1)
    rows = torch.cat([sizes * torch.randn(10, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 8)])
    whole, scale = quantise(rows)
    assert whole.dtype == torch.int8
    assert scale.dtype == torch.float16
    half_a_step = (rows.abs().amax(1, keepdim=True) / 127 * 1.002 + 2.0**-23) / 2  # float16 ends at 2^-24
    assert ((whole * scale.float() - rows).abs() <= half_a_step).all()
    assert (whole[-1] == 0).all()


@pytest.mark.slow
def test_the_file_says_what_it_takes(exports: Exports) -> None:
    made = exports.file("dcn")
    about = json.loads(made.session.get_modelmeta().custom_metadata_map["ctr"])
    names = [f"C{i}" for i in range(1, 27)] + [f"I{i}" for i in range(1, 14)]
    assert [column["name"] for column in about["inputs"]] == names == [i.name for i in made.session.get_inputs()]
    assert about["inputs"][0] == {
        "name": "C1",
        "kind": "hex32",
        "form": "8 hexadecimal digits in lower case; '' where blank",
        "derived": "",
    }
    assert about["inputs"][-1] == {
        "name": "I13",
        "kind": "number",
        "form": "a number; NaN where blank",
        "transform": "log_count",
    }
    assert about["format"] == 1
    assert about["dataset"] == {"name": "criteo", "options": {}}
    assert about["rows"] == {"number": sum(range(26)), "dimension": 4, "type": "float32"}


@pytest.mark.slow
def test_the_file_names_derived_columns(exports: Exports) -> None:
    inputs = onnx.describe(exports.model("mlp"), exports.file("mlp").scorer)["inputs"]
    assert inputs[0]["derived"] == "the last two digits of hour, YYMMDDHH"
    assert not any(column["derived"] for column in inputs[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MADE))
def test_the_file_is_sound_and_old_versions_read_it(exports: Exports, name: str) -> None:
    path = exports.file(name).path
    library.checker.check_model(path, full_check=True)
    made = library.load(path)
    assert (made.ir_version, {opset.domain: opset.version for opset in made.opset_import}) == (
        8,
        {"": 18, "ai.onnx.ml": 3},
    )
    assert HERE.encode() not in path.read_bytes()
    assert not any("embedding" in tensor.name for tensor in made.graph.initializer)


class Renamed(nn.Module):
    """A net that cannot be exported, for one of several reasons."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        logits = rows.sum((1, 2))
        if self.why == "batch":
            return logits * torch.ones(len(rows))
        if self.why == "branch":
            return logits if bool(logits.sum() > 0) else -logits
        return torch.special.bessel_j0(logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("batch", r"takes the number of rows of a batch as fixed .*; take rows.shape\[0\]"),
        ("branch", "cannot be exported: Could not guard on data-dependent expression"),
        ("operator", "has no ONNX form: No ONNX function found for .*bessel_j0"),
    ],
)
def test_a_net_that_has_no_onnx_form_is_refused(exports: Exports, why: str, said: str) -> None:
    model = exports.model("opnn")
    with pytest.raises(CtrError, match=f"^Renamed.from_rows .*{said}") as raised:
        onnx.to_onnx(model, Scorer(Renamed(why), model.rows, "float32", Scaled(model.manifest.dense)))
    assert "\n" not in str(raised.value)


def changed(model: SavedModel, **manifest: Any) -> Any:
    """The model with another manifest."""
    other = object.__new__(SavedModel)
    other.__dict__.update(model.__dict__, manifest=replace(model.manifest, **manifest))
    return other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"num_buckets": 100}, r"hashed into buckets \(dataset.encoding=hash\), and ONNX has no operator"),
        ({"keys": "hash"}, r"keeps hashes of its values \(save.keys=hash\), and ONNX has no operator"),
        ({"dense": [("probability", "none")]}, "column probability: the file needs this name itself"),
    ],
)
def test_what_has_no_onnx_form_is_refused(exports: Exports, manifest: dict[str, Any], said: str) -> None:
    model = exports.model("opnn")
    with pytest.raises(ArgumentError, match=said):
        onnx.to_onnx(changed(model, **manifest), exports.file("opnn").scorer)


def test_a_transform_that_has_no_onnx_form_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"column price: its transform quantile has no ONNX form; .* none, log_count"
    ):
        Scaled([("price", "quantile")])


@pytest.mark.slow
def test_a_model_beyond_the_size_of_a_file_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    made = exports.file("opnn")
    monkeypatch.setattr(onnx, "MAX_BYTES", 1000)
    with pytest.raises(ArgumentError, match=r"about 0.0 GB with its 46 rows, .*; keep fewer rows .* rows=int8"):
        onnx.to_onnx(made.model, made.scorer)


def test_libraries_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(CtrError, match=r"onnxscript is not installed.*: pip install onnx onnxscript onnxruntime"):
        onnx.expect_libraries()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_a_file_that_computes_something_else_is_found(exports: Exports, kind: RowType) -> None:
    made = exports.file("opnn", kind)
    other = Scorer(made.model.net, made.model.rows.roll(1, 0), kind, Scaled(made.model.manifest.dense))
    with pytest.raises(CtrError, match=r"the ONNX file gives a row the probability .* at most 1e-0[56]"):
        agreement.check(made.session, made.model, other)


@pytest.mark.slow
def test_numbers_are_made_of_dense_columns_again(exports: Exports) -> None:
    scaled = exports.file("dcn").scorer.inputs
    assert isinstance(scaled, Scaled)
    numbers = torch.tensor([[0.0, 1, 17, 204881, 7, 7, 7, 7, 7, 7, 7, 7, 7]], dtype=torch.float64)
    assert scaled.undo(scaled(numbers)[1]).numpy() == pytest.approx(numbers.numpy(), rel=1e-6)
    blank = torch.full((1, 13), torch.nan, dtype=torch.float64)
    assert scaled(blank)[1].tolist() == [[0.0] * 13]
    assert scaled(-numbers)[1].tolist() == [[0.0] * 13]


@pytest.mark.parametrize(
    ("kind", "values", "texts"),
    [
        ("hex32", pa.array([0, None, 2**32 - 1, 0x05DB9164], pa.uint32()), ["00000000", None, "ffffffff", "05db9164"]),
        ("integer", pa.array([7, None, -3]), ["7", None, "-3"]),
        ("text", pa.array(["007", None, ""]), ["007", None, ""]),
    ],
)
def test_typed_values_become_canonical_texts(kind: Any, values: pa.Array, texts: list[str | None]) -> None:
    assert agreement.canonical(kind, values).to_pylist() == texts
    assert agreement.canonical(kind, values[1:3]).to_pylist() == texts[1:3]
