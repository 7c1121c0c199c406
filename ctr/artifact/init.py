"""``init=PATH``: which model is there, whether a run can go on with it, and reading it.

A run with ``checkpoint.final=true`` has left its whole state, and a saved model its living rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctr.artifact import format
from ctr.datasets.checked import Checksum
from ctr.datasets.source import DataSettings
from ctr.datasets.transforms import Transform
from ctr.datasets.vocabulary import Batches
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.provenance import digest
from ctr.training import checkpoint
from ctr.training.continuing import description
from ctr.training.folder import CHECKPOINTS, CONFIG, MANIFEST, MODEL, RESULT
from ctr.training.history import FEATURES, NEVER, History, read_features
from ctr.training.known import Known, described
from ctr.training.settings import InitSettings, Settings

PIECE_ROWS = 1 << 18  # read at a time


@dataclass(frozen=True)
class Source:
    """What is at a path, found without reading more than its manifest.

    Attributes:
        identity: hash of all that a run takes over.
        description: see `ctr.training.known.described`.
        options: of the raw format, settled.
        transforms: of its numbers, fitted.
        opt: the optimizer whose state is there; None for a saved model.
    """

    identity: str
    description: Mapping[str, Any]
    options: Mapping[str, Any]
    transforms: tuple[Transform, ...]
    opt: str | None


def find(path: Path) -> Source:
    """What is there.

    Raises:
        ArgumentError: nothing that a run can go on with; the message says what it takes.
        DataError: damaged.
    """
    if (path / CHECKPOINTS / checkpoint.FINAL).is_dir():
        manifest = checkpoint.read_final(path)
        if "known" not in manifest:
            raise ArgumentError(f"init={path}: the run was made by an earlier version, which did not keep its values")
        known = manifest["known"]
        transforms = tuple(Transform.from_json(values) for values in known["transforms"])
        identity = digest([manifest["blocks"], manifest[checkpoint.PARTS], known])
        return Source(identity, known["description"], known["options"], transforms, known["opt"])
    if (path / MANIFEST).is_file():
        saved, files = format.read_manifest(path)
        identity = digest([files, saved.dataset_options, [asdict(transform) for transform in saved.transforms]])
        return Source(identity, _of_saved(path, saved), saved.dataset_options, tuple(saved.transforms), None)
    if not ((path / RESULT).exists() or (path / CONFIG).exists()):
        raise ArgumentError(f"init={path}: no run and no saved model there")
    model = path / MODEL
    other = f"; init={model} goes on with its rows and net alone" if (model / MANIFEST).is_file() else ""
    raise ArgumentError(
        f"init={path}: the run has not kept the state at its end, which takes checkpoint.final=true{other}"
    )


def _of_saved(path: Path, manifest: format.Manifest) -> dict[str, Any]:
    if manifest.keys == "hash":
        raise ArgumentError(
            f"init={path}: the model has hashes in place of values (save.keys=hash); a run goes on with save.keys=raw, "
            "or with the state at a run's end"
        )
    dataset = {"name": manifest.dataset, "_module": manifest.dataset_module, **manifest.dataset_options}
    net = {"name": manifest.model, "_module": manifest.model_module, "embedding_dim": manifest.embedding_dim}
    return described(dataset, manifest.num_buckets, {**net, **manifest.model_options})


def as_known(data: DataSettings, init: InitSettings) -> DataSettings:
    """The log's format with the columns and the fitted transforms of the model at ``init``: none is found anew.

    Raises:
        ArgumentError: nothing that a run can go on with, or a column that it has cannot be left out.
    """
    source, own = find(init.path), data.format
    try:
        settled = own if own.settle_as is None else own.settle_as(source.options)
    except KeyError:
        return data  # of another format, which `expect_fit` says
    except ValueError as error:
        raise ArgumentError(f"init={init.path}: {error}") from None
    names = tuple(transform.name for transform in source.transforms)
    fits = names == (settled.dense if settled.transforms else ())  # else `expect_fit` says what differs
    options = data.options if own.settle_as is None else settled.options
    return replace(data, options=options, transforms=source.transforms if fits else ())


def expect_fit(settings: Settings) -> None:
    """Compares the model at ``init`` with the run that is to go on with it.

    Raises:
        ArgumentError: they differ; the message names the keys.
    """
    assert settings.init is not None
    source, mine = find(settings.init.path), description(settings, settings.data.options)
    of_log = {f"dataset.{key}" for key in settings.data.format.of_log}
    theirs = dict(source.description)
    if source.opt is not None:
        theirs["opt"], mine["opt"] = source.opt, settings.optimizer.name
    keys = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key) and key not in of_log]
    if {"dataset", "model"} & {*keys}:  # all else follows from these
        keys = [next(key for key in ("dataset", "model") if key in keys)]
    if keys:
        its, own = (", ".join(f"{key}={one.get(key)}" for key in keys) for one in (theirs, mine))
        raise ArgumentError(f"init={settings.init.path}: its model has {its}; this run has {own}")
    if source.opt is not None:
        return
    opt = settings.optimizer
    if opt.schedule != "constant" or opt.budget is not None:
        key = "opt.lambda_schedule" if opt.budget is None else "opt.budget"
        raise ArgumentError(
            f"{key}: at its end every row is compared with lambda21, and those of a saved model, which has no "
            "optimizer's state, would die; go on with a run that kept its state"
        )
    if settings.pruning is not None and settings.pruning.score == "effect":
        raise ArgumentError(
            "prune.score=effect ranks rows by the optimizer's state, which a saved model does not have; give "
            "prune.score=norm, or go on with a run that kept its state"
        )


def load(settings: Settings) -> Known:
    """The model that a run is to go on with, without the rows that are to be dropped.

    Raises:
        CtrError: it is damaged, or has changed since the run was planned.
    """
    init = settings.init
    assert init is not None
    found = find(init.path)
    if found.identity != init.identity:
        raise CtrError(f"init={init.path} has changed since the run was planned; start it again")
    known = _of_model(settings, init.path) if found.opt is None else _of_run(init.path)
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
            for part in stored.parts:
                for at in range(0, len(part.ids), PIECE_ROWS):
                    columns = part.rows[at : at + PIECE_ROWS].chunk(len(stored.columns), dim=1)
                    yield part.ids[at : at + PIECE_ROWS], dict(zip(stored.columns, columns, strict=True))

    net = dict(state["model"])
    seen = net.pop("embedding.seen")
    if len(seen) != len(history.counts):
        raise DataError(found.path, None, f"a state of {len(seen):,} rows for {len(history.counts):,} features")
    return Known(vocabulary, history, seen, pieces, net, state["step"], state["rng"])


def _of_model(settings: Settings, folder: Path) -> Known:
    contents = format.read(folder)
    table, net = contents.vocabulary, contents.net
    counts = table["count"].to_numpy()
    buckets, ids, vocabulary = settings.data.num_buckets, np.arange(len(counts)), None
    if buckets is None:
        vocabulary = Batches(table.select(["field", "value"]).to_batches())
    else:
        ids = table["value"].to_numpy().astype(np.int64)
    size = buckets or len(counts)
    history = History(contents.manifest.run["logs"], np.zeros(size, np.int64), np.full(size, NEVER, np.uint16))
    history.counts[ids], history.idle[ids] = counts, 0
    seen = torch.zeros(size, dtype=torch.bool)
    seen[ids] = True
    return Known(vocabulary, history, seen, lambda: iter([(torch.from_numpy(ids), {"weight": contents.rows})]), net)
