"""Runs that share their first part: each branch finds the state of a run of its own, to the last bit."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from ctr.datasets.prepared import Prepared
from ctr.datasets.stream import RowStream
from ctr.training import trunk
from ctr.training.pruning import prune_
from ctr.training.trainer import TrainingRun, evaluate, train
from ctr.training.trunk import Branch, fork
from tests.native.built import BACKENDS
from tests.training.runs import equal, new_run


def long_run(data: Prepared, backend: Any, model: str = "dcn", opt: str = "adam") -> TrainingRun:
    """A run of 19 steps."""
    lr = 1e-3 if opt == "momentum" else 0.01
    return new_run(data, opt, model=model, hidden=(70, 3), backend=backend, lr=lr)


def rest(run: TrainingRun, count: int) -> dict[str, Any]:
    """Prune, fine-tune, prune; the whole state afterwards and the test figures."""
    for _ in range(2):
        prune_(run.model.embedding, run.learner.row_optimizer, count)
        train(run)
    prune_(run.model.embedding, run.learner.row_optimizer, count)
    return {"state": copy.deepcopy(run.state_dict()), "test": figures(run)}


def figures(run: TrainingRun) -> Any:
    stream = RowStream(run.stream.rows, [(600, 700)], 64)
    return evaluate(run.learner, stream)


def advance(run: TrainingRun) -> Any:
    return lambda until: train(run, until=until)


PLANS = [(13, 40), (13, 300), (15, 40), (0, 40), (19, 300), (19, 40)]


@pytest.mark.parametrize(
    ("model", "opt"), [("dcn", "adam"), pytest.param("opnn", "adam", marks=pytest.mark.slow), ("dcn", "adagrad")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_is_separate(data: Prepared, backend: Any, model: str, opt: str) -> None:
    """Weights, optimizer states with their step counters, dropout's generator, windows, AUC and logloss."""
    check(data, backend, model, opt)


@pytest.mark.slow
@pytest.mark.parametrize("opt", ["momentum", "sgd", "amsgrad", "adahessian"])
def test_forked_is_separate_for_the_other_optimizers(data: Prepared, opt: str) -> None:
    check(data, "torch", "dcn", opt)


def check(data: Prepared, backend: Any, model: str, opt: str) -> None:
    run = long_run(data, backend, model, opt)
    forked: dict[Any, Any] = {}

    def branch(step: int, count: int) -> Branch:
        def take() -> None:
            assert run.steps == step
            forked[step, count] = rest(run, count)

        return Branch(step, take)

    def look() -> None:
        forked["whole"] = {"state": copy.deepcopy(run.state_dict()), "test": figures(run)}

    fork(run, [Branch(19, look, alters=False), *(branch(*plan) for plan in PLANS)], advance(run))
    for step, count in PLANS:
        alone = long_run(data, backend, model, opt)
        train(alone, until=step)
        assert alone.steps == step
        wanted = rest(alone, count)
        assert wanted["state"]["steps"] == 19
        assert equal(forked[step, count], wanted), (step, count)
    whole = long_run(data, backend, model, opt)
    train(whole)
    assert equal(forked["whole"], {"state": whole.state_dict(), "test": figures(whole)})
    assert not equal(forked[13, 40], forked[15, 40])


def test_copies_are_made_only_where_something_comes_back(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(state: Any) -> Any:
        made.append(state["steps"])
        return copy.deepcopy(state)

    monkeypatch.setattr(trunk, "copy", SimpleNamespace(deepcopy=counted))

    def copies(*branches: tuple[int, bool]) -> list[int]:
        made.clear()
        run = long_run(data, "torch")
        fork(run, [Branch(step, lambda: None, alters=alters) for step, alters in branches], advance(run))
        return list(made)

    assert copies((19, True)) == []
    assert copies((13, True)) == []
    assert copies((19, False), (19, True)) == []  # the one that looks on comes first
    assert copies((19, True), (19, False)) == []
    assert copies((5, True), (5, True), (5, True)) == [5]
    assert copies((9, True), (5, True), (19, False)) == [5, 9]


def test_a_state_can_be_loaded_twice(data: Prepared) -> None:
    """Loading copies: what is trained afterwards must not reach into the state."""
    run = long_run(data, "torch")
    train(run, until=5)
    kept = copy.deepcopy(run.state_dict())
    untouched = copy.deepcopy(kept)
    for _ in range(2):
        run.load_state_dict(kept)
        train(run, until=9)
        assert equal(kept, untouched)


def test_training_in_parts_is_training_at_once(data: Prepared) -> None:
    whole, parts = long_run(data, "torch"), long_run(data, "torch")
    train(whole)
    for until in (0, 3, 3, 2, 19, None):
        train(parts, until=until)
    assert whole.steps == 19
    assert equal(parts.state_dict(), whole.state_dict())
