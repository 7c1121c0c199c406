"""``init=PATH``: which model is there, whether a run can go on with it, and reading it.

A run with ``checkpoint.final=true`` has left its whole state, and a saved model its living rows alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctr.datasets.checked import Checksum
from ctr.datasets.prepared import Prepared
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.provenance import digest
from ctr.training import checkpoint
from ctr.training.folder import CHECKPOINTS, CONFIG, RESULT
from ctr.training.history import FEATURES, History, read_features, write_features
from ctr.training.known import Known
from ctr.training.settings import InitSettings, ModelSettings, Settings

PIECE_ROWS = 1 << 18  # read at a time


@dataclass(frozen=True)
class Source:
    """What is at a path, found without reading more than its manifest.

    Attributes:
        identity: hash of all that a run takes over.
        description: see `described`.
        opt: the optimizer whose state is there; None for a saved model.
    """

    identity: str
    description: Mapping[str, Any]
    opt: str | None


def described(dataset: Mapping[str, Any], num_buckets: int | None, model: ModelSettings) -> dict[str, Any]:
    """What a run must have in common with the model that it goes on with, by key of the configuration.

    Args:
        dataset: name, module and options of the raw format.
        num_buckets: of the hashed encoding; None for exact one-hot ids.
        model: the model; how new rows begin and how unseen ones read may differ.
    """
    encoding = {"encoding": "onehot"} if num_buckets is None else {"encoding": "hash", "num_buckets": num_buckets}
    net = {"name": model.name, "_module": model.module, "embedding_dim": model.embedding_dim, **model.options}
    parts = {"dataset": {**dataset, **encoding}, "model": net}
    flat = {f"{part}.{key}".removesuffix(".name"): value for part in parts for key, value in parts[part].items()}
    return json.loads(json.dumps(flat))  # as read from a file


def _description(settings: Settings) -> dict[str, Any]:
    data = settings.data
    return described({"name": data.name, "_module": data.module, **data.options}, data.num_buckets, settings.model)


def find(path: Path) -> Source:
    """What is there.

    Raises:
        ArgumentError: nothing that a run can go on with; the message says what it takes.
        DataError: damaged.
    """
    if (path / CHECKPOINTS / checkpoint.FINAL).is_dir():
        manifest = checkpoint.read(path / CHECKPOINTS / checkpoint.FINAL)
        known = manifest["known"]
        return Source(digest([manifest["blocks"], known]), known["description"], known["opt"])
    if (path / RESULT).exists() or (path / CONFIG).exists():
        raise ArgumentError(f"init={path}: the run has not kept the state at its end; checkpoint.final=true keeps it")
    raise ArgumentError(f"init={path}: no run and no saved model there")


def expect_fit(settings: Settings) -> None:
    """Compares the model at ``init`` with the run that is to go on with it.

    Raises:
        ArgumentError: they differ; the message names the keys.
    """
    assert settings.init is not None
    source, mine = find(settings.init.path), _description(settings)
    theirs = dict(source.description)
    if source.opt is not None:
        theirs["opt"], mine["opt"] = source.opt, settings.optimizer.name
    keys = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    if keys:
        its, own = (", ".join(f"{key}={one.get(key)}" for key in keys) for one in (theirs, mine))
        raise ArgumentError(f"init={settings.init.path}: its model has {its}; this run has {own}")


def leave(folder: Path, settings: Settings, data: Prepared, history: History) -> dict[str, Any]:
    """Writes beside a run's state what else another run needs to go on with it; returns its part of the manifest."""
    blocks = write_features(folder / FEATURES, data, history)
    return {
        "known": {
            "description": _description(settings),
            "opt": settings.optimizer.name,
            "logs": history.logs,
            "features": [asdict(block) for block in blocks],
        }
    }


def load(settings: Settings, init: InitSettings) -> Known:
    """The model to go on with, without the rows that are to be dropped.

    Raises:
        CtrError: it is damaged, or has changed since the run was planned.
    """
    if find(init.path).identity != init.identity:
        raise CtrError(f"init={init.path} has changed since the run was planned; start it again")
    known = _of_run(init.path)
    return known if init.evict_after is None else known.without_dead(init.evict_after)


def _of_run(folder: Path) -> Known:
    found = checkpoint.load_final(folder)
    left = found.manifest["known"]
    blocks = [Checksum(**block) for block in left["features"]]
    vocabulary, history = read_features(found.path / FEATURES, blocks, left["logs"])
    with found.stored() as stored:
        state = stored.state

    def pieces() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        with found.stored() as stored:
            for at in range(0, len(stored.ids), PIECE_ROWS):
                rows = stored.rows[at : at + PIECE_ROWS]
                parts = rows.chunk(len(stored.columns), dim=1)
                yield stored.ids[at : at + PIECE_ROWS], dict(zip(stored.columns, parts, strict=True))

    net = dict(state["model"])
    seen = net.pop("embedding.seen")
    if len(seen) != len(history.counts):
        raise DataError(found.path, None, f"a state of {len(seen):,} rows for {len(history.counts):,} features")
    return Known(vocabulary, history, seen, pieces, net, state["step"], state["rng"])
