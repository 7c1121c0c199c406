"""Trains random nets on every path of the training step and compares weights and rows.

    python scripts/random_nets.py                       # 50 nets, eager and in shares of a batch
    python scripts/random_nets.py --nets 50 --inductor  # the net compiled too: some 20 s a net

Nets are composed by their seed of linear, norm, attention and gating layers, with smooth activations: a ReLU may round
to the other side of 0, which is no error. Paths: eager torch; ``backend=rows``; a loop of one's own, ``fused=True``;
and the net in shares as `ctr.training.compiled_net` cuts the batch (compiled with ``--inductor``). On 1 to 8 threads.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import argparse
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.datasets.stream import Batch
from ctr.models import FeatureEmbedding
from ctr.native.library import available
from ctr.optim import OPTIMIZERS
from ctr.progress import bar
from ctr.training.compiled_net import CompiledNet
from ctr.training.optimizers import make_optimizers
from ctr.training.passes import PassesInLibraries
from ctr.training.step import RowsStep, TorchStep

FEATURES, FIELDS, DENSE, ROWS, STEPS = 60, 4, 2, 24, 4
THREADS = (1, 2, 4, 8)
# Adam turns a gradient that is all rounding into a whole step, unless eps is above it.
OPTS: dict[str, dict[str, Any]] = {
    "group_sgd": {"lr": 0.2},
    "group_momentum": {"lr": 0.05},
    "group_adam": {"lr": 0.01, "eps": 0.1},
}


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.gate(x)) * torch.tanh(self.value(x))


class Attention(nn.Module):
    """Fields [B, F, d] that attend to each other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.attention(rows, rows, rows, need_weights=False)[0]


class RandomNet(nn.Module):
    """One of the nets; the same for the same seed.

    Attributes:
        opt: name of its optimizer.
        together: its rows depend on each other, by a norm over the batch.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        heads = draw.choice([1, 2])
        dim = heads * draw.randint(2, 4)
        self.opt, self.together = draw.choice(list(OPTS)), False
        self.embedding = FeatureEmbedding(FEATURES, dim, init_scale=0.5, generator=torch.Generator().manual_seed(seed))
        self.over_fields = nn.ModuleList(
            draw.choice([Attention(dim, heads), nn.LayerNorm(dim)]) for _ in range(draw.randint(0, 2))
        )
        width, layers = FIELDS * dim + DENSE, []
        for _ in range(draw.randint(1, 4)):
            kind = draw.choice(["linear", "linear", "norm", "batch norm", "gate"])
            if kind == "linear":
                layers += [nn.Linear(width, wide := draw.randint(3, 9)), draw.choice([nn.Tanh(), nn.SiLU(), nn.GELU()])]
                width = wide
            elif kind == "batch norm":
                self.together = True
                layers.append(nn.BatchNorm1d(width))
            else:
                layers.append(nn.LayerNorm(width) if kind == "norm" else Gate(width))
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        for layer in self.over_fields:
            rows = layer(rows)
        assert dense is not None
        found: Tensor = self.layers(torch.cat([rows.flatten(1), dense], 1)).squeeze(1)
        return found


def batches(seed: int) -> list[Batch]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(STEPS):
        parts = rng.integers(0, FEATURES, (ROWS, FIELDS)), rng.random((ROWS, DENSE), np.float32), rng.random(ROWS) < 0.4
        ids, dense, label = (torch.from_numpy(part) for part in parts)
        made.append(Batch(ids.to(torch.int32), dense, label.float()))
    return made


def trained(seed: int, path: str, threads: int, *, inductor: bool = False) -> RandomNet:
    """A net after its batches, on one of the paths: ``"torch"``, ``"rows"``, ``"loop"`` or ``"net"``."""
    net = RandomNet(seed)
    options, given = {**OPTS[net.opt], "lambda21": 1e-4}, batches(seed)
    optimizers = make_optimizers(net, net.opt, options)
    with on_threads(threads):
        if path == "loop":
            rows = OPTIMIZERS[net.opt]([net.embedding.weight], **options, fused=True)
            for batch in given:
                loss = F.binary_cross_entropy_with_logits(
                    net.from_rows(F.embedding(batch.ids, net.embedding.weight, sparse=True), batch.dense), batch.label
                )
                loss.backward()
                for optimizer in (rows, optimizers[1]):
                    optimizer.step()
                    optimizer.zero_grad()
            return net
        step = (RowsStep if path == "rows" else TorchStep)(net, *optimizers)  # type: ignore[arg-type]
        if path == "net":
            at_once = threads if inductor else 1  # two eager passes at a time would share the module's weights
            step.net = CompiledNet(net, step._net_parameters(), given[0], at_once, threads)  # type: ignore[arg-type]
            if step.net.shares != (1 if net.together else threads):
                raise AssertionError(f"net {seed}: {step.net} for {threads} threads")
            if inductor and available() and step.net.shares > 1:
                assert isinstance(step.net._passes, PassesInLibraries), f"net {seed}"
        for batch in given:
            step.train(batch)
    return net


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(seed: int, threads: tuple[int, ...] = THREADS, *, inductor: bool = False) -> None:
    """AssertionError where a path ends elsewhere than eager torch on one thread."""
    expected = trained(seed, "torch", 1).state_dict()
    for count in threads:
        for path in ("torch", "rows", "loop", "net"):
            with patch.object(CompiledNet, "_compile", CompiledNet._compile if inductor else _eager):
                found = trained(seed, path, count, inductor=inductor).state_dict()
            for name in expected if path != "loop" else expected.keys() - {"embedding.seen"}:
                torch.testing.assert_close(
                    found[name],
                    expected[name],
                    rtol=1e-3,
                    atol=1e-5,
                    msg=lambda said, name=name, path=path, count=count: (
                        f"net {seed}, {path} on {count} threads: {name}: {said}"
                    ),
                )


def _eager(net: CompiledNet, of_size: dict[int, list[Tensor]], as_libraries: bool) -> Any:
    return dict.fromkeys(of_size, net._pass)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the seed of the first (default: 0)")
    parser.add_argument("--threads", type=int, nargs="+", default=list(THREADS), metavar="N", help="default: 1 2 4 8")
    parser.add_argument(
        "--inductor", action="store_true", help="the net compiled by Inductor, for each number of shares"
    )
    args = parser.parse_args()
    with bar(args.nets, "nets", "random nets") as progress:
        for seed in range(args.first, args.first + args.nets):
            check(seed, tuple(args.threads), inductor=args.inductor)
            progress.update()
    print(f"{args.nets} nets, every path equal to eager torch within rounding on {args.threads} threads")


if __name__ == "__main__":
    main()
