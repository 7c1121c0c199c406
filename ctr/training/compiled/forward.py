"""A model's forward pass in compiled code: for the training step, and for a saved model, which has no optimizers."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models import OPNN, Bags, FeatureEmbedding
from ctr.native import library as native
from ctr.optim.fused import MAX_DIM, MAX_ROWS
from ctr.training.compiled.program import translatable, translate

MAX_THREADS = 1024
MAX_NUMBERS = 2**31 - 1  # of the rows of a batch: where a gradient is has 32 bits
_CPU = torch.device("cpu")
_PADDING = 64  # a vector load of the last parameter reads beyond it


def unservable(model: nn.Module) -> str | None:
    """Why compiled code cannot compute this model's logits; None if it can."""
    if not native.available():
        return "the compiled kernels are not available"
    if not translatable(model):
        return f"it does not know this {type(model).__name__}"
    weight = model.get_parameter("embedding.weight")
    if getattr(model.get_submodule("embedding"), "pool", None) is not None:
        return "it looks up one value of each field, and a field of this log has several"
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return "its parameters are not all torch.float32 on the CPU"
    if weight.shape[1] > MAX_DIM or len(weight) > MAX_ROWS:
        return f"it has at most {MAX_DIM} numbers in an embedding row, and {MAX_ROWS:,} rows"
    return None


def flatten(parameters: Sequence[nn.Parameter], arrays: int) -> tuple[Tensor, dict[int, int]]:
    """Moves parameters into one flat array, of which they become views.

    Returns:
        float32 [arrays, n]: their values, and zeros for what else there is to keep of each; and where each begins, by
        ``id``.
    """
    starts = np.cumsum([0, *(p.numel() for p in parameters)]).tolist()
    flat = torch.zeros(arrays, starts[-1] + _PADDING, dtype=torch.float32, device="cpu")[:, : starts[-1]]
    for p, start in zip(parameters, starts, strict=False):
        view = flat[0, start : start + p.numel()].view_as(p)
        view.copy_(p.detach())
        p.data = view
    return flat, {id(p): start for p, start in zip(parameters, starts, strict=False)}


