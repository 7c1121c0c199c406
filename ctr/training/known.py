"""A model that a run starts from (``init=``), and what of it goes on: rows, net, optimizer.

The rows of known values come first, in their order. Those of new values follow in order of first appearance; row i
starts with what the seed gives row i of any table. Both are thus as in one run over the logs, one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import gather
from ctr.datasets.vocabulary import Batches, filtered, under
from ctr.errors import CtrError
from ctr.optim import BudgetSchedule
from ctr.training.history import FEATURES, History, write_features
from ctr.training.settings import Settings
from ctr.training.trainer import TrainingRun

Pieces = Callable[[], Iterator[tuple[Tensor, dict[str, Tensor]]]]


@dataclass(frozen=True)
class Known:
    """What a run starts from.

    Attributes:
        vocabulary: field and value of each of N rows; None where ids are hashed.
        history: of each row.
        seen: bool [N], which rows training has touched.
        pieces: reads these rows piece by piece, in the order of their ids: int64 [n] ids, and by name float32 [n, d]
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
        return {**state, "seen": state["seen"][keep]}


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


def description(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """`described` of a run whose raw format has these options, settled."""
    data, model = settings.data, settings.model
    net = {"name": model.name, "_module": model.module, "embedding_dim": model.embedding_dim, **model.options}
    return described({"name": data.name, "_module": data.module, **options}, data.num_buckets, net)


def leave(folder: Path, settings: Settings, data: Prepared, history: History) -> dict[str, Any]:
    """Writes beside a run's state what else another run needs to go on with it; returns its part of the manifest."""
    blocks = write_features(folder / FEATURES, data, history)
    options = settings.data.settled_options(data.dataset)
    return {
        "known": {
            "description": description(settings, options),
            "options": dict(options),
            "transforms": [asdict(transform) for transform in data.manifest.transforms],
            "opt": settings.optimizer.name,
            "logs": history.logs,
            "features": [asdict(block) for block in blocks],
        }
    }


def under_known(settings: Settings, data: Prepared, known: Known | None) -> tuple[Prepared, History | None]:
    """The rows of a log under the ids of a known model, with new ones behind them, and the model's history after it.

    Rare values share the row of their field (`ctr.datasets.rare`). Without a known model there is a history if the run
    is to leave one.

    Raises:
        CtrError: the known vocabulary does not fit.
    """
    rule = settings.data.min_count, settings.data.unseen
    if known is None:
        data = gather(data, *rule)
        final = settings.checkpoint is not None and settings.checkpoint.final
        return data, History.none().after(data) if final else None
    if known.vocabulary is not None:
        data = gather(under(known.vocabulary, data.dataset.fields, data), *rule, known.seen.numpy())
    history = known.history.after(data)
    present = int((history.counts > 0).sum())
    return replace(data, split=replace(data.split, features_train=present)), history


@torch.no_grad()
def take_over_(training: TrainingRun, known: Known) -> None:
    """Gives a run at its first row the rows, the net and, if any, the optimizers' state of a known model.

    Learning rate, lambdas and all other options stay the run's own.

    Raises:
        CtrError: the net or the optimizers' state is of another shape or kind.
    """
    embedding, optimizer = training.model.embedding, training.learner.row_optimizer
    state = optimizer.ensure_state(embedding.weight)
    tables = {"weight": embedding.weight.detach(), **{name: state[name] for name in ("u", *optimizer.buffers)}}
    for ids, rows in known.pieces():
        places = ids.to(embedding.weight.device)
        for name, values in rows.items():
            tables[name][places] = values.to(places.device)
    embedding.seen[: len(known.seen)] = known.seen.to(embedding.seen.device)
    mine = {name: value for name, value in training.model.state_dict().items() if not name.startswith("embedding.")}
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (known.net, mine)]
    if shapes[0] != shapes[1]:
        raise CtrError(f"init: its net has {shapes[0]}; this run's has {shapes[1]}")
    for name, value in known.net.items():
        mine[name].copy_(value)
    if known.moments is not None:
        _load_moments(training, known.moments)
    if isinstance(training.schedule, BudgetSchedule):
        training.schedule.take_up()
    if known.rng is not None:
        torch.set_rng_state(known.rng)


def _load_moments(training: TrainingRun, moments: Mapping[str, Any]) -> None:
    own = training.learner.state_dict()
    (saved,) = moments["row_optimizer"]["state"].values()
    rows = training.learner.row_optimizer.ensure_state(training.model.embedding.weight)
    rows["seen"][: len(saved["seen"])] = saved["seen"].to(rows["seen"].device)
    rows |= {name: value for name, value in saved.items() if name != "seen"}
    net = {**own["net_optimizer"], "state": moments["net_optimizer"]["state"]}
    try:
        training.learner.load_state_dict(
            {"row_optimizer": {**own["row_optimizer"], "state": {0: rows}}, "net_optimizer": net}
        )
    except ValueError as error:
        raise CtrError(f"init: the optimizer's state does not fit: {error}") from error
