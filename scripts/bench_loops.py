"""What `bench.py` compares: tables and nets of the datasets, batches for them, and the loops that train on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bench_fbgemm
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ctr.datasets.stream import Batch
from ctr.models import DCN, MLP, OPNN, DeepFM, FeatureEmbedding
from ctr.native.library import allocate
from ctr.optim import GroupAdam
from ctr.training.compiled.step import NativeStep
from ctr.training.optimizers import make_optimizers
from ctr.training.step import RowsStep, TorchStep

ZIPF = 1.1
CRITEO = [
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
]  # fmt: skip
AVAZU = [
    24, 7, 7, 4737, 7745, 26, 8552, 559, 36, 2686408, 6729486, 8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60,
]  # fmt: skip
IPINYOU = [8, 25, 704965, 36, 371, 6, 51321, 276095, 22, 15, 12, 5, 132, 10, 41, 6]


@dataclass(frozen=True)
class Case:
    """A dataset's table and net as in the paper."""

    model: str
    sizes: list[int]
    dim: int
    dense: int
    lr: float

    def scaled(self, rows: int | None, dim: int | None) -> Case:
        if rows is None:
            return Case(self.model, self.sizes, dim or self.dim, self.dense, self.lr)
        share = rows / sum(self.sizes)
        return Case(self.model, [max(int(n * share), 2) for n in self.sizes], dim or self.dim, self.dense, self.lr)


CASES = {
    "criteo": Case("dcn", CRITEO, 8, 13, 1e-3),
    "avazu": Case("mlp", AVAZU, 16, 0, 1e-4),
    "ipinyou": Case("opnn", IPINYOU, 10, 0, 1e-4),
}
DEEPFM = {"criteo-deepfm": Case("deepfm", CRITEO, 9, 13, 1e-3)}  # compiled rows alone serve it
MODELS: dict[str, Any] = {"dcn": DCN, "mlp": MLP, "opnn": OPNN, "deepfm": DeepFM}
OPTS: dict[str, dict[str, Any]] = {
    "group_adam": dict(lambda21=1e-3),
    "group_adagrad": dict(lambda21=1e-3),
    "adam": {},
}


def make_batches(case: Case, count: int, size: int, seed: int = 0) -> list[Batch]:
    """Zipf ids in memory, uniform dense columns, a quarter of clicks."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *case.sizes[:-1]])
    batches = []
    for _ in range(count):
        ids = np.empty((size, len(case.sizes)), np.int32)
        for field, (start, n) in enumerate(zip(starts, case.sizes, strict=True)):
            # Inverse of the distribution function of a power law on [1, n + 1).
            u = rng.random(size)
            rank = ((1 + u * ((n + 1.0) ** (1 - ZIPF) - 1)) ** (1 / (1 - ZIPF))).astype(np.int64) - 1
            ids[:, field] = start + np.minimum(rank, n - 1) * 2654435761 % n
        dense = torch.from_numpy(rng.random((size, case.dense), np.float32)) if case.dense else None
        batches.append(
            Batch(torch.from_numpy(ids), dense, torch.from_numpy((rng.random(size) < 0.25).astype(np.float32)))
        )
    return batches


def build(case: Case, seed: int = 0) -> Any:
    """The model of a case."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(case.sizes)
    embedding = FeatureEmbedding(rows, case.dim, generator=generator)
    return MODELS[case.model](rows, len(case.sizes), case.dense, embedding=embedding, generator=generator)


Step = Callable[[Batch], None]


def eager(case: Case, huge: bool = False, torch_dropout: bool = False, device: str = "cpu") -> Step:
    """The reference. With the model's own dropout, one random bit per unit, or with torch's."""
    model = build(case).to(device)
    if torch_dropout:
        for i, layer in enumerate(model.hidden):
            model.hidden[i] = nn.Sequential(layer, nn.Dropout(0.5))
        model.dropout = 0
    weight = model.get_parameter("embedding.weight")

    def table() -> Tensor:
        if huge:
            return torch.from_numpy(allocate(weight.numel())).view_as(weight)
        return torch.empty_like(weight, requires_grad=False)

    if huge:
        weight.data = table().copy_(weight.detach())
    rows = torch.optim.SparseAdam([weight], lr=case.lr)
    rows.state[weight] = {"step": 0, "exp_avg": table().zero_(), "exp_avg_sq": table().zero_()}
    net = torch.optim.Adam([p for p in model.parameters() if p is not weight], lr=case.lr, fused=True)
    return loop(model, weight, rows, net)


def loop(model: Any, weight: Tensor, rows: Optimizer, net: Optimizer) -> Step:
    """What one writes in PyTorch."""

    def step(batch: Batch) -> None:
        ids, dense, label = arrived(batch, weight.device)
        logits = model.from_rows(F.embedding(ids, weight, sparse=True), dense)
        F.binary_cross_entropy_with_logits(logits, label).backward()
        for optimizer in (rows, net):
            optimizer.step()
            optimizer.zero_grad()

    return step


def arrived(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ids, dense columns and labels, on the device."""
    assert isinstance(batch.ids, Tensor)
    return batch.ids.to(device), None if batch.dense is None else batch.dense.to(device), batch.label.to(device)


def plain_loop(case: Case, device: str = "cpu") -> Step:
    """The reference with GroupAdam in place of SparseAdam, and nothing else of this package in the loop."""
    model = build(case).to(device)
    weight = model.get_parameter("embedding.weight")
    rows = GroupAdam([weight], lr=case.lr, **OPTS["group_adam"], fused=device == "cpu")
    for name in ("u", *rows.buffers):
        rows.ensure_state(weight)[name] = torch.empty_like(weight, requires_grad=False).zero_()
    net = torch.optim.Adam([p for p in model.parameters() if p is not weight], lr=case.lr, fused=True)
    return loop(model, weight, rows, net)


def rows_and_net(case: Case) -> RowsStep:
    """``backend=rows``."""
    model = build(case)
    rows, net = make_optimizers(model, "group_adam", dict(OPTS["group_adam"], lr=case.lr))
    return RowsStep(model, rows, net)


def void(_: object) -> None:
    pass


def compiled(case: Case, opt: str, threads: int) -> NativeStep:
    model = build(case)
    lr = 1e-2 if opt.endswith("adagrad") else case.lr
    rows, net = make_optimizers(model, opt, dict(OPTS[opt], lr=lr))
    return NativeStep(model, rows, net, threads)


def ours(case: Case, opt: str, threads: int) -> Step:
    step = compiled(case, opt, threads)

    def train(batch: Batch) -> None:
        step.train(batch)

    return train


def in_torch(case: Case, device: str) -> Step:
    """``backend=torch``."""
    model = build(case).to(device)
    step = TorchStep(model, *make_optimizers(model, "group_adam", dict(OPTS["group_adam"], lr=case.lr)))
    return lambda batch: void(step.train(batch))


def fbgemm(case: Case, device: str) -> Step:
    """The reference with the rows in fbgemm, which updates them by Adagrad in its backward pass."""
    model = build(case).to(device)
    weight = model.get_parameter("embedding.weight")
    rows = bench_fbgemm.Rows(weight, 1e-2)
    net = torch.optim.Adam([p for p in model.parameters() if p is not weight], lr=case.lr, fused=True)
    weight.data = weight.data[:1].clone()

    def step(batch: Batch) -> None:
        ids, dense, label = arrived(batch, weight.device)
        F.binary_cross_entropy_with_logits(model.from_rows(rows(ids), dense), label).backward()
        net.step()
        net.zero_grad()

    return step
