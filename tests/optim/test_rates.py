"""Any sequence of learning rates: without lambdas the plain optimizer, with them Algorithm 1 as it is printed."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.optim import GroupAdam, GroupOptimizer, feature_rate, prox_path, zero_rows

from .family import FAMILY, ONE_EACH, Member, algorithm1, give, ids

SHAPE = (6, 3)
FIRST_ORDER = [m for m in FAMILY if not m.second_order]  # torch has no AdaHessian to compare float32 with


def play(member: Member, rates: list[float], dtype: torch.dtype, ours: bool, **options: object) -> list[torch.Tensor]:
    """The weights after each step, under gradients that depend on the step alone."""
    gen = torch.Generator().manual_seed(0)
    start = torch.randn(SHAPE, dtype=torch.float64, generator=gen)
    p = torch.nn.Parameter(start.to(dtype))
    opt = member.make([p], **options) if ours else member.plain([p], member.lr)
    out = []
    for lr in rates:
        grad = torch.randn(SHAPE, dtype=torch.float64, generator=gen) * 0.1
        opt.param_groups[0]["lr"] = lr
        give(opt, p, grad.to(dtype), (grad.abs() + 0.1).to(dtype))
        opt.step()
        out.append(p.detach().double().clone())
    return out


def cosine_restarts(count: int, period: int) -> list[float]:
    """As CosineAnnealingWarmRestarts(T_0=period) from 1e-2."""
    return [1e-2 * (1 + math.cos(math.pi * (t % period) / period)) / 2 for t in range(count)]


SEQUENCES = {
    "down and up": [1e-3, 1e-12, 1e-3],
    "jumps of 1e9": [1e-2, 1e-11, 1e-2, 1e-11, 1e-2] * 3,
    "zero between": [0.0, 1e-2, 0.0, 0.0, 1e-3, 0.0, 1e-2],
    "tiny": [1e-3, 1e-39, 1e-3, 1e-39, 1e-39, 1e-2],
    "tiny at first": [1e-39, 1e-44, 1e-300, 1e-2],
    "warm restarts": cosine_restarts(450, 150),
}


@functools.cache
def torchs(member: str, name: str) -> list[torch.Tensor]:
    """The plain optimizer's weights in float64, which two tests compare with."""
    (found,) = (each for each in FAMILY if each.id == member)
    return play(found, SEQUENCES[name], torch.float64, ours=False)


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
@pytest.mark.parametrize("name", SEQUENCES)
def test_without_lambdas_it_is_the_plain_optimizer(member: Member, name: str) -> None:
    ours, theirs = play(member, SEQUENCES[name], torch.float64, ours=True), torchs(member.id, name)
    largest = max(float(x.abs().max()) for x in theirs)
    error = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest
    print(f"{member.id}, {name}: float64 error {error:.1e}")
    assert error < 1e-13


@pytest.mark.parametrize("member", FIRST_ORDER, ids=ids(FIRST_ORDER))
@pytest.mark.parametrize("name", SEQUENCES)
def test_float32_is_as_close_to_float64_as_torch_is(member: Member, name: str) -> None:
    rates, exact = SEQUENCES[name], torchs(member.id, name)[-1]
    ours, theirs = (play(member, rates, torch.float32, mine)[-1] for mine in (True, False))
    drift = [float((x - exact).square().mean().sqrt()) for x in (ours, theirs)]
    print(f"{member.id}, {name}: float32 drift {drift[0]:.1e}, torch {drift[1]:.1e}")
    assert drift[0] < 2 * drift[1]


def test_a_warm_restart_does_not_destroy_a_trained_model() -> None:
    """A regression at its optimum goes on there, as torch's Adam does, when the rate returns from almost 0."""
    gen = torch.Generator().manual_seed(1)
    inputs = torch.randn(256, 8, generator=gen)
    target = inputs @ torch.randn(8, 1, generator=gen)
    losses = []
    for make in (GroupAdam, torch.optim.Adam):
        p = torch.nn.Parameter(torch.zeros(8, 1))
        opt = make([p], lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=1000)
        for _ in range(1010):
            opt.zero_grad()
            loss = (inputs @ p - target).square().mean()
            loss.backward()
            opt.step()
            schedule.step()
        losses.append(float(loss.detach()))
    print(f"loss after the restart: {losses[0]:.2e}, torch {losses[1]:.2e}")
    assert losses[0] < 2 * losses[1] < 1e-3


