"""The compiled step of the grouped optimizers against the plain one in torch."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ctr.native import library
from ctr.optim import OPTIMIZERS, BudgetSchedule, GroupAdam, GroupOptimizer, GroupSGD
from tests.native.built import needs_kernels
from tests.optim.family import FAMILY, ONE_EACH, Member, give, ids, sparse

pytestmark = needs_kernels

N, SCALE = 9, {torch.float64: 1e-15, torch.float32: 5e-7}
PENALTIES = [
    {},
    {"lambda21": 0.3},
    {"lambda1": 0.05, "lambda21": 0.3, "lambda2": 0.02},
    {"lambda1": 0.2},
    {"lambda2": 0.5},
]


def pair(member: Member, x: Tensor, **options: Any) -> list[GroupOptimizer]:
    """A plain and a compiled optimizer of the same weights."""
    return [member.make([nn.Parameter(x.clone())], fused=fused, **options) for fused in (False, True)]


def weights(opt: GroupOptimizer) -> Tensor:
    return opt.param_groups[0]["params"][0].detach()


def states(opt: GroupOptimizer) -> dict[str, Tensor]:
    p = opt.param_groups[0]["params"][0]
    return {"x": p.detach(), **{name: opt.state[p][name] for name in ("u", *opt.buffers)}}


def check_equal(plain: GroupOptimizer, fused: GroupOptimizer, tolerance: float) -> None:
    """Equal within rounding of the largest number of its kind, with equal zeros (u is part of z, which holds D x)."""
    p = plain.param_groups[0]["params"][0]
    pulls = [float((D(None) * x).abs().max()) + float(u.abs().max()) for x, u, _, D in plain.stored_rows(p)]
    for (name, a), b in zip(states(plain).items(), states(fused).values(), strict=True):
        largest = max(float(a.abs().max()), *(pulls if name == "u" else []), 1.0 if name == "x" else 0.0)
        torch.testing.assert_close(b, a, rtol=tolerance, atol=float(tolerance * largest), msg=name)
        assert torch.equal(a == 0, b == 0), name
    p, q = (opt.param_groups[0]["params"][0] for opt in (plain, fused))
    assert torch.equal(plain.state[p]["seen"], fused.state[q]["seen"])
    assert (plain.state[p]["step"], plain.state[p]["lr"]) == (fused.state[q]["step"], fused.state[q]["lr"])


@settings(max_examples=60, deadline=None)
@given(
    member=st.sampled_from(FAMILY),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    norm=st.sampled_from(["s", "s_tilde", "s_tilde_eq10"]),
    threshold=st.sampled_from(["soft", "hard"]),
    penalty=st.sampled_from(PENALTIES),
    layout=st.sampled_from(["uncoalesced", "coalesced", "dense"]),
    shape=st.sampled_from([(N,), (N, 1), (N, 3), (N, 8), (N, 10), (N, 2, 7), (N, 33)]),
    options=st.sampled_from([{}, {}, {"maximize": True}, {"lazy": False}, {"group_dim": None}]),
    rows=st.lists(st.integers(0, N - 1), max_size=14),
    seed=st.integers(0, 10_000),
)
@example(FAMILY[5], torch.float64, "s", "soft", PENALTIES[2], "uncoalesced", (N, 8), {}, [], 0)
@example(FAMILY[5], torch.float64, "s", "soft", PENALTIES[2], "uncoalesced", (N, 8), {}, [4], 0)
@example(FAMILY[5], torch.float64, "s", "soft", PENALTIES[2], "uncoalesced", (N, 8), {}, [5] * 14, 0)
def test_a_step_is_the_plain_one(
    member: Member, dtype: torch.dtype, norm: str, threshold: str, penalty: dict[str, float], layout: str,
    shape: tuple[int, ...], options: dict[str, Any], rows: list[int], seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=dtype, generator=gen)
    both = pair(member, x, norm=norm, threshold=threshold, **penalty, **options)
    for t in range(3):
        drawn = (torch.randn(len(rows), *shape[1:], dtype=dtype, generator=gen) for _ in range(2))
        grad, hessian = (sparse(rows, values, N) for values in drawn)
        if layout == "coalesced":
            grad, hessian = grad.coalesce(), hessian.coalesce()
        elif layout == "dense":
            grad, hessian = grad.to_dense(), hessian.to_dense()
        for opt in both:
            opt.param_groups[0]["lr"] = member.lr * (t != 1)  # frozen in between: the moments alone go on
            give(opt, opt.param_groups[0]["params"][0], grad, hessian)
            opt.step()
        check_equal(*both, tolerance=SCALE[dtype])
        # Each step by itself: what one rounds differently the next may enlarge.
        both[1].load_state_dict(copy.deepcopy(both[0].state_dict()))
        weights(both[1]).copy_(weights(both[0]))


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_the_same_bits_for_any_number_of_threads(member: Member, threads: None) -> None:
    gen = torch.Generator().manual_seed(0)
    x, rows = torch.randn(400, 8, generator=gen), torch.randint(0, 400, (2_000,), generator=gen)
    values = torch.randn(2_000, 8, generator=gen)
    dense = torch.randn(400, 8, generator=gen)
    found = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        opt = member.make([nn.Parameter(x.clone())], lambda21=0.3, fused=True)
        for grad in (sparse(rows, values, 400), dense.repeat(1, 1)):
            give(opt, opt.param_groups[0]["params"][0], grad, grad.abs())
            opt.step()
        found.append(states(opt))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_fork_steps_with_threads_of_its_own_and_the_same_bits(threads: None) -> None:
    """Those of torch stay in the process that it is a fork of, which has used them."""
    torch.set_num_threads(2)
    gen = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2_000, 8, generator=gen), torch.randn(2_000, 8, generator=gen)

    def trained() -> Tensor:
        opt = GroupAdam([nn.Parameter(x.clone())], lambda21=0.3, fused=True)
        give(opt, opt.param_groups[0]["params"][0], grad, None)
        opt.step()
        return weights(opt)

    expected = trained()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        code = 1
        try:
            code = 0 if torch.equal(trained(), expected) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_nan_and_infinity_go_where_they_go_in_torch(member: Member, threshold: str) -> None:
    values = torch.ones(4, 3, dtype=torch.float64)
    values[0, 1], values[1, 0], values[2, 2] = float("nan"), float("inf"), float("-inf")
    for penalty in PENALTIES[:3]:
        both = pair(member, torch.full((N, 3), 0.7, dtype=torch.float64), threshold=threshold, **penalty)
        for opt in both:
            give(
                opt, opt.param_groups[0]["params"][0], sparse([1, 3, 5, 7], values, N), sparse([1, 3, 5, 7], values, N)
            )
            opt.step()
        for (name, a), b in zip(states(both[0]).items(), states(both[1]).values(), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-14, atol=1e-13, equal_nan=True, msg=name)


def test_without_eps_a_weight_that_never_had_a_gradient_stays() -> None:
    for penalty in PENALTIES:
        both = pair(FAMILY[5], torch.full((N, 2), 0.5, dtype=torch.float64), eps=0.0, **penalty)
        for opt in both:
            give(opt, opt.param_groups[0]["params"][0], sparse([2, 3], torch.tensor([[0.0, 1], [0, 0]]).double(), N))
            opt.step()
        check_equal(*both, tolerance=1e-15)


def test_a_duplicate_sums_in_the_order_of_the_batch() -> None:
    values = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])  # 1 in this order, 2 or 0 in others
    both = pair(FAMILY[0], torch.zeros(2, 1), lr=1.0)
    for opt in both:
        give(opt, opt.param_groups[0]["params"][0], sparse([1, 1, 1, 1], values, 2))
        opt.step()
        assert weights(opt).tolist() == [[0.0], [-1.0]]


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_states_of_either_kind_go_on_in_the_other(member: Member) -> None:
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(N, 4, dtype=torch.float64, generator=gen)
    grads = [torch.randn(N, 4, dtype=torch.float64, generator=gen) for _ in range(4)]
    ends = []
    for order in ([False] * 4, [False, True, True, False], [True, False, False, True]):
        p = nn.Parameter(x.clone())
        opt: GroupOptimizer | None = None
        for fused, grad in zip(order, grads, strict=True):
            saved = None if opt is None else opt.state_dict()
            opt = member.make([p], lambda21=0.2, fused=fused)
            if saved is not None:
                assert "fused" not in saved["param_groups"][0]
                opt.load_state_dict(saved)
            give(opt, p, grad, grad)
            opt.step()
        ends.append(p.detach())
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], rtol=1e-13, atol=1e-14)


def test_param_groups_have_their_own_lambdas_and_frozen_ones_stay() -> None:
    found = []
    for fused in (False, True):
        gen = torch.Generator().manual_seed(0)
        first, second, frozen = (nn.Parameter(torch.randn(N, 4, dtype=torch.float64, generator=gen)) for _ in range(3))
        frozen.requires_grad_(False)
        groups = [{"params": [first], "lambda21": 0.5}, {"params": [second], "lambda1": 0.3, "group_dim": None}]
        opt = GroupAdam([*groups, {"params": [frozen]}], lr=0.1, fused=fused)
        for p in (first, second):
            p.grad = sparse([3, 1, 3], torch.randn(3, 4, dtype=torch.float64, generator=gen), N)
        opt.step()
        assert frozen not in opt.state
        found.append((first.detach(), second.detach()))
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-14, atol=1e-15)
        assert torch.equal(plain == 0, compiled == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_budget_counts_the_same_rows(dtype: torch.dtype) -> None:
    found = []
    for opt in pair(FAMILY[5], torch.randn(50, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))):
        schedule = BudgetSchedule(opt, 10, every=1)
        gen = torch.Generator().manual_seed(1)
        for t in range(6):
            grad = sparse(
                torch.randint(0, 50, (30,), generator=gen), torch.randn(30, 8, dtype=dtype, generator=gen), 50
            )
            give(opt, weight := opt.param_groups[0]["params"][0], grad.to_dense() if t % 2 else grad)
            opt.step()
            schedule.step()
        found.append(
            (schedule.histogram.counts[1:], schedule.histogram.buckets[weight], opt.param_groups[0]["lambda21"])
        )
    (counts, buckets, plain), (ours, moved, compiled) = found
    assert torch.equal(counts, ours)
    assert torch.equal(buckets, moved)
    assert compiled == pytest.approx(plain, rel=1e-6)
    assert plain > 0


def test_rows_may_lie_side_by_side_in_one_buffer() -> None:
    """[w | u | m | v], as a row store has them."""
    both = pair(FAMILY[5], torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), lambda21=0.1)
    p = both[1].param_groups[0]["params"][0]
    store = torch.zeros(N, 16)
    views = dict(zip(("x", "u", "m", "v"), store.split(4, 1), strict=True))
    views.pop("x").copy_(p.detach())
    p.data = store[:, :4]
    both[1].ensure_state(p).update(views)
    for opt in both:
        give(opt, opt.param_groups[0]["params"][0], sparse([8, 2, 8], torch.ones(3, 4), N))
        opt.step()
    check_equal(*both, tolerance=5e-7)
    assert store[8].reshape(4, 4).ne(0).any(1).tolist() == [True] * 4


class Other(GroupAdam):
    """Inherits the compiled rule of another class, which need not be its own."""


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: GroupAdam([nn.Parameter(torch.zeros(2, 513))], fused=True), "it has 2 rows of 513 numbers"),
        (lambda: GroupAdam([nn.Parameter(torch.zeros(2, 3))], group_dim=1, fused=True), "group_dim is 1"),
        (lambda: GroupAdam([nn.Parameter(torch.zeros(2, 3))], group_dim="all", fused=True), "group_dim is 'all'"),
        (lambda: GroupAdam([nn.Parameter(torch.zeros(2, 3, device="meta"))], fused=True), "on meta"),
        (lambda: Other([nn.Parameter(torch.zeros(2, 3))], fused=True), "the rule of Other"),
        (lambda: GroupSGD([nn.Parameter(torch.zeros(2, 3))], 0.1, fused=1), "fused must be True, False or None"),
    ],
)
def test_where_it_cannot_serve_it_says_so(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()


def test_what_changes_after_the_start_is_refused_before_anything_moves() -> None:
    p, q = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    opt = GroupAdam([{"params": [p]}, {"params": [q]}], fused=True)
    p.grad, q.grad = torch.ones(4, 3), torch.ones(4, 3)
    opt.param_groups[1]["group_dim"] = 1
    with pytest.raises(RuntimeError, match="fused=True cannot serve parameter 0 of group 1: group_dim is 1"):
        opt.step()
    assert torch.equal(p, torch.ones(4, 3))


def test_without_the_library_the_plain_path_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available", lambda: False)
    monkeypatch.setattr("ctr.optim.fused.step", lambda *_: pytest.fail("there is no library"))
    p = nn.Parameter(torch.ones(4, 3))
    with pytest.raises(ValueError, match="the compiled kernels are not available"):
        GroupAdam([p], fused=True)
    p.grad = torch.ones(4, 3)
    GroupAdam([p]).step()
    assert (p < 1).all()


def test_compiled_code_is_taken_unless_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("ctr.optim.fused.step", lambda opt, p, group: taken.append(opt.fused))
    for fused in (None, True, False):
        p = nn.Parameter(torch.ones(4, 3))
        p.grad = torch.ones(4, 3)
        opt = GroupAdam([p], fused=fused)
        assert copy.deepcopy(opt).fused is fused
        opt.step()
    assert taken == [None, True]


def test_a_row_out_of_range_is_named_and_nothing_moves() -> None:
    p = nn.Parameter(torch.ones(4, 3))
    opt = GroupAdam([p], fused=True)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 4]]), torch.ones(2, 3), (4, 3), check_invariants=False)
    with pytest.raises(RuntimeError, match="row 4 of the gradient is not within the 4 rows"):
        opt.step()
    assert torch.equal(p, torch.ones(4, 3))


@pytest.mark.parametrize("opt", [name for name in OPTIMIZERS if name != "group_adahessian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_rows_is_the_step_with_their_sparse_gradient(opt: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(9, 5, generator=generator, dtype=dtype)
    mine, its = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours, theirs = (OPTIMIZERS[opt]([p], lr=0.0, maximize=True) for p in (mine, its))
    schedules = [BudgetSchedule(one, 3, every=1) for one in (ours, theirs)]
    for lr in (0.0, 0.1, 0.1, 0.2, 0.1):
        ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = lr
        rows = torch.randint(0, 7, (12,), generator=generator)
        grads = torch.randn(12, 5, generator=generator, dtype=dtype)
        ours.step_rows(mine, rows, grads)
        its.grad = sparse(rows, grads, 9)
        theirs.step()
        for schedule in schedules:
            schedule.step()
    assert torch.equal(mine, its)
    assert torch.equal(*(schedule.histogram.counts for schedule in schedules))
    assert mine.grad is None
    for name, value in theirs.state[its].items():
        assert (
            torch.equal(value, ours.state[mine][name]) if isinstance(value, Tensor) else value == ours.state[mine][name]
        )


def test_a_step_of_rows_that_cannot_be_made_changes_nothing() -> None:
    p, rows, grads = nn.Parameter(torch.ones(4, 3)), torch.tensor([1, 4]), torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="row 4 of the gradient is not within the 4 rows"):
        GroupAdam([p]).step_rows(p, rows, grads)
    with pytest.raises(RuntimeError, match="GroupAdam: step_rows: the gradients hold NaN or infinity"):
        GroupAdam([p], check_finite=True).step_rows(p, rows[:1], grads[:1] / 0)
    with pytest.raises(RuntimeError, match=r"step_rows cannot serve the tensor of shape \(4, 3\): fused=False"):
        GroupAdam([p], fused=False).step_rows(p, rows[:1], grads[:1])
    opt = GroupAdam([p])
    for few, its in (
        (rows[:1].int(), grads[:1]),
        (rows[None], grads),
        (rows, grads.t()),
        (rows, grads.double()),
        (rows, grads.to("meta")),
    ):
        with pytest.raises(RuntimeError, match=r"expected int64 \[n\] and torch.float32 \['n', 3\] on the CPU, got "):
            opt.step_rows(p, few, its)
    assert not opt.state
    columns = GroupAdam([p], group_dim=1)
    with pytest.raises(RuntimeError, match=r"step_rows cannot serve the tensor of shape \(4, 3\): group_dim is 1"):
        columns.step_rows(p, rows[:1], grads[:1])
    with pytest.raises(ValueError, match="is not a parameter of this GroupAdam"):
        columns.step_rows(nn.Parameter(torch.ones(4, 3)), rows, grads)
    with pytest.raises(RuntimeError, match="step_rows has no Hessian; use set_hessian and step"):
        OPTIMIZERS["group_adahessian"]([p]).step_rows(p, rows[:1], grads[:1])
    assert torch.equal(p, torch.ones(4, 3))


@pytest.mark.slow
def test_the_operator_works_under_torch_compile() -> None:
    def step(weight: Tensor, u: Tensor, m: Tensor, v: Tensor, seen: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        switches, numbers = (
            [0, 0, 0, 1, 0, 0],
            [0.9, 0.1, 0.999, 0.001, 0.1, 0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 0.0, 30.0, 1e-6],
        )
        torch.ops.ctr.update_rows(
            weight, u, [m, v], seen, None, None, rows, values, None, False, False, switches, numbers
        )
        return weight * 2

    found = []
    for run in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        state = [torch.linspace(-1, 1, 12).reshape(4, 3), *(torch.zeros(4, 3) for _ in range(3))]
        state.append(torch.zeros(4, 1, dtype=torch.bool))
        doubled = run(*state, torch.tensor([3, 1, 3]), torch.ones(3, 3))
        found.append([*state, doubled])
    for plain, compiled in zip(*found, strict=True):
        assert torch.equal(plain, compiled)
    assert not torch.equal(found[0][0], torch.linspace(-1, 1, 12).reshape(4, 3))


@pytest.mark.slow
def test_a_compiled_training_step_is_the_eager_one() -> None:
    found = []
    for compiles in (False, True):
        p = nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3))
        opt = GroupAdam([p], lr=0.1, lambda21=0.01, fused=True)

        def step(p: Tensor = p, opt: GroupOptimizer = opt) -> None:
            (p**2).sum().backward()
            opt.step()
            opt.zero_grad()

        run = torch.compile(step, backend="aot_eager") if compiles else step
        for _ in range(2):
            run()
        found.append(p.detach())
    torch.testing.assert_close(found[1], found[0])


def test_indices_that_are_spread_in_memory() -> None:
    """The step works on a copy of them, which has to last until it is done."""
    spread = torch.arange(0, 30_000).view(-1, 3)[:, :1].t()  # every third number
    weights = []
    for fused in (False, True):
        p = nn.Parameter(torch.ones(30_000, 2))
        opt = GroupAdam([p], lr=0.1, fused=fused)
        p.grad = torch.sparse_coo_tensor(
            spread, torch.ones(10_000, 2), p.shape, is_coalesced=True, check_invariants=True
        )
        assert not p.grad._indices().is_contiguous()
        opt.step()
        weights.append(p.detach())
    torch.testing.assert_close(*weights)
    assert weights[1][0, 0] == pytest.approx(0.9)
    assert weights[1][1, 0] == 1


def test_tensors_without_memory_are_left_to_the_operator() -> None:
    """Fake ones, also outside the mode that they were made in: compiled code would write to no memory."""
    with FakeTensorMode():
        p = nn.Parameter(torch.zeros(4, 3))
        p.grad = torch.ones(4, 3)
        opt = GroupSGD([p], lr=0.1)
        opt.step()
    opt.step()
    assert opt.state[p]["step"] == 2
