"""From settings to a run at its first row: model, optimizers, step; which rows it trains on; the retraining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ctr import parts
from ctr.datasets.admission import Admitted
from ctr.datasets.manifest import Split
from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import log_of
from ctr.datasets.rows import MappedRows, RowSource
from ctr.datasets.schema import Pool
from ctr.datasets.split import count_features, first_rows
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError, TooFewRows
from ctr.models import FeatureEmbedding
from ctr.optim import BudgetSchedule, GroupOptimizer, LambdaSchedule
from ctr.training import compiled_net
from ctr.training.admission import Admission
from ctr.training.compiled.step import NativeStep
from ctr.training.distributed import Group
from ctr.training.optimizers import make_optimizers
from ctr.training.pruning import clear_row_
from ctr.training.settings import LAMBDAS, ModelSettings, OptimizerSettings, Settings
from ctr.training.sharded import ShardedStep
from ctr.training.sharded_budget import ShardedBudget
from ctr.training.sharded_table import ShardedEmbedding
from ctr.training.step import Backend, RowModel, RowsStep, Step, TorchStep, make_step
from ctr.training.trainer import Evaluation, TrainingRun, evaluate, train

EVAL_BATCH = 8192
OFF = {**dict.fromkeys(LAMBDAS, 0.0), "features": None}  # options with which an optimizer removes no row


def build_model(
    settings: ModelSettings,
    seed: int,
    device: str,
    num_features: int,
    num_fields: int,
    num_dense: int,
    pool: Pool | None = None,
    group: Group | None = None,
) -> nn.Module:
    """The model with its initial weights, which depend on the seed alone.

    Args:
        settings, seed, device: of the run.
        num_features, num_fields, num_dense: of its rows.
        pool: see `FeatureEmbedding`.
        group: the workers that hold the table together.
    """
    # A generator each: the net must not start elsewhere because the table has another size.
    of_net, of_rows = _generators(seed)
    table = FeatureEmbedding if group is None else partial(ShardedEmbedding, group)
    embedding = table(
        num_features,
        settings.embedding_dim,
        init_scale=settings.embedding_init,
        unseen=settings.unseen,
        pool=pool,
        generator=of_rows,
    )
    kind = parts.model(settings.name, settings.module)
    model = kind(num_features, num_fields, num_dense, embedding=embedding, generator=of_net, **settings.options)
    return model.to(device)


def _generators(seed: int) -> list[torch.Generator]:
    seeds = torch.randint(2**63 - 1, (2,), generator=torch.Generator().manual_seed(seed))
    return [torch.Generator().manual_seed(int(s)) for s in seeds]


def _optimizers(
    settings: OptimizerSettings, model: nn.Module, *, plain: bool = False
) -> tuple[GroupOptimizer, Optimizer]:
    """The optimizers of rows and net; plain: with all lambdas 0, and no limit on the rows."""
    options = dict(settings.options)
    if plain:
        options |= {name: value for name, value in OFF.items() if name in options}
    return make_optimizers(model, settings.name, options, settings.module)


def start(settings: Settings, data: Prepared, group: Group | None = None) -> TrainingRun:
    """A run at the first row of the training stream; in a group that of one worker."""
    torch.manual_seed(settings.seed)
    model = _sized(settings, data, group)
    admission = Admission(data) if isinstance(data, Admitted) else None
    stream = _stream(settings, data.rows if admission is None else log_of(data).rows, data.split)
    rows, net = _optimizers(settings.optimizer, model)
    schedule = _schedule(settings.optimizer, model, rows, data, stream.num_batches)
    return TrainingRun(
        cast(RowModel, model),
        _step(settings, model, rows, net, stream, group),
        stream,
        schedule=schedule,
        window=settings.window,
        progressive=settings.progressive,
        average=settings.average,
        admission=admission,
    )


def _step(
    settings: Settings, model: nn.Module, rows: GroupOptimizer, net: Optimizer, stream: RowStream, group: Group | None
) -> Step:
    """The step of a run; its net is compiled where that is asked for."""
    if group is not None:
        assert settings.slices is not None
        step: Step = ShardedStep(model, rows, net, settings.slices, compiled=settings.backend == "rows")
    else:
        step = make_step(settings.backend, model, rows, net, settings.threads)
    if isinstance(step, TorchStep):
        step.precision = settings.precision
        step.net = compiled_net.make(
            settings.compile,
            model,
            (rows, net),
            stream,
            settings.threads,
            settings.precision,
            slices=settings.slices,
            group=group,
        )
    return step


def _stream(settings: Settings, rows: RowSource, split: Split) -> RowStream:
    """The training rows, as often as there are epochs, one pass after the other without a break in the batches."""
    return RowStream(rows, list(split.train) * settings.epochs, settings.batch_size)


def _schedule(
    settings: OptimizerSettings, model: nn.Module, rows: GroupOptimizer, data: Prepared, steps: int
) -> LambdaSchedule | BudgetSchedule | None:
    """What sets the lambdas of the rows' optimizer during the run; None where they stay as they are."""
    if (budget := settings.budget) is None:
        return None if settings.schedule == "constant" else LambdaSchedule(rows, steps, settings.schedule)
    table = model.get_parameter("embedding.weight")
    net_weights = sum(p.numel() for p in model.parameters()) - table.numel()
    count, embedding = budget.features(data, table.shape[1], net_weights), model.get_submodule("embedding")
    if isinstance(embedding, ShardedEmbedding):
        return ShardedBudget(rows, count, steps, budget.schedule, embedding)
    return BudgetSchedule(rows, count, steps, budget.schedule)


