"""The mean of the net's weights over the last steps: what it is, who uses it, and that training does not."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr.config.compose import resolve
from ctr.datasets.prepared import Prepared
from ctr.errors import ArgumentError
from ctr.training.average import NetAverage
from ctr.training.trainer import TrainingRun, train
from tests.native.built import ALL_BACKENDS, BACKENDS
from tests.training.runs import configuration, equal, magnitude, new_run, run_family, run_one, untimed


def averaging(data: Prepared, backend: str, share: float, **options: Any) -> TrainingRun:
    run = new_run(data, backend=backend, **options)
    return TrainingRun(run.model, run.learner, run.stream, schedule=run.schedule, window=4, average=share)


def net_of(run: TrainingRun) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters() if name != "embedding.weight"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("share", [0.3, 1.0, 1e-9])
def test_the_net_is_the_mean_over_the_last_steps_and_the_rows_are_the_last(
    data: Prepared, backend: str, share: float
) -> None:
    run, plain = averaging(data, backend, share, lambda21=1e-4), new_run(data, backend=backend, lambda21=1e-4)
    total, history = run.stream.num_batches, []
    for step in range(1, total + 1):
        train(plain, until=step)
        history.append({name: p.double() for name, p in net_of(plain).items()})
    train(run)
    last = history[-max(round(share * total), 1) :]
    raw, rows = net_of(run), run.model.embedding.weight.detach().clone()
    with run.averaged():
        for name, p in net_of(run).items():
            expected = sum(each[name] for each in last) / len(last)
            assert torch.allclose(p.double(), expected, rtol=1e-5, atol=1e-7), name
        assert torch.equal(run.model.embedding.weight, rows)
    assert equal(net_of(run), raw)
    assert equal(raw, net_of(plain))  # training goes on with the raw net
    assert torch.equal(rows, plain.model.embedding.weight)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_saved_run_keeps_both_nets(data: Prepared, backend: str) -> None:
    run, other = (averaging(data, backend, 0.6) for _ in range(2))
    train(run, until=14)
    saved = copy.deepcopy(run.state_dict())
    assert saved["average"]["count"] > 0
    train(run)
    for _ in range(2):
        other.load_state_dict(saved)
        train(other)
        assert equal(run.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match="the saved average is of parameters"):
        NetAverage([torch.zeros(3)], 0.5, 10).load_state_dict(saved["average"])


def test_before_the_first_step_that_counts_the_net_is_as_it_is() -> None:
    p = torch.ones(3)
    average = NetAverage([p], 0.2, 10)
    for step in range(1, 9):
        average.step(step)
    with average.exchanged():
        assert p.tolist() == [1, 1, 1]
    p.fill_(3)
    average.step(9)
    p.fill_(5)
    average.step(10)
    with average.exchanged():
        assert p.tolist() == [4, 4, 4]
    assert p.tolist() == [5, 5, 5]
    average.restart()
    p.fill_(7)
    average.step(11)
    p.fill_(0)
    with average.exchanged():
        assert p.tolist() == [7, 7, 7]


def test_evaluation_takes_the_averaged_net_with_every_method(tmp_path: Path) -> None:
    """The figures are those of the averaged net; a family is as its runs alone; pruning begins the mean anew."""
    family = [["opt=adam"], ["opt=adam", *magnitude(0.3)], ["opt=adam", *magnitude(0.3, 0.4), "retrain=true"]]
    averaged = run_family(tmp_path, *([*member, "average=0.3"] for member in family))
    plain = run_family(tmp_path, *family)
    for ours, theirs, member in zip(averaged, plain, family, strict=True):
        assert (ours["average"], theirs["average"]) == (0.3, 0)
        assert ours["logloss"] != theirs["logloss"]
        assert ours["features_nonzero"] == theirs["features_nonzero"]
        assert untimed(run_one(tmp_path, *member, "average=0.3")) == untimed(ours)
    assert averaged[2]["auc_retrained"] != plain[2]["auc_retrained"]
    whole = run_one(tmp_path, "opt=adam", *magnitude(0.3, 0.4), "average=1")
    shorter = run_one(tmp_path, "opt=adam", *magnitude(0.3, 0.4), "average=0.4")
    assert whole["logloss"] == pytest.approx(shorter["logloss"], rel=1e-12)  # both over the fine-tuning alone


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    for value in ("-0.1", "1.5"):
        with pytest.raises(ArgumentError, match=rf"average={value}; expected a share from 0 to 1"):
            resolve(configuration(tmp_path, f"average={value}"))
    assert np.isclose(resolve(configuration(tmp_path, "average=0.3")).average, 0.3)
