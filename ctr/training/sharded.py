"""A table of embedding rows that is spread over the workers of a run, and the training step on it.

Feature i belongs to worker i mod R, of R workers, and is row i div R there. Ids follow the order of first appearance,
so that frequent and rare features are spread evenly over the workers.

A batch is cut into S slices, whatever R is. Each worker computes some of them, each slice by itself, and every gradient
is summed over the slices in their order: any number of workers gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models.embedding import Bags, FeatureEmbedding
from ctr.optim import GroupAdaHessian
from ctr.optim.core import CHUNK, GroupOptimizer
from ctr.optim.group_adahessian import hessian_products, random_signs
from ctr.training.asking import Asked, Asking, Cut, values_of
from ctr.training.distributed import Group
from ctr.training.step import TorchStep


class ShardedEmbedding(FeatureEmbedding):
    """The rows of one worker, and what it needs to speak of all.

    They start with the values that they have in a table of one process: each worker draws them all, a piece at a time.
    `whole` and `kept` are exchanges: all workers call them together.

    Args:
        group: the workers.
        num_features: of all workers.
        others: as of :class:`FeatureEmbedding`.
    """

    def __init__(self, group: Group, num_features: int, embedding_dim: int, **others: Any) -> None:
        self.group = group
        super().__init__(num_features, embedding_dim, **others)

    def _initial(self, dim: int, scale: float, generator: torch.Generator | None) -> Tensor:
        own = torch.empty(self._counts()[self.group.rank], dim)
        filled = 0
        for start in range(0, self.num_features, CHUNK):
            rows = torch.empty(min(CHUNK, self.num_features - start), dim)
            rows.uniform_(-scale, scale, generator=generator)
            mine = rows[(self.group.rank - start) % self.group.size :: self.group.size]
            own[filled : filled + len(mine)] = mine
            filled += len(mine)
        return own

    def forward(self, ids: Tensor | Bags) -> Tensor:
        raise TypeError("a table that is spread over several workers is read by their step alone")

    def narrowed(self, ids: Tensor) -> ShardedEmbedding:
        """An exchange, as the rows of both tables are spread by their ids."""
        table = ShardedEmbedding(self.group, len(ids) + 1, self.weight.shape[1], **self._for_narrowed())
        rank, size = self.group.rank, self.group.size
        narrow = torch.arange(len(ids))
        of, to = ids % size, narrow % size
        given, taken = ([(a == rank) & (b == other) for other in range(size)] for a, b in ((of, to), (to, of)))
        rows = torch.cat([self.weight.data[ids[moved] // size] for moved in given])
        counts = [int(moved.sum()) for moved in taken]
        received = self.group.exchange(rows, [int(moved.sum()) for moved in given], counts)
        for moved, values in zip(taken, received.split(counts), strict=True):
            table.weight.data[narrow[moved] // size] = values.to(table.weight.device)
        return table

    @property
    def workers(self) -> int:
        return self.group.size

    @property
    def first(self) -> bool:
        return self.group.first

    def whole(self, values: Tensor) -> Tensor:
        parts = self.group.gather(values, self._counts())
        found = values.new_empty(self.num_features, *values.shape[1:])
        for rank, part in enumerate(parts):
            found[rank :: self.group.size] = part
        return found

    def own(self, values: Tensor) -> Tensor:
        return values[self.group.rank :: self.group.size]

    @property
    def place(self) -> tuple[int, int]:
        return self.group.rank, self.group.size

    def owned(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        mine = ids % self.group.size == self.group.rank
        return mine, ids[mine] // self.group.size

    def kept(self, values: Tensor, alive: Tensor) -> Tensor:
        marked = self.whole(alive)
        ids = [marked[rank :: self.group.size].nonzero().squeeze(1) for rank in range(self.group.size)]
        parts = self.group.to_first(values, [len(its) for its in ids])
        found = values.new_empty(int(marked.sum()) if parts else 0, *values.shape[1:])
        if not parts:
            return found
        places = marked.cumsum(0).sub_(1)  # 8 bytes for each feature of all workers
        for rank, part in enumerate(parts):
            found[places[ids[rank] * self.group.size + rank]] = part
        return found

    def summed(self, values: Tensor) -> Tensor:
        return torch.stack(self.group.gather(values, [len(values)] * self.group.size)).sum(dim=0)

    def _counts(self) -> list[int]:
        return [len(range(rank, self.num_features, self.group.size)) for rank in range(self.group.size)]


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
        device, cut, bits = rows.device, asked.cut, self._draw(len(batch))
        signs = self._signs(batch, asked) if self.store.curved else None
        first = sum(cut.rows[: self.group.rank])
        logits, losses, of_rows, of_net = [], [], [], []
        place = torch.empty(len(rows), dtype=torch.int64, device=device)
        for (start, stop), used in zip(cut.mine, asked.used, strict=True):
            here, places = slice(start, stop), asked.place[start - first : stop - first]
            flat = values_of(places).flatten()
            looked_up = rows.index_select(0, flat).requires_grad_()
            by = [looked_up, *self._net]
            if start == stop:  # a batch of few rows
                out = rows.new_empty(0)
                losses.append(rows.new_zeros(1))
                found = [torch.zeros_like(x) for x in by * (1 + self.store.curved)]
            else:
                out = self._forward(self._pooled(looked_up, places), batch, here, bits)
                weight = None if batch.weight is None else batch.weight[here].to(device)
                label = batch.label[here].to(device)
                loss = F.binary_cross_entropy_with_logits(out, label, weight, reduction="sum") / len(batch)
                if signs is None:
                    found = list(torch.autograd.grad(loss, by))
                else:
                    found = _with_diagonals(loss, by, [signs[0].index_select(0, flat), *signs[1:]])
                losses.append(loss.detach().view(1))
            logits.append(out.detach())
            place.index_copy_(0, used, torch.arange(len(used), device=device))
            its = torch.cat(found[:: len(by)], dim=1)
            of_rows.append(rows.new_zeros(len(used), self.store.width).index_add_(0, place.index_select(0, flat), its))
            of_net.append(torch.cat([value.flatten() for number, value in enumerate(found) if number % len(by)]))
        return logits, losses, of_rows, of_net

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
            self._forward(self._pooled(rows.index_select(0, values_of(its).flatten()), its), batch, here, None)
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
            looked_up = looked_up.view(*places.shape, -1)
        return self.model.embedding.pooled(looked_up, places)

    def _draw(self, rows: int) -> Tensor | None:
        """The random bits of a whole batch, for a model whose step draws some: all workers draw the same."""
        return self.model.draw(rows) if hasattr(self.model, "draw") else None

    def _forward(self, inputs: Tensor, batch: Batch, here: slice, bits: Tensor | None) -> Tensor:
        dense = None if batch.dense is None else batch.dense[here].to(inputs.device)
        before = None if self._checked else torch.get_rng_state()
        logits = (
            self.model.from_rows(inputs, dense) if bits is None else self.model.from_rows(inputs, dense, bits[here])  # type: ignore[call-arg]
        )
        if before is not None and torch.is_grad_enabled():
            self._checked = True
            if not torch.equal(before, torch.get_rng_state()):
                name = type(self.model).__name__
                raise CtrError(f"{name} draws random numbers in from_rows: under torchrun it needs a method draw(rows)")
        return logits


def _with_diagonals(loss: Tensor, tensors: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a loss, and Hutchinson's estimates v * (H v) of the Hessian's diagonal: both, summed over losses
    that share v, are those of the sum."""
    grads = torch.autograd.grad(loss, list(tensors), create_graph=True)
    products = hessian_products(grads, tensors, signs)
    diagonals = [torch.zeros_like(v) if hv is None else v * hv for v, hv in zip(signs, products, strict=True)]
    return [*(grad.detach() for grad in grads), *diagonals]
