"""The strongest groups of weights: which they are, and a last choice that leaves exactly a given number of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ctr.optim.core import GroupOptimizer
from ctr.optim.histogram import strength
from ctr.optim.shrinkage import group_size


@torch.no_grad()
def strengths(optimizer: GroupOptimizer, p: Tensor) -> Tensor | None:
    """The present strength of every group of p, [groups], 0 where untouched; None before the first step.

    Its D is that of :meth:`~ctr.optim.GroupOptimizer.stored_rows`.
    """
    group = optimizer.group_of(p)
    root = group_size(p.shape, group["group_dim"]) ** 0.5
    found = [strength(norms, root) for norms in optimizer.norms_of(p)]
    return torch.cat(found) if found else None


def top_rows(ranks: Tensor, count: int) -> Tensor:
    """Which rows have the ``count`` highest ranks, bool [N]; of equal ranks the first ones.

    Args:
        ranks: float [N]; a negative rank never wins.
        count: the most rows that win.
    """
    eligible = ranks >= 0
    candidates = ranks[eligible]
    if count >= len(candidates):
        return eligible
    if count < 1:
        return torch.zeros_like(eligible)
    edge = candidates.kthvalue(len(candidates) - count + 1).values
    keep = ranks > edge
    ties = (ranks == edge).nonzero().squeeze(1)
    keep[ties[: count - int(keep.sum())]] = True
    return keep


def keep_strongest_(optimizer: GroupOptimizer, params: Sequence[Tensor], count: int) -> tuple[int, float]:
    """Sets all touched groups to exactly zero but for the ``count`` strongest.

    Groups are ranked by their present strength, of equal ones the first; one of strength 0 never stays. A group that
    stays keeps its weights; one that is zero now gets those that a test with the returned lambda21 gives it. The others
    keep their evidence in u, as after :meth:`~ctr.optim.GroupOptimizer.apply_threshold_`.

    Returns:
        How many stay, and the lambda21 that the weakest of them just exceeds; 0 where none had to die.
    """
    found = {p: each for p in params if (each := strengths(optimizer, p)) is not None}
    if not found:
        return 0, 0.0
    ranks = torch.cat(list(found.values()))
    ranks.masked_fill_(ranks == 0, -1)
    keep = top_rows(ranks, count)
    living = int(keep.sum())
    # Below the weakest by more than the step's rounding, so that its norm exceeds the limit there.
    lambda21 = float(ranks[keep].min()) * (1 - 2**-20) if 0 < living < int((ranks > 0).sum()) else 0.0
    ends = np.cumsum([0, *(len(each) for each in found.values())]).tolist()
    for p, (first, last) in zip(found, pairwise(ends), strict=True):
        optimizer.keep_(p, keep[first:last], lambda21)
    return living, lambda21
