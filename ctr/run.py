"""From a configuration to a run at its first row: data, model, optimizers, step; and the checks of its values.

Entry points alone use it; what it builds knows no configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

import ctr.config
from ctr import rates
from ctr.cli import check_data
from ctr.config import BackendName, TrainConfig
from ctr.datasets.manifest import Split
from ctr.datasets.prepared import Prepared
from ctr.datasets.rows import MappedRows
from ctr.datasets.split import count_features, first_rows
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError, CtrError, TooFewRows
from ctr.models import MODELS, FeatureEmbedding
from ctr.native.support import MAX_THREADS
from ctr.optim import GroupOptimizer, LambdaSchedule
from ctr.optim.pairs import make_optimizers
from ctr.pruning import Pruning, clear_row_
from ctr.step import RowModel, TorchStep, make_step
from ctr.tracking import check_uri
from ctr.trainer import TrainingRun, evaluate, train

EVAL_BATCH = 8192
LAMBDAS = ("lambda1", "lambda21", "lambda2")


def build(config: TrainConfig, num_features: int, num_fields: int, num_dense: int) -> nn.Module:
    """The configured model with its initial weights, which depend on the seed alone."""
    options = ctr.config.plain_dict(config.model)
    name = options.pop("name")
    # A generator each: the net must not start elsewhere because the table has another size.
    of_net, of_rows = _generators(config.seed)
    embedding = FeatureEmbedding(
        num_features,
        options.pop("embedding_dim"),
        init_scale=options.pop("embedding_init"),
        unseen=options.pop("unseen"),
        generator=of_rows,
    )
    model = MODELS[name](num_features, num_fields, num_dense, embedding=embedding, generator=of_net, **options)
    return model.to(config.device)


def _generators(seed: int) -> list[torch.Generator]:
    seeds = torch.randint(2**63 - 1, (2,), generator=torch.Generator().manual_seed(seed))
    return [torch.Generator().manual_seed(int(s)) for s in seeds]


def _optimizers(config: TrainConfig, model: nn.Module, *, plain: bool = False) -> tuple[GroupOptimizer, Optimizer, str]:
    """The configured optimizers of rows and net, plain ones with lambdas 0, and the shape of the lambda schedule."""
    options = ctr.config.plain_dict(config.opt)
    shape = options.pop("lambda_schedule", "constant")
    if plain:
        shape = "constant"
        options |= {name: 0.0 for name in LAMBDAS if name in options}
    return (*make_optimizers(model, options.pop("name"), options), shape)


def start(config: TrainConfig, data: Prepared) -> TrainingRun:
    """A run at the first row of the training stream."""
    manifest = data.manifest
    torch.manual_seed(config.seed)
    model = build(config, manifest.num_features, len(manifest.fields), len(manifest.dense))
    stream = RowStream(data.rows, data.split.train, config.batch_size)
    rows, net, shape = _optimizers(config, model)
    schedule = None if shape == "constant" else LambdaSchedule(rows, stream.num_batches, shape)
    step = make_step(config.backend.value, model, rows, net, config.threads)
    return TrainingRun(cast(RowModel, model), step, stream, schedule=schedule, window=config.window)


def check(config: TrainConfig) -> None:
    """Refuses values that cannot work before any data is read, by building everything at the smallest size.

    Puts the backend that the run will have in the place of ``backend=auto``: it is part of what is computed.

    Raises:
        ArgumentError: a value that cannot work, by its key.
    """
    ctr.config.refuse_unknown(cast(DictConfig, config), TrainConfig)
    for key, value, most in (
        ("batch_size", config.batch_size, 2**31 - 1),
        ("window", config.window, 2**31 - 1),
        ("threads", config.threads, MAX_THREADS),
    ):
        if not 1 <= value <= most:
            raise ArgumentError(f"{key}={value}; expected 1 to {most:,}")
    if not 0 <= config.seed < 2**63:
        raise ArgumentError(f"seed={config.seed}; expected 0 to 2^63 - 1")
    if config.train_rows is not None and config.train_rows < 1:
        raise ArgumentError(f"train_rows={config.train_rows}; expected at least 1")
    if not 0 <= config.holdout < 1:
        raise ArgumentError(f"holdout={config.holdout}; expected a share from 0 to below 1")
    _check_pruning(config)
    if config.model.embedding_init < 0:
        raise ArgumentError(f"model.embedding_init={config.model.embedding_init}; expected at least 0")
    try:
        torch.zeros(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device={config.device}: {str(error).splitlines()[0]}") from error
    try:
        _optimizers(rates.provisional(config), build(config, 1, 1, 0))
        if config.backend is BackendName.native:
            _backend(config)
    except (ValueError, RuntimeError, CtrError) as error:
        raise ArgumentError(str(error)) from error
    check_data(config.dataset)
    if config.tracking.name != "none":
        check_uri(config.tracking.uri)
    if config.backend is BackendName.auto:
        config.backend = _backend(config)


def _backend(config: TrainConfig) -> BackendName:
    """The one that serves the whole run, its retraining too; `make_step` says why it is not the compiled one."""
    config = rates.provisional(config)
    for plain in (False, True) if config.retrain else (False,):
        model = build(config, 1, 1, 0)
        rows, net, _ = _optimizers(config, model, plain=plain)
        if isinstance(make_step(config.backend.value, model, rows, net, threads=1), TorchStep):
            return BackendName.torch
    return BackendName.native


def _check_pruning(config: TrainConfig) -> None:
    pruning = pruning_of(config)
    if pruning is None:
        return
    if not 0 < pruning.feature_rate <= 1:
        raise ArgumentError(f"prune.feature_rate={pruning.feature_rate}; expected a share above 0 and at most 1")
    if not 0 <= pruning.finetune < 1:
        raise ArgumentError(f"prune.finetune={pruning.finetune}; expected a share from 0 to below 1")
    for name in LAMBDAS:
        value = config.opt.get(name, 0)
        if value:
            raise ArgumentError(
                f"prune=magnitude is for plain optimizers, but opt={config.opt.name} has opt.{name}={value:g}; "
                f"take opt={config.opt.name.removeprefix('group_')} or prune=none"
            )


def pruning_of(config: TrainConfig) -> Pruning | None:
    """The configured pruning; None for ``prune=none``."""
    options = ctr.config.plain_dict(config.prune)
    return None if options.pop("name") == "none" else Pruning(**options)


def narrowed(config: TrainConfig, data: Prepared) -> Prepared:
    """The data with the configured part of its training rows: ``train_rows`` of them, of these all but the ``holdout``.

    Raises:
        ArgumentError: there are not so many rows, or too few are left.
    """
    if config.train_rows is None and not config.holdout:
        return data
    ranges, test, rows = data.split.train, data.split.test, data.split.rows_train
    if config.train_rows is not None:
        if config.train_rows > rows:
            raise TooFewRows(config.train_rows, rows)
        rows = config.train_rows
        ranges, _ = first_rows(ranges, rows)
    if config.holdout:
        left = int((1 - Fraction(config.holdout).limit_denominator(1_000_000)) * rows)  # as the test part is cut
        if not config.batch_size <= left < rows:
            raise ArgumentError(
                f"holdout={config.holdout:g} leaves {left:,} of {rows:,} rows to train on; "
                f"expected at least a batch ({config.batch_size:,}), and one row to evaluate on"
            )
        ranges, test = first_rows(ranges, left)
    return replace(data, split=Split(data.split.rule, ranges, test, count_features(data.rows, ranges)))


def retrain(config: TrainConfig, data: Prepared, survivors: Tensor, on_rows: Callable[[int], None]) -> float:
    """Trains anew on some features alone, with all lambdas 0, from the initial weights that the first run had.

    All other features read as zero and get no update: they share one row, cleared after every step.

    Args:
        config: of the first run.
        data: its data.
        survivors: bool [num_features], which features there are.
        on_rows: called with the number of rows trained or tested since the last call.

    Returns:
        The AUC on the test rows.
    """
    manifest = data.manifest
    ids = survivors.cpu().nonzero().squeeze(1)
    shared = len(ids)  # the row of all others
    places = np.full(manifest.num_features, shared, np.int32)
    places[ids.numpy()] = np.arange(shared, dtype=np.int32)
    torch.manual_seed(config.seed)
    model = build(config, manifest.num_features, len(manifest.fields), len(manifest.dense))
    whole = model.get_submodule("embedding")
    assert isinstance(whole, FeatureEmbedding)
    nothing = torch.Generator()  # of its own: dropout must draw what it drew in the first run
    table = FeatureEmbedding(shared + 1, whole.weight.shape[1], init_scale=0, unseen=whole.unseen, generator=nothing)
    table.weight.data[:shared] = whole.weight.data.cpu()[ids]
    model.embedding = table.to(config.device)
    rows, net, _ = _optimizers(config, model, plain=True)
    step = make_step(config.backend.value, model, rows, net, config.threads)
    mapped = MappedRows(data.rows, places)
    stream = RowStream(mapped, data.split.train, config.batch_size)
    run = TrainingRun(cast(RowModel, model), step, stream, window=config.window)

    def on_step(rows: int, _: float) -> None:
        clear_row_(table, step.row_optimizer, shared)
        on_rows(rows)

    train(run, on_step)
    return evaluate(step, RowStream(mapped, data.split.test, EVAL_BATCH), on_rows).auc
