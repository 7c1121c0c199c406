"""The proximal step of the grouped optimizers on tensors: norms of groups, thresholds, new weights and their u.

Algorithm 1, lines 7 to 10, of "Adaptive Optimizers with Sparse Group Lasso for Neural Networks in CTR Prediction" (Yue
et al., arXiv:2107.14432); the optimizers are in :mod:`ctr.optim.core`.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from ctr.optim.validate import GroupDim, Norm, Threshold

Watch: TypeAlias = Callable[[Tensor], None]  # is given the norms of the groups that a step updates

# MKL picks the kernel of a function at its first call. If two threads make that call at once, one of them can get a
# coarse kernel with errors of up to 4,000 ulp (https://github.com/pytorch/pytorch/issues/188792). One makes it here, of
# the functions that the optimizers and an exported scorer call.
for _dtype in (torch.float32, torch.float64):
    for _function in (torch.sqrt, torch.log, torch.expm1):
        _function(torch.ones(1, dtype=_dtype))


def group_size(shape: torch.Size, group_dim: GroupDim) -> int:
    """d, the number of weights in one group of a tensor of this shape."""
    if group_dim == "all" or not shape:
        return math.prod(shape)
    assert group_dim is not None
    return math.prod(shape[:group_dim]) * math.prod(shape[group_dim + 1 :])


def group_norm(s: Tensor, denominator: Tensor | None, norm: Norm, group_dim: GroupDim) -> Tensor:
    """The norm that is compared with ``sqrt(d) * lambda21``, one per group, broadcastable to s.

    Args:
        s: the soft-thresholded z (its sign does not matter).
        denominator: ``D + 2 * lambda2``, same shape; not needed for ``"s"``.
        norm: ``"s"`` takes ||s|| (the practical rule); ``"s_tilde"`` ||(denominator / 2)^(-1/2) s||, the exact
            minimiser of Eq. 6; ``"s_tilde_eq10"`` ||(denominator / 2)^(-1) s||, as printed.
        group_dim: as in :class:`~ctr.optim.core.GroupOptimizer`, not None.
    """
    info = torch.finfo(s.dtype)
    if norm != "s":
        assert denominator is not None
        scale = denominator.mul(0.5).clamp_(min=info.tiny)
        s = s / (scale.sqrt_() if norm == "s_tilde" else scale)
    over = _within(s, group_dim)
    length = torch.linalg.vector_norm(s, dim=over, keepdim=True) if over else s.abs()
    return length.clamp_(info.tiny, info.max)


def any_in_group(mask: Tensor, group_dim: GroupDim) -> Tensor:
    """Whether any weight of a group is marked, broadcastable to mask; without groups the mask itself."""
    over = _within(mask, group_dim)
    return mask.any(dim=over, keepdim=True) if over else mask


def scores(z: Tensor, D: Tensor | None, group: dict[str, Any]) -> Tensor:
    """The norm of every group under a param group's options; one above ``sqrt(d) * lambda21`` survives.

    The norm ``s`` needs no D.
    """
    s = softshrink(z, group["lambda1"])
    return group_norm(s, None if D is None else D + 2 * group["lambda2"], group["norm"], group["group_dim"])


def shrink(
    z: Tensor,
    D: Tensor,
    *,
    lambda1: float = 0.0,
    lambda21: float = 0.0,
    lambda2: float = 0.0,
    norm: Norm = "s",
    threshold: Threshold = "soft",
    group_dim: GroupDim = 0,
    x: Tensor | None = None,
) -> Tensor:
    """The new weights from z and D (Algorithm 1, lines 7 to 10)::

        s = -sign(z) max(|z| - lambda1, 0)
        soft:  max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)
        hard:  s / (D + 2 lambda2) where ||s|| > sqrt(d) lambda21, else 0

    A zero is always +0.0.

    Args:
        z, D: same shape.
        x: the present weights, needed only where ``D + 2 lambda2`` can be 0 (eps = 0 and no gradient yet).
            There the objective is flat: x stays, unless a penalty acts and s is 0, for which 0 is the minimiser.
    """
    return _shrink_with_u(z, D, lambda1, lambda21, lambda2, norm, threshold, group_dim, x)[0]


def _shrink_with_u(
    z: Tensor,
    D: Tensor,
    lambda1: float,
    lambda21: float,
    lambda2: float,
    norm: Norm,
    threshold: Threshold,
    group_dim: GroupDim,
    x: Tensor | None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`shrink`, with ``u = z + D x`` of the new x, which is not computed so: that would cancel."""
    s = softshrink(z, lambda1) if lambda1 else z  # minus the paper's s: the sign comes back in the division
    denominator = D + 2 * lambda2 if lambda2 else D
    share = D / denominator if lambda2 else None  # of s that is divided by D again: D x = -share s
    kept, penalised = s, bool(lambda1)
    if (lambda21 or watch) and group_dim is not None:
        penalised = penalised or lambda21 > 0
        limit = math.sqrt(group_size(z.shape, group_dim)) * lambda21
        length = group_norm(s, denominator, norm, group_dim)
        if watch:
            watch(length)
        keep = (length - limit).clamp_(min=0).div_(length) if threshold == "soft" else (length > limit).to(s.dtype)
        kept = s * keep
        share = keep if share is None else share.mul_(keep)
    new = torch.addcdiv(z.new_zeros(()), kept, denominator, value=-1)  # 0 - kept / denominator: never -0.0
    u = torch.zeros_like(s) if share is None else torch.sub(1, share).mul(s)
    if lambda1:
        u.add_(z - s)
    if x is not None:
        stay = torch.where(kept == 0, 0.0, x) if penalised else x
        flat = denominator == 0
        new, u = torch.where(flat, stay, new), torch.where(flat, z, u)
    return new, u


