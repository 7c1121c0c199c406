"""The training step on a table of embedding rows that is spread over the workers of a run.

A batch is cut into S slices, whatever R is. Each worker computes some of them, each slice by itself, and every gradient
is summed over the slices in their order: any number of workers gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models.embedding import Bags
from ctr.optim import GroupAdaHessian
from ctr.optim.core import GroupOptimizer
from ctr.optim.group_adaembed import GroupAdaEmbed
from ctr.optim.group_adahessian import hessian_products, random_signs
from ctr.training.asking import Asked, Asking, Cut, values_of
from ctr.training.compiled_net import TOLERANCES, CompiledNet, close
from ctr.training.distributed import Group
from ctr.training.precision import FULL, Precision, logits_of
from ctr.training.sharded_table import ShardedEmbedding
from ctr.training.step import TorchStep

_Gradients = tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]  # of a slice: logits, loss, of looked-up rows, of the net


@dataclass(frozen=True)
class _Slice:
    """A slice of a batch.

    Attributes:
        here: its rows in the batch.
        ids: int64 [n], which of the rows that the worker has asked for it looks up.
        looked_up: those rows, [n, d].
        vectors: what the net reads of them, [b, F, d].
    """

    here: slice
    ids: Tensor
    looked_up: Tensor
    vectors: Tensor


class ShardedRows:
    """The row store: rows for ids, and rows changed by their gradients.

    Args:
        embedding: this worker's rows.
        optimizer: theirs.

    Attributes:
        curved: the optimizer also needs the Hessian's diagonal; it comes beside the gradients.
        width: of the gradients of a row, with the diagonal.
    """

    def __init__(self, embedding: ShardedEmbedding, optimizer: GroupOptimizer) -> None:
        self.embedding, self.optimizer, self.group = embedding, optimizer, embedding.group
        self.curved = isinstance(optimizer, GroupAdaHessian)
        if isinstance(optimizer, GroupAdaEmbed):
            optimizer.spread = embedding
        self.width = embedding.weight.shape[1] * (1 + self.curved)

    def ask(self, batch: Batch, cut: Cut, *, training: bool) -> Asking:
        """Begins to tell each worker which of its rows are needed, and, in training, in which slices."""
        return Asking(self.group, batch, cut, self.embedding.weight.device, training=training)

    def gather(self, asked: Asked, *, training: bool) -> Callable[[], Tensor]:
        """The rows that this worker has asked for, [n, d], when they are waited for; all workers send theirs."""
        rows = self.embedding.weight.detach().index_select(0, asked.rows)
        if not training and self.embedding.unseen == "zero":
            rows = rows * self.embedding.seen[asked.rows].unsqueeze(1)
        return self.group.begin(rows, asked.taken, asked.given)

    def update(self, asked: Asked, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Changes this worker's rows by their gradients, [..., width]: of each worker and each of its slices, in the
        order of ``asked.summed``."""
        weight = self.embedding.weight
        touched, place = torch.unique(asked.rows, return_inverse=True)
        total = weight.new_zeros(len(touched), self.width)
        for of_worker, its in zip(asked.summed, gradients, strict=True):
            for places, values in zip(of_worker, its, strict=True):
                rows = place[places]  # none twice, so that the order of the sum is that of the slices
                total.index_copy_(0, rows, total.index_select(0, rows) + values)
        self.embedding.seen[touched] = True
        weight.grad, *diagonal = (
            torch.sparse_coo_tensor(
                touched.unsqueeze(0), values.contiguous(), weight.shape, is_coalesced=True, check_invariants=False
            )
            for values in total.split(weight.shape[1], dim=1)
        )
        if isinstance(self.optimizer, GroupAdaHessian):
            self.optimizer.set_hessian(weight, *diagonal)
        self.optimizer.step()
        self.optimizer.zero_grad()


