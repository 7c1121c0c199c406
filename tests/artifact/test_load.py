"""Loading checks everything: bytes, parts, and that the model still computes what it did."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import ctr
from ctr.artifact import format, lookup
from ctr.errors import ArgumentError, DataError
from ctr.files import sealed
from ctr.native.library import available
from tests.artifact.runs import trained
from tests.commands import composed, job

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved model of one's own, to be damaged."""
    return shutil.copytree(trained("dataset=criteo").folder / "model", tmp_path / "model")


def resealed(folder: Path, change: Callable[[dict[str, Any]], object] = lambda values: None) -> None:
    """Changes a manifest as somebody would who means it: with new checksums."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["checksum"]
    for name in values["files"]:
        values["files"][name] = format._stamp(folder / name)
    change(values)
    path.write_text(sealed(values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("manifest.json", cut, r"manifest\.json: not JSON; copy the saved model again, or train it again$"),
        ("manifest.json", flip, r"manifest\.json: not (JSON|as it was written \(checksum\))"),
        ("manifest.json", Path.unlink, r"model: no manifest\.json in it"),
        ("model.safetensors", cut, r"model\.safetensors: [\d,]+ bytes; expected [\d,]+"),
        ("model.safetensors", flip, r"model\.safetensors: not as it was written \(checksum\); copy the saved"),
        ("model.safetensors", Path.unlink, r"model\.safetensors: no such file: the saved model is not complete"),
        ("vocabulary.arrow", cut, r"vocabulary\.arrow: [\d,]+ bytes; expected [\d,]+"),
        ("vocabulary.arrow", flip, r"vocabulary\.arrow: not as it was written \(checksum\)"),
        ("vocabulary.arrow", Path.unlink, r"vocabulary\.arrow: no such file: the saved model is not complete"),
    ],
)
def test_damage_is_named(model: Path, name: str, damage: Callable[[Path], object], said: str) -> None:
    damage(model / name)
    with pytest.raises((DataError, ArgumentError), match=said):
        ctr.load(model)


def rows_changed(folder: Path) -> None:
    """All embedding rows, so that those of the golden rows are among them."""
    tensors = load_file(folder / "model.safetensors")
    tensors["rows"] = tensors["rows"] * 1.01
    save_file(tensors, folder / "model.safetensors")


def net_changed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["net.output.bias"] = tensors["net.output.bias"] + 1e-3
    save_file(tensors, folder / "model.safetensors")


def values_changed(folder: Path) -> None:
    """The values of two rows of each field change places."""
    table = pa.ipc.open_file(folder / "vocabulary.arrow").read_all()
    fields, values = table["field"].to_numpy(), table["value"].to_pylist()
    for field in np.unique(fields):
        of = np.flatnonzero(fields == field).tolist()
        for here, value in zip(of, [values[row] for row in reversed(of)], strict=True):
            values[here] = value
    changed = table.set_column(1, "value", pa.array(values, pa.string()))
    with pa.OSFile(str(folder / "vocabulary.arrow"), "wb") as file, pa.ipc.new_file(file, changed.schema) as sink:
        sink.write_table(changed)


@pytest.mark.parametrize("change", [rows_changed, net_changed, values_changed])
def test_golden_rows_tell_a_model_that_computes_otherwise(model: Path, change: Callable[[Path], None]) -> None:
    change(model)
    resealed(model)
    with pytest.raises(DataError, match=r"golden row \d+ has logit -?\d\.\d+, but -?\d\.\d+ when the model was saved"):
        ctr.load(model)


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["rows"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors")


def fewer_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "rows": tensors["rows"][1:].clone()}, folder / "model.safetensors")


def other_net(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["net.output.bias"]
    save_file(tensors, folder / "model.safetensors")


def twice(folder: Path) -> None:
    table = pa.ipc.open_file(folder / "vocabulary.arrow").read_all()
    doubled = pa.concat_tables([table.slice(0, 1), table.slice(0, table.num_rows - 1)])
    with pa.OSFile(str(folder / "vocabulary.arrow"), "wb") as file, pa.ipc.new_file(file, doubled.schema) as sink:
        sink.write_table(doubled)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (not_finite, r"model\.safetensors: holds NaN or infinity"),
        (fewer_rows, r"model\.safetensors: rows: torch\.float32 \[\d+, 8\]; expected torch\.float32 \[\d+, 8\]"),
        (other_net, r"model\.safetensors: the net is .*; model=dcn has .*output\.bias"),
        (twice, r"vocabulary\.arrow: a value is there twice"),
        (lambda folder: (folder / "vocabulary.arrow").write_bytes(b"x"), r"vocabulary\.arrow: not a sound Arrow file"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            r"model\.safetensors: not a safetensors file",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(model: Path, change: Callable[[Path], object], said: str) -> None:
    change(model)
    resealed(model)
    with pytest.raises(DataError, match=said):
        ctr.load(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 4}, "format 4, of a newer version of ctr; this one reads up to 3: update ctr"),
        ({"format": None}, r"not of a saved model \(it names no format\)"),
        ({"fields": "C1"}, "not a manifest of format 1"),
        ({"strange": 1}, "not a manifest of format 1"),
        ({"dataset_options": {"hour": "raw"}}, r"dataset=criteo: make\(\) got an unexpected keyword argument 'hour'"),
        ({"model_options": {"hidden": []}}, r"model=dcn: hidden=\[\]; expected at least one layer"),
        ({"dense": []}, "its columns are not those of dataset=criteo in this version"),
    ],
)
def test_another_manifest_is_told(model: Path, change: dict[str, Any], said: str) -> None:
    resealed(model, lambda values: values.update(change))
    with pytest.raises(DataError, match=said):
        ctr.load(model)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"nothing: no such folder; expected a saved model, or the folder of a run"):
        ctr.load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"manifest\.json: not of a saved model"):
        ctr.load(trained("dataset=criteo").data.folder)  # prepared rows have a manifest too


def test_a_version_that_hashes_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dataset=avazu", "save.keys=hash")
    ctr.load(run.folder)
    monkeypatch.setattr(lookup, "_SALTS", (np.uint64(1), np.uint64(2)))
    with pytest.raises(DataError, match="hashes values otherwise than the one that saved it"):
        ctr.load(run.folder)


def test_buckets_of_another_hash_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dataset=avazu", "dataset.encoding=hash")
    ctr.load(run.folder)
    shifted = lookup.hash_ids
    monkeypatch.setattr(lookup, "hash_ids", lambda keys, buckets: shifted(keys + np.uint64(1), buckets))
    with pytest.raises(DataError, match="golden row"):
        ctr.load(run.folder)


@pytest.mark.skipif(not available(), reason="the compiled kernels are not available")
def test_backends_agree() -> None:
    run = trained("dataset=ipinyou", "backend=native")
    native, torch_ = ctr.load(run.folder), ctr.load(run.folder, backend="torch")
    assert (native.backend, torch_.backend) == ("native", "torch")
    ids = np.random.default_rng(0).integers(len(native.rows), size=(50, 16), dtype=np.int32)
    np.testing.assert_allclose(native.logits(ids), torch_.logits(ids), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ctr.load(run.folder, threads=1).logits(ids), native.logits(ids))


def test_without_compiled_code_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr.native.library.library", lambda: None)
    run = trained("dataset=criteo")
    assert ctr.load(run.folder).backend == "torch"
    with pytest.raises(ArgumentError, match="backend=native cannot serve this model: the compiled kernels are"):
        ctr.load(run.folder, backend="native")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run whose dataset, model and optimizer are of another package."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    log = "2024-05-01|1|4711|red shoes for men|19.90\n2024-05-01|0|12|a hat|\n2024-05-02|0|4711|red shoes|1e1\n"
    Path("log.txt").write_text("".join(sorted(log.splitlines(keepends=True) * 20)))
    names = ["dataset=shop", "dataset.raw=log.txt", "dataset.prepared=prepared", "model=nfm", "opt=group_rmsprop"]
    place = ["hydra.searchpath=[pkg://ctr_shop.conf]", "tracking=none", "batch_size=16", "opt.lambda21=0"]
    job(composed("train", *place, *names), tmp_path / "run")
    yield tmp_path / "run"
    for name in [name for name in sys.modules if name.partition(".")[0] == "ctr_shop"]:
        del sys.modules[name]


def test_code_of_another_package_is_imported_only_if_that_is_allowed(shop: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ctr_shop"]:
        del sys.modules[name]
    with pytest.raises(ArgumentError, match=r"its dataset is code of another package, module ctr_shop\.log; if"):
        ctr.load(shop)
    assert "ctr_shop.log" not in sys.modules
    model = ctr.load(shop, allow_module=True)
    assert type(model.net).__name__ == "NFM"
    # Its dataset does not say how raw columns become inputs: they are given as its reader yields them.
    p = model.predict({"user": [4711, 12, None], "title": ["red shoes", "a hat", "new"], "price": [2.3, None, 0]})
    ids = model.encode([pa.array([4711, 12, None]), pa.array(["red shoes", "a hat", "new"])])
    assert ids[2].tolist() == [0, 0]
    assert (ids[:2] > 0).all()
    z = model.logits(ids, np.array([[2.3], [0], [0]], np.float32))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-z.astype(float))), rtol=1e-6)
