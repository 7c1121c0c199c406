"""A saved model as one ONNX file, from the log's values to the click probability, for whatever runs ONNX.

Each column of the log is an input of its name. A LabelEncoder per field turns values into row numbers, unknown ones
into 0 (the row of zeros) or that of the field's rare values; numbers go through their transforms, some of which give
row numbers too. The rows are gathered, widened where they are stored narrow, and go with the numbers through the net
and a sigmoid. The file's metadata describes its inputs.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import torch
from torch import Tensor

from ctr import __version__
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import Scorer
from ctr.errors import ArgumentError, CtrError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto
    from onnxruntime import InferenceSession

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")  # of the extra ``export``
FORMAT = 1  # of the metadata
METADATA, OUTPUT = "ctr", "probability"
PREFIX = "ctr/"  # of all names within the graph: the others are columns
OPSET, ML_OPSET, IR_VERSION = 18, 3, 8  # those of onnxruntime 1.14 (2023): old enough for what is in use
MAX_BYTES = 2**31 - 1  # of a protocol buffer
NEVER = "\0"  # a value of no log: the readers refuse it
FORMS = {
    "hex32": "8 hexadecimal digits in lower case; '' where blank",
    "integer": "decimal digits, '-' before a negative number, no leading zeros, no point; '' where blank",
    "text": "the text of the log, UTF-8; '' where blank",
    "number": "a number; NaN where blank",
}


def expect_libraries() -> None:
    """CtrError, with what to install, unless the libraries of the extra ``export`` are there."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise CtrError(f"{missing[0]} is not installed, and an export needs it: pip install {' '.join(LIBRARIES)}")


def write(path: Path, made: ModelProto) -> None:
    """Writes the file."""
    path.write_bytes(made.SerializeToString())


