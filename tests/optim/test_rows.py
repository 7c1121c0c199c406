"""The lambda schedule, and what one asks after training."""

import copy
import math

import pytest
import torch

from ctr.optim import (
    GroupAdagrad,
    GroupAdam,
    GroupSGD,
    LambdaSchedule,
    feature_rate,
    prox_path,
    touched_rows,
    warm_start_from_adam,
    zero_rows,
)

from .family import sparse


def trained(**options: object) -> tuple[GroupAdam, torch.nn.Parameter]:
    """A table of 12 rows; row r gets gradients around r / 10, and rows 10 and 11 none at all."""
    gen = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(12, 3, generator=gen) * 0.01)
    opt = GroupAdam([p], lr=0.05, **options)  # type: ignore[arg-type]
    for _ in range(30):
        rows = torch.randperm(10, generator=gen)[:6]
        p.grad = sparse(rows, rows[:, None] / 10 + 0.01 * torch.randn(6, 3, generator=gen), 12)
        opt.step()
    return opt, p


def test_what_is_zero_what_was_touched_and_the_rate() -> None:
    opt, p = trained(lambda21=2.0)
    table = p.detach()
    by_hand = [bool((table[r] == 0).all()) for r in range(12)]
    assert zero_rows(p).tolist() == by_hand
    assert touched_rows(opt, p).tolist() == [True] * 10 + [False] * 2
    dead = sum(by_hand)
    assert 1 < dead < 9
    assert not by_hand[10]
    assert feature_rate(opt, p) == (10 - dead) / 10
    assert zero_rows(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), group_dim=1).tolist() == [True, False]


def test_before_the_first_step_nothing_is_touched() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    opt = GroupAdam([p], lambda21=1.0)
    assert touched_rows(opt, p).tolist() == [False] * 4
    assert math.isnan(feature_rate(opt, p))
    assert prox_path(opt, p, [0.0, 1.0]) == [0, 0]
    assert opt.apply_threshold_() == 0
    with pytest.raises(ValueError, match=r"tensor of shape \(1,\) is not a parameter of this GroupAdam"):
        feature_rate(opt, torch.ones(1))
    with pytest.raises(ValueError, match="group_dim is None"):
        prox_path(GroupAdam([p], group_dim=None), p, [1.0])


@pytest.mark.parametrize("norm", ["s", "s_tilde"])
def test_prox_path_counts_what_apply_threshold_leaves(norm: str) -> None:
    opt, p = trained(lambda1=0.05, lambda2=0.01, norm=norm)
    path = [0.0, 0.3, 1.0, 2.0, 4.0, 1e4]
    predicted = prox_path(opt, p, path)
    counted = []
    for lambda21 in path:
        p2, opt2 = p, copy.deepcopy(opt)
        p2 = opt2.param_groups[0]["params"][0]
        opt2.param_groups[0]["lambda21"] = lambda21
        opt2.apply_threshold_()
        counted.append(int((~zero_rows(p2))[:10].sum()))
    assert predicted == counted
    assert predicted[-1] == 0
    assert len(set(predicted)) > 3


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_apply_threshold_changes_nothing_under_the_same_lambdas(threshold: str) -> None:
    """Where D is what it was at the last touch: u and x are then one and the same z."""
    gen = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(12, 3, generator=gen) * 0.01)
    opt = GroupSGD([p], lr=0.05, lambda1=0.01, lambda21=6.0, lambda2=0.1, threshold=threshold)  # type: ignore[arg-type]
    for _ in range(30):
        rows = torch.randperm(10, generator=gen)[:6]
        p.grad = sparse(rows, rows[:, None] / 10 + 0.01 * torch.randn(6, 3, generator=gen), 12)
        opt.step()
    before, u = p.detach().clone(), opt.state[p]["u"].clone()
    assert 2 < int(zero_rows(p).sum()) < 9
    for _ in range(3):
        assert opt.apply_threshold_() == 0
    assert torch.equal(p == 0, before == 0)
    torch.testing.assert_close(p.detach(), before, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(opt.state[p]["u"], u, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_apply_threshold_tests_rows_that_were_last_touched_under_a_smaller_lambda21(threshold: str) -> None:
    """By hand, with SGD from x = 0: z is the sum of the gradients."""
    p = torch.nn.Parameter(torch.zeros(3, 4))
    opt = GroupSGD([p], lr=0.5, lambda21=0.1, threshold=threshold)  # type: ignore[arg-type]
    p.grad = sparse([0, 1], torch.tensor([[1.0] * 4, [3.0] * 4]), 3)  # norms 2 and 6, sqrt(d) = 2
    opt.step()
    assert (p[:2] != 0).all()
    opt.param_groups[0]["lambda21"] = 2.0
    assert opt.apply_threshold_() == 1
    survivor = -3.0 * 0.5 * ((1 - 4 / 6) if threshold == "soft" else 1.0)
    torch.testing.assert_close(p.detach(), torch.tensor([[0.0] * 4, [survivor] * 4, [0.0] * 4]))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [8.0] * 7),
        ("linear", [0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 8.0]),
        ("cubic", [0.0, 0.125, 1.0, 3.375, 8.0, 8.0, 8.0]),
        (2.0, [0.0, 0.5, 2.0, 4.5, 8.0, 8.0, 8.0]),
    ],
)
def test_the_ramp(shape: str | float, expected: list[float]) -> None:
    opt = GroupAdam([{"params": [torch.ones(2, 2)]}, {"params": [torch.ones(2, 2)], "lambda21": 4.0}], lambda21=8.0)
    schedule = LambdaSchedule(opt, total_steps=4, shape=shape)
    seen = []
    for _ in range(7):
        seen.append(opt.param_groups[0]["lambda21"])
        assert opt.param_groups[1]["lambda21"] == seen[-1] / 2
        schedule.step()
    assert seen == expected


