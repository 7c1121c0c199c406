"""AdaEmbed-style pruning within training: the rows with the largest recent gradients live, all others are zero.

After AdaEmbed (Lai et al., OSDI 2023, https://www.usenix.org/conference/osdi23/presentation/lai): the importance of a
row is the moving sum of how often it occurs times the norm of its gradient, and from time to time the most important
rows get the places of the least important ones. Taken from it: the importance, also of rows without a place; that only
rows with a place are trained; that a row which gets one begins at zero. Left out: that importance is compared with that
of the row's own table (95th percentile), as all fields share one table here; the test on a sample of rows whether a new
choice pays; and the memory manager, as the table has room for all rows.

``importance="share"`` is that of CAFE (Zhang et al., SIGMOD 2024, https://doi.org/10.1145/3639306) as far as it goes
row by row: norms are divided by their mean over the batch, so that every batch counts as much. Left out: the sketch
that holds the sums in little memory, and that rows without a place share hashed ones.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.group_adam import GroupAdam
from ctr.optim.ranking import top_rows
from ctr.optim.validate import GroupDim

_OWN_STATE = ("importance", "owns")
Importance = Literal["norm", "share"]


class Spread(Protocol):
    """Speaks for all rows of a table that is spread over several processes, each of which has an optimizer of its own
    rows. Each call is one of all processes."""

    def whole(self, values: Tensor) -> Tensor:
        """A value for every row of the table, from those of this process's rows."""
        ...

    def own(self, values: Tensor) -> Tensor:
        """Those of this process's rows."""
        ...

    def mean_of(self, rows: Tensor, values: Tensor) -> Tensor:
        """The mean of a value of some rows, each of which one process has."""
        ...


class GroupAdaEmbed(GroupOptimizer):
    """Adam on the most important rows of an embedding table; all other rows are exactly zero.

    Step t, with g the gradient of a row over the whole batch, whose norm is that of the mean over the row's occurrences
    times their number::

        importance <- importance + ||g||        every row of the batch; "share": ||g|| / mean of the batch's norms
        x          <- Adam's step               rows that own a place; the others are zero
        every ``every`` steps: the ``features`` rows of the largest importance own a place; rows that lose theirs are
        zero, as is their optimizer's state; importance <- decay * importance

    Until more than ``features`` rows have occurred all own a place. A row that no step has touched keeps its initial
    value.

    State of a parameter beside that of :class:`~ctr.optim.core.GroupOptimizer`: ``importance``, of its dtype, and
    ``owns``, bool, both [rows].

    Args:
        params, lr, betas, eps, lazy, maximize, check_finite: see :class:`~ctr.optim.group_adam.GroupAdam`.
        features: how many rows may live; None: all.
        every: steps from one choice to the next.
        decay: of the importance at each choice.
        importance: what a step adds to it: ``norm`` (AdaEmbed) or ``share`` (CAFE).
        group_dim: 0, the rows.

    Attributes:
        spread: of a table that several processes hold together; None: this one holds it.

    Raises:
        ValueError: an option out of range.
    """

    spread: Spread | None = None
    buffers = ("m", "v")
    moments = GroupAdam.moments
    root = GroupAdam.root
    plain = staticmethod(GroupAdam.plain)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        features: int | None = None,
        every: int = 10,
        decay: float = 0.99,
        importance: Importance = "norm",
        group_dim: GroupDim = 0,
        lazy: bool = True,
        maximize: bool = False,
        check_finite: bool = False,
    ) -> None:
        if features is not None and features < 1:
            raise ValueError(f"GroupAdaEmbed: features must be at least 1, or None for all, got {features!r}")
        if every < 1:
            raise ValueError(f"GroupAdaEmbed: every must be at least 1, got {every!r}")
        if not 0 <= decay <= 1:
            raise ValueError(f"GroupAdaEmbed: decay must be from 0 to 1, got {decay!r}")
        if importance not in get_args(Importance):
            raise ValueError(f"GroupAdaEmbed: importance must be norm or share, got {importance!r}")
        if group_dim != 0:
            raise ValueError(f"GroupAdaEmbed: group_dim must be 0, the rows, got {group_dim!r}")
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "eps_hat": False,
            "lambda1": 0.0, "lambda21": 0.0, "lambda2": 0.0, "norm": "s", "threshold": "soft",
            "features": features, "every": every, "decay": decay, "importance": importance,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults)

    def ensure_state(self, p: Tensor) -> dict[str, Any]:
        state = super().ensure_state(p)
        if "owns" not in state:
            state["importance"] = torch.zeros(len(p), dtype=p.dtype, device=p.device)
            state["owns"] = torch.ones(len(p), dtype=torch.bool, device=p.device)
        return state

    def state_to_continue(self, p: Tensor, known: dict[str, Any]) -> dict[str, Any]:
        """As one run over both tables' batches: once places were given away new rows have none, else all own one."""
        features = self.group_of(p)["features"]
        if features is None or int((known["importance"] > 0).sum()) <= features:
            return {**known, "owns": torch.ones_like(known["owns"])}
        if not known["owns"].all():
            self.ensure_state(p)["owns"].fill_(False)
        return known

    def _check_loaded(self, groups: list[dict[str, Any]], states: dict[Tensor, dict[str, Any]]) -> None:
        own = {p: {name: state.pop(name, None) for name in _OWN_STATE} for p, state in states.items() if state}
        super()._check_loaded(groups, states)
        for p, found in own.items():
            for name, value in found.items():
                if not isinstance(value, Tensor) or value.shape != p.shape[:1]:
                    raise ValueError(f"GroupAdaEmbed: this state has no {name} of {len(p):,} rows")
            states[p] |= {**found, "owns": found["owns"].bool()}  # torch has made it a float, as the parameter is

    def _touched(self, p: Tensor, group: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
        """Those that own a place; the importance of all others grows too."""
        rows, grad = super()._touched(p, group)
        state = self.ensure_state(p)
        rows = torch.arange(len(p), device=p.device) if rows is None else rows
        norms = torch.linalg.vector_norm(grad.flatten(1), dim=1)
        if group["importance"] == "share":
            mean = norms.mean() if self.spread is None else self.spread.mean_of(rows, norms)
            if mean > 0:
                norms /= mean
        state["importance"].index_add_(0, rows, norms)
        owned = state["owns"][rows]
        p.index_fill_(0, rows[~owned], 0)  # a row that occurs for the first time holds its initial value
        return rows[owned], grad[owned]

    def _step_in_torch(self, p: Tensor, group: dict[str, Any]) -> None:
        super()._step_in_torch(p, group)
        state = self.state[p]
        if group["features"] is not None and state["step"] % group["every"] == 0:
            self._choose(p, state, group["features"])
            state["importance"].mul_(group["decay"])

    def _choose(self, p: Tensor, state: dict[str, Any], count: int) -> None:
        importance = state["importance"] if self.spread is None else self.spread.whole(state["importance"])
        if int((importance > 0).sum()) <= count:
            return
        keep = top_rows(importance.masked_fill(importance == 0, -1), count)
        if self.spread is not None:
            keep = self.spread.own(keep)
        lost = (state["owns"] & ~keep & state["seen"].flatten()).nonzero().squeeze(1)
        for table in (p, *(state[name] for name in ("u", *self.buffers))):
            table.index_fill_(0, lost, 0)
        state["owns"].copy_(keep)
