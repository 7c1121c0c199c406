"""The mean of the net's weights over the last part of the stream: what is evaluated and saved in place of the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class NetAverage:
    """A running mean of some parameters.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992); a share of the steps at
    the end as in "Stochastic Weight Averaging" (Izmailov et al., 2018), but in one pass and at every step.

    Args:
        params: whose mean it is; buffers of a model are not averaged.
        share: of the steps, at the end, over 0 and at most 1.
        total_steps: all steps; at least one counts.
    """

    def __init__(self, params: Sequence[Tensor], share: float, total_steps: int) -> None:
        self.params = [p.detach() for p in params]
        self.mean = [torch.zeros_like(p) for p in self.params]
        self.first = total_steps - max(round(share * total_steps), 1)
        self.count = 0

    def step(self, steps: int) -> None:
        """Takes in the present weights, after this number of steps in all."""
        if steps <= self.first:
            return
        self.count += 1
        for mean, p in zip(self.mean, self.params, strict=True):
            mean.lerp_(p, 1 / self.count)  # the first time it becomes p

    def restart(self) -> None:
        """Forgets what came before."""
        self.count = 0

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """The parameters and their mean change places within the block, so that a block within it has them as before.

        Before the first step that counts nothing changes.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for p, mean in zip(self.params, self.mean, strict=True) if self.count else ():
            before = p.clone()
            p.copy_(mean)
            mean.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Shares memory with the average."""
        return {"count": self.count, "mean": list(self.mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a saved mean by copying.

        Raises:
            ValueError: it is of other parameters; nothing has changed.
        """
        mine, saved = ([tuple(mean.shape) for mean in means] for means in (self.mean, state["mean"]))
        if mine != saved:
            raise ValueError(f"the saved average is of parameters {saved}; the net has {mine}")
        self.count = state["count"]
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)
