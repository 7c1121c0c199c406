"""RMSprop with the sparse group lasso: Algorithm 1 of Yue et al. (arXiv:2107.14432) with another V."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.validate import GroupDim, Norm, Threshold


class GroupRMSprop(GroupOptimizer):
    """Scales each gradient by the root of a moving average of its squares, and sets whole groups to exact zero::

        m = g,   v <- alpha v + (1 - alpha) g^2,   D = (sqrt(v) + eps) / lr

    Args:
        params: tensors, named tensors or param groups, float32 or float64.
        lr: learning rate.
        alpha: decay of the average.
        eps: added to its root.
        lambda1, lambda21, lambda2, norm, threshold, group_dim, lazy, maximize, check_finite: see
            :class:`~ctr.optim.core.GroupOptimizer`.
    """

    buffers = ("v",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
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
    ) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(f"GroupRMSprop: alpha must be in [0, 1), got {alpha!r}")
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps,
            "lambda1": lambda1, "lambda21": lambda21, "lambda2": lambda2, "norm": norm, "threshold": threshold,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults)

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        rows["v"].mul_(group["alpha"]).addcmul_(grad, grad, value=1 - group["alpha"])
        return grad

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        return rows["v"].sqrt().add_(group["eps"])

    @staticmethod
    def plain(params: ParamsT, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8) -> torch.optim.RMSprop:
        """The same with all lambdas 0, for the net."""
        return torch.optim.RMSprop(params, lr=lr, alpha=alpha, eps=eps)
