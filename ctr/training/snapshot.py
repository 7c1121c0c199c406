"""The state of a training run as plain values and tensors, and back. Rows that no batch has held are left out.

Such a row has the initial value that the seed gives it, and no optimizer state: a run at its first row has it already.
All others are in one or more parts, each a file with the tensors ``rows``, each as [w | u | the optimizer's buffers] in
the order of their ids, ``marks``, the bits of which rows of a table these are, and ``table``, [r, R, n]: row i < n of
this table is that of feature r + R i. A row that is in several parts is as in the last one of them. Options of the
optimizers are not stored: a run is built with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ctr.errors import CtrError
from ctr.native import library as native
from ctr.training.optimizers import is_of_rows
from ctr.training.tensors import Pieces
from ctr.training.trainer import TrainingRun

ROWS, MARKS, TABLE = "rows", "marks", "table"
PIECE = 1 << 25  # bytes of rows, about, that are copied or written at a time
TOGETHER = 1024  # rows of 4-byte numbers that always are whole pages


@dataclass(frozen=True)
class Snapshot:
    """What one moment of a run is, but for its rows.

    Attributes:
        values: the run's `state_dict` as JSON values; a tensor is ``{"tensor": name}``, one of bools ``{"bits":
            name, "shape": shape}``, an array ``{"array": name}``.
        columns: what the parts of a row are: ``weight``, ``u``, and the optimizer's buffers.
        tensors: by name.
    """

    values: dict[str, Any]
    columns: list[str]
    tensors: dict[str, Pieces]


def take(run: TrainingRun) -> Snapshot:
    """The state of a run between two steps, a copy. Its rows are those of `part`."""
    embedding, optimizer = run.model.embedding, run.learner.row_optimizer
    columns = ["weight", "u", *optimizer.buffers]
    optimizer.ensure_state(embedding.weight)
    state = run.state_dict()
    del state["model"]["embedding.weight"]
    for name in ("row_optimizer", "net_optimizer"):
        del state["step"][name]["param_groups"]
    rows_state = state["step"]["row_optimizer"]["state"]
    rows_state[0] = {name: value for name, value in rows_state[0].items() if name not in columns}
    state = _of_each_row(state, embedding.whole, len(embedding.weight))
    tensors: dict[str, Pieces] = {}
    values = _encoded(state, "", tensors)
    return Snapshot(values, columns, tensors)


def part(run: TrainingRun, marked: np.ndarray) -> dict[str, Pieces]:
    """Some rows of a run, which are read when they are written.

    The run may go on meanwhile. Then a row that a step changes may be read half old and half new, and has to be in a
    later part too.

    Args:
        run: the run.
        marked: bool [n], which rows of its table.
    """
    tables = run.learner.tables
    dtype, shape = tables[0].dtype, (int(np.count_nonzero(marked)), sum(table.shape[1] for table in tables))
    place = torch.tensor([*run.model.embedding.place, len(marked)])
    rows = Pieces(dtype, shape, _marked(tables, marked, *shape))
    return {ROWS: rows, MARKS: Pieces.of(torch.from_numpy(np.packbits(marked))), TABLE: Pieces.of(place)}


def _marked(tables: Sequence[Tensor], marked: np.ndarray, count: int, width: int) -> Iterator[Tensor]:
    """The rows that are marked, in pieces that share one memory."""
    by = max(PIECE // (width * tables[0].dtype.itemsize) // TOGETHER, 1) * TOGETHER
    memory: np.ndarray | None = None
    # A range with about one piece of marked rows. On another device a whole range is copied, so that it is one piece.
    step = by * max(len(marked) // max(count, 1), 1) if tables[0].device.type == "cpu" else by
    for start in range(0, len(marked), step):
        ids = np.flatnonzero(marked[start : start + step])
        if not len(ids):
            continue
        # numpy: this may be a thread beside the one that trains, and torch would use further ones.
        near = [table[start : start + step].cpu().numpy() for table in tables]
        if memory is None:
            memory = _memory(by, width, near[0].dtype)
        for at in range(0, len(ids), by):
            piece = ids[at : at + by]
            copy, filled = memory[: len(piece)], 0
            for rows in near:
                into = copy[:, filled : filled + rows.shape[1]]
                filled += rows.shape[1]
                if len(piece) == len(rows):
                    np.copyto(into, rows)
                else:
                    np.take(rows, piece, axis=0, out=into, mode="clip")
            yield torch.from_numpy(copy)


def _memory(count: int, width: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Rows to be filled; where there are compiled kernels they begin with a page."""
    if not native.available():
        return np.empty((count, width), dtype)
    return native.allocate(count * width * dtype.itemsize // 4).view(dtype).reshape(count, width)


def _encoded(value: Any, name: str, tensors: dict[str, Pieces]) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        tensors[name] = Pieces.of(torch.from_numpy(np.packbits(value.detach().cpu().numpy())))
        return {"bits": name, "shape": [*value.shape]}
    if isinstance(value, Tensor | np.ndarray):
        kind, whole = ("tensor", value) if isinstance(value, Tensor) else ("array", torch.from_numpy(value))
        tensors[name] = Pieces.of(whole.detach().cpu().clone())
        return {kind: name}
    below = f"{name}." if name else ""
    if isinstance(value, dict):
        return {str(key): _encoded(inner, f"{below}{key}", tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(inner, f"{below}{number}", tensors) for number, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CtrError(f"{name} of the run's state is of type {type(value).__name__}, which a checkpoint does not store")


def _decoded(value: Any, read: Callable[[str], Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(inner, read) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return read(value["tensor"])
    if value.keys() == {"bits", "shape"}:
        bits = np.unpackbits(read(value["bits"]).numpy(), count=prod(value["shape"]))
        return torch.from_numpy(bits.astype(bool)).view(value["shape"])
    if value.keys() == {"array"}:
        return read(value["array"]).numpy()
    # JSON has no whole numbers as keys; the optimizers' states have.
    return {int(key) if key.isdecimal() else key: _decoded(inner, read) for key, inner in value.items()}


@dataclass(frozen=True)
class Part:
    """Some rows of a snapshot in their file.

    Attributes:
        ids: int64 [n]: the features that they belong to, ascending.
        rows: ``rows[start:stop]`` reads some of the [n, width].
    """

    ids: Tensor
    rows: Any


@dataclass(frozen=True)
class Stored:
    """A snapshot in its files.

    Attributes:
        state: as of `TrainingRun.state_dict`, without the table's rows and the optimizers' options.
        columns: of a row, each d values wide: ``weight``, ``u``, and the optimizer's buffers.
        parts: the rows; one that is in several parts is as in the last of them. The state at the end of training has
            a part for each worker.
    """

    state: dict[str, Any]
    columns: list[str]
    parts: list[Part]


@contextmanager
def opened(path: Path, values: dict[str, Any], columns: list[str], parts: Sequence[Path]) -> Iterator[Stored]:
    """A snapshot in the safetensors files that it was written to.

    Args:
        path: the file of all but the rows.
        values, columns: as of the `Snapshot`.
        parts: the files of its rows.
    """
    with ExitStack() as held:
        file, *of_rows = (held.enter_context(safe_open(place, framework="pt")) for place in (path, *parts))
        state = _decoded(values, lambda name: file.get_tensor(name).clone())  # else they hold on to the file
        yield Stored(state, columns, [Part(_ids(part), part.get_slice(ROWS)) for part in of_rows])


def _ids(part: Any) -> Tensor:
    first, step, rows = part.get_tensor(TABLE).tolist()
    places = np.flatnonzero(np.unpackbits(part.get_tensor(MARKS).numpy(), count=rows))
    return torch.from_numpy(first + step * places)


def _of_each_row(state: dict[str, Any], turn: Callable[[Tensor], Tensor], count: int) -> dict[str, Any]:
    """A run's state with what it holds for each of the ``count`` rows of its table, beside the rows themselves, turned:
    from a worker's rows to all features, or back."""
    model, step, schedule = state["model"], state["step"], state["schedule"]
    model["embedding.seen"] = turn(model["embedding.seen"])
    states = step["row_optimizer"]["state"]
    for name, value in states[0].items():
        if is_of_rows(value, count):
            states[0][name] = turn(value)
    if schedule is not None and "buckets" in schedule:
        schedule["buckets"] = [turn(buckets) for buckets in schedule["buckets"]]
    return state


def restore(run: TrainingRun, stored: Stored) -> None:
    """Takes up a snapshot.

    Args:
        run: at its first row, built as the one of the snapshot was; the backend may be another.
        stored: the snapshot; its state is used up.

    Raises:
        ValueError: the snapshot does not fit the run.
    """
    embedding, optimizer = run.model.embedding, run.learner.row_optimizer
    weight, mine = embedding.weight.detach(), optimizer.ensure_state(embedding.weight)
    columns, state = ["weight", "u", *optimizer.buffers], stored.state
    count, dim = embedding.num_features, weight.shape[1]
    width = len(columns) * dim
    if stored.columns != columns:
        raise ValueError(f"its rows hold {stored.columns}; this optimizer's {columns}")
    if (rows := len(state["model"]["embedding.seen"])) != count:
        raise ValueError(f"it is of a table of {rows:,} rows; expected {count:,}")
    tables = [weight, *(mine[name] for name in columns[1:])]
    by = max(PIECE // (width * weight.dtype.itemsize), 1)
    for part in stored.parts:
        if list(part.rows.get_shape()) != [len(part.ids), width]:
            raise ValueError(f"its rows are {part.rows.get_shape()}; expected {[len(part.ids), width]}")
        for start in range(0, len(part.ids), by):
            own, places = embedding.owned(part.ids[start : start + by].to(weight.device))
            if not len(places):
                continue
            piece = part.rows[start : start + by].to(weight.device)
            piece = piece if own is None else piece[own]
            for table, values in zip(tables, piece.split(dim, dim=1), strict=True):
                table[places] = values
    _of_each_row(state, embedding.own, count)
    state["model"]["embedding.weight"] = weight
    present = run.learner.state_dict()
    for name, part in state["step"].items():
        part["param_groups"] = present[name]["param_groups"]
    state["step"]["row_optimizer"]["state"][0].update(zip(columns[1:], tables[1:], strict=True))
    run.load_state_dict(state)
