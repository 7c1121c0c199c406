"""A run that goes on with a known model (``init=``): its rows, net and optimizer, and what a run leaves for the next.

The rows of known values come first, in their order. Those of new values follow in order of first appearance; row i
starts with what the seed gives row i of any table. Both are thus as in one run over the logs, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ctr.datasets.admission import Admitted, admit
from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import gather
from ctr.datasets.vocabulary import under
from ctr.errors import CtrError
from ctr.optim import BudgetSchedule
from ctr.training.history import FEATURES, History, write_features
from ctr.training.known import Known, described
from ctr.training.optimizers import is_of_rows
from ctr.training.settings import Settings
from ctr.training.trainer import TrainingRun


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

    Rare values share the row of their field (`ctr.datasets.rare`, `ctr.datasets.admission`). Without a known model
    there is a history if the run is to leave one.

    Raises:
        CtrError: the known vocabulary does not fit.
    """
    if known is None:
        data = _with_shared_rows(settings, data, None)
        final = settings.checkpoint is not None and settings.checkpoint.final
        return data, History.none().after(data) if final else None
    if known.vocabulary is not None:
        data = _with_shared_rows(settings, under(known.vocabulary, data.dataset.fields, data), known)
    history = known.history.after(data)
    if isinstance(data, Admitted):
        return data, history
    present = int((history.counts > 0).sum())
    return replace(data, split=replace(data.split, features_train=present)), history


def _with_shared_rows(settings: Settings, data: Prepared, known: Known | None) -> Prepared:
    of, trained = settings.data, None if known is None else known.seen.numpy()
    if of.admit == 1:
        return gather(data, of.min_count, of.unseen, trained)
    return admit(data, of.admit, of.unseen, None if known is None else known.history.counts, trained)


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
        own, places = embedding.owned(ids.to(embedding.weight.device))
        for name, values in rows.items():
            values = values.to(places.device)
            tables[name][places] = values if own is None else values[own]
    _begin(embedding.seen, embedding.own(known.seen))
    mine = {name: value for name, value in training.model.state_dict().items() if not name.startswith("embedding.")}
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (known.net, mine)]
    if shapes[0] != shapes[1]:
        raise CtrError(f"init: its net has {shapes[0]}; this run's has {shapes[1]}")
    for name, value in known.net.items():
        mine[name].copy_(value)
    if known.moments is not None:
        _load_moments(training, known.moments, len(known.seen))
    if isinstance(training.schedule, BudgetSchedule):
        training.schedule.take_up()
    if known.rng is not None:
        torch.set_rng_state(known.rng)


def _begin(values: torch.Tensor, known: torch.Tensor) -> None:
    """Sets those of the known rows, which come first."""
    values[: len(known)] = known.to(values.device)


def _load_moments(training: TrainingRun, moments: Mapping[str, Any], count: int) -> None:
    """Takes over the optimizers' state, of ``count`` known rows."""
    own = training.learner.state_dict()
    (saved,) = moments["row_optimizer"]["state"].values()
    optimizer = training.learner.row_optimizer
    rows = optimizer.ensure_state(training.model.embedding.weight)
    for name, value in optimizer.state_to_continue(training.model.embedding.weight, saved).items():
        if is_of_rows(value, count):
            _begin(rows[name], training.model.embedding.own(value))
        else:
            rows[name] = value
    net = {**own["net_optimizer"], "state": moments["net_optimizer"]["state"]}
    try:
        training.learner.load_state_dict(
            {"row_optimizer": {**own["row_optimizer"], "state": {0: rows}}, "net_optimizer": net}
        )
    except ValueError as error:
        raise CtrError(f"init: the optimizer's state does not fit: {error}") from error
