"""fbgemm's table-batched embedding (TBE) as a contestant of bench.py: its backward pass updates the rows by Adagrad.

pip install fbgemm-gpu-cpu==1.8.0    # for torch 2.13 on the CPU; fbgemm-gpu on a GPU
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-10


class Unavailable(Exception):
    """Why fbgemm cannot take part, in one line."""


def library() -> Any:
    """fbgemm's module of embeddings.

    Raises:
        Unavailable: it is not installed, or is of another version of torch.
    """
    logging.disable()  # it logs a trace of each library that cannot be loaded
    try:
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as found
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Unavailable(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    finally:
        logging.disable(logging.NOTSET)
    return found


class Rows(nn.Module):
    """Rows of a table; their exact Adagrad is part of the backward pass.

    Args:
        weight: [N, d], the initial rows, which are copied; on the device where the table is to be.
        lr: learning rate.

    Raises:
        Unavailable: as of `library`, or fbgemm does not take such a table.
    """

    def __init__(self, weight: Tensor, lr: float) -> None:
        super().__init__()
        fbgemm, (count, dim) = library(), weight.shape
        if dim % 4:
            raise Unavailable(f"its rows have a multiple of 4 numbers, these have {dim}")
        on_cpu = weight.device.type == "cpu"
        location = fbgemm.EmbeddingLocation.HOST if on_cpu else fbgemm.EmbeddingLocation.DEVICE
        place = fbgemm.ComputeDevice.CPU if on_cpu else fbgemm.ComputeDevice.CUDA
        self.table = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(
            [(count, dim, location, place)],
            optimizer=fbgemm.OptimType.EXACT_ADAGRAD,
            learning_rate=lr,
            eps=EPS,
            pooling_mode=fbgemm.PoolingMode.NONE,
            device=weight.device,
        )
        self.table.split_embedding_weights()[0].copy_(weight.detach())

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., d] of int ids [...]."""
        flat = ids.reshape(-1).long()
        found: Tensor = self.table(flat, torch.arange(len(flat) + 1, device=flat.device))
        return found.view(*ids.shape, -1)
