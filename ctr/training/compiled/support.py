"""What the compiled step can train."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Adagrad, Adam, Optimizer

from ctr.optim.group_adagrad import GroupAdagrad
from ctr.optim.group_adam import GroupAdam
from ctr.optim.shrinkage import may_vanish
from ctr.training.compiled.forward import unservable
from ctr.training.optimizers import has_hooks

# Options under which torch's optimizers do something that the compiled step does not.
_PLAIN = {"weight_decay": 0, "amsgrad": False, "maximize": False, "lr_decay": 0, "decoupled_weight_decay": False}


def unsupported(model: nn.Module, row_optimizer: Optimizer, net_optimizer: Optimizer) -> str | None:
    """Why the compiled step cannot train this model with these optimizers; None if it can."""
    if (reason := unservable(model)) is not None:
        return reason
    if not _optimized(model, row_optimizer, net_optimizer):
        return "it trains all parameters: the embedding's weight by the row optimizer, the others by the net optimizer"
    if type(row_optimizer) not in (GroupAdam, GroupAdagrad) or type(net_optimizer) not in (Adam, Adagrad):
        return f"it does not know {type(row_optimizer).__name__} with {type(net_optimizer).__name__}"
    if row_optimizer.state or any(state.get("step", 0) != 0 for state in net_optimizer.state.values()):
        return "the optimizers have already made a step"
    if has_hooks(row_optimizer) or has_hooks(net_optimizer):
        return "the optimizers have hooks"
    rows, net = row_optimizer.param_groups, net_optimizer.param_groups
    if len(rows) > 1 or len(net) > 1:
        return "the optimizers have more than one param group"
    return unsupported_options(rows[0], net[0])


def unsupported_options(rows: dict[str, Any], net: dict[str, Any]) -> str | None:
    """Why it cannot make a step with these options of the param groups, which may change between steps."""
    for key, value in _PLAIN.items():
        if net.get(key, value) != value:
            return f"the net optimizer has {key}={net[key]}; it knows {value} alone"
    if rows["group_dim"] != 0 or rows["maximize"] or rows["check_finite"]:
        return "of the row optimizer's options it has only group_dim=0, maximize=False and check_finite=False"
    lr = float(rows["lr"])
    if not lr > 0:
        return f"the row optimizer has lr={lr}; it needs lr > 0"
    return "D could be 0: it needs eps / lr + 2 lambda2 > 0 in float32" if may_vanish(rows, lr, torch.float32) else None


def _optimized(model: nn.Module, row_optimizer: Optimizer, net_optimizer: Optimizer) -> bool:
    """Whether the two optimizers hold all parameters, each its own and once, and none is frozen."""
    weight = model.get_parameter("embedding.weight")
    rows, net = (sorted(id(p) for g in o.param_groups for p in g["params"]) for o in (row_optimizer, net_optimizer))
    others = sorted(id(p) for p in model.parameters() if p is not weight)
    return rows == [id(weight)] and net == others and all(p.requires_grad for p in model.parameters())
