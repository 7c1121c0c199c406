"""Which optimizers train a model: a grouped one for the embedding rows, its plain twin for the net.

Only the embeddings are regularised (paper, section 4.1). A plain optimizer on the rows is the grouped one with all
lambdas 0, which is exact (theorem 2) and touches only the rows of the batch; the net gets torch's own, which is fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as of_all

from ctr import parts
from ctr.optim.core import GroupOptimizer

OUT_OF_RANGE = re.compile(r"\w+: (?P<key>\w+) must be (?P<expected>.+), got (?P<got>.+)$")  # `ctr.optim.validate`


def make_optimizers(
    model: nn.Module, name: str, options: Mapping[str, Any], module: str | None = None
) -> tuple[GroupOptimizer, Optimizer]:
    """Returns the optimizers of ``opt=<name>``: of the embedding's weight, and of all other parameters.

    Args:
        model: has its table at ``embedding.weight``.
        name: ``"group_adam"``, ``"adam"``, ...; without ``group_`` the options hold no lambdas.
        options: arguments of the grouped class beside the parameters; its twin gets those that it has too.
        module: where the class is; None for `ctr.optim`.

    Raises:
        ArgumentError: there is no such optimizer, or it has no plain twin.
        ValueError: an option out of range.
    """
    grouped = parts.optimizer(name, module)
    plain = parts.plain_twin(grouped)
    weight = model.get_parameter("embedding.weight")
    net = [p for p in model.parameters() if p is not weight]
    shared = {key: options[key] for key in parts.options("opt", plain) if key in options}
    try:
        return grouped([weight], **options), plain(net, **shared)
    except ValueError as error:
        if wrong := OUT_OF_RANGE.match(str(error)):  # the user gave a key, not a class
            raise ValueError("opt.{}={}; expected {}".format(*wrong.group("key", "got", "expected"))) from error
        raise


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether somebody is to be called before or after its steps, or those of any optimizer."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or of_all._global_optimizer_pre_hooks or of_all._global_optimizer_post_hooks)


def watched(optimizer: Optimizer) -> bool:
    """Whether a step is more than the optimizer's own: it has hooks, or a ``step`` put there by torch's schedulers."""
    return has_hooks(optimizer) or "step" in vars(optimizer)


def laid_out(grads: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, each in memory as its parameter is: torch's fused kernels read them so, whatever their strides are."""
    pairs = zip(grads, parameters, strict=True)
    return [grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad) for grad, p in pairs]


@torch.no_grad()
def step_net(optimizer: Optimizer, grads: Sequence[Tensor]) -> None:
    """A step of the net's optimizer on the CPU with the gradients of all its parameters.

    Adam's goes to torch's kernel at once: what else ``Adam.step`` does takes 0.1 to 0.2 ms, twice the kernel's time.
    """
    groups = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    grads = laid_out(grads, parameters)
    if type(optimizer) is Adam and not watched(optimizer) and all(map(_is_kernel, groups)):
        states = [optimizer.state[p] for p in parameters]
        if all(states):  # else its first step makes them
            first = 0
            for group in groups:
                last = first + len(group["params"])
                _step_adam(group, grads[first:last], states[first:last])
                first = last
            return
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = grad
    optimizer.step()
    for p in parameters:
        p.grad = None


def _step_adam(group: Mapping[str, Any], grads: list[Tensor], states: Sequence[dict[str, Any]]) -> None:
    first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
    beta1, beta2 = group["betas"]
    torch._fused_adam_(
        group["params"], grads, first, second, [], _count_step(states), lr=group["lr"], beta1=beta1, beta2=beta2,
        weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=group["maximize"],
    )  # fmt: skip


def _count_step(states: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Adds 1 to the steps of all parameters, and returns them.

    They become views of one tensor: torch adds to as many tensors of one number one by one, 5 us each.
    """
    steps = [state["step"] for state in states]
    all_steps = steps[0]._base
    if all_steps is None or all_steps.shape != (len(steps),) or any(step._base is not all_steps for step in steps):
        all_steps = torch.stack(steps)
        for state, step in zip(states, all_steps.unbind(), strict=True):
            state["step"] = step
        steps = [state["step"] for state in states]
    all_steps.add_(1)
    return steps


def _is_kernel(group: Mapping[str, Any]) -> bool:
    """Whether a step of Adam with these parameters and options is one call of torch's fused kernel."""
    others = group["amsgrad"] or group["capturable"] or group.get("decoupled_weight_decay")  # the last since torch 2.7
    one_kind = len({p.dtype for p in group["params"]}) == 1
    return bool(group["fused"]) and not others and isinstance(group["lr"], float) and one_kind


def is_of_rows(value: object, count: int) -> TypeGuard[torch.Tensor]:
    """Whether a part of an optimizer's state holds something for each of ``count`` rows."""
    return isinstance(value, torch.Tensor) and value.shape[:1] == (count,)


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
    if any(not mine.keys() <= theirs.keys() for mine, theirs in zip(groups, saved["param_groups"], strict=False)):
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