class Forward:
    """Computes a model's logits, and holds what one batch needs.

    Args:
        model: for which `unservable` is None.
        table: of its embedding rows.
        params: the net's flat parameters.
        offsets: where each parameter begins in them, by ``id``.
        threads: how many work together; each takes the whole net on its share of a batch.
    """

    def __init__(self, model: nn.Module, table: Any, params: Any, offsets: dict[int, int], threads: int) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads={threads}; expected 1 to {MAX_THREADS:,}")
        embedding = model.get_submodule("embedding")
        assert isinstance(embedding, FeatureEmbedding)
        self.library, self.lock, self.batch = native.loaded(), threading.Lock(), native.Batch()
        self.handle: int | None = None
        self._model, self._embedding, self._table, self._params = model, embedding, table, params
        self._offsets, self._threads, self._shape = offsets, threads, (0, 0)
        self._shapes: list[Any] = []  # of the last batch
        self._process, self._places = os.getpid(), self._where()

    def __del__(self) -> None:
        # The threads that it would wait for are in the process that made it, not in a fork of that.
        if getattr(self, "handle", None) and self._process == os.getpid():
            self.library.ctr_step_free(self.handle)

    def _start(self, fields: int, dense: int) -> None:
        """Translates the model, once the first batch shows how many columns there are."""
        program = translate(self._model, self._offsets, fields, dense)
        layers = (native.Layer * len(program.layers))(*program.layers)
        self.handle = self.library.ctr_step_new(
            layers, len(layers), fields, dense, program.dense_at, program.width, self._params.count, self._threads
        )
        self._shape, self.batch.words = (fields, dense), program.words

    def predict(self, batch: Batch) -> Tensor:
        """Logits in evaluation mode.

        Raises:
            CtrError: an id is out of range, or the batch's parts differ in length, or its columns from those before.
        """
        with self.lock:
            if self._model.training:
                self._model.eval()
            logits = self.fill(batch)
            unseen_zero = self._embedding.unseen == "zero"
            bad = self.library.ctr_step_predict(self.handle, self.batch, self._table, self._params, unseen_zero)
            self.check(bad, batch.ids)
            return logits

    def _where(self) -> tuple[object, ...]:
        """What the compiled code holds on to, and the model may not change behind its back."""
        own = self._embedding  # past nn.Module's search for a name
        held = own._parameters.get("weight"), own._buffers.get("seen")
        return *(None if t is None else t.data_ptr() for t in held), self._model.__dict__.get("dropout")

    def fill(self, batch: Batch) -> Tensor:
        """Points the batch structure at a batch; returns the tensor that its logits go to."""
        ids, dense, label, weight = batch.ids, batch.dense, batch.label, batch.weight
        if not isinstance(ids, Tensor):
            raise CtrError("a batch of several values to a field; expected ids [B, F]")
        if self._process != os.getpid():
            raise CtrError("this step was made before the process forked, and its threads are not in the fork")
        if self._where() != self._places:
            raise CtrError("the embedding's weight or seen, or dropout, was replaced after the step was made")
        shapes = [None if part is None else part.shape for part in (ids, dense, label, weight)]
        if shapes != self._shapes:
            self._expect(ids, dense, label, weight)
            self._shapes = shapes
        rows = label.shape[0]
        logits = torch.empty(rows, dtype=torch.float32, device=_CPU)
        held = [_ids(ids), *(None if part is None else _plain(part, torch.float32) for part in (dense, label, weight))]
        self._drawn_from = bits = None
        if isinstance(self._model, OPNN):
            self._drawn_from, bits = torch.get_rng_state(), self._model.draw(rows)
        self._held = [*held, bits, logits]
        to = self.batch
        to.ids, to.dense, to.label, to.weight, to.bits, to.logit = (
            None if part is None else part.data_ptr() for part in self._held
        )
        to.rows = rows
        return logits

    def _expect(self, ids: Tensor, dense: Tensor | None, label: Tensor, weight: Tensor | None) -> None:
        """CtrError unless a batch of these shapes can be computed; starts with the first one."""
        if ids.dim() != 2 or label.dim() != 1 or (dense is not None and dense.dim() != 2):
            shapes = ", ".join(str(tuple(part.shape)) for part in (ids, dense, label) if part is not None)
            raise CtrError(f"a batch of {shapes}; expected ids [B, F], dense [B, K] or None, labels [B]")
        rows, shape = len(label), (ids.shape[1], 0 if dense is None else dense.shape[1])
        if len(ids) != rows or (dense is not None and len(dense) != rows):
            parts = [len(part) for part in (ids, dense, label) if part is not None]
            raise CtrError(f"a batch whose ids, dense columns (if any) and labels have {parts} rows")
        if self.handle is None:
            self._start(*shape)
        if shape != self._shape:
            raise CtrError(f"a batch of {shape} ids and dense columns after batches of {self._shape}")
        dim = self._embedding.weight.shape[1]
        if ids.numel() * dim > MAX_NUMBERS:
            size = f"{rows:,} rows of {ids.shape[1]} fields with {dim} numbers each"
            raise CtrError(f"a batch of {size}; the compiled step takes {MAX_NUMBERS:,} numbers at a time")
        if weight is not None and weight.shape != label.shape:
            raise CtrError(f"a batch of {rows} rows with weights {tuple(weight.shape)}; expected [{rows}]")

    def check(self, bad: int, ids: Tensor | Bags) -> None:
        """CtrError for the id at this position of the batch; none is wrong where the position is negative."""
        if bad >= 0:
            assert isinstance(ids, Tensor)
            if self._drawn_from is not None:
                torch.set_rng_state(self._drawn_from)  # as if the batch had not been
            row, field = divmod(bad, self._shape[0])
            raise CtrError(
                f"id {int(ids[row, field])} of field {field} is not within the table's {self._table.rows:,} rows"
            )


def forward_of(model: nn.Module, threads: int) -> Forward:
    """The compiled forward pass of a trained model, whose embedding rows all count as seen.

    The net's parameters move into one flat array, of which they become views.

    Raises:
        CtrError: `unservable` says why there is none.
    """
    if (reason := unservable(model)) is not None:
        raise CtrError(f"the compiled code cannot serve this model: {reason}")
    weight = model.get_parameter("embedding.weight")
    flat, offsets = flatten([p for p in model.parameters() if p is not weight], arrays=1)
    rows, dim = weight.shape
    table = native.Table(weight.data_ptr(), rows, dim, dim, model.get_buffer("embedding.seen").data_ptr())
    params = native.Params(flat.data_ptr(), None, None, flat.shape[1])
    return Forward(model, table, params, offsets, threads)


def _ids(ids: Tensor) -> Tensor:
    """As int32; what does not fit stays out of range."""
    if ids.dtype == torch.int32:
        return _plain(ids, torch.int32)
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise CtrError(f"ids of type {ids.dtype}; expected integers")
    return _plain(ids.long().clamp(-1, MAX_ROWS), torch.int32)


def _plain(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype == dtype and values.is_cpu and values.is_contiguous():
        return values
    return values.to("cpu", dtype).contiguous()