def proximal_step(
    x: Tensor, pull: Tensor, D: Tensor, group: dict[str, Any], flat: bool, watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """The minimiser of ``pull . x' + D (x' - x)^2 / 2 + penalty(x')``, which is ``shrink(pull - D x, D)``, and its u.

    Where the new u is 0 no penalty acts, or none beyond the rounding of z. The new weight is then ``x - pull / D``: the
    same number, but rounded as in a plain optimizer, which adds a small step to x instead of dividing D x by D.

    Args:
        x: the present weights.
        pull: u + m in a step; u alone where weights are tested without a gradient.
        D: finite, see :func:`denominator`.
        group: the param group, which holds the penalty.
        flat: whether ``D + 2 lambda2`` can be 0, see :func:`may_vanish`.
        watch: called with the norms of the groups, also where lambda21 is 0.
    """
    lambda1, lambda21, lambda2, group_dim = (group[k] for k in ("lambda1", "lambda21", "lambda2", "group_dim"))
    plain = torch.addcdiv(x, pull, D, value=-1)
    if not (lambda1 or lambda2 or ((lambda21 or watch) and group_dim is not None)):
        if not flat:
            return plain, torch.zeros_like(pull)
        return torch.where(D == 0, x, plain), torch.where(D == 0, pull, 0.0)
    most = torch.finfo(x.dtype).max
    z = torch.addcmul(pull, D, x, value=-1).clamp_(-most, most)
    norm, threshold = group["norm"], group["threshold"]
    held = x if flat else None
    new, u = _shrink_with_u(z, D, lambda1, lambda21, lambda2, norm, threshold, group_dim, held, watch)
    free = (u == 0) & (new != 0)
    return torch.where(free & (D != 0) if flat else free, plain, new), u


def denominator(root: Tensor, lr: float) -> Tensor:
    """``D = sqrt(V) / lr``, in place of root, where it is below ``finfo.max * finfo.eps``, else that: with a tiny lr.

    In float32 it is 4e31. D x does not overflow then, nor does a gradient divided by D underflow.
    """
    info = torch.finfo(root.dtype)
    return root.mul_(min(1 / lr, info.max)).clamp_(max=info.max * info.eps)


def clip(values: Tensor) -> Tensor:
    """A copy within +-finfo.max ** 0.375, so that its square, and a sum of a billion of them, is finite."""
    bound = torch.finfo(values.dtype).max ** 0.375
    return values.clamp(-bound, bound)


def may_vanish(group: dict[str, Any], lr: float, dtype: torch.dtype) -> bool:
    """Whether ``D + 2 lambda2`` can be 0 at this learning rate: only with eps (next to) 0 and no l2."""
    return float(group.get("eps", 1.0)) / lr + 2 * group["lambda2"] < torch.finfo(dtype).tiny


def seen_shape(p: Tensor, group_dim: GroupDim) -> list[int]:
    """The shape of one value per group that is broadcastable to p."""
    within = _within(p, group_dim)
    return [1 if dim in within else size for dim, size in enumerate(p.shape)]


def _within(x: Tensor, group_dim: GroupDim) -> list[int]:
    """The dimensions that run inside a group."""
    return [dim for dim in range(x.dim()) if group_dim == "all" or group_dim not in (dim, None)]
