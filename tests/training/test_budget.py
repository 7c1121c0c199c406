"""A run with a budget: exactly N features on both backends, sizes in bytes, what is recorded, and what is refused."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr.config.compose import resolve
from ctr.datasets import criteo
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.errors import ArgumentError
from ctr.metrics import alive_rows
from ctr.optim import BudgetSchedule
from ctr.training.budget import ENTRY_BYTES, FIXED_BYTES, Budget, artifact_bytes, parse
from ctr.training.run import Run
from ctr.training.tracking import NoTracker
from ctr.training.trainer import TrainingRun, train
from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments, lines, write
from tests.native.built import ALL_BACKENDS, needs_kernels
from tests.training.runs import configuration, equal, new_run, run_family, run_one, untimed


def budgeted(data: Prepared, count: int, backend: str, shape: str = "constant", **options: Any) -> TrainingRun:
    run = new_run(data, backend=backend, **{"threshold": "hard", **options})
    run.schedule = BudgetSchedule(run.learner.row_optimizer, count, run.stream.num_batches, shape)
    return run


def alive(run: TrainingRun) -> int:
    return int(alive_rows(run.model.embedding.weight, run.model.embedding.seen).sum())


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_exactly_n_features_are_left(data: Prepared, backend: str) -> None:
    present, draw = data.split.features_train, random.Random(1)
    for count in [2, present, present + 10, *(draw.randrange(2, present) for _ in range(17))]:
        threshold, norm = draw.choice(["soft", "hard"]), draw.choice(["s", "s_tilde", "s_tilde_eq10"])
        opt, shape = draw.choice(["group_adam", "group_adagrad"]), draw.choice(BudgetSchedule.SHAPES)
        run = budgeted(data, count, backend, shape, opt=opt, threshold=threshold, norm=norm)
        train(run)
        assert alive(run) == min(count, present), (count, threshold, norm, opt, shape)


@needs_kernels
@pytest.mark.parametrize("norm", ["s", "s_tilde", "s_tilde_eq10"])
@pytest.mark.parametrize("opt", ["group_adam", "group_adagrad"])
def test_both_backends_keep_the_same_histogram(data: Prepared, opt: str, norm: str) -> None:
    """But for rounding: at the edge of a bucket a row may be in the next one."""
    runs = [budgeted(data, 300, backend, opt=opt, norm=norm, lambda2=1e-4) for backend in ("torch", "native")]
    for run in runs:
        train(run, until=10)
        histogram, weight = run.schedule.histogram, run.model.embedding.weight
        counted = torch.bincount(histogram.buckets[weight], minlength=256)
        assert torch.equal(histogram.counts[1:], counted[1:])
        assert len(histogram) == int(run.model.embedding.seen.sum())
    ours, theirs = (run.schedule.histogram.buckets[run.model.embedding.weight].int() for run in runs)
    assert (ours - theirs).abs().max() <= 1
    assert (ours != theirs).float().mean() < 0.02
    assert runs[0].lambda21 == pytest.approx(runs[1].lambda21, rel=0.01)
    assert runs[0].lambda21 > 0


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_saved_run_with_a_budget_goes_on_to_the_last_bit(data: Prepared, backend: str) -> None:
    run, other = (budgeted(data, 200, backend, "linear") for _ in range(2))
    train(run, until=9)
    saved = copy.deepcopy(run.state_dict())
    train(run)
    for _ in range(2):
        other.load_state_dict(saved)
        train(other)
        assert equal(run.state_dict(), other.state_dict())
        assert alive(other) == 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.02, Budget(0.02, "share")),
        (500_000, Budget(500_000, "features")),
        (5e5, Budget(500_000, "features")),
        (2, Budget(2, "features")),
        ("20MB", Budget(20e6, "bytes")),
        ("1.5 gb", Budget(1.5e9, "bytes")),
        (".5kB", Budget(500, "bytes")),
    ],
)
def test_a_budget_is_a_share_a_number_or_a_size(value: Any, expected: Budget) -> None:
    assert parse(value) == expected


@pytest.mark.parametrize("value", [1, 1.0, 0, -3, 0.0, 2.5, "0MB", "20", "20MiB", "MB", "all", "", float("nan")])
def test_what_is_no_budget_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"opt\.budget=.*; expected a share below 1 \(0\.02\), a number"):
        parse(value)


def test_a_size_bounds_the_rows_the_net_and_the_longest_values(data: Prepared) -> None:
    sizes = artifact_bytes(data, dim=4, net_weights=1000)
    values = sorted((len(value or "") for value in read_vocabulary(data)["value"].to_pylist()), reverse=True)
    assert len(sizes) == len(values) + 1
    assert sizes[0] == FIXED_BYTES + 4000
    for count in (1, 10, len(values)):
        assert sizes[count] == sizes[0] + count * (16 + ENTRY_BYTES) + sum(values[:count])
    for count in (3, 77, 500):
        assert Budget(float(sizes[count]), "bytes").features(data, 4, 1000) == count
        assert Budget(float(sizes[count]) - 1, "bytes").features(data, 4, 1000) == count - 1
    assert Budget(1e9, "bytes").features(data, 4, 1000) == data.split.features_train
    with pytest.raises(
        ArgumentError, match=r"this model needs 0\.27 MB with two features, 0\.00 MB of them for the net"
    ):
        Budget(2e5, "bytes").features(data, 4, 1000)
    assert Budget(0.1, "share").features(data, 4, 1000) == round(0.1 * data.split.features_train)


def test_hashed_ids_have_no_values_to_store(tmp_path: Path) -> None:
    raw = write(tmp_path / "train.txt", lines(60))
    hashed = prepare(criteo.make(), raw, tmp_path / "out", num_buckets=50, split=SplitRule(test_fraction=0.2))
    sizes = artifact_bytes(hashed, dim=8, net_weights=0)
    assert np.array_equal(sizes, FIXED_BYTES + np.arange(51) * (32.0 + ENTRY_BYTES))


class Notes(NoTracker):
    """Keeps the points of one curve."""

    def __init__(self) -> None:
        self.curve: list[float] = []

    def metrics(self, values: Any, step: int) -> None:
        if "train/lambda21" in values:
            self.curve.append(values["train/lambda21"])


def test_a_run_records_its_budget_and_the_course_of_lambda21(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(Run, "open", lambda run, held: setattr(run, "tracker", notes))
    (tmp_path / "family-0").mkdir()
    got = run_one(tmp_path, "opt.budget=0.1", "window=2", "model.embedding_dim=4")
    wanted = round(0.1 * got["features_present"])
    assert got["budget"] == got["features_nonzero"] == wanted
    assert got["opt_options"]["budget"] == 0.1
    assert (got["opt_options"]["threshold"], got["opt_options"]["lambda21"]) == ("hard", 0)
    assert len(notes.curve) == 342 // 32 // 2
    assert got["lambda21"] > 0
    assert notes.curve[-1] == pytest.approx(got["lambda21"], rel=0.5)


def test_a_size_is_a_number_of_features_and_a_family_is_as_alone(tmp_path: Path) -> None:
    same = ["opt.budget=300kB", "opt.threshold=soft", "model.hidden=[8]", "seed=3"]
    alone, retrained = run_family(tmp_path, same, [*same, "retrain=true"])
    assert 2 < alone["budget"] == alone["features_nonzero"] < alone["features_present"]
    assert retrained["auc"] == alone["auc"]
    assert retrained["auc_retrained"] is not None
    assert untimed(run_one(tmp_path, *same)) == untimed(alone)
    plain = run_one(tmp_path, "opt.lambda21=1e-3")
    assert (plain["budget"], plain["lambda21"]) == (None, 1e-3)


def test_the_budget_is_part_of_what_a_run_computes(tmp_path: Path) -> None:
    def hashed(*overrides: str) -> str:
        return resolve(composed("train", *arguments(tmp_path, "tracking=none", *overrides))).config_hash

    assert len({hashed(*o) for o in ([], ["opt.budget=0.1"], ["opt.budget=0.2"], ["opt.budget=0.1", "seed=1"])}) == 4
    assert hashed("opt.budget=0.1", "opt.budget_schedule=linear") != hashed("opt.budget=0.1")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["opt.budget=1"], r"opt.budget=1; expected a share below 1"),
        (["opt.budget=20MiB"], r"opt.budget=20MiB; expected a share below 1"),
        (["opt.budget=0.1", "opt.lambda21=1e-3"], r"opt.budget=0.1 sets lambda21, but there is opt.lambda21=0.001"),
        (["opt.budget=0.1", "opt.lambda_schedule=cubic"], "lambda_schedule=cubic; take opt.budget_schedule"),
        (
            ["opt.budget=0.1", "prune=magnitude", "prune.feature_rate=0.1"],
            "prune=magnitude is for plain optimizers, but there is opt.budget=0.1; take opt=adam or prune=none",
        ),
    ],
)
def test_what_a_budget_does_not_go_with_is_refused(tmp_path: Path, overrides: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError) as error:
        resolve(configuration(tmp_path, *overrides))
    assert problem in str(error.value)


def test_a_size_without_room_ends_the_run_with_one_line(tmp_path: Path) -> None:
    (error,) = jobs([configuration(tmp_path, "opt.budget=10kB")], [tmp_path / "run"])
    assert isinstance(error, ArgumentError)
    assert str(error).startswith("opt.budget=0.01MB: this model needs ")
