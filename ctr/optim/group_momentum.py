"""Group Momentum: SGD with momentum and the sparse group lasso (Yue et al., arXiv:2107.14432, Table 1)."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.fused import MOMENTUM
from ctr.optim.validate import GroupDim, Norm, Threshold


class GroupMomentum(GroupOptimizer):
    r"""SGD with (Nesterov) momentum whose step also carries l1, l21 and l2 and so sets whole groups to exact zero.

    The step t, per touched row, with the lines of the paper's Algorithm 1::

        b <- gamma b + g                                                    line 4, Table 1
        m  = b   (nesterov: g + gamma b),   D = 1 / lr                      line 4
        z  = u + m - D x                                                    lines 5, 6
        s  = -sign(z) max(|z| - lambda1, 0)                                 line 8
        x <- max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)       line 10
        u <- z + D x

    V = I at every step; u is 0 before a row's first touch. With all lambdas 0 it is
    ``torch.optim.SGD(momentum=gamma, nesterov=nesterov)``.

    Shapes: any; an embedding table is (rows, d) with ``group_dim=0``. Dense and sparse COO gradients.

    Args:
        params: tensors, named tensors or param groups, float32 or float64.
        lr: learning rate, alpha in the paper.
        momentum: gamma, in [0, 1).
        nesterov: Nesterov's form of the momentum.
        lambda1, lambda21, lambda2, norm, threshold, group_dim, lazy, maximize, check_finite, fused: see
            :class:`~ctr.optim.core.GroupOptimizer`.

    Raises:
        ValueError: an option out of range, or a parameter that it does not fit (named in the message).
        RuntimeError: in ``step``, a gradient of a wrong layout, or NaN with ``check_finite=True``.
    """

    buffers = ("m",)
    rule = MOMENTUM

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        lambda1: float = 0.0,
        lambda21: float = 0.0,
        lambda2: float = 0.0,
        *,
        norm: Norm = "s",
        threshold: Threshold = "soft",
        group_dim: GroupDim = 0,
        lazy: bool = True,
        maximize: bool = False,
        check_finite: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov,
            "lambda1": lambda1, "lambda21": lambda21, "lambda2": lambda2, "norm": norm, "threshold": threshold,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults, fused)

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        gamma = group["momentum"]
        b = rows["m"].mul_(gamma).add_(grad)
        return torch.add(grad, b, alpha=gamma) if group["nesterov"] else b

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        return torch.ones_like(rows["u"])

    @staticmethod
    def plain(params: ParamsT, lr: float, momentum: float = 0.9, nesterov: bool = False) -> torch.optim.SGD:
        """The same with all lambdas 0, for the net."""
        return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