def test_the_ramp_goes_on_after_loading() -> None:
    def start() -> tuple[torch.nn.Parameter, GroupAdagrad, LambdaSchedule]:
        p = torch.nn.Parameter(torch.full((6, 2), 0.1))
        opt = GroupAdagrad([p], lr=0.1, lambda1=0.1, lambda21=3.0)
        return p, opt, LambdaSchedule(opt, total_steps=20, names=("lambda1", "lambda21"))

    def walk(p: torch.nn.Parameter, opt: GroupAdagrad, schedule: LambdaSchedule, steps: range) -> None:
        for t in steps:
            grad = torch.randn(6, 2, generator=torch.Generator().manual_seed(t))
            p.grad = grad * torch.tensor([0.001, 0.01, 0.1, 1, 1, 1])[:, None]
            opt.step()
            schedule.step()

    straight = start()
    walk(*straight, range(30))
    first = start()
    walk(*first, range(12))
    second = start()
    second[0].data.copy_(first[0].data)
    second[1].load_state_dict(first[1].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    assert second[1].param_groups[0]["lambda21"] == pytest.approx(3.0 * 0.6**3)
    walk(*second, range(12, 30))
    assert torch.equal(second[0], straight[0])
    assert second[1].param_groups[0]["lambda1"] == 0.1
    assert zero_rows(straight[0]).any()
    assert not zero_rows(straight[0]).all()


def test_bad_schedules_are_refused() -> None:
    opt = GroupAdam([torch.ones(2, 2)], lambda21=1.0)
    for arguments, message in (
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": 5, "shape": "square"}, "shape"),
        ({"total_steps": 5, "shape": -1.0}, "shape"),
        ({"total_steps": 5, "names": ("lambda3",)}, "lambda3"),
    ):
        with pytest.raises(ValueError, match=message):
            LambdaSchedule(opt, **arguments)  # type: ignore[arg-type]
    assert opt.param_groups[0]["lambda21"] == 1.0
    two = GroupAdam([{"params": [torch.ones(1, 1)]}, {"params": [torch.ones(1, 1)]}])
    with pytest.raises(ValueError, match="1 param groups, the optimizer has 2"):
        LambdaSchedule(two, 5).load_state_dict(LambdaSchedule(opt, 5).state_dict())


def test_a_warm_start_that_does_not_fit_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    adam = torch.optim.Adam([p])
    opt = GroupAdam([("weight", p)])
    with pytest.raises(ValueError, match="no state"):
        warm_start_from_adam(opt, adam)
    p.grad = torch.ones(2, 2)
    adam.step()
    with pytest.raises(ValueError, match="GroupAdam or GroupAMSGrad is expected, got GroupSGD"):
        warm_start_from_adam(GroupSGD([p], lr=0.1), adam)
    with pytest.raises(ValueError, match="got SGD"):
        warm_start_from_adam(opt, torch.optim.SGD([p]))
    with pytest.raises(ValueError, match="1 parameters, the optimizer has 2"):
        warm_start_from_adam(GroupAdam([p, torch.ones(1)]), adam.state_dict())
    with pytest.raises(ValueError, match=r"exp_avg of parameter 'other' is of shape \(2, 2\), not \(3, 2\)"):
        warm_start_from_adam(GroupAdam([("other", torch.ones(3, 2))]), adam.state_dict())