class ShardedStep(TorchStep):
    """The training step of one worker: its slices of each batch, its rows, and all of the net.

    Args:
        model: on a `ShardedEmbedding`; the net is the same on all workers.
        row_optimizer: of this worker's rows.
        net_optimizer: of all other parameters.
        slices: S, at least the number of workers.
        compiled: each worker changes its rows in compiled code, where that serves the optimizer.
    """

    def __init__(
        self, model: Any, row_optimizer: GroupOptimizer, net_optimizer: Optimizer, slices: int, *, compiled: bool
    ) -> None:
        self.fused = None if compiled else False
        super().__init__(model, row_optimizer, net_optimizer)
        row_optimizer.ensure_state(model.embedding.weight)
        self.slices = slices
        self.store = ShardedRows(model.embedding, row_optimizer)
        self.group: Group = model.embedding.group
        self._net: list[nn.Parameter] = [p for group in net_optimizer.param_groups for p in group["params"]]
        count = sum(p.numel() for p in self._net) * (1 + self.store.curved)
        self._ends = [count * rank // self.group.size for rank in range(self.group.size + 1)]
        self._checked = False
        self._ahead: Asking | None = None

    def train(self, batch: Batch, upcoming: Batch | None = None) -> tuple[Tensor, float]:
        self.model.train()
        asked = self._asked(batch, training=True)
        cut, gathered = asked.cut, self.store.gather(asked, training=True)
        ahead = None if upcoming is None else self._ask(upcoming, training=True)  # while the rows are on their way
        logits, losses, of_rows, of_net = self._differentiate_slices(batch, asked, gathered())
        if ahead is not None:
            ahead.send()
        self._ahead = ahead
        received = self._exchange(cut, asked, torch.cat(logits), torch.cat(losses), of_rows, torch.stack(of_net))
        whole = torch.cat([its[2] for its in received]).cpu()
        value = sum(torch.cat([its[3] for its in received]).tolist())
        if value - value == 0:  # finite
            parts = torch.cat([its[1] for its in received])
            total = parts[0].clone()
            for part in parts[1:]:
                total += part
            summed = self.group.begin_gather(total, [last - first for first, last in pairwise(self._ends)])
            self.store.update(asked, [its[0] for its in received])  # meanwhile
            of_net = torch.cat(summed()).split([p.numel() for p in self._net] * (1 + self.store.curved))
            for p, grad in zip(self._net, of_net, strict=False):
                p.grad = grad.view_as(p)
            if isinstance(self.net_optimizer, GroupAdaHessian):
                for p, diagonal in zip(self._net, of_net[len(self._net) :], strict=True):
                    self.net_optimizer.set_hessian(p, diagonal.view_as(p))
            self.net_optimizer.step()
            self.net_optimizer.zero_grad()
        return whole, value

    def _ask(self, batch: Batch, *, training: bool) -> Asking:
        return self.store.ask(batch, Cut.of(len(batch), self.slices, self.group), training=training)

    def _asked(self, batch: Batch, *, training: bool) -> Asked:
        """Asks for the rows of a batch, unless that was done while the batch before was computed."""
        begun = self._ahead
        return (begun if begun is not None and begun.batch is batch else self._ask(batch, training=training)).finish()

    def _differentiate_slices(
        self, batch: Batch, asked: Asked, rows: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Of each slice of this worker: logits, loss [1], and the gradients of its rows and of the net, flat; with the
        Hessian's diagonals behind them, where the optimizers need these."""
        cut, device = asked.cut, rows.device
        first = sum(cut.rows[: self.group.rank])
        slices = []
        for start, stop in cut.mine:
            places = asked.place[start - first : stop - first]
            flat = values_of(places).flatten()
            looked_up = rows.index_select(0, flat).requires_grad_()
            slices.append(_Slice(slice(start, stop), flat, looked_up, self._pooled(looked_up, places)))
        if self.net is not None and self.net.rows == len(batch):
            found = self._in_compiled_code(self.net, batch, cut, slices)
        else:
            bits, signs = self._draw(len(batch)), self._signs(batch, asked) if self.store.curved else None
            found = [self._in_torch(batch, its, bits, signs) for its in slices]
        logits, losses, of_rows, of_net = [], [], [], []
        place = torch.empty(len(rows), dtype=torch.int64, device=device)
        for its, used, (out, loss, by_rows, by_net) in zip(slices, asked.used, found, strict=True):
            logits.append(out)
            losses.append(loss.view(1))
            place.index_copy_(0, used, torch.arange(len(used), device=device))
            total = rows.new_zeros(len(used), self.store.width)
            of_rows.append(total.index_add_(0, place.index_select(0, its.ids), by_rows))
            of_net.append(torch.cat([value.flatten() for value in by_net]))
        return logits, losses, of_rows, of_net

    def _in_torch(self, batch: Batch, part: _Slice, bits: Tensor | None, signs: list[Tensor] | None) -> _Gradients:
        here, device = part.here, part.looked_up.device
        by = [part.looked_up, *self._net]
        if here.start == here.stop:  # a batch of few rows
            logits, loss = part.looked_up.new_empty(0), part.looked_up.new_zeros(1)
            found = [torch.zeros_like(x) for x in by * (1 + self.store.curved)]
        else:
            logits = self._forward(part.vectors, batch, here, bits, self.precision)
            weight = None if batch.weight is None else batch.weight[here].to(device)
            label = batch.label[here].to(device)
            loss = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum") / len(batch)
            if signs is None:
                found = list(torch.autograd.grad(loss, by))
            else:
                found = _with_diagonals(loss, by, [signs[0].index_select(0, part.ids), *signs[1:]])
        of_net = [value for number, value in enumerate(found) if number % len(by)]
        return logits.detach(), loss.detach(), torch.cat(found[:: len(by)], dim=1), of_net

    def _in_compiled_code(self, net: CompiledNet, batch: Batch, cut: Cut, parts: list[_Slice]) -> list[_Gradients]:
        here = slice(parts[0].here.start, parts[-1].here.stop)
        dense, weight, bits = (
            None if whole is None else whole[here] for whole in (batch.dense, batch.weight, self._draw(len(batch)))
        )
        vectors = [part.vectors.detach() for part in parts]
        passed = net.of_shares(cut.own, vectors, dense, batch.label[here], weight, bits)
        return [
            (logits, loss, torch.autograd.grad(part.vectors, part.looked_up, of_vectors)[0], of_net)
            for part, (logits, loss, of_vectors, of_net) in zip(parts, passed, strict=True)
        ]

    def _signs(self, batch: Batch, asked: Asked) -> list[Tensor]:
        """Random signs for the rows that this worker has asked for, and for the net: those of one process, which draws
        them for each row of the batch once."""
        touched = torch.unique(values_of(batch.ids))
        rows, *net = (
            random_signs(like)
            for like in (self.model.embedding.weight.new_empty(len(touched), self.store.width // 2), *self._net)
        )
        return [rows[torch.searchsorted(touched, asked.ids.to(touched))], *net]

    def _exchange(
        self, cut: Cut, asked: Asked, logits: Tensor, losses: Tensor, of_rows: list[Tensor], of_net: Tensor
    ) -> list[tuple[list[Tensor], Tensor, Tensor, Tensor]]:
        """Sends to each worker the gradients of its rows, those of its part of the net, and what all are told; returns
        what each has sent: gradients of rows and of the net [slices, p], logits, losses."""
        group, dim = self.group, self.store.width
        flag = logits.new_full((1,), float(group.raised))
        split = [grads.split(counts) for grads, counts in zip(of_rows, asked.of_owner, strict=True)]
        parcels = [
            torch.cat(
                [
                    *(grads[rank].flatten() for grads in split),
                    of_net[:, self._ends[rank] : self._ends[rank + 1]].flatten(),
                    logits,
                    losses,
                    flag,
                ]
            )
            for rank in range(group.size)
        ]
        part = self._ends[group.rank + 1] - self._ends[group.rank]
        sizes = [
            [*(len(places) * dim for places in its), slices * part, rows, slices, 1]
            for its, slices, rows in zip(asked.summed, cut.counts, cut.rows, strict=True)
        ]
        lengths = [sum(its) for its in sizes]
        received = group.exchange(torch.cat(parcels), [len(parcel) for parcel in parcels], lengths).split(lengths)
        found, flags = [], 0
        for values, its in zip(received, sizes, strict=True):
            *grads, net, outs, lost, told = values.split(its)
            flags |= int(told)
            found.append(([grad.view(-1, dim) for grad in grads], net.view(-1, part), outs, lost))
        group.flags = flags
        return found

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        self.model.train(False)
        group, asked = self.group, self._asked(batch, training=False)
        cut, rows = asked.cut, self.store.gather(asked, training=False)()
        first = sum(cut.rows[: group.rank])
        logits = [
            self._forward(self._pooled(rows.index_select(0, values_of(its).flatten()), its), batch, here, None, FULL)
            for here in (slice(start, stop) for start, stop in cut.mine if start < stop)
            for its in [asked.place[here.start - first : here.stop - first]]
        ]
        mine = torch.cat([*logits, rows.new_full((1,), float(group.raised))])
        parts = group.gather(mine, [count + 1 for count in cut.rows])
        group.flags = 0
        for part in parts:
            group.flags |= int(part[-1])
        return torch.cat([part[:-1] for part in parts]).cpu()

    def _pooled(self, looked_up: Tensor, places: Tensor | Bags) -> Tensor:
        """What the net reads, [b, F, d], of a row for each id, [n, d]."""
        if not isinstance(places, Bags):
            looked_up = looked_up.view(*places.shape, looked_up.shape[1])
        return self.model.embedding.pooled(looked_up, places)

    def _draw(self, rows: int) -> Tensor | None:
        """The random bits of a whole batch, for a model whose step draws some: all workers draw the same."""
        return self.model.draw(rows) if hasattr(self.model, "draw") else None

    def _forward(self, inputs: Tensor, batch: Batch, here: slice, bits: Tensor | None, precision: Precision) -> Tensor:
        # Copies: where memory begins elsewhere within a cache line, products have other bits.
        dense = None if batch.dense is None else batch.dense[here].clone().to(inputs.device)
        others = [dense] if bits is None else [dense, bits[here].clone()]
        if torch.is_grad_enabled() and not self._checked:
            self._expect_apart(inputs, others, precision)
            self._checked = len(inputs) > 1
        return logits_of(self.model, precision, inputs, *others)

    def _expect_apart(self, inputs: Tensor, others: list[Tensor | None], precision: Precision) -> None:
        """CtrError if what the net gives for a slice is not a function of each of its rows."""
        name, half, before = type(self.model).__name__, len(inputs) // 2, self._kept()
        whole = logits_of(self.model, precision, inputs, *others)
        draws, *buffers = map(torch.equal, before, self._kept())
        if not draws:
            raise CtrError(f"{name} draws random numbers in from_rows: under torchrun it needs a method draw(rows)")
        if not all(buffers):
            raise CtrError(f"{name} changes a buffer in from_rows, each worker its own: train it in one process")
        if not half:
            return
        part = logits_of(self.model, precision, inputs[:half], *(None if x is None else x[:half] for x in others))
        if not close(part, whole[:half], TOLERANCES[precision][0]):
            raise CtrError(f"{name}: logits of a row depend on other rows of the batch: train it in one process")

    def _kept(self) -> list[Tensor]:
        """What a slice must not change: the state of the random generator, and the net's buffers."""
        buffers = (value for name, value in self.model.named_buffers() if not name.startswith("embedding."))
        return [torch.get_rng_state(), *(value.clone() for value in buffers)]


def _with_diagonals(loss: Tensor, tensors: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a loss, and Hutchinson's estimates v * (H v) of the Hessian's diagonal: both, summed over losses
    that share v, are those of the sum."""
    grads = torch.autograd.grad(loss, list(tensors), create_graph=True)
    products = hessian_products(grads, tensors, signs)
    diagonals = [torch.zeros_like(v) if hv is None else v * hv for v, hv in zip(signs, products, strict=True)]
    return [*(grad.detach() for grad in grads), *diagonals]
