"""Group AMSGrad: AMSGrad with the sparse group lasso (Yue et al., arXiv:2107.14432, Algorithm 1 and Table 1)."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.fused import AMSGRAD
from ctr.optim.group_adam import adam_root
from ctr.optim.validate import GroupDim, Norm, Threshold


class GroupAMSGrad(GroupOptimizer):
    r"""AMSGrad whose step also carries l1, l21 and l2 and so sets whole groups to exact zero.

    The step t, per touched row, with the lines of the paper's Algorithm 1::

        m_hat <- beta1 m_hat + (1 - beta1) g,   m = m_hat / (1 - beta1^t)   line 4, Table 1
        v     <- beta2 v + (1 - beta2) g^2
        v_max <- max(v_max, v)
        D      = (sqrt(v_max / (1 - beta2^t)) + eps) / lr
        z      = u + m - D x                                                lines 5, 6
        s      = -sign(z) max(|z| - lambda1, 0)                             line 8
        x     <- max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)   line 10
        u     <- z + D x

    v_max is the largest of the moving averages, as in the AMSGrad paper (Reddi et al., ICLR 2018) and in
    ``torch.optim.Adam(amsgrad=True)``, which this is with all lambdas 0. The V_t of the paper's Table 1 feeds the
    maximum back into the average instead.

    Shapes: any; an embedding table is (rows, d) with ``group_dim=0``. Dense and sparse COO gradients.

    Args:
        params: tensors, named tensors or param groups, float32 or float64.
        lr: learning rate, alpha in the paper.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        lambda1, lambda21, lambda2, norm, threshold, group_dim, lazy, maximize, check_finite, fused: see
            :class:`~ctr.optim.core.GroupOptimizer`.
        eps_hat: eps / sqrt(1 - beta2^t) in place of eps.

    Raises:
        ValueError: an option out of range, or a parameter that it does not fit (named in the message).
        RuntimeError: in ``step``, a gradient of a wrong layout, or NaN with ``check_finite=True``.
    """

    buffers = ("m", "v", "v_max")
    rule = AMSGRAD

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lambda1: float = 0.0,
        lambda21: float = 0.0,
        lambda2: float = 0.0,
        *,
        norm: Norm = "s",
        threshold: Threshold = "soft",
        eps_hat: bool = False,
        group_dim: GroupDim = 0,
        lazy: bool = True,
        maximize: bool = False,
        check_finite: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "eps_hat": eps_hat,
            "lambda1": lambda1, "lambda21": lambda21, "lambda2": lambda2, "norm": norm, "threshold": threshold,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults, fused)

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        v = rows["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        torch.maximum(rows["v_max"], v, out=rows["v_max"])
        return rows["m"].lerp_(grad, 1 - beta1) / (1 - beta1**t)

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        return adam_root(rows["v_max"], t, group)

    @staticmethod
    def plain(
        params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> torch.optim.Adam:
        """The same with all lambdas 0, for the net."""
        return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps, amsgrad=True, fused=True)
