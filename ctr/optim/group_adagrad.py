"""Group Adagrad, also called Group FTRL (Yue et al., arXiv:2107.14432, Algorithm 3)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.fused import ADAGRAD
from ctr.optim.validate import GroupDim, Norm, Threshold


class GroupAdagrad(GroupOptimizer):
    r"""Adagrad whose step also carries l1, l21 and l2 and so sets whole groups to exact zero.

    The step t, per touched row, with the lines of the paper's Algorithm 3::

        m    = g                                                            lines 3, 4
        sum <- sum + g^2                                                    line 5
        D    = (sqrt(initial_accumulator_value + sum) + eps) / lr           line 6; see below
        z    = u + m - D x                                                  lines 6, 7
        s    = -sign(z) max(|z| - lambda1, 0)                               line 9
        x   <- max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)     line 11
        u   <- z + D x

    eps is beside the root, as in ``torch.optim.Adagrad``, which this is with all lambdas 0; the paper puts it under
    the root at t = 1. With lambda21 = 0 and weights that start at 0 it is FTRL-Proximal (McMahan et al., "Ad Click
    Prediction", KDD 2013, with their lambda2 = 2 * lambda2 here).

    Shapes: any; an embedding table is (rows, d) with ``group_dim=0``. Dense and sparse COO gradients.

    Args:
        params: tensors, named tensors or param groups, float32 or float64.
        lr: learning rate, alpha in the paper.
        eps: added to the root of the accumulator.
        initial_accumulator_value: where the sum of squares starts. The state ``sum`` holds what came since.
        lambda1, lambda21, lambda2, norm, threshold, group_dim, lazy, maximize, check_finite, fused: see
            :class:`~ctr.optim.core.GroupOptimizer`.

    Raises:
        ValueError: an option out of range, or a parameter that it does not fit (named in the message).
        RuntimeError: in ``step``, a gradient of a wrong layout, or NaN with ``check_finite=True``.
    """

    buffers = ("sum",)
    rule = ADAGRAD

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
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
            "lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value,
            "lambda1": lambda1, "lambda21": lambda21, "lambda2": lambda2, "norm": norm, "threshold": threshold,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults, fused)

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        rows["sum"].addcmul_(grad, grad)
        return grad

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        return (rows["sum"] + group["initial_accumulator_value"]).sqrt_().add_(group["eps"])

    @staticmethod
    def plain(
        params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, initial_accumulator_value: float = 0.0
    ) -> torch.optim.Adagrad:
        """The same with all lambdas 0, for the net."""
        params = list(params)
        return torch.optim.Adagrad(
            params,
            lr=lr,
            eps=eps,
            initial_accumulator_value=initial_accumulator_value,
            fused=all(p.device.type == "cpu" for p in params),  # torch has no other kernel yet
        )
