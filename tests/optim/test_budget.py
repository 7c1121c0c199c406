"""A budget of groups in place of a lambda21: the histogram that steers it, and the exact choice at the end."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ctr.optim import BudgetSchedule, GroupAdam, GroupOptimizer, GroupSGD, zero_rows
from ctr.optim.histogram import StrengthHistogram, bucket_of

from .family import FAMILY, Member, give, ids, sparse

ROWS, DIM = 60, 3


def walk(opt: GroupOptimizer, p: nn.Parameter, schedule: BudgetSchedule | None, steps: range) -> None:
    """Steps on some rows at a time, stronger ones at higher places; the last 5 rows are never touched."""
    for t in steps:
        gen = torch.Generator().manual_seed(t)
        rows = torch.randperm(ROWS - 5, generator=gen)[:20]
        values = torch.randn(20, DIM, generator=gen, dtype=p.dtype) * torch.logspace(-3, 1, ROWS)[rows, None]
        grad = sparse(rows, values, ROWS)
        give(opt, p, grad, grad.coalesce())
        opt.step()
        if schedule is not None:
            schedule.step()


def made(member: Member, **options: Any) -> tuple[GroupOptimizer, nn.Parameter]:
    gen = torch.Generator().manual_seed(3)
    p = nn.Parameter(torch.randn(ROWS, DIM, generator=gen) * 0.01)
    return member.make([p], **options), p


def norms(opt: GroupOptimizer, p: Tensor) -> np.ndarray:
    """||s|| of each row under norm="s" and lambda1 = 0, from the state alone: z = u - D x; -1 for untouched rows."""
    state, group = opt.state[p], opt.param_groups[0]
    D = opt.root(state, state["step"], group).numpy() / state["lr"]
    z = state["u"].numpy() - D * p.detach().numpy()
    return np.where(state["seen"].numpy()[:, 0], np.sqrt((z.astype(np.float64) ** 2).sum(1)), -1)


@pytest.mark.parametrize("threshold", ["soft", "hard"])
@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_exactly_the_strongest_rows_are_left(member: Member, threshold: str) -> None:
    for count in (2, 7, 31, 54):
        opt, p = made(member, threshold=threshold)
        schedule = BudgetSchedule(opt, count)
        walk(opt, p, schedule, range(40))
        ranks = norms(opt, p)
        before = p.detach().clone()
        assert schedule.finish() == count
        touched = torch.arange(ROWS) < ROWS - 5
        alive = ~zero_rows(p) & touched
        assert sorted(alive.nonzero().flatten().tolist()) == sorted(np.argsort(-ranks, kind="stable")[:count].tolist())
        kept = alive & ~zero_rows(before)
        assert torch.equal(p[kept], before[kept])
        assert torch.equal(p[~touched], before[~touched])
        weakest = np.sort(ranks)[::-1][count - 1] / math.sqrt(DIM)
        assert opt.param_groups[0]["lambda21"] == pytest.approx(weakest, rel=1e-5)


@pytest.mark.parametrize("norm", ["s", "s_tilde", "s_tilde_eq10"])
@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_the_number_of_survivors_follows_the_budget(threshold: str, norm: str) -> None:
    """Rows above lambda21 are counted by a test of a copy with it; the rest of a bucket is the histogram's error."""
    opt, p = made(FAMILY[5], threshold=threshold, norm=norm, lambda1=1e-5, lambda2=1e-4)
    schedule = BudgetSchedule(opt, 20, every=1)
    for t in range(60):
        walk(opt, p, schedule, range(t, t + 1))
        if t > 10:
            survivors = int((schedule.histogram.buckets[p] >= bucket_of(torch.tensor([schedule.lambda21]))).sum())
            assert 20 <= survivors <= 20 + int(schedule.histogram.counts.max())
            assert schedule.lambda21 > 0
    assert schedule.finish() == 20
    assert int((~zero_rows(p)).sum()) == 20 + 5  # 5 were never touched


def test_a_budget_that_all_fit_into_trains_as_without_one() -> None:
    for budget in (55, 1000):
        opt, p = made(FAMILY[5], threshold="soft")
        twin, q = made(FAMILY[5])
        schedule = BudgetSchedule(opt, budget)
        walk(opt, p, schedule, range(30))
        walk(twin, q, None, range(30))
        assert schedule.finish() == 55
        assert torch.equal(p, q)
        assert schedule.lambda21 == 0


