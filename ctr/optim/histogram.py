"""How many groups of weights would survive which lambda21: a histogram that an optimizer's steps keep up to date.

The strength of a group is its norm (:func:`ctr.optim.shrinkage.group_norm`) over sqrt(d): the lambda21 at which it
dies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

BUCKETS = 256  # a byte; mirrored by native/src/rows.h, as are the next two
SHIFT = 21  # bits of a float32 that its bucket ignores: 4 buckets for each power of 2
FIRST = 4 * (127 - 40) - 1  # bucket 1 begins at 2^-40, bucket 255 ends at 2^23.75
_EDGES = ((np.arange(BUCKETS + 1, dtype=np.int32) + FIRST) << SHIFT).view(np.float32).astype(np.float64)
_EDGES[1] = 0  # the first and the last bucket hold what is beyond


class StrengthHistogram:
    """Groups of weights by their strength at their last touch.

    A byte for each group remembers its bucket, so that a step moves only the groups that it touches. Within a bucket
    strengths count as evenly spread.

    Args:
        groups: (number of groups, weights in each) of every tensor.

    Attributes:
        roots: sqrt(d) of each tensor.
        buckets: uint8 [groups] of each tensor; 0: never touched, or of strength 0.
        counts: int64 [256] on the CPU, groups by bucket; that of bucket 0 means nothing.
    """

    def __init__(self, groups: Mapping[Tensor, tuple[int, int]]) -> None:
        self.roots = {p: float(size) ** 0.5 for p, (_, size) in groups.items()}
        # Of numpy: the system hands out its pages at first write.
        self.buckets = {p: torch.from_numpy(np.zeros(n, np.uint8)).to(p.device) for p, (n, _) in groups.items()}
        self.counts = torch.zeros(BUCKETS, dtype=torch.int64)

    def set(self, p: Tensor, buckets: Tensor) -> None:
        """Replaces all buckets of a tensor; they may come from another device."""
        buckets = buckets.to(self.buckets[p].device)
        self.counts += (_count(buckets) - _count(self.buckets[p])).cpu()
        self.buckets[p].copy_(buckets)

    def move(self, p: Tensor, rows: Tensor | None, norms: Tensor) -> None:
        """Moves the groups that a step has touched.

        Args:
            p: their tensor; one that the histogram does not have is passed over.
            rows: their indices; None for all groups.
            norms: of these groups, in any shape.
        """
        if p not in self.buckets:
            return
        new = bucket_of(strength(norms.flatten(), self.roots[p]))
        if rows is None:
            self.set(p, new)
        else:
            self.counts += (_count(new) - _count(self.buckets[p].index_select(0, rows))).cpu()
            self.buckets[p].index_copy_(0, rows, new)

    def __len__(self) -> int:
        """How many groups have a strength above 0."""
        return int(self.counts[1:].sum())

    def lambda21(self, survivors: float) -> float:
        """The lambda21 that this number of groups survive; 0.0 where there are not more than that."""
        counts = self.counts.numpy()
        from_top = counts[:0:-1].cumsum()
        place = int(from_top.searchsorted(survivors, side="right"))  # the first bucket from the top with more
        if place == len(from_top):
            return 0.0
        bucket = BUCKETS - 1 - place
        share = (from_top[place] - survivors) / counts[bucket]
        return float(_EDGES[bucket] + (_EDGES[bucket + 1] - _EDGES[bucket]) * share)


def strength(norms: Tensor, root: float) -> Tensor:
    """Norms over sqrt(d); 0 where :func:`ctr.optim.shrinkage.group_norm` has raised one of 0 to the smallest number."""
    return norms.div(root).masked_fill_(norms <= torch.finfo(norms.dtype).tiny, 0)


def bucket_of(strengths: Tensor) -> Tensor:
    """The bucket of each strength, uint8: the exponent and two more bits of its float32; 0 for 0."""
    bits = strengths.to(torch.float32).contiguous().view(torch.int32)
    return ((bits >> SHIFT) - FIRST).clamp_(1, BUCKETS - 1).mul_(strengths != 0).to(torch.uint8)


def _count(buckets: Tensor) -> Tensor:
    return torch.bincount(buckets, minlength=BUCKETS)
