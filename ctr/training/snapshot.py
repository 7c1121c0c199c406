"""The state of a training run as plain values and tensors, and back. Rows that no batch has held are left out.

Such a row has the initial value that the seed gives it, and no optimizer state: a run at its first row has it already.
All others are one tensor, ``rows``, in the order of their ids: those where ``model.embedding.seen`` is true, each as
[w | u | the optimizer's buffers]. Options of the optimizers are not stored: a run is built with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ctr.errors import CtrError
from ctr.native import library as native
from ctr.training.tensors import Pieces
from ctr.training.trainer import TrainingRun

ROWS = "rows"
PIECE = 1 << 25  # bytes of rows, about, that are copied or written at a time
TOGETHER = 1024  # rows of 4-byte numbers that always are whole pages


@dataclass(frozen=True)
class Snapshot:
    """What one moment of a run is.

    Attributes:
        values: the run's `state_dict` as JSON values; a tensor is ``{"tensor": name}``, an array ``{"array": name}``.
        columns: what the parts of a row are: ``weight``, ``u``, and the optimizer's buffers.
        tensors: by name, the rows among them.
    """

    values: dict[str, Any]
    columns: list[str]
    tensors: dict[str, Pieces]


def size(run: TrainingRun) -> int:
    """Bytes that the copy of a run's rows takes."""
    embedding, optimizer = run.model.embedding, run.learner.row_optimizer
    width = (2 + len(optimizer.buffers)) * embedding.weight.shape[1]
    return int(embedding.seen.sum()) * width * embedding.weight.dtype.itemsize


def take(run: TrainingRun, into: list[Tensor] | None = None) -> Snapshot:
    """The state of a run between two steps.

    Args:
        run: the run.
        into: memory for a copy of its rows, which grows as is needed, so that the run may go on while the snapshot is
            written. The next snapshot overwrites it: to hand out new memory takes three times as long as to fill it.
            None: the rows are read when they are written.
    """
    embedding, optimizer = run.model.embedding, run.learner.row_optimizer
    columns = ["weight", "u", *optimizer.buffers]
    optimizer.ensure_state(embedding.weight)
    state = _of_each_row(run.state_dict(), embedding.whole)
    del state["model"]["embedding.weight"]
    for name in ("row_optimizer", "net_optimizer"):
        del state["step"][name]["param_groups"]
    rows_state = state["step"]["row_optimizer"]["state"]
    rows_state[0] = {name: value for name, value in rows_state[0].items() if name not in columns}
    tensors: dict[str, Pieces] = {}
    values = _encoded(state, "", tensors)
    width = len(columns) * embedding.weight.shape[1]
    pieces = _touched(run, width, into)
    shape = (int(embedding.seen.sum()), width)
    tensors[ROWS] = Pieces(embedding.weight.dtype, shape, pieces if into is None else [*pieces])
    return Snapshot(values, columns, tensors)


