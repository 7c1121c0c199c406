"""Which optimizers train a model: a grouped one for the embedding rows, its plain twin for the net.

Only the embeddings are regularised (paper, section 4.1). A plain optimizer on the rows is the grouped one with all
lambdas 0, which is exact (theorem 2) and touches only the rows of the batch; the net gets torch's own, which is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ctr import parts
from ctr.optim.core import GroupOptimizer


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
    return grouped([weight], **options), plain(net, **shared)
