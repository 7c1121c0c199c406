"""What a user asks after training: which groups are zero, at what rate, and what another lambda21 would leave.

A row that no batch has touched still holds its random initial value. It counts in no figure here.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, SparseAdam

from ctr.optim.core import GroupOptimizer
from ctr.optim.group_adam import GroupAdam
from ctr.optim.group_amsgrad import GroupAMSGrad
from ctr.optim.shrinkage import any_in_group, group_size
from ctr.optim.validate import GroupDim


def zero_rows(weight: Tensor, group_dim: GroupDim = 0) -> Tensor:
    """Which groups are exactly zero: bool [groups], one for each index of dimension group_dim (rows by default).

    Args:
        weight: of any shape; an embedding table is [rows, d].
        group_dim: as in :class:`~ctr.optim.GroupOptimizer`.
    """
    return ~any_in_group(weight.detach() != 0, group_dim).flatten()


def touched_rows(optimizer: GroupOptimizer, p: Tensor) -> Tensor:
    """Which groups of p the optimizer has ever stepped: bool [groups], one for each index of its group_dim.

    To read untouched rows as zero, as a serving look-up does: ``p * touched_rows(opt, p)[:, None]``.

    Raises:
        ValueError: p is not one of the optimizer's parameters.
    """
    group, state = optimizer.group_of(p), optimizer.state.get(p)
    if not state:
        return ~any_in_group(torch.ones_like(p, dtype=torch.bool), group["group_dim"]).flatten()
    seen: Tensor = state["seen"].flatten()
    return seen.clone()


def feature_rate(optimizer: GroupOptimizer, p: Tensor) -> float:
    """Share of the touched groups of p that are not zero (the paper's sparsity); NaN if none was touched.

    Raises:
        ValueError: p is not one of the optimizer's parameters.
    """
    touched = touched_rows(optimizer, p)
    alive = touched & ~zero_rows(p, optimizer.group_of(p)["group_dim"])
    count = int(touched.sum())
    return int(alive.sum()) / count if count else math.nan


def prox_path(optimizer: GroupOptimizer, p: Tensor, lambda21s: Iterable[float]) -> list[int]:
    """How many touched groups of p would survive if each lambda21 were applied to the present state.

    It is the count that ``apply_threshold_`` would leave, not that of a training run with that lambda21: groups are
    ranked by the norm of ``z = u - D x``, with D as in :meth:`~ctr.optim.GroupOptimizer.stored_rows`.

    Args:
        optimizer: the one that trained p.
        p: a parameter with groups.
        lambda21s: values to try, each at least 0.

    Returns:
        The number of survivors for each of them.

    Raises:
        ValueError: p is not one of the optimizer's parameters or has no groups (group_dim None).
    """
    group = optimizer.group_of(p)
    group_dim: GroupDim = group["group_dim"]
    if group_dim is None:
        raise ValueError("prox_path: group_dim is None, so lambda21 removes nothing from this parameter")
    limits = [math.sqrt(group_size(p.shape, group_dim)) * value for value in lambda21s]
    counts = [0] * len(limits)
    for length in optimizer.norms_of(p):
        for i, limit in enumerate(limits):
            counts[i] += int((length > max(limit, torch.finfo(p.dtype).tiny)).sum())
    return counts


def warm_start_from_adam(optimizer: GroupOptimizer, adam: Optimizer | dict[str, Any]) -> None:
    """Takes over the moments and the step of a trained Adam, so that training goes on where Adam stood.

    With all lambdas 0 the next steps are Adam's. u is 0, as Adam has no penalty; the rows that it has trained count as
    touched (with lr = 0 only from their next touch on).

    Args:
        optimizer: a GroupAdam or GroupAMSGrad over the trained weights.
        adam: ``torch.optim.Adam`` or ``SparseAdam`` over the same tensors, or the ``state_dict()`` of one whose
            parameters came in the same order.

    Raises:
        ValueError: another kind of optimizer, or a state that does not fit (the parameter is named).
    """
    if not isinstance(optimizer, GroupAdam | GroupAMSGrad):
        raise ValueError(f"a GroupAdam or GroupAMSGrad is expected, got {type(optimizer).__name__}")
    params = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    if isinstance(adam, dict):
        order = [i for group in adam["param_groups"] for i in group["params"]]
        if len(order) != len(params):
            raise ValueError(f"Adam's state has {len(order)} parameters, the optimizer has {len(params)}")
        sources = [adam["state"].get(i, {}) for i in order]
    elif isinstance(adam, Adam | SparseAdam):
        sources = [adam.state.get(p, {}) for p, _ in params]
    else:
        raise ValueError(f"an Adam, a SparseAdam or a state dict is expected, got {type(adam).__name__}")
    names = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}
    for (p, _), name, source in zip(params, optimizer.parameter_names(), sources, strict=True):
        for key in optimizer.buffers if source else ():
            found = source.get(names[key])
            if found is None or found.shape != p.shape:
                what = "missing" if found is None else f"of shape {tuple(found.shape)}, not {tuple(p.shape)}"
                raise ValueError(f"{type(optimizer).__name__}: {names[key]} of {name} is {what}")
    if not any(sources):
        raise ValueError("Adam holds no state for any of these parameters")
    for (p, group), source in zip(params, sources, strict=True):
        if source:
            _take_over(optimizer, p, group, {key: source[names[key]] for key in optimizer.buffers}, source["step"])


@torch.no_grad()
def _take_over(
    optimizer: GroupOptimizer, p: Tensor, group: dict[str, Any], moments: dict[str, Tensor], step: Any
) -> None:
    state = optimizer.ensure_state(p)
    state["step"], state["lr"] = int(step), float(group["lr"])
    for key, value in moments.items():
        state[key].copy_(value)
    state["u"].zero_()
    trained = any_in_group((state["m"] != 0) | (state["v"] != 0), group["group_dim"])
    state["seen"].copy_(trained & (state["lr"] > 0))
