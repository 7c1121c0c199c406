"""The rows of a table beside their optimizer's state: what a step touches of a row is in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from ctr.models import FeatureEmbedding
from ctr.native import library as native
from ctr.native.threads import sharing
from ctr.optim.core import CHUNK, GroupOptimizer


def side_by_side(embedding: FeatureEmbedding, optimizer: GroupOptimizer) -> tuple[Tensor, dict[str, Tensor]]:
    """Moves the rows and the state of their optimizer, which begins anew, into one table in huge pages.

    The embedding's weight and the optimizer's state become views of it, and a row that a step has touched is one that
    training has seen: one truth for both. The memory of the weight is given up: another tensor that shared it must not
    be used any more.

    Args:
        embedding: float32 or float64 [N, d] on the CPU.
        optimizer: of its weight.

    Returns:
        The table, [w | u | buffers] side by side, and the tensors of the state: u, the buffers and ``seen``.
    """
    weight = embedding.weight
    rows, dim = weight.shape
    names = ("u", *optimizer.buffers)
    stride = (1 + len(names)) * dim
    memory = native.allocate(rows * stride * weight.element_size() // 4)
    table = torch.from_numpy(memory).view(weight.dtype).view(rows, stride)
    mine, *views = table.split(dim, dim=1)
    # Piece by piece: at full size a whole copy is 1.1 GB more at the peak.
    for ours, old in zip(mine.split(CHUNK), weight.detach().split(CHUNK), strict=True):
        ours.copy_(old)
        if old.is_contiguous():
            native.forget(old)
    weight.data = mine
    state = dict(zip(names, views, strict=True)) | {"seen": embedding.seen.unsqueeze(1)}
    optimizer.state[weight] = {"step": 0, "lr": 0.0, **state}
    return table, state


def gather(weight: Tensor, ids: Tensor, out: Tensor) -> Tensor:
    """The rows of a table for some ids, each as often as it is there.

    Args:
        weight: [N, d], each row in one piece of memory.
        ids: int64 [n], contiguous.
        out: [n, d], contiguous, of the table's dtype: where they are written.

    Raises:
        IndexError: an id is not within the table.
    """
    size = weight.element_size()
    bad = sharing().ctr_gather(
        weight.data_ptr(), len(weight), weight.stride(0) * size, weight.shape[1] * size, ids.data_ptr(), len(ids),
        out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if bad >= 0:
        raise IndexError(f"id {int(ids[bad])} is not within the {len(weight):,} rows of the table")
    return out
