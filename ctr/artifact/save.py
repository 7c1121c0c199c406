"""From a trained run to a saved model: the rows that are not zero, what they belong to, and the net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ctr.artifact import format
from ctr.artifact.format import Contents, Golden, KeyForm, Manifest, Others, SavedField
from ctr.artifact.lookup import hidden, typed_columns
from ctr.artifact.saved import assemble
from ctr.datasets.admission import Admitted, row_counts
from ctr.datasets.encode import Keys, hash_ids
from ctr.datasets.prepared import Prepared
from ctr.datasets.ragged import Ids, Ragged, alike, flat, joined, mapped
from ctr.datasets.rare import Gathered, fields_of, log_of
from ctr.datasets.schema import Dataset, Field
from ctr.datasets.split import occurrences
from ctr.datasets.stream import Batch, as_tensors
from ctr.datasets.transforms import apply, undo
from ctr.datasets.vocabulary import batches, filtered, is_rest, keys_of
from ctr.errors import CtrError
from ctr.files import atomic_folder
from ctr.metrics import alive_rows
from ctr.optim.core import CHUNK
from ctr.training.result import Result
from ctr.training.settings import Settings
from ctr.training.trainer import TrainingRun

GOLDEN_ROWS = 16
FIGURES = (
    *("opt", "seed", "source", "rows_train", "rows_test", "features_present", "features_nonzero", "feature_rate"),
    *("auc", "logloss", "calibration", "normalised_entropy", "auc_progressive", "logs"),
    *("config_hash", "data_hash", "code_hash", "git_sha"),
)  # of the run's result, to be kept with the model


def save_model(
    folder: Path,
    settings: Settings,
    data: Prepared,
    training: TrainingRun,
    result: Result,
    counts: np.ndarray | None = None,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> None:
    """Saves a run's model as it is after its training and evaluation, and checks it by loading it.

    Args:
        folder: where it goes; an older model there is replaced.
        settings: of the run; ``save`` is not None.
        data: what it was trained on.
        training: the trained run; nothing of it changes.
        result: its figures.
        counts: int64 [N], how often each feature occurred in training rows; None: they are counted in ``data``.
        on_rows: called with the number of training rows looked through since the last call.

    Raises:
        OSError, CtrError: it cannot be written; an older model stays as it was.
    """
    assert settings.save is not None
    contents = _contents(settings, settings.save.keys, data, training, result, counts, on_rows)
    if contents is None:
        return
    with atomic_folder(folder) as new:
        format.write_files(new, contents)
        assemble(folder, format.read(new), allow_module=True)


def _contents(
    settings: Settings,
    keys: KeyForm,
    data: Prepared,
    training: TrainingRun,
    result: Result,
    counts: np.ndarray | None,
    on_rows: Callable[[int], object],
) -> Contents | None:
    """None in a worker that does not save; all exchange what they have."""
    embedding, optimizer = training.model.embedding, training.learner.row_optimizer
    mine = alive_rows(embedding.weight, embedding.seen)
    of_mine = [
        torch.linalg.vector_norm(D(rows) * x[rows], dim=1)
        for (x, _, _, D), alive in zip(optimizer.stored_rows(embedding.weight), mine.split(CHUNK), strict=True)
        for rows in [alive.nonzero().squeeze(1)]
    ]
    effects = embedding.kept(torch.cat(of_mine), mine).cpu()
    rows = embedding.kept(embedding.weight.detach()[mine], mine).cpu()
    alive, present = embedding.whole(mine).cpu(), embedding.whole(embedding.seen).cpu()
    places = np.zeros(len(alive), np.int32)  # 0: not kept
    places[alive.numpy()] = np.arange(1, int(alive.sum()) + 1, dtype=np.int32)
    dataset, transforms, num_buckets = data.dataset, data.manifest.transforms, settings.data.num_buckets
    golden = _golden(dataset, keys, num_buckets, data, training, places)
    if not embedding.first:
        return None
    more = {
        "count": pa.array(_counts(data, places, on_rows) if counts is None else counts[alive.numpy()]),
        "effect": pa.array(effects.numpy()),
    }
    if num_buckets is None:
        seen, kept, numbers, values = _kept_values(data, present.numpy(), alive.numpy())
        fields = [SavedField(f.name, f.kind, *map(int, n)) for f, *n in zip(dataset.fields, seen, kept, strict=True)]
        columns = _named(dataset, keys, numbers, values)
    else:
        fields = [SavedField(field.name, field.kind, None, None) for field in dataset.fields]
        buckets = np.flatnonzero(alive.numpy()).astype(np.uint64)
        columns = {"field": pa.nulls(len(buckets), pa.uint8()), "value": pa.array(buckets)}
    schema = format.vocabulary_schema(num_buckets is not None or keys == "hash")
    vocabulary = pa.table({**columns, **more}, schema=schema)
    others = _others(keys, data, places) if isinstance(data, Gathered) else None
    figures = asdict(result)
    manifest = Manifest(
        dataset=settings.data.name,
        dataset_module=settings.data.module,
        dataset_options=dict(settings.data.settled_options(dataset)),
        fields=fields,
        dense=[(name, dataset.scaling.get(name, "none")) for name in dataset.dense],
        transforms=transforms,
        num_buckets=num_buckets,
        keys=keys,
        model=settings.model.name,
        model_module=settings.model.module,
        model_options=dict(settings.model.options),
        embedding_dim=settings.model.embedding_dim,
        rows=len(vocabulary),
        backend="native" if settings.backend == "native" else "torch",
        threads=settings.threads,
        run={name: figures[name] for name in FIGURES},
        golden=golden,
        others=others and others[0],
        pool=dataset.pool,
    )
    net = cast(nn.Module, training.model).state_dict()
    return Contents(
        manifest=manifest,
        rows=rows,
        net={name: tensor for name, tensor in net.items() if not name.startswith("embedding.")},
        vocabulary=vocabulary,
        others=others and others[1],
    )


def _named(dataset: Dataset, keys: KeyForm, numbers: np.ndarray, values: pa.Array) -> dict[str, pa.Array]:
    """The columns that name values, uint8 [R] fields and texts [R], in the form that is kept of them."""
    if keys == "hash":
        values = pa.array(hidden(keys_of(Keys(dataset.fields, stable=True), numbers, values)))
    return {"field": pa.array(numbers), "value": values}


def _others(keys: KeyForm, data: Gathered, places: np.ndarray) -> tuple[Others, pa.Table]:
    """What values without a row of their own read, and which ones read it against the rule.

    Args:
        keys: form of the values.
        data: the rows.
        places: int32 [N], 1 to R for the kept ids, 0 for all others.
    """
    assert data.log.vocabulary is not None
    unseen: Literal["zero", "row"] = "row" if data.unseen == "row" else "zero"
    own, fields, read = np.where(data.own < 0, 0, places[data.own]), fields_of(data.log), places[data.places]
    named = (data.rare | (read == 0)) & (read != (own[fields] if unseen == "row" else 0))
    found = pa.Table.from_batches([*batches(filtered(data.log.vocabulary, named))]).combine_chunks()
    found = found.filter(pa.array(~is_rest(found["value"].combine_chunks())))  # a known model's own rows
    columns = _named(data.dataset, keys, found["field"].to_numpy(), found["value"].combine_chunks())
    table = pa.table(columns, schema=format.others_schema(keys == "hash"))
    return Others(data.min_count, unseen, own.tolist(), len(table)), table


def _counts(data: Prepared, places: np.ndarray, on_rows: Callable[[int], object]) -> np.ndarray:
    """int64 [R]: how often each kept value occurs in the training rows.

    Args:
        data: the rows.
        places: int32 [N], 1 to R for the kept ids, 0 for all others.
    """
    if isinstance(data, Admitted):
        return row_counts(data, data.split.train, on_rows)[places > 0]
    kept = int(places.max(initial=0))
    return occurrences(data.rows, data.split.train, kept + 1, places, on_rows)[1:]


def _kept_values(
    data: Prepared, seen: np.ndarray, alive: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Array]:
    """int64 [F] values seen and kept in each field; field numbers uint8 [R] and texts [R] of the kept values.

    Args:
        data: the rows, with their vocabulary.
        seen, alive: bool [N], which features training has seen, and which of them are not zero.
    """
    assert data.vocabulary is not None
    counts = np.zeros((2, len(data.manifest.fields)), np.int64)
    parts, start = [], 0
    for number in range(len(data.vocabulary)):
        batch = data.vocabulary.batch(number)
        here = slice(start, start + len(batch))
        fields = batch["field"].to_numpy()
        for count, which in zip(counts, (seen[here], alive[here]), strict=True):
            count += np.bincount(fields[which], minlength=len(count))
        parts.append(batch.filter(pa.array(alive[here])))
        start = here.stop
    kept = pa.Table.from_batches(parts).combine_chunks()
    return counts[0], counts[1], kept["field"].to_numpy(), kept["value"].combine_chunks()


def _golden(
    dataset: Dataset, keys: KeyForm, num_buckets: int | None, data: Prepared, training: TrainingRun, places: np.ndarray
) -> Golden:
    """Rows of the test part with the logits of the run; generated rows where values are hashed."""
    values: list[list[Any]] | None = None
    probes = None
    transforms, read = data.manifest.transforms, len(dataset.read_fields)
    if num_buckets is None and keys == "raw":
        chosen = _test_rows(data)
        (ids, numbers), (of_log, _) = _rows(data, chosen), _rows(log_of(data), chosen)
        vocabulary = _values_of(log_of(data), flat(of_log))
        found: list[list[Any]]
        if isinstance(of_log, Ragged):
            found = [
                [[vocabulary[number] for number in bag] if field.multi else vocabulary[bag[0]]
                 for field, bag in zip(dataset.fields, row, strict=True)]
                for row in of_log.tolist()
            ]  # fmt: skip
        else:
            found = [[vocabulary[number] for number in row] for row in of_log.tolist()]
        values = [row[:read] for row in found]
        if transforms:
            numbers = undo(transforms, [list(column) for column in zip(*found, strict=True)][read:], numbers)
        dense = apply(transforms, numbers)[1] if transforms else numbers
    else:
        random = np.random.default_rng(0)
        numbers = random.random((GOLDEN_ROWS, len(dataset.dense)), np.float32)
        if transforms:
            numbers[0] = np.nan
        buckets, dense = apply(transforms, numbers) if transforms else ([], numbers)
        made = [_generated(field, GOLDEN_ROWS, random) for field in dataset.read_fields]
        made += [bucket.to_pylist() for bucket in buckets]
        stable = Keys(dataset.fields, stable=True).of(typed_columns(dataset.fields, made))
        if num_buckets is None:  # a generated value is hardly ever one that is known: rows, in place of values
            drawn = random.integers(len(places), size=getattr(stable, "shape", len(flat(stable))), dtype=np.int32)
            drawn[::2] = random.choice(np.flatnonzero(places), drawn[::2].shape) if places.any() else 0
            ids = alike(stable, drawn)
            firsts = [
                texts[0][0] if field.multi else texts[0] for field, texts in zip(dataset.fields, made, strict=True)
            ]
            probes = list(zip(firsts, hidden(flat(stable[:1])).tolist(), strict=True))
        else:
            ids = alike(stable, hash_ids(flat(stable), num_buckets))
            values = [list(row) for row in zip(*made[:read], strict=True)]
    logits = training.learner.predict(
        Batch(as_tensors(ids), torch.from_numpy(dense) if dense.shape[1] else None, torch.zeros(len(ids)))
    )
    return Golden(
        values=values,
        rows=None if values is not None else mapped(ids, places).tolist(),
        dense=[[None if number != number else number for number in row] for row in numbers.astype(float).tolist()],
        logits=_finite(logits).tolist(),
        probes=probes,
    )


def _finite(logits: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise CtrError("a golden row's logit is NaN or infinite")
    return logits.double()


def _test_rows(data: Prepared) -> list[int]:
    """Numbers of some rows, evenly over the test part, or without one over the training."""
    ranges = data.split.test or data.split.train
    numbers = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return numbers[np.linspace(0, len(numbers) - 1, min(GOLDEN_ROWS, len(numbers)), dtype=np.int64)].tolist()


def _rows(data: Prepared, chosen: list[int]) -> tuple[Ids, np.ndarray]:
    """ids [n, F] and dense columns [n, K] of some rows."""
    rows = [data.rows[number : number + 1] for number in chosen]
    ids, dense, *_ = (joined(columns) for columns in zip(*rows, strict=True))
    return ids, dense


def _values_of(data: Prepared, ids: np.ndarray) -> dict[int, str | None]:
    """The value of each of some features."""
    assert data.vocabulary is not None
    found: dict[int, str | None] = {}
    wanted, start = np.unique(ids), 0
    for number in range(len(data.vocabulary)):
        batch = data.vocabulary.batch(number)
        here = wanted[(wanted >= start) & (wanted < start + len(batch))]
        found.update(zip(here.tolist(), batch["value"].take(pa.array(here - start)).to_pylist(), strict=True))
        start += len(batch)
    return found


def _generated(field: Field, count: int, random: np.random.Generator) -> list[Any]:
    """Values of a field as canonical text, of nobody's log; one of them is blank. Of a multi-valued field lists, the
    first of one value."""
    numbers = random.integers(1 << 32, size=count).tolist()
    shown = {"hex32": "{:08x}", "integer": "{}", "text": "generated {}"}[field.kind]
    made = [*(shown.format(number) for number in numbers[1:]), None]
    return [made[at : at + 1 + at % 3] for at in range(count)] if field.multi else made