def _sized(settings: Settings, data: Prepared, group: Group | None = None) -> nn.Module:
    """The model for these rows."""
    manifest = data.manifest
    size = manifest.num_features, len(manifest.fields), len(manifest.dense)
    return build_model(settings.model, settings.seed, settings.device, *size, data.dataset.pool, group)


def settle_backend(
    model: ModelSettings,
    optimizer: OptimizerSettings,
    device: str,
    backend: Backend,
    *,
    retrain: bool,
    pool: Pool | None = None,
) -> Backend:
    """The backend that serves the whole run, its retraining too, found by building all at the smallest size.

    `make_step` logs why it is not the compiled one.

    Raises:
        ValueError, RuntimeError, CtrError: an option of model or optimizer that cannot work.
    """
    for plain in (False, True) if retrain else (False,):
        smallest = build_model(model, 0, device, 1, 1, 0, pool)
        step = make_step(backend, smallest, *_optimizers(optimizer, smallest, plain=plain), threads=1)
        if not isinstance(step, NativeStep):
            return "rows" if isinstance(step, RowsStep) else "torch"
    return "native"


def narrowed(settings: Settings, data: Prepared) -> Prepared:
    """The data with the configured part of its training rows: ``train_rows`` of them, of these all but the ``holdout``.

    Raises:
        ArgumentError: there are fewer rows, or too few are left.
    """
    if settings.train_rows is None and not settings.holdout:
        return data
    ranges, test, rows = data.split.train, data.split.test, data.split.rows_train
    if settings.train_rows is not None:
        if settings.train_rows > rows:
            raise TooFewRows(settings.train_rows, rows)
        rows = settings.train_rows
        ranges, _ = first_rows(ranges, rows)
    if settings.holdout:
        left = int((1 - Fraction(settings.holdout).limit_denominator(1_000_000)) * rows)  # as the test part is cut
        if not settings.batch_size <= left < rows:
            raise ArgumentError(
                f"holdout={settings.holdout:g} leaves {left:,} of {rows:,} rows to train on; "
                f"expected at least a batch ({settings.batch_size:,}), and one row to evaluate on"
            )
        ranges, test = first_rows(ranges, left)
    return replace(data, split=Split(data.split.rule, ranges, test, count_features(data.rows, ranges)))


def retrain(
    settings: Settings,
    data: Prepared,
    survivors: Tensor,
    on_rows: Callable[[int], None],
    before: Callable[[TrainingRun], None] = lambda run: None,
    after_step: Callable[[TrainingRun], None] = lambda run: None,
    group: Group | None = None,
) -> Evaluation:
    """Trains anew on some features alone, with all lambdas 0, from the initial weights that the first run had.

    All other features read as zero and get no update: they share one row, cleared after every step.

    Args:
        settings: of the first run.
        data: its data.
        survivors: bool [num_features], which features there are.
        on_rows: called with the number of rows trained or tested since the last call.
        before: called with the run before its first step.
        after_step: called with it between two steps, of training and of evaluation.
        group: the workers that do it together.

    Returns:
        The figures on the test rows.
    """
    manifest = data.manifest
    ids = survivors.cpu().nonzero().squeeze(1)
    shared = len(ids)  # the row of all others
    places = np.full(manifest.num_features, shared, np.int32)
    places[ids.numpy()] = np.arange(shared, dtype=np.int32)
    torch.manual_seed(settings.seed)
    model = _sized(settings, data, group)
    whole = model.get_submodule("embedding")
    assert isinstance(whole, FeatureEmbedding)
    model.embedding = table = whole.narrowed(ids).to(settings.device)
    cleared = table.owned(torch.tensor([shared]))[1].tolist()  # none where another worker has it
    rows, net = _optimizers(settings.optimizer, model, plain=True)
    mapped = MappedRows(data.rows, places)
    stream = _stream(settings, mapped, data.split)
    step = _step(settings, model, rows, net, stream, group)
    run = TrainingRun(cast(RowModel, model), step, stream, window=settings.window, average=settings.average)

    def on_step(rows: int, _: float = 0.0) -> None:
        on_rows(rows)
        after_step(run)

    def on_training_step(rows: int, loss: float) -> None:
        for row in cleared:
            clear_row_(table, step.row_optimizer, row)
        on_step(rows, loss)

    before(run)
    train(run, on_training_step)
    with run.averaged():
        return evaluate(step, RowStream(mapped, data.split.test, EVAL_BATCH), on_step)
