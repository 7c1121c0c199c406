"""One training step in eager torch, for every model, optimizer and device; and when the compiled one takes over."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models.embedding import Bags, FeatureEmbedding
from ctr.optim import GroupAdaHessian, fused, hutchinson_diagonal
from ctr.optim.core import GroupOptimizer
from ctr.training.compiled.rows import gather, side_by_side
from ctr.training.compiled.step import NativeStep
from ctr.training.compiled.support import unsupported
from ctr.training.compiled_net import CompiledNet
from ctr.training.optimizers import check_saved, laid_out, step_net, watched
from ctr.training.precision import FULL, Precision, logits_of

log = logging.getLogger("ctr")

Backend = Literal["auto", "native", "rows", "torch"]


class RowModel(Protocol):
    """A model on embedding rows; every model of `ctr.models` is one."""

    embedding: FeatureEmbedding
    training: bool

    def __call__(self, ids: Tensor | Bags, dense: Tensor | None) -> Tensor: ...
    def from_rows(self, rows: Tensor, dense: Tensor | None) -> Tensor: ...
    def train(self, mode: bool = True) -> nn.Module: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...
    def named_buffers(self) -> Iterable[tuple[str, Tensor]]: ...


class Step(Protocol):
    """Trains a model in place; `TorchStep`, `RowsStep` and `NativeStep` are the three.

    Attributes:
        row_optimizer: that of the embedding's weight. Its state holds u of every row, where both may be changed
            between two steps (pruning does); the compiled step shows its own as views.
        net_optimizer: that of all other parameters.
    """

    row_optimizer: GroupOptimizer
    net_optimizer: Optimizer

    def train(self, batch: Batch, upcoming: Batch | None = None) -> tuple[Tensor, float]:
        """Learns from a batch; returns its logits and loss before the update. Updates nothing if that is not finite.

        Several workers ask each other for the rows of the ``upcoming`` batch meanwhile, if it is known.

        The loss is the mean over the batch of each row's logloss times its weight (`Batch.weight`), as that of
        ``F.binary_cross_entropy_with_logits``.
        """
        ...

    def predict(self, batch: Batch) -> Tensor:
        """Logits in evaluation mode."""
        ...

    def apply_threshold_(self) -> int:
        """Holds every touched row against the present lambdas; returns how many died."""
        ...

    @property
    def tables(self) -> list[Tensor]:
        """The rows with their optimizer state, [w | u | buffers] side by side in one or more tables [N, ...]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All but the model's own."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave, by copying: the state can be loaded again after more training."""
        ...