def session(path: Path, threads: int = 1) -> InferenceSession:
    """Opens the file to run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def to_onnx(model: SavedModel, scorer: Scorer) -> ModelProto:
    """The graph of a saved model.

    Args:
        model: with exact one-hot values, kept as they are.
        scorer: of its net and rows.

    Raises:
        ArgumentError: something of the model has no ONNX form, or the file would be too large.
        CtrError: the net has an operator that torch cannot export.
    """
    _expect_values(model)
    _expect_size(model, scorer)
    from onnx import TensorProto, compose, helper

    manifest = model.manifest
    columns, dense = [field.name for field in manifest.read_fields], [name for name, _ in manifest.dense]
    if taken := [name for name in (*columns, *dense) if name == OUTPUT or name.startswith(PREFIX)]:
        raise ArgumentError(f"column {taken[0]}: the file needs this name itself; rename the column")
    net = compose.add_prefix(_net(scorer, len(columns), len(dense)), PREFIX).graph
    kinds = dict.fromkeys(columns, TensorProto.STRING) | dict.fromkeys(dense, TensorProto.DOUBLE)
    graph = helper.make_graph(
        [
            *_lookup(model),
            helper.make_node("Concat", [_row_of(name) for name in columns], [f"{PREFIX}ids"], axis=1),
            *([helper.make_node("Concat", dense, [f"{PREFIX}numbers"], axis=1)] if dense else []),
            *net.node,
            helper.make_node("Sigmoid", [f"{PREFIX}logits"], [OUTPUT]),
        ],
        f"{manifest.dataset} {manifest.model}",
        [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch"])],
        net.initializer,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    made: ModelProto = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ctr", producer_version=__version__
    )
    helper.set_model_props(made, {METADATA: json.dumps(describe(model, scorer))})
    return made


def describe(model: SavedModel, scorer: Scorer) -> dict[str, Any]:
    """What the file says of itself: what it takes, in which form, and where it is from."""
    manifest = model.manifest
    transforms = {transform.name: transform.kind for transform in manifest.transforms}
    inputs = [
        {"name": field.name, "kind": field.kind, "form": FORMS[field.kind], "derived": field.derived}
        for field in model.dataset.read_fields
    ]
    inputs += [
        {"name": name, "kind": "number", "form": FORMS["number"], "transform": transforms.get(name, scaling)}
        for name, scaling in manifest.dense
    ]
    return {
        "format": FORMAT,
        "inputs": inputs,
        "output": {"name": OUTPUT, "form": "float32 [batch], the click probability"},
        "dataset": {"name": manifest.dataset, "options": manifest.dataset_options},
        "model": {"name": manifest.model, "options": manifest.model_options},
        "rows": {"number": manifest.rows, "dimension": manifest.embedding_dim, "type": scorer.kind},
        "run": manifest.run,
    }


def _expect_values(model: SavedModel) -> None:
    manifest = model.manifest
    if several := [field.name for field in model.dataset.fields if field.multi]:
        raise ArgumentError(
            f"{model.folder}: a row has several values of {', '.join(several)} (dataset.multi), and the file takes one "
            "value of each column; serve the saved model itself: ctr.load, ctr.predict or MLflow"
        )
    if manifest.num_buckets is not None:
        raise ArgumentError(
            f"{model.folder}: its values are hashed into buckets (dataset.encoding=hash), and ONNX has no operator for "
            "the hash; train with dataset.encoding=onehot"
        )
    if manifest.keys == "hash":
        raise ArgumentError(
            f"{model.folder}: it keeps hashes of its values (save.keys=hash), and ONNX has no operator for the hash; "
            "save it with save.keys=raw"
        )


def _expect_size(model: SavedModel, scorer: Scorer) -> None:
    values = model.vocabulary["value"]
    known = [values] if model.others is None else [values, model.others["value"]]
    size = sum(some.nbytes + 10 * len(some) for some in known) + scorer.bytes
    if size > MAX_BYTES:
        raise ArgumentError(
            f"{model.folder}: about {size / 1e9:.1f} GB with its {len(values):,} rows, and an ONNX file holds at most "
            "2.1 GB; keep fewer rows (a larger opt.lambda21) or store them as rows=float16 or rows=int8"
        )


def _row_of(column: str) -> str:
    return f"{PREFIX}row of {column}"


def _lookup(model: SavedModel) -> Iterator[NodeProto]:
    """A LabelEncoder per field: values to row numbers."""
    from onnx import helper

    for number, field in enumerate(model.manifest.read_fields):
        values, rows, default = model.dictionary(number)
        texts = pc.fill_null(values, "").to_pylist()
        yield helper.make_node(
            "LabelEncoder",
            [field.name],
            [_row_of(field.name)],
            domain="ai.onnx.ml",
            keys_strings=texts or [NEVER],
            values_int64s=rows.tolist() or [0],
            default_int64=default,
        )


def _net(scorer: Scorer, fields: int, dense: int) -> ModelProto:
    """The scorer as torch exports it: ``ids`` [batch, F] and, if any, ``numbers`` [batch, K] to ``logits`` [batch]."""
    batch = torch.export.Dim("batch")
    example: list[Tensor] = [torch.zeros(2, fields, dtype=torch.int64)]
    if dense:
        example.append(torch.zeros(2, dense, dtype=torch.float64))
    name = type(scorer.net).__name__
    with _quiet():
        try:
            program = torch.export.export(scorer, tuple(example), dynamic_shapes=({0: batch},) * len(example))
        except Exception as error:  # of many classes, none of them public
            raise CtrError(f"{name}.from_rows cannot be exported: {_reason(error)}") from error
        try:
            made = torch.onnx.export(
                program,
                (),
                input_names=["ids", "numbers"][: len(example)],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CtrError(f"{name}.from_rows has no ONNX form: {_reason(error)}") from error
    assert made is not None
    proto: ModelProto = made.model_proto
    _strip(proto.graph)
    return proto


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, which names what is in the way."""
    if "Constraints violated" in str(error):
        return "it takes the number of rows of a batch as fixed (len(rows), int(...)); take rows.shape[0]"
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _strip(graph: GraphProto) -> None:
    """Takes out what torch notes of the code at each node: paths of this machine."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    graph.ClearField("value_info")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch and onnxscript say of themselves while they export from the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
