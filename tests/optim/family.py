"""The table that every optimizer of the family goes through, and what it is compared with.

Nothing here uses the core: the plain optimizers are torch's, AdaHessian is written out from its paper, and
``algorithm1`` is the paper's framework in numpy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctr.optim import OPTIMIZERS, GroupAdaHessian, GroupOptimizer


class PublishedAdaHessian(torch.optim.Optimizer):
    """The rule of Yao et al., arXiv:2006.00719, Algorithm 1 without block averages; h is read from ``p.hessian``."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, power: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "power": power})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_hess=torch.zeros_like(p))
                state["step"] += 1
                state["exp_avg"] = b1 * state["exp_avg"] + (1 - b1) * p.grad
                state["exp_hess"] = b2 * state["exp_hess"] + (1 - b2) * p.hessian**2
                m = state["exp_avg"] / (1 - b1 ** state["step"])
                v = state["exp_hess"] / (1 - b2 ** state["step"])
                p -= group["lr"] * m / (v.sqrt() ** group["power"] + group["eps"])


@dataclass(frozen=True)
class Member:
    """One row of the table: a class with options, and the plain optimizer that it must equal with all lambdas 0."""

    id: str
    name: str
    lr: float
    plain: Callable[[Any, float], torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    counts_steps: bool = False  # whether the plain rule depends on t

    def make(self, params: Any, **over: Any) -> GroupOptimizer:
        return OPTIMIZERS[self.name](params, **{"lr": self.lr, **self.options, **over})  # type: ignore[call-arg]

    @property
    def second_order(self) -> bool:
        return self.name == "group_adahessian"


def _adam(**more: Any) -> Callable[[Any, float], torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.Adam(params, lr=lr, **more)


def _sgd(**more: Any) -> Callable[[Any, float], torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.SGD(params, lr=lr, **more)


def _adagrad(**more: Any) -> Callable[[Any, float], torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.Adagrad(params, lr=lr, **more)


def _adahessian(power: float) -> Callable[[Any, float], torch.optim.Optimizer]:
    return lambda params, lr: PublishedAdaHessian(params, lr, (0.9, 0.999), 1e-4, power)


FAMILY = [
    Member("sgd", "group_sgd", 0.1, _sgd()),
    Member("momentum", "group_momentum", 0.05, _sgd(momentum=0.9)),
    Member("nesterov", "group_momentum", 0.05, _sgd(momentum=0.9, nesterov=True), {"nesterov": True}),
    Member("adagrad", "group_adagrad", 0.1, _adagrad(eps=1e-10)),
    Member(
        "adagrad_start",
        "group_adagrad",
        0.1,
        _adagrad(eps=1e-10, initial_accumulator_value=0.1),
        {"initial_accumulator_value": 0.1},
    ),
    Member("adam", "group_adam", 0.01, _adam(), counts_steps=True),
    Member("adam_beta1_0", "group_adam", 0.01, _adam(betas=(0.0, 0.99)), {"betas": (0.0, 0.99)}, counts_steps=True),
    Member("amsgrad", "group_amsgrad", 0.01, _adam(amsgrad=True), counts_steps=True),
    Member("adahessian", "group_adahessian", 0.1, _adahessian(1.0), counts_steps=True),
    Member("adahessian_half", "group_adahessian", 0.1, _adahessian(0.5), {"hessian_power": 0.5}, counts_steps=True),
]
ONE_EACH = [m for m in FAMILY if m.id in ("sgd", "momentum", "adagrad", "adam", "amsgrad", "adahessian")]


def ids(members: Sequence[Member]) -> list[str]:
    return [m.id for m in members]


def give(opt: torch.optim.Optimizer, p: Tensor, grad: Tensor, hessian: Tensor | None = None) -> None:
    """Sets the gradient, and for second order the Hessian diagonal, of the next step."""
    p.grad = grad.clone()
    if isinstance(opt, GroupAdaHessian):
        assert hessian is not None
        opt.set_hessian(p, hessian.clone())
    elif isinstance(opt, PublishedAdaHessian):
        p.hessian = hessian  # type: ignore[attr-defined]


def wide_range(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Float64 values of either sign with magnitudes from 1e-8 to 1, evenly over the decades."""
    size = 10 ** (-8 * torch.rand(*shape, dtype=torch.float64, generator=generator))
    return size * torch.randn(*shape, dtype=torch.float64, generator=generator).sign()


def sparse(rows: Sequence[int] | Tensor, values: Tensor, height: int, coalesced: bool = False) -> Tensor:
    """A row-sparse COO gradient, as nn.Embedding(sparse=True) makes."""
    index = torch.as_tensor(rows, dtype=torch.long)[None]
    shape = (height, *values.shape[1:])
    return torch.sparse_coo_tensor(index, values, shape, is_coalesced=coalesced, check_invariants=True)


def algorithm1(
    x: np.ndarray,
    touches: list[dict[int, np.ndarray]],
    *,
    lr: float,
    lambda1: float,
    lambda21: float,
    lambda2: float,
    norm: str,
    threshold: str,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> np.ndarray:
    """Group Adam, step by step: ``touches[t]`` maps the rows of step t to gradients."""
    x, d = x.copy(), x.shape[1]
    z, m, v, D_prev = (np.zeros_like(x) for _ in range(4))
    for t, rows in enumerate(touches, start=1):
        r, g = list(rows), np.array(list(rows.values()))
        m[r] = betas[0] * m[r] + (1 - betas[0]) * g
        v[r] = betas[1] * v[r] + (1 - betas[1]) * g * g
        D = (np.sqrt(v[r] / (1 - betas[1] ** t)) + eps) / lr
        z[r] = z[r] + m[r] / (1 - betas[0] ** t) - (D - D_prev[r]) * x[r]
        D_prev[r] = D
        s = -np.sign(z[r]) * np.maximum(np.abs(z[r]) - lambda1, 0)
        power = {"s": 0.0, "s_tilde": -0.5, "s_tilde_eq10": -1.0}[norm]
        size = np.sqrt((((D / 2 + lambda2) ** power * s) ** 2).sum(axis=1, keepdims=True))
        limit = math.sqrt(d) * lambda21
        shrunk = 1 - limit / np.maximum(size, limit) if threshold == "soft" else 1.0
        x[r] = np.where(size <= limit, 0.0, shrunk * s / (D + 2 * lambda2))
    return x


LAMBDAS = {"lambda1": 1e-3, "lambda21": 0.5, "lambda2": 1e-3}

WEAK_AND_STRONG = torch.tensor([[0.001], [0.001], [0.1], [1.0], [1.0], [1.0]])


def walk(opt: GroupOptimizer, p: torch.Tensor, steps: range) -> None:
    """Steps with gradients that depend on the step alone, alternately sparse and dense."""
    for t in steps:
        gen = torch.Generator().manual_seed(t)
        grad = (torch.randn(6, 3, generator=gen) * WEAK_AND_STRONG).to(p)
        rows = torch.randint(0, 6, (4,), generator=gen).to(p.device)
        whole = [sparse(rows, each[rows], 6) for each in (grad, grad.abs())]
        give(opt, p, *(whole if t % 2 else [g.to_dense() for g in whole]))
        opt.step()


def table(device: str = "cpu") -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-0.02, 0.02, 18, device=device).reshape(6, 3))