class TorchStep:
    """The step in eager torch.

    Args:
        model: a model with an ``embedding`` table and ``from_rows``.
        row_optimizer: holds the embedding's weight alone; given a coalesced sparse gradient.
        net_optimizer: holds all other parameters.

    Attributes:
        net: forward and backward of the net for batches of its size, if they are compiled; others are eager.
        precision: of the net's products in :meth:`train`; all else is float32, as is :meth:`predict`.
    """

    net: CompiledNet | None = None
    precision: Precision = FULL

    _each_once = True
    fused: bool | None = False  # of the grouped optimizers: what they compute does not depend on what is built

    def __init__(self, model: RowModel, row_optimizer: GroupOptimizer, net_optimizer: Optimizer) -> None:
        self.model, self.row_optimizer, self.net_optimizer = model, row_optimizer, net_optimizer
        model.train()  # a model may do more there than set its mode
        for optimizer in (row_optimizer, net_optimizer):
            if isinstance(optimizer, GroupOptimizer):
                optimizer.fused = self.fused

    def train(self, batch: Batch, upcoming: Batch | None = None) -> tuple[Tensor, float]:
        if not self.model.training:  # 100 us to say it again to every module
            self.model.train()
        embedding = self.model.embedding
        device = embedding.weight.device
        dense = None if batch.dense is None else batch.dense.to(device)
        ids = batch.ids.to(device)
        compiled = self.net is not None and self.net.rows == len(batch)
        values, bags = (ids.values, True) if isinstance(ids, Bags) else (ids, False)
        touched, rows, vectors = self._gather(values, as_they_are=compiled and not bags)
        label, vectors = batch.label.to(device), embedding.pooled(vectors, ids)
        weight = None if batch.weight is None else batch.weight.to(device)
        if self.net is not None and compiled:
            logits, value, of_vectors, of_net = self.net(vectors.detach(), dense, label, weight)
        else:
            logits = logits_of(self.model, self.precision, vectors, dense)
            loss = F.binary_cross_entropy_with_logits(logits, label, weight)
            value = loss.item()
        if value - value == 0:  # finite
            if compiled:
                if vectors.requires_grad:
                    of_rows = torch.autograd.grad(vectors, rows, of_vectors)[0]
                else:  # they are the rows
                    of_rows = of_vectors.view(rows.shape)
            else:
                of_rows, *of_net = self._differentiate(loss, touched, rows)
            self._mark(touched)
            self._update(touched, of_rows, of_net)
        return logits, value

    def _update(self, ids: Tensor, of_rows: Tensor, of_net: Sequence[Tensor]) -> None:
        """The steps of both optimizers, whose hooks find all gradients there."""
        parameters = [self.model.embedding.weight, *self._net_parameters()]
        grads = [self._scattered(ids, of_rows), *laid_out(of_net, parameters[1:])]
        for p, grad in zip(parameters, grads, strict=True):
            p.grad = grad
        self.row_optimizer.step()
        self.net_optimizer.step()
        for p in parameters:
            p.grad = None

    def _mark(self, ids: Tensor) -> None:
        self.model.embedding.seen[ids] = True

    def _gather(self, ids: Tensor, *, as_they_are: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the ids whose gradient is wanted, their rows, and a row for each of the ids, [..., d].

        Each row once: its gradient arrives summed over the batch, and the optimizer need not coalesce it. Autograd
        knows where the last come from, unless they may be the rows ``as_they_are``, in the order of the ids.
        """
        touched, place = torch.unique(ids, return_inverse=True)
        rows = self.model.embedding.weight.detach().index_select(0, touched).requires_grad_()
        return touched, rows, F.embedding(place, rows)

    def _differentiate(self, loss: Tensor, ids: Tensor, rows: Tensor) -> Sequence[Tensor]:
        """The gradients of the rows that were gathered, and of the net's parameters."""
        net = self._net_parameters()
        first, second = self.row_optimizer, self.net_optimizer
        if isinstance(first, GroupAdaHessian) and isinstance(second, GroupAdaHessian):
            grads = torch.autograd.grad(loss, [rows, *net], create_graph=True)
            diagonals = hutchinson_diagonal(grads, [rows, *net])
            first.set_hessian(self.model.embedding.weight, self._scattered(ids, diagonals[0]))
            for p, diagonal in zip(net, diagonals[1:], strict=True):
                second.set_hessian(p, diagonal)
        else:
            grads = torch.autograd.grad(loss, [rows, *net])
        return [grad.detach() for grad in grads]

    def _scattered(self, ids: Tensor, values: Tensor) -> Tensor:
        """What the gathered rows have as the sparse tensor of the table."""
        return torch.sparse_coo_tensor(
            ids.unsqueeze(0),
            values,
            self.model.embedding.weight.shape,
            is_coalesced=self._each_once,
            check_invariants=False,
        )

    def _net_parameters(self) -> list[Tensor]:
        return [p for group in self.net_optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        self.model.train(False)
        device = self.model.embedding.weight.device
        return self.model(batch.ids.to(device), None if batch.dense is None else batch.dense.to(device)).cpu()

    def apply_threshold_(self) -> int:
        return self.row_optimizer.apply_threshold_()

    @property
    def tables(self) -> list[Tensor]:
        optimizer, weight = self.row_optimizer, self.model.embedding.weight
        state = optimizer.ensure_state(weight)
        return [weight.detach(), *(state[name] for name in ("u", *optimizer.buffers))]

    def state_dict(self) -> dict[str, Any]:
        return {"row_optimizer": self.row_optimizer.state_dict(), "net_optimizer": self.net_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Step` says; that of the compiled step too, after which all goes on within the rounding of float32."""
        check_saved(state, self.net_optimizer)
        _load_copies(self.row_optimizer, state["row_optimizer"])
        _load_copies(self.net_optimizer, state["net_optimizer"])


def _load_copies(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """As ``optimizer.load_state_dict``, which takes over the tensors themselves, but into the present ones."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    present = {p: dict(optimizer.state[p]) for p in params if p in optimizer.state}
    optimizer.load_state_dict(saved)
    for p in params:
        state = optimizer.state.get(p, {})
        for name, value in state.items():
            if isinstance(value, Tensor):
                mine = present.get(p, {}).get(name)
                state[name] = value.clone() if mine is None else mine.copy_(value)


class RowsStep(TorchStep):
    """The step in eager torch with the embedding's rows in compiled code: any model, float32 or float64 on the CPU.

    The rows move into one table with their optimizer's state (`side_by_side`): another tensor that shared the memory of
    the embedding's weight must not be used any more. The optimizer sums the gradients of a row that the batch has
    several times. Results are the same to the last bit for any number of threads of its own; those of the net are
    torch's. The rows that the net is given are overwritten by those of the next batch.
    """

    fused = None  # the net may have parameters that compiled code does not serve

    def __init__(self, model: RowModel, row_optimizer: GroupOptimizer, net_optimizer: Optimizer) -> None:
        super().__init__(model, row_optimizer, net_optimizer)
        # Random signs are of a row, not of each of its places in the batch.
        self._each_once = isinstance(row_optimizer, GroupAdaHessian)
        # Whether its class has a step of its own; torch wraps that of every class.
        self._own_step = inspect.unwrap(type(row_optimizer).step) is not inspect.unwrap(GroupOptimizer.step)
        self._table, self._state = side_by_side(model.embedding, row_optimizer)
        # In one place: pieces that come and go with each step leave holes in the heap, of GBs in the end.
        self._all_ids = torch.empty(0, dtype=torch.int64)
        self._all_rows = self._table.new_empty(0, model.embedding.weight.shape[1])
        self._make_room(torch.Size([0]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        held = self.row_optimizer.state[self.model.embedding.weight]
        if not held:  # a state from before the first step
            for tensor in self._state.values():
                tensor.zero_()
            held.update({"step": 0, "lr": 0.0, **self._state})

    @property
    def tables(self) -> list[Tensor]:
        weight = self.model.embedding.weight
        held = self.row_optimizer.state[weight]
        moved = [weight.data_ptr() != self._table.data_ptr()]
        moved += [held[name].data_ptr() != mine.data_ptr() for name, mine in self._state.items()]
        return super().tables if any(moved) else [self._table]  # moved: loaded by the optimizer itself, or copied

    def _update(self, ids: Tensor, of_rows: Tensor, of_net: Sequence[Tensor]) -> None:
        rows, net = self.row_optimizer, self.net_optimizer
        if self._own_step or self._each_once or rows.fused is False or watched(rows) or watched(net):
            super()._update(ids, of_rows, of_net)
        else:
            rows.step_rows(self.model.embedding.weight, ids, of_rows)
            step_net(net, of_net)

    def _mark(self, ids: Tensor) -> None:
        state, seen = self.row_optimizer.state[self.model.embedding.weight], self.model.embedding.seen
        if not float(self.row_optimizer.param_groups[0]["lr"]) > 0 or state["seen"].data_ptr() != seen.data_ptr():
            super()._mark(ids)

    def _gather(self, ids: Tensor, *, as_they_are: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self._each_once:
            return super()._gather(ids, as_they_are=as_they_are)
        if self._shaped.shape != ids.shape:
            self._make_room(ids.shape)
        self._shaped.copy_(ids)
        rows = gather(self.model.embedding.weight, self._flat, self._rows)
        torch.autograd.graph.increment_version(rows)  # an older graph that reads them finds out
        if as_they_are:
            return self._flat, rows, self._vectors
        rows = rows.detach().requires_grad_()
        return self._flat, rows, rows.view(self._vectors.shape)

    def _make_room(self, shape: torch.Size) -> None:
        """For the ids and rows of a batch."""
        count, dim = shape.numel(), self.model.embedding.weight.shape[1]
        if len(self._all_ids) < count:  # bags vary: a quarter more, so that it is rarely done
            size = max(count, len(self._all_ids) * 5 // 4)
            self._all_ids, self._all_rows = self._all_ids.new_empty(size), self._all_rows.new_empty(size, dim)
        self._flat, self._rows = self._all_ids[:count], self._all_rows[:count]
        self._shaped, self._vectors = self._flat.view(shape), self._rows.view(*shape, dim)


def unsupported_rows(row_optimizer: GroupOptimizer) -> str | None:
    """Why the rows cannot be trained in compiled code; None if they can."""
    if row_optimizer.state:
        return "their optimizer has already made a step"
    for group in row_optimizer.param_groups:
        if group["group_dim"] != 0:
            return f"the rows are to be groups, group_dim=0, not {group['group_dim']!r}"
        for p in group["params"]:
            if (reason := fused.unfit(row_optimizer, p, group)) is not None:
                return f"of the embedding's weight: {reason}"
    return None


def make_step(
    backend: Backend, model: nn.Module, row_optimizer: GroupOptimizer, net_optimizer: Optimizer, threads: int
) -> Step:
    """The step that ``backend`` asks for; ``"auto"`` takes the first that serves the case: compiled, rows, torch.

    Raises:
        CtrError: ``backend="native"`` or ``"rows"`` where it does not serve the case; the message says why.
    """
    compiled = None if backend in ("rows", "torch") else unsupported(model, row_optimizer, net_optimizer)
    if backend in ("auto", "native") and compiled is None:
        return NativeStep(model, row_optimizer, net_optimizer, threads)
    if backend == "native":
        raise CtrError(f"backend=native cannot serve this run: {compiled}; use backend=auto")
    if backend != "torch":
        reason = unsupported_rows(row_optimizer)
        if reason is None:
            if compiled is not None:
                log.info("backend=rows, as the compiled step cannot serve this run: %s", compiled)
            return RowsStep(model, row_optimizer, net_optimizer)  # type: ignore[arg-type]
        if backend == "rows":
            raise CtrError(f"backend=rows cannot serve this run: {reason}; use backend=auto")
        log.info("backend=torch, as compiled rows cannot serve this run: %s", reason)
    return TorchStep(model, row_optimizer, net_optimizer)  # type: ignore[arg-type]