def _touched(run: TrainingRun, width: int, into: list[Tensor] | None) -> Iterator[Tensor]:
    """The rows that a batch has held; without ``into`` pieces may share the run's memory."""
    embedding = run.model.embedding
    by = max(PIECE // (width * embedding.weight.dtype.itemsize) // TOGETHER, 1) * TOGETHER
    used = 0
    for start in range(0, len(embedding.seen), by):
        seen = embedding.seen[start : start + by].cpu()
        if not (count := int(seen.sum())):
            continue
        rows = run.learner.rows(start, start + by).cpu()
        if into is None:
            yield rows if count == len(seen) else rows[seen]
            continue
        if used == len(into):
            into.append(_memory(by, rows))
        copy, used = into[used][:count], used + 1
        if count == len(seen):
            copy.copy_(rows)
        else:
            torch.index_select(rows, 0, seen.nonzero().squeeze(1), out=copy)
        yield copy


def _memory(count: int, like: Tensor) -> Tensor:
    """Rows to be filled, on the CPU; where there are compiled kernels they begin with a page."""
    if not native.available():
        return torch.empty(count, like.shape[1], dtype=like.dtype)
    memory = torch.from_numpy(native.allocate(count * like.shape[1] * like.dtype.itemsize // 4))
    return memory.view(like.dtype).view(count, -1)


def _encoded(value: Any, name: str, tensors: dict[str, Pieces]) -> Any:
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
    if value.keys() == {"array"}:
        return read(value["array"]).numpy()
    # JSON has no whole numbers as keys; the optimizers' states have.
    return {int(key) if key.isdecimal() else key: _decoded(inner, read) for key, inner in value.items()}


@dataclass(frozen=True)
class Stored:
    """A snapshot in its file.

    Attributes:
        state: as of `TrainingRun.state_dict`, without the table's rows and the optimizers' options.
        ids: int64 [n]: the features that the rows belong to; ascending, within each shard where there are several.
        columns: of a row, each d values wide: ``weight``, ``u``, and the optimizer's buffers.
        rows: ``rows[start:stop]`` reads some of the [n, len(columns) * d].
    """

    state: dict[str, Any]
    ids: Tensor
    columns: list[str]
    rows: Any


@contextmanager
def opened(path: Path, values: dict[str, Any], columns: list[str], shards: Sequence[Path] = ()) -> Iterator[Stored]:
    """A snapshot in the safetensors file that it was written to.

    Args:
        path: the file.
        values, columns: as of the `Snapshot`.
        shards: the files of its rows, if several workers wrote them (`ctr.training.sharded`).
    """
    with ExitStack() as held:
        file, *of_rows = (held.enter_context(safe_open(place, framework="pt")) for place in (path, *shards))
        state = _decoded(values, lambda name: file.get_tensor(name).clone())  # else they hold on to the file
        seen = state["model"]["embedding.seen"]
        if not of_rows:
            yield Stored(state, seen.nonzero().squeeze(1), columns, file.get_slice(ROWS))
            return
        count = len(of_rows)
        ids = [seen[rank::count].nonzero().squeeze(1) * count + rank for rank in range(count)]
        yield Stored(state, torch.cat(ids), columns, _Shards([shard.get_slice(ROWS) for shard in of_rows]))


class _Shards:
    """The rows of several files, one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        shapes = [part.get_shape() for part in parts]
        self._starts = list(accumulate((shape[0] for shape in shapes), initial=0))
        self._width = shapes[0][1]

    def get_shape(self) -> list[int]:
        return [self._starts[-1], self._width]

    def __getitem__(self, rows: slice) -> Tensor:
        first, last, _ = rows.indices(self._starts[-1])
        found = [
            part[max(first - start, 0) : min(last, stop) - start]
            for part, (start, stop) in zip(self._parts, pairwise(self._starts), strict=True)
            if first < stop and start < last
        ]
        return torch.cat(found) if found else torch.empty(0, self._width)


def _of_each_row(state: dict[str, Any], turn: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A run's state with what it holds for each row of its table, beside the rows themselves, turned: from a worker's
    rows to all features, or back."""
    model, step, schedule = state["model"], state["step"], state["schedule"]
    model["embedding.seen"] = turn(model["embedding.seen"])
    states = step["row_optimizer"]["state"]
    states[0] = {**states[0], "seen": turn(states[0]["seen"])}  # a copy: the optimizer's own is not to change
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
    expected = [len(stored.ids), len(columns) * dim]
    if stored.columns != columns:
        raise ValueError(f"its rows hold {stored.columns}; this optimizer's {columns}")
    if len(state["model"]["embedding.seen"]) != count or list(stored.rows.get_shape()) != expected:
        raise ValueError(f"its rows are {stored.rows.get_shape()}; expected {expected} of a table of {count:,}")
    tables = [weight, *(mine[name] for name in columns[1:])]
    by = max(PIECE // (expected[1] * weight.dtype.itemsize), 1)
    for start in range(0, len(stored.ids), by):
        own, places = embedding.owned(stored.ids[start : start + by].to(weight.device))
        if not len(places):
            continue
        piece = stored.rows[start : start + by].to(weight.device)
        piece = piece if own is None else piece[own]
        for table, part in zip(tables, piece.split(dim, dim=1), strict=True):
            table[places] = part
    _of_each_row(state, embedding.own)
    state["model"]["embedding.weight"] = weight
    present = run.learner.state_dict()
    for name, part in state["step"].items():
        part["param_groups"] = present[name]["param_groups"]
    state["step"]["row_optimizer"]["state"][0].update(zip(columns[1:], tables[1:], strict=True))
    run.load_state_dict(state)
