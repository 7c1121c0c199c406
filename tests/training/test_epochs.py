"""``epochs=N``: a run of several passes is a run over a log that repeats its training rows as often."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctr.config.compose import resolve
from ctr.errors import ArgumentError
from ctr.training import checkpointing
from ctr.training.diagnosis import of_epochs
from ctr.training.experiment import passes, run_family
from ctr.training.result import Result, table
from ctr.training.run import Run
from tests.datasets.criteo_text import lines, write
from tests.native.built import BACKENDS
from tests.training.runs import configuration, magnitude

TRAIN, TEST = 240, 40  # rows: seven and a half batches of 32, and the last seventh
# Figures that say how the training went; counts of rows and hashes differ.
SAME = ("auc", "logloss", "calibration", "auc_retrained", "features_nonzero", "features_present", "lambda21", "budget")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The log, and one with the training rows twice, by their number of passes; each in a folder."""
    made, found = lines(TRAIN + TEST), {}
    for times in (1, 2):
        found[times] = tmp_path_factory.mktemp(f"log-{times}")
        write(found[times] / "train.txt", made[:TRAIN] * times + made[TRAIN:])
    return found


def go(
    log: Path, folder: Path, *overrides: str, on_rows: Callable[[int], None] = lambda rows: None, **more: Any
) -> Run:
    keys = ["opt.lr=0.01", "model.hidden=[6]", *overrides]
    if not any(key.startswith("checkpoint") for key in overrides):
        keys.append("checkpoint.every_minutes=null")
    run = Run(resolve(configuration(log, *keys)), folder, **more)
    run_family([run], on_rows)
    if run.error is not None:
        raise run.error
    return run


def figures(run: Run) -> dict[str, Any]:
    found = json.loads((run.folder / "result.json").read_text())
    return {name: found[name] for name in SAME}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "overrides",
    [
        ["opt.lambda21=1e-3", "opt.lambda_schedule=cubic", "average=0.3"],
        ["opt.budget=0.2", "opt.budget_schedule=linear"],
        ["opt=adagrad", *magnitude(0.3, finetune=0.6), "retrain=true"],
    ],
    ids=["schedule", "budget", "pruning"],
)
def test_two_passes_are_one_over_the_rows_twice(
    logs: dict[int, Path], tmp_path: Path, backend: str, overrides: list[str]
) -> None:
    keys = [f"backend={backend}", *overrides]
    twice = go(logs[2], tmp_path / "twice", *keys, f"dataset.test_fraction={TEST / (2 * TRAIN + TEST)}")
    passed = go(logs[1], tmp_path / "passes", *keys, "epochs=2")
    assert figures(passed) == figures(twice)
    assert figures(passed) != figures(go(logs[1], tmp_path / "one", *keys))
    assert passed.result is not None
    assert passed.result.rows_train == TRAIN


def test_dropout_is_drawn_on(logs: dict[int, Path], tmp_path: Path) -> None:
    keys = ["model=opnn", "model.hidden=[6]", "opt.lambda21=1e-4"]
    twice = go(logs[2], tmp_path / "twice", *keys, f"dataset.test_fraction={TEST / (2 * TRAIN + TEST)}")
    assert figures(go(logs[1], tmp_path / "passes", *keys, "epochs=2")) == figures(twice)


@pytest.mark.parametrize("step", [5, 11])
def test_a_run_that_was_stopped_goes_on_in_its_pass(
    logs: dict[int, Path], tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "goes_on", lambda run: False)  # each checkpoint is whole when the run does
    keys = ["epochs=2", "opt.lambda21=1e-3", "opt.lambda_schedule=linear", "average=0.5", "checkpoint.every_steps=2"]
    done = 0

    def stop(rows: int) -> None:
        nonlocal done
        done += 1
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(logs[1], tmp_path / "run", *keys, on_rows=stop)
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    resumed = go(logs[1], tmp_path / "run", *keys, resume=True)
    assert figures(resumed) == figures(go(logs[1], tmp_path / "whole", *keys))


def test_the_bar_counts_the_rows_of_all_passes(logs: dict[int, Path], tmp_path: Path) -> None:
    seen: list[int] = []
    go(logs[1], tmp_path / "run", "epochs=3", on_rows=seen.append)
    assert sum(seen) == 3 * TRAIN + TEST


def test_more_than_one_pass_is_warned_of(logs: dict[int, Path], tmp_path: Path) -> None:
    one, two = (go(logs[1], tmp_path / str(n), f"epochs={n}").result for n in (1, 2))
    assert isinstance(one, Result)
    assert isinstance(two, Result)
    (warning,) = of_epochs(2)
    assert (warning in one.warnings, warning in two.warnings) == (False, True)
    assert (one.epochs, two.epochs) == (1, 2)
    shown = " ".join(table(two, tmp_path).split())
    assert "240 to train on in 2 passes, 40 to test on" in shown
    assert f"warning {warning}" in shown
    assert "passes" not in table(one, tmp_path)
    assert two.samples_per_second == pytest.approx(2 * TRAIN / two.train_seconds)


def test_the_cost_of_a_family_counts_its_passes(logs: dict[int, Path]) -> None:
    config = configuration(logs[1], "opt=adam", "epochs=3", "retrain=true", *magnitude(0.3, finetune=0.5))
    assert passes([resolve(config)]) == pytest.approx(3 * (1 + 0.5 + 1))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["epochs=0"], "epochs=0; expected at least 1"),
        (["epochs=2", "progressive=true"], "with epochs=2 they were"),
        (["epochs=2", "dataset.test_fraction=0"], "leaves no row to test on"),
    ],
)
def test_what_cannot_be_is_named(logs: dict[int, Path], overrides: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        resolve(configuration(logs[1], *overrides))
