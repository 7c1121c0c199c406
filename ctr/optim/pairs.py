"""Which optimizers train a model: a grouped one for the embedding rows, its plain counterpart for the net.

Only the embeddings are regularised (paper, section 4.1). A plain optimizer on the rows is the grouped one with all
lambdas 0, which is exact (theorem 2) and touches only the rows of the batch; the net gets torch's own, which is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ctr.optim.core import GroupOptimizer
from ctr.optim.group_adagrad import GroupAdagrad
from ctr.optim.group_adahessian import GroupAdaHessian
from ctr.optim.group_adam import GroupAdam
from ctr.optim.group_amsgrad import GroupAMSGrad
from ctr.optim.group_momentum import GroupMomentum
from ctr.optim.group_sgd import GroupSGD

GROUPED: dict[str, type[GroupOptimizer]] = {
    "sgd": GroupSGD,
    "momentum": GroupMomentum,
    "adagrad": GroupAdagrad,
    "adam": GroupAdam,
    "amsgrad": GroupAMSGrad,
    "adahessian": GroupAdaHessian,
}
REGULARISERS = {"lambda1", "lambda21", "lambda2", "norm", "threshold", "eps_hat"}


def make_optimizers(model: nn.Module, name: str, options: Mapping[str, Any]) -> tuple[GroupOptimizer, Optimizer]:
    """The optimizers of ``opt=<name>``: of the embedding's weight, and of all other parameters.

    Args:
        model: has its table at ``embedding.weight``.
        name: ``"group_adam"``, ``"adam"``, ...; without ``group_`` the options hold no lambdas.
        options: arguments of the grouped class beside the parameters.
    """
    family = name.removeprefix("group_")
    if family not in GROUPED:
        raise ValueError(f"no optimizer {name!r}; expected one of {', '.join(GROUPED)}, or one of these with group_")
    weight = model.get_parameter("embedding.weight")
    net = [p for p in model.parameters() if p is not weight]
    plain = {key: value for key, value in options.items() if key not in REGULARISERS}
    return GROUPED[family]([weight], **options), _plain_optimizer(family, net, plain)


def check_saved(state: Mapping[str, Any], net_optimizer: Optimizer) -> None:
    """ValueError if a saved state is not one of a training step whose net has such an optimizer.

    torch takes up any state of as many parameters. That of the rows is checked by its optimizer.
    """
    if "table" in state or "history" in state:
        raise ValueError(
            "this state is of an older version, whose rows hold z: it can no longer be taken up; train anew, or from "
            "its weights alone"
        )
    if not {"row_optimizer", "net_optimizer"} <= state.keys():
        raise ValueError(f"this state is not one of a training step: it holds {', '.join(state) or 'nothing'}")
    saved, groups = state["net_optimizer"], net_optimizer.param_groups
    if any(not net_optimizer.defaults.keys() <= group.keys() for group in saved["param_groups"]):
        raise ValueError(f"this state is of a net with another optimizer than {type(net_optimizer).__name__}")
    mine = [tuple(p.shape) for group in groups for p in group["params"]]
    theirs = [  # a number for all parameters, such as the step, has no shape of its own
        {tuple(value.shape) for value in saved["state"].get(i, {}).values() if isinstance(value, torch.Tensor)} - {()}
        for group in saved["param_groups"]
        for i in group["params"]
    ]
    if len(theirs) != len(mine) or any(shapes - {shape} for shapes, shape in zip(theirs, mine, strict=True)):
        shown = [sorted(shapes) for shapes in theirs]
        raise ValueError(f"this state is of a net with parameters {shown}; this one has {mine}")


def _plain_optimizer(family: str, net: list[nn.Parameter], options: dict[str, Any]) -> Optimizer:
    if family == "adahessian":  # torch has none
        return GroupAdaHessian(net, group_dim=None, **options)
    if family in ("adam", "amsgrad"):
        return torch.optim.Adam(net, amsgrad=family == "amsgrad", fused=True, **options)
    if family == "adagrad":
        return torch.optim.Adagrad(net, fused=all(p.device.type == "cpu" for p in net), **options)
    return torch.optim.SGD(net, fused=True, **options)
