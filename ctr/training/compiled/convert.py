"""The compiled step's state as the torch step's, to go on where there is no compiler, or on another device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctr.optim.core import CHUNK


@torch.no_grad()
def to_torch(state: dict[str, Any]) -> dict[str, Any]:
    """What `ctr.training.step.TorchStep.state_dict` would say after the same steps: z, D_prev and the moments apart.

    The other way there is none: the compiled step derives D_prev from a row's last step, which torch does not keep.

    Args:
        state: of `ctr.training.compiled.step.NativeStep.state_dict`.

    Returns:
        A state of its own memory: at d = 8 as much again as the table.
    """
    (group,) = state["row_groups"]
    table = state["table"]
    names = ("z", "m", "v") if "betas" in group else ("z", "sum")
    dim = (table.shape[1] - 1) // (len(names) + 1)
    rows: dict[str, Any] = {"step": state["steps"]}
    if state["steps"]:
        parts = table.split(dim, dim=1)[1:]  # the weights are the model's own
        rows |= {name: part.contiguous() for name, part in zip(names, parts[: len(names)], strict=True)}
        initial = group.get("initial_accumulator_value", 0.0)
        rows["D_prev"] = torch.cat([last_D(part, dim, state["history"], initial) for part in table.split(CHUNK)])
    param_groups = [{**group, "params": [0]}]
    return {
        "backend": "torch",
        "row_optimizer": {"state": {0: rows} if state["steps"] else {}, "param_groups": param_groups},
        "net_optimizer": state["net_optimizer"],
    }


def last_D(rows: Tensor, dim: int, history: Tensor, initial: float) -> Tensor:
    """D of each row's last touch, 0 before the first: [n, d].

    Args:
        rows: float32 [n, stride], interleaved; the second moment (or the sum of squares) and the last step end a row.
        dim: d.
        history: float32 [steps + 1, 2], scale and shift of D at each step.
        initial: where Adagrad's sum of squares starts.
    """
    last = rows[:, -1].contiguous().view(torch.int32).long()
    scale, shift = history[last].split(1, dim=1)  # those of step 0 are 0
    return (rows[:, -1 - dim : -1] + initial).sqrt_().mul_(scale).add_(shift)
