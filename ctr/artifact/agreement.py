"""How far an exported file and the saved model that it was made of agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ctr.artifact.lookup import typed_columns
from ctr.artifact.onnx import OUTPUT
from ctr.artifact.saved import SavedModel, sigmoid
from ctr.artifact.scorer import Scaled, Scorer
from ctr.datasets.schema import Kind, Reading
from ctr.datasets.transforms import Transform
from ctr.errors import ArgumentError, CtrError
from ctr.metrics import exact_auc
from ctr.progress import rows_bar

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE, MOST = 1e-6, 1e-5  # of a probability; where the saved model's own rounding shows, twice that, up to MOST
GENERATED_ROWS, BATCH = 512, 8192
BLANK_SHARE, UNSEEN_SHARE, USUAL_SHARE = 0.1, 0.1, 0.8


@dataclass(frozen=True)
class Rows:
    """Rows as they are in a log.

    Attributes:
        texts: one array of canonical texts [n] per field, null for blank.
        numbers: float64 [n, K], NaN where blank.
    """

    texts: list[pa.Array]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Difference:
    """Of probabilities: the file's and the saved model's.

    Attributes:
        rows: compared.
        largest, mean: of the absolute differences.
    """

    rows: int
    largest: float
    mean: float


def golden_rows(model: SavedModel) -> Rows:
    """The rows that the model was saved with; what the reader did to their numbers is undone."""
    golden, manifest = model.manifest.golden, model.manifest
    assert golden.values is not None
    columns = zip(*golden.values, strict=True)
    dense = np.array(golden.dense, np.float32).reshape(len(golden.values), len(manifest.dense))  # None: NaN
    return Rows([pa.array(column, pa.string()) for column in columns], _raw(model, dense))


def generated_rows(model: SavedModel, count: int = GENERATED_ROWS, seed: int = 0) -> Rows:
    """Rows of random values of the vocabulary, with some that are blank and some that it does not have."""
    random = np.random.default_rng(seed)
    texts = []
    for number, field in enumerate(model.manifest.read_fields):
        values, _, _ = model.dictionary(number)
        kinds = random.random(count)
        column = _unseen(field.kind, random, count)
        if len(values):
            taken = values.take(pa.array(random.choice(len(values), count)))
            column = pc.if_else(pa.array(kinds < 1 - UNSEEN_SHARE), taken, column)
        texts.append(pc.if_else(pa.array(kinds < BLANK_SHARE), pa.scalar(None, pa.string()), column))
    size = count, len(model.manifest.dense)
    missing = random.random(size) < BLANK_SHARE
    numbers = random.integers(-2, 1000, size).astype(float)
    for place, transform in enumerate(model.manifest.transforms):
        usual = random.random(count) < USUAL_SHARE
        numbers[usual, place] = _numbers_of(transform, random, int(usual.sum()))
    return Rows(texts, np.where(missing, np.nan, numbers))


def _numbers_of(transform: Transform, random: np.random.Generator, count: int) -> np.ndarray:
    """Numbers about where a transform was fitted, its knots among them."""
    if transform.knots:
        return random.choice(transform.knots, count) * random.choice([1, 1, 1.01], count)
    inputs = random.normal(size=(count, max(len(transform.outputs), 1)))
    return replace(transform, indicator=False).undo(inputs)


def _unseen(kind: Kind, random: np.random.Generator, count: int) -> pa.Array:
    shown = {"hex32": "{:08x}", "integer": "{}", "text": "unseen {}"}[kind]
    return pa.array([shown.format(number) for number in random.integers(1 << 32, size=count).tolist()])


def feed(model: SavedModel, rows: Rows) -> dict[str, np.ndarray]:
    """The inputs of the file."""
    manifest = model.manifest
    texts = [pc.fill_null(column, "").to_numpy(zero_copy_only=False)[:, None] for column in rows.texts]
    numbers = [rows.numbers[:, [number]] for number in range(len(manifest.dense))]
    names = [*(field.name for field in manifest.read_fields), *(name for name, _ in manifest.dense)]
    return dict(zip(names, [*texts, *numbers], strict=True))


def check(session: InferenceSession, model: SavedModel, scorer: Scorer) -> Difference:
    """Runs the file on the golden rows and on generated ones.

    Args:
        session: of the file.
        model: that it was made of.
        scorer: what it computes, with its rows as they are stored.

    Raises:
        CtrError: it does not compute that.
    """
    rows = _joined(golden_rows(model), generated_rows(model))
    return compare(session, model, scorer, rows)


def compare(session: InferenceSession, model: SavedModel, scorer: Scorer, rows: Rows) -> Difference:
    """Runs the file on some rows; see `check`."""
    columns, found = typed_columns(model.manifest.read_fields, rows.texts), probabilities(session, model, rows)
    numbers = torch.from_numpy(rows.numbers) if model.manifest.dense else None
    with torch.no_grad():
        ids = model.encode(columns)
        assert isinstance(ids, np.ndarray)  # `ctr.artifact.onnx` refuses multi-valued fields
        stored = scorer(torch.from_numpy(ids).long(), numbers).sigmoid().numpy()
        read = rows.numbers.astype(np.float32)
        if isinstance(scorer.inputs, Scaled):
            read = scorer.inputs(torch.from_numpy(rows.numbers))[1].numpy()
    own = sigmoid(model.logits(*model.take(columns, read)))
    whole = scorer.kind == "float32"  # else its rows are rounded
    rounding = float(np.abs(stored - own).max()) if whole else 0.0  # the same net, summed in two orders
    tolerance = min(max(TOLERANCE, 2 * rounding), MOST)
    for expected in (stored, own) if whole else (stored,):
        worst = int(np.argmax(np.abs(found - expected)))
        if not abs(found[worst] - expected[worst]) <= tolerance:  # NaN too
            raise CtrError(
                f"the ONNX file gives a row the probability {found[worst]:.7f}, the saved model {expected[worst]:.7f}; "
                f"expected a difference of at most {tolerance:g}: either dense columns are so large that rounding "
                "shows, or the versions of torch, onnxscript and onnxruntime do not fit together"
            )
    differences = np.abs(found - own)
    return Difference(len(rows), float(differences.max()), float(differences.mean()))


def probabilities(session: InferenceSession, model: SavedModel, rows: Rows) -> np.ndarray:
    """What the file gives, float64 [n]."""
    (found,) = session.run([OUTPUT], feed(model, rows))
    return np.asarray(found, np.float64)


@dataclass(frozen=True)
class Aucs:
    """Of the file and of the saved model, on the same rows; and the largest difference of their probabilities."""

    rows: int
    file: float
    model: float
    largest: float


def locate(model: SavedModel, raw: Path) -> list[Path]:
    """The files of a log with labels.

    Raises:
        ArgumentError: there are none.
    """
    if not raw.exists():
        raise ArgumentError(f"raw={raw}: no such file or folder")
    return model.dataset.locate(raw)


def aucs(session: InferenceSession, model: SavedModel, scorer: Scorer, paths: Sequence[Path]) -> Aucs:
    """Runs both on a log with labels, with a bar.

    Args:
        session, model, scorer: as in `check`.
        paths: the log's files, as the dataset locates them.
    """
    labels, weights, file, own = [], [], [], []
    reading = Reading(paths, "error")
    count = 0
    with rows_bar("AUC") as progress:
        for block in model.dataset.read(paths, reading):
            assert block.label is not None
            for start in range(0, len(block.label), BATCH):
                part = slice(start, start + BATCH)
                fields, dense = [values[part] for values in block.fields], block.dense[part]
                rows = _as_in_log(model, fields, dense)
                labels.append(block.label[part])
                if block.weight is not None:
                    weights.append(block.weight[part])
                file.append(probabilities(session, model, rows))
                own.append(model.logits(*model.take(fields, dense)))
            count += len(block.label)
            progress(count, reading.fraction)
    label, weight = np.concatenate(labels), np.concatenate(weights) if weights else None
    found, logits = np.concatenate(file), np.concatenate(own)
    largest = float(np.abs(found - sigmoid(logits)).max())
    return Aucs(count, exact_auc(found, label, weight), exact_auc(logits, label, weight), largest)


def _as_in_log(model: SavedModel, fields: Sequence[pa.Array], dense: np.ndarray) -> Rows:
    texts = [canonical(field.kind, values) for field, values in zip(model.manifest.read_fields, fields, strict=True)]
    return Rows(texts, _raw(model, dense))


def _raw(model: SavedModel, dense: np.ndarray) -> np.ndarray:
    """The log's numbers, float64 [n, K], of what the reader makes of them, float32 [n, K]."""
    return Scaled(model.manifest.dense).undo(torch.from_numpy(dense)).numpy()


def canonical(kind: Kind, values: pa.Array) -> pa.Array:
    """A field's values, as a reader yields them, as canonical texts, null for blank."""
    if kind != "hex32":
        return pc.cast(values, pa.string())
    digits = values.fill_null(0).to_numpy().astype(">u4").tobytes().hex().encode()
    offsets = np.arange(0, len(digits) + 1, 8, dtype=np.int32)
    texts = pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])
    return pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))


def _joined(one: Rows, two: Rows) -> Rows:
    texts = [pa.concat_arrays(pair) for pair in zip(one.texts, two.texts, strict=True)]
    return Rows(texts, np.concatenate([one.numbers, two.numbers]))
