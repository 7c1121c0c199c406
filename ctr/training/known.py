"""A model that a run starts from (``init=``), as it is read from a saved one or from a run's last state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctr.datasets.vocabulary import Batches, filtered
from ctr.training.history import History
from ctr.training.optimizers import is_of_rows

Pieces = Callable[[], Iterator[tuple[Tensor, dict[str, Tensor]]]]


@dataclass(frozen=True)
class Known:
    """What a run starts from.

    Attributes:
        vocabulary: field and value of each of N rows; None where ids are hashed.
        history: of each row.
        seen: bool [N], which rows training has touched.
        pieces: reads these rows piece by piece, each once, in any order: int64 [n] ids, and by name float32 [n, d]
            ``weight`` and, unless the optimizer begins anew, ``u`` and its buffers.
        net: the other parameters of the model by name.
        moments: the optimizers' state in the form of `TrainingRun.state_dict`'s ``step``, without what is in the rows;
            None: they begin anew.
        rng: state of torch's generator; None: from the seed.
    """

    vocabulary: Batches | None
    history: History
    seen: Tensor
    pieces: Pieces
    net: Mapping[str, Tensor]
    moments: Mapping[str, Any] | None = None
    rng: Tensor | None = None

    def without_dead(self, evict_after: int) -> Known:
        """Without the rows that are zero, or that training has never touched, and were in no training row of the last
        ``evict_after`` logs; with 0 logs, without all of them."""
        assert self.vocabulary is not None
        keep = torch.from_numpy(self.history.idle < evict_after)
        for ids, rows in self.pieces():
            keep[ids] |= (rows["weight"] != 0).any(dim=1)
        places = keep.cumsum(0) - 1

        def pieces() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for ids, rows in self.pieces():
                here = keep[ids]
                yield places[ids[here]], {name: values[here] for name, values in rows.items()}

        return replace(
            self,
            vocabulary=filtered(self.vocabulary, keep.numpy()),
            history=self.history.kept(keep.numpy()),
            seen=self.seen[keep],
            pieces=pieces,
            moments=self.moments and {**self.moments, "row_optimizer": {"state": {0: self._touched(keep)}}},
        )

    def _touched(self, keep: Tensor) -> dict[str, Any]:
        """What the row optimizer's state has beside the rows themselves, of some rows."""
        assert self.moments is not None
        (state,) = self.moments["row_optimizer"]["state"].values()
        return {name: value[keep] if is_of_rows(value, len(keep)) else value for name, value in state.items()}


def described(dataset: Mapping[str, Any], num_buckets: int | None, model: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the model that it goes on with, by key of the configuration.

    Args:
        dataset: name, module and options of the raw format.
        num_buckets: of the hashed encoding; None for exact one-hot ids.
        model: name, module, dimension and options of the model; how new rows begin may differ.
    """
    encoding = {"encoding": "onehot"} if num_buckets is None else {"encoding": "hash", "num_buckets": num_buckets}
    parts = {"dataset": {**dataset, **encoding}, "model": model}
    flat = {f"{part}.{key}".removesuffix(".name"): value for part in parts for key, value in parts[part].items()}
    return json.loads(json.dumps(flat))  # as read from a file
