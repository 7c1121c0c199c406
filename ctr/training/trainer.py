"""One streaming pass: batch -> embedding rows -> logits -> loss -> row gradients -> optimizers -> back into rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from ctr.datasets.stream import Batch, RowStream
from ctr.errors import Diverged
from ctr.metrics import (
    CalibrationBin,
    auc_blocks,
    auc_by_day,
    calibration,
    calibration_bins,
    exact_auc,
    logloss,
    normalised_entropy,
    of_whole_log,
    weighted_mean,
    weights_of_whole_log,
)
from ctr.models import Bags
from ctr.native.keys import mark_ids
from ctr.optim import BudgetSchedule, LambdaSchedule
from ctr.training import memory
from ctr.training.admission import Admission
from ctr.training.average import NetAverage
from ctr.training.curve import Curve
from ctr.training.step import RowModel, Step
from ctr.training.window import Window, WindowMetrics


def device_of(model: RowModel) -> torch.device:
    return model.embedding.weight.device


class TrainingRun:
    """The whole state of one run: stream position, rows, net, optimizers, random generator, running metrics.

    Args:
        model: the model, which the step trains in place.
        step: learns from one batch.
        stream: the training rows.
        schedule: of the row optimizer's lambdas; None keeps them as they are.
        window: steps per reported window.
        progressive: score every batch in evaluation mode before it is learned from, which costs a forward pass.
        average: share of the steps, at the end, over which the net's weights are averaged (:meth:`averaged`); 0: none.
        admission: which row each occurrence of the stream reads; None: the one that its id says.

    Attributes:
        curve: the ends of its windows so far.
        changed: bool [N]: set it to be told which rows the steps change from then on; None: nobody asks.
        scores: of ``progressive``: float32, a logit for each training row so far, then zeros; else None.
    """

    def __init__(
        self,
        model: RowModel,
        step: Step,
        stream: RowStream,
        *,
        schedule: LambdaSchedule | BudgetSchedule | None = None,
        window: int = 100,
        progressive: bool = False,
        average: float = 0.0,
        admission: Admission | None = None,
    ) -> None:
        self.model, self.learner, self.stream, self.schedule = model, step, stream, schedule
        self.metrics, self.admission = WindowMetrics(window), admission
        self.curve = Curve(model.embedding, stream.num_batches // window)
        net = [p for group in step.net_optimizer.param_groups for p in group["params"]]
        self.average = NetAverage(net, average, stream.num_batches) if average else None
        self.steps = 0
        self.seconds = 0.0  # of training so far
        self.changed: np.ndarray | None = None
        self.scores = torch.zeros(stream.num_rows) if progressive else None

    def step(self, batch: Batch) -> tuple[float, Window | None]:
        """Learns from one batch; returns its loss (before the update) and, at the end of a window, the window.

        Raises:
            Diverged: the loss is NaN or infinite; nothing has been updated.
        """
        end, admission = self.stream.position, self.admission  # already past the batch
        if self.scores is not None:
            scored = batch if admission is None else admission.scored(batch)
            self.scores[end - len(batch) : end] = self.learner.predict(scored)
        if admission is not None:
            batch = admission.trained(batch, end)
        upcoming = self.stream.upcoming if admission is None else None  # else its ids are not known yet
        logits, value = self.learner.train(batch, upcoming)
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at step {self.steps + 1} (rows up to {self.stream.position:,}); "
                "lower the learning rate, or look for extreme values in the dense columns"
            )
        if self.changed is not None:
            ids = batch.ids
            mark_ids((ids.values if isinstance(ids, Bags) else ids).numpy(), self.changed)
        if self.schedule is not None:
            self.schedule.step()
        self.steps += 1
        if self.average is not None:
            self.average.step(self.steps)
        if (measured := self.metrics.update(logits, batch, value)) is None:
            return value, None
        self.curve.add(self.steps, end, *measured, self.lambda21)
        return value, Window(self.steps, end, *measured, self.curve.living)

    @property
    def lambda21(self) -> float:
        """The present one of the embedding rows; 0 for a plain optimizer."""
        return float(self.learner.row_optimizer.param_groups[0]["lambda21"])

    def finish(self) -> None:
        """To be called after the last step: rows last touched under a smaller lambda meet the final one."""
        if self.schedule is not None:
            self.schedule.finish()

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the net has its averaged weights, if there are any: for evaluation and for saving.

        A block within it has the net's own ones again.
        """
        return nullcontext() if self.average is None else self.average.exchanged()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue to the last bit. Shares memory with the run: copy it to keep it."""
        device = device_of(self.model)
        return {
            "steps": self.steps,
            "stream": self.stream.state_dict(),
            "model": self.model.state_dict(),
            "step": self.learner.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "admission": None if self.admission is None else self.admission.state_dict(),
            "metrics": self.metrics.state_dict(),
            "curve": self.curve.state_dict(),
            "scores": None if self.scores is None else self.scores[: self.stream.position],
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a saved run; the objects must be built as they were for the saved one.

        The values are copied: the state can be loaded again after more training.
        """
        self.steps = state["steps"]
        for part in ("stream", "model", "metrics"):
            getattr(self, part).load_state_dict(state[part])
        self.learner.load_state_dict(state["step"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.curve.load_state_dict(state.get("curve"))  # earlier versions had none
        if self.scores is not None:
            self.scores[: self.stream.position] = state["scores"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.admission is not None:
            self.admission.load_state_dict(state["admission"])
        torch.set_rng_state(state["rng"])
        device = device_of(self.model)
        if device.type == "cuda" and state["rng_cuda"] is not None:
            torch.cuda.set_rng_state(state["rng_cuda"], device)


def train(
    run: TrainingRun,
    on_step: Callable[[int, float], None] | None = None,
    on_window: Callable[[Window], None] | None = None,
    until: int | None = None,
) -> None:
    """Trains from the stream's position to its end, or to a step.

    Args:
        run: the run.
        on_step: called last after each batch with (rows in it, loss); what it raises leaves the run between two steps.
        on_window: called after each window.
        until: steps, counted from the run's first; None for all.
    """
    batches = islice(run.stream, None if until is None else max(until - run.steps, 0))
    for batch in memory.tidied(batches, 1000):
        loss, window = run.step(batch)
        if window is not None and on_window is not None:
            on_window(window)
        if on_step is not None:
            on_step(len(batch), loss)
    if run.stream.position == run.stream.num_rows:
        run.finish()


@dataclass(frozen=True)
class Evaluation:
    """Figures over a test stream, by the rows' weights; see `ctr.metrics`.

    Attributes:
        auc: exact; NaN if the rows hold one class only, as are calibration and normalised entropy where undefined.
        logloss: mean, in nats; NaN if all weights are 0.
        calibration: predicted clicks per observed click.
        normalised_entropy: logloss over that of the rows' click rate.
        rows, positives: number of rows, and of those with label 1.
        weight: sum of the weights; None where each row counts 1. Of a log with a share r of its negatives each of these
            counts 1 / r times its own.
        click_rate: weighted share of the rows with label 1.
        auc_by_day: day (YYYYMMDD) -> AUC; empty where the log names no days.
        auc_blocks: what each block of rows contributes to the AUC's sampling error (`ctr.metrics.auc_blocks`); empty
            where they were not asked for.
        calibration_bins: `ctr.metrics.calibration_bins`; empty where they were not asked for.
    """

    auc: float
    logloss: float
    calibration: float
    normalised_entropy: float
    rows: int
    positives: int
    weight: float | None
    click_rate: float
    auc_by_day: dict[int, float]
    auc_blocks: tuple[float, ...] = ()
    calibration_bins: tuple[CalibrationBin, ...] = ()


def evaluate(
    step: Step,
    batches: Iterable[Batch],
    on_step: Callable[[int], None] | None = None,
    *,
    days: np.ndarray | None = None,
    negative_rate: float = 1.0,
    bins: int = 0,
) -> Evaluation:
    """Predicts all rows and measures, with the AUC's sampling error.

    Args:
        step: predicts, in evaluation mode.
        batches: all n rows.
        on_step: called after each batch with the rows in it.
        days: int [n], YYYYMMDD of each row; None where the log names no days.
        negative_rate: share of the negatives that the log holds; the figures are those of the whole log.
        bins: of the calibration, at most.

    Raises:
        Diverged: a prediction is NaN or infinite.
    """
    scores, labels, weights = [], [], []
    for batch in memory.tidied(batches, 50):
        scores.append(step.predict(batch).numpy())
        labels.append(batch.label.numpy())
        if batch.weight is not None:
            weights.append(batch.weight.numpy())
        if on_step is not None:
            on_step(len(batch))
    logits, truth = np.concatenate(scores), np.concatenate(labels)
    weight = np.concatenate(weights) if weights else None
    figures = measure(logits, truth, days, weight, negative_rate, bins)
    return replace(figures, auc_blocks=tuple(auc_blocks(logits, truth, weight).tolist()))


def evaluate_progressive(
    run: TrainingRun, days: np.ndarray | None = None, negative_rate: float = 1.0, bins: int = 0
) -> Evaluation:
    """The figures of all training rows as each was scored before it was learned from (progressive validation).

    Args:
        run: at the end of its stream, with scores.
        days, negative_rate, bins: as for `evaluate`.

    Raises:
        Diverged: a prediction is NaN or infinite.
    """
    assert run.scores is not None
    parts = [run.stream.rows[start:stop][2:] for start, stop in run.stream.ranges]
    labels, *weights = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return measure(run.scores.numpy(), labels, days, weights[0] if weights else None, negative_rate, bins)


def measure(
    logits: np.ndarray,
    truth: np.ndarray,
    days: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    negative_rate: float = 1.0,
    bins: int = 0,
) -> Evaluation:
    """The figures of float32 [n] logits against labels [n], 0 or 1.

    Args:
        logits: of the model as it was trained, on a log with this share of the negatives.
        truth: labels.
        days, negative_rate, bins: as for `evaluate`.
        weights: float [n]; None: 1 each.

    Raises:
        Diverged: a prediction is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise Diverged("the model predicts NaN or infinity; lower the learning rate")
    # The AUC is that of the rows as they are: a constant added to all logits, and one weight for all negatives, change
    # nothing of it but by rounding.
    auc, by_day = exact_auc(logits, truth, weights), {} if days is None else auc_by_day(logits, truth, days, weights)
    logits, weights = of_whole_log(logits, negative_rate), weights_of_whole_log(truth, negative_rate, weights)
    return Evaluation(
        auc=auc,
        logloss=logloss(logits, truth, weights),
        calibration=calibration(logits, truth, weights),
        normalised_entropy=normalised_entropy(logits, truth, weights),
        rows=len(truth),
        positives=int(truth.sum()),
        weight=None if weights is None else float(weights.sum(dtype=np.float64)),
        click_rate=weighted_mean(truth, weights),
        auc_by_day=by_day,
        calibration_bins=calibration_bins(logits, truth, weights, bins) if bins else (),
    )