@pytest.mark.parametrize("fused", [False, None])
def test_a_row_without_gradient_and_eps_stays_under_a_budget(fused: bool | None) -> None:
    """D is 0 there, and lambda21 while all rows fit."""
    p = torch.nn.Parameter(torch.ones(3, 2))
    opt = GroupAdam([p], lr=0.1, eps=0.0, fused=fused)
    budget = BudgetSchedule(opt, 3, total_steps=4)
    p.grad = torch.sparse_coo_tensor([[0, 1]], torch.tensor([[0.0, 0.0], [0.0, 1.0]]), p.shape, check_invariants=True)
    opt.step()
    budget.step()
    assert p.tolist() == [[1.0, 1.0], [1.0, pytest.approx(0.9)], [1.0, 1.0]]


def test_rows_of_norm_0_never_live_and_of_equal_rows_the_first_do() -> None:
    p = nn.Parameter(torch.zeros(8, 2))
    opt = GroupSGD([p], lr=1.0, threshold="hard")
    schedule = BudgetSchedule(opt, 3)
    give(opt, p, sparse([0, 2, 3, 4, 5, 6], torch.tensor([[0.0, 0]] + [[3.0, 4]] * 5), 8))
    opt.step()
    schedule.step()
    assert len(schedule.histogram) == 5
    assert schedule.finish() == 3
    assert (~zero_rows(p)).nonzero().flatten().tolist() == [2, 3, 4]
    q = nn.Parameter(torch.zeros(8, 2))
    opt = GroupSGD([q], lr=1.0, threshold="soft")
    schedule = BudgetSchedule(opt, 7)
    give(opt, q, sparse([0, 2, 3], torch.tensor([[0.0, 0], [1, 0], [0, 1]]), 8))
    opt.step()
    assert schedule.finish() == 2


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_a_dead_row_that_is_chosen_comes_back_by_the_rule_of_the_step(threshold: str) -> None:
    """Two of three rows may live; the third died under a larger lambda21 than the last one."""
    p = nn.Parameter(torch.zeros(3, 1))
    opt = GroupSGD([p], lr=0.5, threshold=threshold)
    give(opt, p, torch.tensor([[4.0], [2.0], [1.0]]))
    opt.param_groups[0]["lambda21"] = 3.0
    opt.step()
    assert zero_rows(p).tolist() == [False, True, True]
    opt.param_groups[0]["lambda21"] = 0.0
    schedule = BudgetSchedule(opt, 2)  # takes up the state: the norms of all three rows
    assert len(schedule.histogram) == 3
    assert 1 <= schedule.lambda21 < 2
    first = p.tolist()[0]
    assert schedule.finish() == 2
    assert p.tolist()[0] == first
    assert zero_rows(p).tolist() == [False, False, True]
    if threshold == "hard":
        assert p.tolist()[1] == pytest.approx([-0.5 * 2.0])
    assert schedule.lambda21 == pytest.approx(2.0, rel=1e-5)
    assert opt.state[p]["u"][2] == 1.0  # the evidence of the dead row stays


def test_several_tables_share_one_budget_by_their_norms_over_the_root_of_their_dims() -> None:
    a, b, bias = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.zeros(5))
    opt = GroupSGD([{"params": [a]}, {"params": [b]}, {"params": [bias], "group_dim": None}], lr=1.0, threshold="hard")
    schedule = BudgetSchedule(opt, 3, every=1)
    give(opt, a, torch.tensor([1.0, 2, 3, 4])[:, None].expand(4, 4))  # strengths 1, 2, 3, 4
    give(opt, b, torch.tensor([[3.5], [0.5], [2.5]]))
    give(opt, bias, torch.ones(5))
    opt.step()
    schedule.step()
    assert [group["lambda21"] for group in opt.param_groups] == [schedule.lambda21, schedule.lambda21, 0]
    assert 2.5 <= schedule.lambda21 <= 3
    assert schedule.finish() == 3
    assert zero_rows(a).tolist() == [True, True, False, False]
    assert zero_rows(b).tolist() == [False, True, True]
    assert (bias != 0).all()


def test_columns_of_a_layer_are_groups_too() -> None:
    p = nn.Parameter(torch.zeros(3, 6))
    opt = GroupSGD([p], lr=1.0, group_dim=1)
    schedule = BudgetSchedule(opt, 0.5)
    give(opt, p, torch.arange(6.0).expand(3, 6))
    opt.step()
    schedule.step()
    assert schedule.finish() == 3
    assert zero_rows(p, 1).tolist() == [True, True, True, False, False, False]


