"""The files of a saved model, written whole and checked whole.

A folder with ``manifest.json`` (what the model is, what it was trained on, golden rows), ``model.safetensors`` (the
rows that are not zero, and the net), ``vocabulary.arrow`` (which value each row is of) and, where rare values share
rows, ``others.arrow`` (see `Others`). Nothing in it is code, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ctr.datasets.schema import Field, Kind, Pool
from ctr.datasets.transforms import Transform, outputs_of
from ctr.errors import ArgumentError, DataError
from ctr.files import atomic_folder, read_sealed, sealed
from ctr.training.folder import MANIFEST, MODEL
from ctr.training.tensors import Pieces, write_tensors

FORMAT = 3  # of a model with multi-valued fields; 2: of one with `Others`; all others are of format 1
WEIGHTS, VOCABULARY, OTHERS = "model.safetensors", "vocabulary.arrow", "others.arrow"
ROWS = "rows"  # the tensor of embedding rows; the net's begin with NET
NET = "net."

KeyForm = Literal["raw", "hash"]


@dataclass(frozen=True)
class SavedField:
    """A categorical column.

    Attributes:
        name, kind: as in `ctr.datasets.schema.Field`. A blank is a value like any other.
        seen, kept: distinct values seen in training, and those whose row is not zero; None where values are hashed
            into buckets, which all fields share.
    """

    name: str
    kind: Kind
    seen: int | None
    kept: int | None


@dataclass(frozen=True)
class Golden:
    """Rows with the logits that the run itself computed for them.

    Attributes:
        values: [n] rows of one value per field that the reader yields, as canonical text, None for blank; or None. Of a
            multi-valued field a list of values.
        rows: in place of values [n][F] row numbers, 0 for what reads as zero; or None. Where a field is multi-valued
            [n][F] lists of them.
        dense: [n] rows of the dense columns as the reader yields them, None for a missing number.
        logits: [n], of the net.
        probes: where keys are hashed: [F] a generated value per field, and its key; else None.
    """

    values: list[list[Any]] | None
    rows: list[list[Any]] | None
    dense: list[list[float | None]]
    logits: list[float]
    probes: list[tuple[str, int]] | None = None


@dataclass(frozen=True)
class Others:
    """What values without a row of their own read, in a model with rows for rare values (`ctr.datasets.rare`).

    Attributes:
        min_count: values that training rows held fewer times are rare.
        unseen: ``"row"``: each reads its field's own row, but for those in ``others.arrow``, which training has removed
            and which read as zero. ``"zero"``: each reads as zero, but for those in ``others.arrow``, which are rare
            and read their field's own row.
        rows: [F] number of each field's own row, from 1; 0 where it has none that is not zero.
        number: of values in ``others.arrow``. Those of fields without such a row are not there.
    """

    min_count: int
    unseen: Literal["zero", "row"]
    rows: list[int]
    number: int


@dataclass(frozen=True)
class Manifest:
    """What a saved model is.

    Attributes:
        dataset, dataset_module, dataset_options: the raw format, the module that it is in (None: this package's own),
            and its options, with what the training log has settled.
        fields: the model's categorical inputs, in its order; the last are buckets of numbers.
        dense: name of each dense column, and what the reader itself does to it.
        transforms: how the dense columns become the model's inputs, fitted in training; empty: they are the inputs.
        num_buckets: of the hashed encoding; None for exact one-hot values.
        keys: ``"raw"`` keeps the values themselves, ``"hash"`` 64-bit hashes of them.
        model, model_module, model_options, embedding_dim: the net's class and what it is made with.
        rows: number of embedding rows kept.
        backend, threads: what computed the run's figures.
        run: its figures and hashes, as in ``result.json``.
        golden: rows by which a loaded model is checked.
        others: None where every value has a row of its own, or none.
        pool: how the rows of several values become one, in a multi-valued field; None: there is none.
    """

    dataset: str
    dataset_module: str | None
    dataset_options: dict[str, Any]
    fields: list[SavedField]
    dense: list[tuple[str, str]]
    transforms: list[Transform]
    num_buckets: int | None
    keys: KeyForm
    model: str
    model_module: str | None
    model_options: dict[str, Any]
    embedding_dim: int
    rows: int
    backend: Literal["native", "torch"]
    threads: int
    run: dict[str, Any]
    golden: Golden
    others: Others | None = None
    pool: Pool | None = None

    @property
    def typed_fields(self) -> list[Field]:
        return [Field(field.name, field.kind) for field in self.fields]

    @property
    def read_fields(self) -> list[SavedField]:
        """The fields that the reader yields: all but the buckets."""
        return self.fields[: len(self.fields) - sum(transform.kind == "bucket" for transform in self.transforms)]

    @property
    def num_dense(self) -> int:
        """Number of dense inputs that the model takes."""
        return len(outputs_of(self.transforms)) if self.transforms else len(self.dense)


@dataclass(frozen=True)
class Contents:
    """A saved model as data.

    Attributes:
        manifest: what it is.
        rows: float32 [R, d], none of them zero.
        net: parameters and buffers of the net by name.
        vocabulary: R rows: ``field`` (number, null for a bucket), ``value`` (text, null for blank; or uint64: a bucket
            or a hash), ``count`` (times seen in training), ``effect`` (||D w||, D the optimizer's denominator). The
            value of a field's own row is `ctr.datasets.vocabulary.REST`.
        others: ``field`` and ``value`` of those that `Others` speaks of; None where the manifest has none.
    """

    manifest: Manifest
    rows: Tensor
    net: dict[str, Tensor]
    vocabulary: pa.Table
    others: pa.Table | None = None


def vocabulary_schema(hashed: bool) -> pa.Schema:
    """Of ``vocabulary.arrow``; hashed: its values are buckets or hashes."""
    value = pa.uint64() if hashed else pa.string()
    return pa.schema({"field": pa.uint8(), "value": value, "count": pa.int64(), "effect": pa.float32()})


def others_schema(hashed: bool) -> pa.Schema:
    """Of ``others.arrow``; hashed: its values are hashes."""
    return pa.schema([vocabulary_schema(hashed).field(name) for name in ("field", "value")])


def write(folder: Path, contents: Contents) -> None:
    """Writes a saved model; an older one at ``folder`` is replaced once the new one is on the disk.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with atomic_folder(folder) as new:
        write_files(new, contents)


def write_files(folder: Path, contents: Contents) -> None:
    """Writes the files into an empty folder; see `write`."""
    tensors = {ROWS: contents.rows} | {NET + name: tensor for name, tensor in contents.net.items()}
    write_tensors(folder / WEIGHTS, {name: Pieces.of(tensor) for name, tensor in tensors.items()})
    tables = {VOCABULARY: contents.vocabulary} | ({} if contents.others is None else {OTHERS: contents.others})
    for name, table in tables.items():
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, table.schema) as sink:
            sink.write_table(table)
    files = {name: _stamp(folder / name) for name in (WEIGHTS, *tables)}
    values = asdict(contents.manifest)
    version = FORMAT
    if contents.manifest.pool is None:  # as earlier versions read it
        version = 2
        del values["pool"]
        if contents.others is None:
            version = 1
            del values["others"]
    text = sealed({"format": version, **values, "files": files})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def locate(path: Path | str) -> Path:
    """The folder of a saved model, given it or the folder of its run.

    Raises:
        ArgumentError: there is none.
    """
    path = Path(path)
    for folder in (path, path / MODEL):
        if (folder / MANIFEST).is_file():
            return folder
    problem = f"no {MANIFEST} in it or in its folder {MODEL}" if path.is_dir() else "no such folder"
    raise ArgumentError(
        f"{path}: {problem}; expected a saved model, or the folder of a run that left one "
        "(save=model: the default, but not in sweeps and studies)"
    )


def damaged(path: Path, problem: str) -> DataError:
    """Of a file of a saved model that is not as it was written."""
    return DataError(path, None, problem).advised("copy the saved model again, or train it again")


def read(folder: Path) -> Contents:
    """Reads a saved model and checks all of it: every byte by its hash, and that the parts fit each other.

    Raises:
        DataError: damaged, incomplete, of a newer version, or not a saved model; the file is named.
    """
    manifest, files = read_manifest(folder)
    for name in (WEIGHTS, VOCABULARY, *([] if manifest.others is None else [OTHERS])):
        _check(folder / name, files.get(name))
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise damaged(folder / WEIGHTS, f"not a safetensors file: {error}") from None
    hashed = manifest.num_buckets is not None or manifest.keys == "hash"
    vocabulary = _table(folder / VOCABULARY, vocabulary_schema(hashed), manifest.rows)
    others = manifest.others and _table(folder / OTHERS, others_schema(hashed), manifest.others.number)
    rows = tensors.pop(ROWS, None)
    expected = (manifest.rows, manifest.embedding_dim)
    if rows is None or tuple(rows.shape) != expected or rows.dtype != torch.float32:
        found = "none" if rows is None else f"{rows.dtype} {list(rows.shape)}"
        raise damaged(folder / WEIGHTS, f"rows: {found}; expected torch.float32 {list(expected)}")
    if not all(bool(tensor.isfinite().all()) for tensor in (rows, *tensors.values()) if tensor.is_floating_point()):
        raise damaged(folder / WEIGHTS, "holds NaN or infinity")
    if strange := [name for name in tensors if not name.startswith(NET)]:
        raise damaged(folder / WEIGHTS, f"an unknown tensor {strange[0]}")
    net = {name.removeprefix(NET): tensor for name, tensor in tensors.items()}
    return Contents(manifest, rows, net, vocabulary, others)


def read_manifest(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest of a saved model, and size and hash of its other files by name; errors are those of `read`."""
    path = folder / MANIFEST
    try:
        values = read_sealed(path)
    except DataError as damage:
        raise damaged(path, damage.problem) from None
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from None
    version = values.pop("format", None)
    if not isinstance(version, int):
        raise damaged(path, "not of a saved model (it names no format)")
    if version > FORMAT:
        raise DataError(
            path, None, f"format {version}, of a newer version of ctr; this one reads up to {FORMAT}: update ctr"
        )
    try:
        files = values.pop("files")
        golden = values.pop("golden")
        if golden["probes"] is not None:
            golden["probes"] = [tuple(probe) for probe in golden["probes"]]
        fields = [SavedField(**field) for field in values.pop("fields")]
        dense = [(str(name), str(transform)) for name, transform in values.pop("dense")]
        transforms = [Transform.from_json(transform) for transform in values.pop("transforms")]
        others = values.pop("others", None)
        values |= {"golden": Golden(**golden), "others": others and Others(**others)}
        return Manifest(fields=fields, dense=dense, transforms=transforms, **values), dict(files)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise damaged(path, f"not a manifest of format {version}") from None


def _stamp(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check(path: Path, stamp: Mapping[str, Any] | None) -> None:
    """DataError unless a file is as it was written."""
    try:
        size = path.stat().st_size
        if stamp is None or size != stamp["bytes"]:
            expected = "no such file" if stamp is None else f"{stamp['bytes']:,}"
            raise damaged(path, f"{size:,} bytes; expected {expected}")
        if _stamp(path) != stamp:
            raise damaged(path, "not as it was written (checksum)")
    except FileNotFoundError:
        raise damaged(path, "no such file: the saved model is not complete") from None
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from None


def _table(path: Path, schema: pa.Schema, rows: int) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, f"not a sound Arrow file: {str(error).splitlines()[0]}") from None
    if table.schema != schema or table.num_rows != rows:
        raise damaged(path, f"{table.num_rows:,} rows that do not fit the manifest's {rows:,}")
    return table.combine_chunks()