rates = st.one_of(st.just(0.0), st.floats(-44, 0).map(lambda power: 10.0**power))


@settings(max_examples=100, derandomize=True)
@given(st.sampled_from(FAMILY), st.lists(rates, min_size=1, max_size=30))
def test_any_rates_in_float64(member: Member, sequence: list[float]) -> None:
    ours, theirs = (play(member, sequence, torch.float64, mine) for mine in (True, False))
    largest = max(float(x.abs().max()) for x in theirs)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-13 * largest


@settings(max_examples=100, derandomize=True)
@given(st.sampled_from(FIRST_ORDER), st.lists(rates, min_size=1, max_size=30))
def test_any_rates_in_float32(member: Member, sequence: list[float]) -> None:
    exact = play(member, sequence, torch.float64, ours=False)[-1]
    ours, theirs = (play(member, sequence, torch.float32, mine)[-1] for mine in (True, False))
    drift, allowed = ((x - exact).square().mean().sqrt() for x in (ours, theirs))
    assert drift <= 2 * allowed


@settings(max_examples=150, derandomize=True)
@given(
    st.sampled_from(FAMILY),
    st.lists(rates, min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.float64]),
    st.fixed_dictionaries(
        {
            "lambda1": st.sampled_from([0.0, 1e-3]),
            "lambda21": st.sampled_from([0.0, 0.1]),
            "lambda2": st.sampled_from([0.0, 1e-3]),
            "norm": st.sampled_from(["s", "s_tilde", "s_tilde_eq10"]),
            "threshold": st.sampled_from(["soft", "hard"]),
        }
    ),
)
def test_penalties_and_any_rates_leave_finite_weights(
    member: Member, sequence: list[float], dtype: torch.dtype, options: dict
) -> None:
    """The other norms hold lambda21 against D x, and D may fall by any factor: then their weights may grow."""
    for x in play(member, sequence, dtype, ours=True, **options):
        assert x.isfinite().all()
        assert x.abs().max() < 10 or options["norm"] != "s"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
