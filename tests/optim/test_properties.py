"""What must hold for any shape, any lambdas and any pattern of touches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.optim import GroupAdam, touched_rows

from .family import FAMILY, ONE_EACH, Member, give, ids, sparse

F64 = torch.float64


@st.composite
def runs(draw: st.DrawFn) -> dict:
    """A table, lambdas and a few steps; the lambdas are such that some rows die in most runs."""
    height, d = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    return {
        "member": draw(st.sampled_from(FAMILY)),
        "shape": (height, d),
        "seed": draw(st.integers(0, 2**20)),
        "touches": draw(
            st.lists(st.lists(st.integers(0, height - 1), min_size=0, max_size=8), min_size=1, max_size=12)
        ),
        "options": {
            "lambda1": draw(st.sampled_from([0.0, 0.05, 1.0])),
            "lambda21": draw(st.sampled_from([0.0, 0.1, 0.5, 2.0])),
            "lambda2": draw(st.sampled_from([0.0, 0.1])),
            "norm": draw(st.sampled_from(["s", "s_tilde", "s_tilde_eq10"])),
            "threshold": draw(st.sampled_from(["soft", "hard"])),
        },
    }


def play(run: dict, gradients: str, order: torch.Tensor | None = None, scale: float = 1.0, **over: object) -> tuple:
    """Runs the steps and returns (table, optimizer, rows touched). ``order`` renames the rows."""
    member: Member = run["member"]
    height, d = run["shape"]
    gen = torch.Generator().manual_seed(run["seed"])
    start = torch.randn(height, d, dtype=F64, generator=gen)
    order = torch.arange(height) if order is None else order
    p = torch.nn.Parameter(torch.empty_like(start))
    p.data[order] = start
    opt = member.make([p], **{**run["options"], **over})
    touched = torch.zeros(height, dtype=torch.bool)
    for rows in run["touches"]:
        # Multiples of 1/64: sums of duplicates are exact in any order.
        values = torch.randint(1, 200, (2, len(rows), d), generator=gen).to(F64) / 64
        values[0, :, 1:] *= torch.randint(0, 2, (len(rows), d - 1), generator=gen) * 2 - 1  # no row sums to 0
        values *= scale
        at = order[torch.tensor(rows, dtype=torch.long)]
        if gradients == "sparse, reversed":
            at, values = at.flip(0), values.flip(1)
        grad, hessian = (sparse(at, each, height) for each in values)
        if gradients == "coalesced":
            grad, hessian = grad.coalesce(), hessian.coalesce()
        if gradients == "dense":
            hessian, grad = hessian.to_dense(), grad.to_dense()
        give(opt, p, grad, hessian)
        opt.step()
        touched[at] = True
    return p.detach(), opt, touched


@settings(max_examples=120, derandomize=True)
@given(runs())
def test_sparse_coalesced_and_dense_gradients_are_one(run: dict) -> None:
    expected = play(run, "sparse")[0]
    for gradients in ("coalesced", "dense"):
        assert torch.equal(play(run, gradients)[0], expected)


@settings(max_examples=60, derandomize=True)
@given(runs(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_the_batch_does_not_matter(run: dict, random) -> None:
    expected = play(run, "sparse")[0]
    other = play(run, "sparse, reversed")[0]
    assert torch.equal(other, expected)
    names = list(range(run["shape"][0]))
    random.shuffle(names)
    order = torch.tensor(names)
    renamed = play(run, "sparse", order=order)[0]
    assert torch.equal(renamed[order], expected)


@settings(max_examples=80, derandomize=True)
@given(runs(), st.sampled_from([4.0**-4, 4.0, 4.0**6]))
def test_scaling_the_loss_and_the_lambdas_together_changes_nothing(run: dict, c: float) -> None:
    """Powers of 4 scale exactly, so the weights must agree to the last bit."""
    member: Member = run["member"]
    if member.options.get("hessian_power", 1.0) != 1.0:
        return
    options, group = run["options"], member.make([torch.zeros(1, 1)]).param_groups[0]
    root = {"s": c, "s_tilde": math.sqrt(c), "s_tilde_eq10": 1.0}[options["norm"]]
    over = {
        "lambda1": c * options["lambda1"],
        "lambda21": root * options["lambda21"],
        "lambda2": c * options["lambda2"],
    }
    if "eps" in group:
        over["eps"] = c * group["eps"]
    else:
        over["lr"] = group["lr"] / c
    if "initial_accumulator_value" in group:
        over["initial_accumulator_value"] = c * c * group["initial_accumulator_value"]
    expected = play(run, "sparse")[0]
    scaled = play(run, "sparse", scale=c, **over)[0]
    assert torch.equal(scaled, expected)


@settings(max_examples=80, derandomize=True)
@given(runs())
def test_dead_groups_are_all_plus_zero_and_untouched_rows_keep_their_values(run: dict) -> None:
    run["options"]["lambda1"] = 0.0
    table, opt, touched = play(run, "sparse")
    dead = (table == 0).any(1)  # without l1 a group dies as a whole
    assert torch.equal(table[dead], torch.zeros_like(table[dead]))
    assert not torch.signbit(table[dead]).any()
    gen = torch.Generator().manual_seed(run["seed"])
    start = torch.randn(*run["shape"], dtype=F64, generator=gen)
    assert torch.equal(table[~touched], start[~touched])
    if run["options"]["lambda21"] == 0:
        assert not dead.any()
    assert torch.equal(touched_rows(opt, opt.param_groups[0]["params"][0]), touched)


EXTREMES = [0.0, -0.0, 1e-45, -1e-38, 1e-30, 1e-20, -1e-8, 1.0, -1e10, 1e19, 1e30, -3e38, math.inf]


@settings(max_examples=150, derandomize=True)
@given(
    st.sampled_from(FAMILY),
    st.lists(st.lists(st.sampled_from(EXTREMES), min_size=6, max_size=6), min_size=1, max_size=6),
    st.lists(st.sampled_from([0.0, 1e-45, 1e-20, 1.0, -1e4]), min_size=6, max_size=6),
    st.sampled_from([0.0, 1e-30, 1e-8]),
    st.sampled_from([0.0, 1e-4, 1.0, 1e6]),
    st.sampled_from([0.0, 1e-4]),
    st.sampled_from(["s", "s_tilde", "s_tilde_eq10"]),
    st.booleans(),
)
def test_no_nan_from_zero_huge_or_tiny_values(
    member: Member, grads: list, start: list, eps: float, lambda21: float, lambda1: float, norm: str, lazy: bool
) -> None:
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32).reshape(2, 3))
    over = {"eps": eps} if "eps" in member.make([p]).defaults else {}
    opt = member.make([p], lambda21=lambda21, lambda1=lambda1, norm=norm, lazy=lazy, **over)
    for values in grads:
        grad = torch.tensor(values, dtype=torch.float32).reshape(2, 3)
        give(opt, p, grad, grad)
        opt.step()
        assert not p.isnan().any()
        assert not opt.state[p]["u"].isnan().any()


@pytest.mark.parametrize("name", ["adagrad", "adam", "amsgrad", "adahessian"])
@pytest.mark.parametrize("lambda21", [0.0, 0.1])
def test_eps_zero_and_no_gradient_leave_the_weights_unless_a_penalty_acts(name: str, lambda21: float) -> None:
    """D is 0, where the plain rule would divide 0 by 0."""
    member = next(m for m in FAMILY if m.id == name)
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    opt = member.make([p], lazy=False, eps=0.0, lambda21=lambda21)
    give(opt, p, torch.zeros(1, 2), torch.zeros(1, 2))
    opt.step()
    assert torch.equal(p, torch.zeros(1, 2) if lambda21 else torch.tensor([[1.0, -2.0]]))


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_a_row_dies_and_comes_back(member: Member) -> None:
    p = torch.nn.Parameter(torch.full((1, 2), 0.01, dtype=F64))
    opt = member.make([p], lambda21=2.0)
    history = []
    for t in range(60):
        grad = torch.full((1, 2), 0.01 if t < 20 else 0.3, dtype=F64)
        give(opt, p, grad, torch.ones_like(grad))
        opt.step()
        history.append(p.detach().clone())
    assert (history[19] == 0).all()
    assert (history[-1] < 0).all()
    back = next(t for t, x in enumerate(history) if t >= 20 and (x != 0).any())
    assert back > 20  # it has to gather evidence first


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_duplicates_of_a_row_are_summed_before_anything_is_squared(member: Member) -> None:
    tables = []
    for rows, values in (([1, 1, 1], [0.5, 0.25, -2.0]), ([1], [-1.25])):
        p = torch.nn.Parameter(torch.ones(3, 2, dtype=F64))
        opt = member.make([p], lambda21=0.01)
        grad = sparse(rows, torch.tensor(values, dtype=F64)[:, None].expand(-1, 2), 3)
        give(opt, p, grad, grad)
        opt.step()
        tables.append(p.detach())
    assert torch.equal(tables[0], tables[1])
    assert (tables[0][1] != 1).all()


def test_a_dense_gradient_of_zero_kills_no_unseen_row_unless_lazy_is_off() -> None:
    """The trap behind ``lazy``: with g = 0, D is eps / lr, so |s| = |D x| is far below any lambda21."""
    gen = torch.Generator().manual_seed(0)
    start = torch.randn(1000, 8, generator=gen) * 0.01
    dead = {}
    for lazy in (True, False):
        p = torch.nn.Parameter(start.clone())
        opt = GroupAdam([p], lambda21=1e-6, lazy=lazy)
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            p.grad[:10] = 1.0
            opt.step()
        dead[lazy] = int((p == 0).all(1).sum())
    assert dead == {True: 0, False: 990}


def test_no_gradient_means_no_step() -> None:
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    opt = GroupAdam([p, q])
    p.grad = torch.ones_like(p)
    opt.step()
    assert torch.equal(q, torch.ones(2, 2))
    assert q not in opt.state
    opt.zero_grad()
    opt.step()
    assert opt.state[p]["step"] == 1


def test_the_global_step_counts_also_where_the_batch_has_no_row_of_the_table() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    opt = GroupAdam([p])
    for _ in range(3):
        p.grad = sparse([], torch.empty(0, 2), 4)
        opt.step()
    assert opt.state[p]["step"] == 3
    assert torch.equal(p, torch.ones(4, 2))