@settings(max_examples=60)
@given(st.lists(st.floats(1e-14, 1e8), min_size=1, max_size=40), st.integers(0, 45), st.data())
def test_a_histogram_counts_and_cuts_within_a_bucket(strengths: list[float], survivors: int, data: Any) -> None:
    p = nn.Parameter(torch.zeros(len(strengths), 4))
    histogram = StrengthHistogram({p: (len(strengths), 4)})
    histogram.move(p, None, torch.ones(len(strengths)))
    values = torch.tensor(strengths)
    order = torch.tensor(data.draw(st.permutations(range(len(strengths)))))
    for rows in order.split(7):
        histogram.move(p, rows, 2 * values[rows])  # strength: the norm over sqrt(4)
    assert len(histogram) == len(strengths)
    assert torch.equal(histogram.counts[1:], torch.bincount(bucket_of(values), minlength=256)[1:])
    cut = histogram.lambda21(survivors)
    above, edge = int((values > cut).sum()), bucket_of(torch.tensor([max(cut, 1e-30)]))
    same = int((bucket_of(values) == edge).sum()) + int((bucket_of(values) == edge - 1).sum())
    assert abs(above - min(survivors, len(strengths))) <= same
    assert cut >= 0
    assert histogram.lambda21(survivors + 1) <= cut
    if survivors >= len(strengths):
        assert cut == 0


def test_buckets_are_quarters_of_powers_of_2() -> None:
    values = torch.tensor([0.0, 1e-30, 2.0**-40, 1.0, 1.2, 1.25, 1.5, 1.75, 2.0, 2.0**23, 1e30, math.inf])
    assert bucket_of(values).tolist() == [0, 1, 1, 161, 161, 162, 163, 164, 165, 253, 255, 255]


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(0, 60), st.integers(2, 100))
def test_a_shape_says_how_many_may_live(total: int, steps: int, count: int) -> None:
    p = nn.Parameter(torch.zeros(80, 2))
    opt = GroupSGD([p], lr=1.0)
    give(opt, p, torch.ones(80, 2))
    opt.step()
    share = min(steps / total, 1)
    expected = {
        "constant": count,
        "linear": 80 + (count - 80) * share if count < 80 else count,
        "geometric": 80 ** (1 - share) * count**share if count < 80 else count,
    }
    for shape, wanted in expected.items():
        fresh = copy.deepcopy(opt)
        schedule = BudgetSchedule(fresh, count, total, shape)
        for _ in range(steps):
            schedule.step()
        assert schedule.target() == pytest.approx(wanted)
        assert schedule.finish() == min(count, 80)


@pytest.mark.parametrize("shape", BudgetSchedule.SHAPES)
def test_a_saved_budget_goes_on_to_the_last_bit(shape: str) -> None:
    runs = [made(FAMILY[5], threshold="hard") for _ in range(2)]
    (opt, p), (other, q) = runs
    schedule, loaded = (BudgetSchedule(o, 12, 40, shape) for o, _ in runs)
    walk(opt, p, schedule, range(20))
    saved = copy.deepcopy((opt.state_dict(), schedule.state_dict(), p.detach()))
    walk(opt, p, schedule, range(20, 40))
    for _ in range(2):  # it can be taken up again
        other.load_state_dict(copy.deepcopy(saved[0]))  # torch takes over the tensors themselves
        loaded.load_state_dict(saved[1])
        q.data.copy_(saved[2])
        walk(other, q, loaded, range(20, 40))
        assert torch.equal(p, q)
        assert loaded.lambda21 == schedule.lambda21
        assert torch.equal(loaded.histogram.counts[1:], schedule.histogram.counts[1:])
    small = BudgetSchedule(GroupAdam([nn.Parameter(torch.zeros(4, 2))]), 2)
    with pytest.raises(ValueError, match=r"saved for tensors of \[60\] groups, the optimizer has \[4\]"):
        small.load_state_dict(saved[1])


@pytest.mark.parametrize("budget", [1, 1.0, 0, 0.0, -2, 2.5, True, math.nan, math.inf, "20MB"])
def test_a_budget_that_cannot_be_meant_is_refused(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget must be a whole number of at least 2 or a share"):
        BudgetSchedule(made(FAMILY[0])[0], budget)


def test_what_a_budget_does_not_go_with_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lambda21, which must be 0 before, got 0\.1"):
        BudgetSchedule(made(FAMILY[0], lambda21=0.1)[0], 5)
    with pytest.raises(ValueError, match="group_dim is None everywhere"):
        BudgetSchedule(made(FAMILY[0], group_dim=None)[0], 5)
    with pytest.raises(ValueError, match="shape must be one of"):
        BudgetSchedule(made(FAMILY[0])[0], 5, 10, "cubic")
    with pytest.raises(ValueError, match="needs total_steps"):
        BudgetSchedule(made(FAMILY[0])[0], 5, shape="linear")
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        BudgetSchedule(made(FAMILY[0])[0], 5, 0)
    with pytest.raises(ValueError, match="every must be at least 1"):
        BudgetSchedule(made(FAMILY[0])[0], 5, every=0)
    opt = made(FAMILY[0])[0]
    BudgetSchedule(opt, 5)
    with pytest.raises(ValueError, match="has a budget already"):
        BudgetSchedule(opt, 5)