@pytest.mark.parametrize("penalty", [{"lambda21": 1e-3}, {"lambda1": 1e-3}, {"lambda2": 1e-3}], ids=str)
def test_a_tiny_rate_leaves_the_weights_under_a_penalty_too(
    member: Member, penalty: dict[str, float], dtype: torch.dtype
) -> None:
    """D is then so large that no penalty is beyond the rounding of z, or overflows."""
    before, after = play(member, [1e-2, 1e-39], dtype, ours=True, **penalty)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("threshold", ["soft", pytest.param("hard", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "norm", ["s", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("s_tilde", "s_tilde_eq10"))]
)
def test_it_is_algorithm_2_as_printed_over_3000_steps(norm: str, threshold: str) -> None:
    """Against z and D_prev, carried as the paper does, in float64; rows die and come back."""
    rng = np.random.default_rng(8)
    start = rng.normal(size=(12, 3)) * 0.1
    lambdas = {"lambda1": 0.02, "lambda21": {"s": 0.5, "s_tilde": 1.0, "s_tilde_eq10": 1.0}[norm], "lambda2": 0.1}
    strength = np.logspace(-1.5, 0.5, 12)[:, None]
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    opt = GroupAdam([p], lr=0.01, norm=norm, threshold=threshold, **lambdas)  # type: ignore[arg-type]
    touches, died = [], 0
    for t in range(3000):
        grads = (rng.normal(size=(12, 3)) + np.sin(t / 300)) * strength
        touches.append(dict(enumerate(grads)))
        before = zero_rows(p)
        p.grad = torch.from_numpy(grads)
        opt.step()
        died += int((zero_rows(p) & ~before).sum())
    expected = algorithm1(start, touches, lr=0.01, norm=norm, threshold=threshold, **lambdas)
    assert ((p.detach().numpy() == 0) == (expected == 0)).all()
    error = np.abs(p.detach().numpy() - expected).max() / np.abs(expected).max()
    print(f"{norm}, {threshold}: {error:.1e} after 3,000 steps, {died} deaths")
    assert error < 1e-13
    assert died > 0


def trained_with_a_last_rate_of_zero(member: Member, **options: object) -> tuple[GroupOptimizer, torch.nn.Parameter]:
    p = torch.nn.Parameter(torch.full((4, 2), 0.5))
    opt = member.make([p], **options)
    for lr in (member.lr, member.lr / 2, 0.0):
        grad = torch.tensor([[1.0], [0.1], [0.01], [0.0]]).expand(4, 2)
        opt.param_groups[0]["lr"] = lr
        give(opt, p, grad, grad + 0.1)
        opt.step()
    return opt, p


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_after_a_last_rate_of_zero_rows_are_tested_with_the_one_before(member: Member) -> None:
    """Without lambdas so far u is 0, so that a row's score is ||D x||; D by hand from its definition."""
    opt, p = trained_with_a_last_rate_of_zero(member)
    state = opt.state[p]
    assert (state["step"], state["lr"]) == (3, member.lr / 2)
    g = np.array([1.0, 0.1, 0.01])  # the last row's gradient is 0: it was never touched
    second = g + 0.1 if member.second_order else g
    root = {
        "sgd": np.ones(3),
        "momentum": np.ones(3),
        "adagrad": np.sqrt(3) * g + 1e-10,
    }.get(member.id, second + (1e-4 if member.second_order else 1e-8))
    length = np.linalg.norm(root[:, None] / (member.lr / 2) * p.detach().numpy()[:3], axis=1)
    limits = np.sort(length) / math.sqrt(2)
    assert prox_path(opt, p, [0.0, *(limits * 0.999), *(limits * 1.001)]) == [
        3,
        *(int((length > limit * math.sqrt(2)).sum()) for limit in limits * 0.999),
        *(int((length > limit * math.sqrt(2)).sum()) for limit in limits * 1.001),
    ]
    opt.param_groups[0].update(lambda21=float(limits[1] * 1.001), threshold="hard")
    before = p.detach().clone()
    assert opt.apply_threshold_() == int((length <= limits[1] * 1.001 * math.sqrt(2)).sum())
    alive = ~zero_rows(p)
    assert torch.equal(p.detach()[alive], before[alive])
    assert feature_rate(opt, p) == pytest.approx(int(alive[:3].sum()) / 3)
    assert state["u"].isfinite().all()
    assert opt.apply_threshold_() == 0  # u fits the new weights


def test_a_touch_with_rate_zero_does_not_count() -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    opt = GroupAdam([p], lr=0.0, lambda21=1e6)
    p.grad = torch.ones(2, 2)
    opt.step()
    assert math.isnan(feature_rate(opt, p))
    assert prox_path(opt, p, [0.0]) == [0]
    assert opt.apply_threshold_() == 0
    assert torch.equal(p, torch.ones(2, 2))
    assert opt.state[p]["m"].all()


@pytest.mark.parametrize("group_dim", [0, 1, "all", None])
def test_seen_is_kept_for_every_kind_of_group(group_dim: int | str | None) -> None:
    p = torch.nn.Parameter(torch.ones(4, 3))
    opt = GroupAdam([p], group_dim=group_dim)  # type: ignore[arg-type]
    p.grad = torch.zeros(4, 3)
    p.grad[1] = 1.0
    opt.step()
    seen = opt.state[p]["seen"]
    assert seen.dtype == torch.bool
    assert list(seen.shape) == {0: [4, 1], 1: [1, 3], "all": [1, 1], None: [4, 3]}[group_dim]
    assert seen.flatten().tolist() == ([False, True, False, False] if group_dim == 0 else [True] * seen.numel())
