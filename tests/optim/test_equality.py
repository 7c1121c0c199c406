"""With all lambdas 0 every optimizer is its plain counterpart, to rounding (float64)."""

import copy

import pytest
import torch

from ctr.optim import GroupAdam, GroupAMSGrad, touched_rows, warm_start_from_adam

from .family import FAMILY, Member, give, ids, sparse, wide_range

STEPS = 200


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    error = float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())
    print(f"relative error {error:.1e}")
    return error


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_dense_steps_with_a_changing_rate(member: Member) -> None:
    """Whatever the groups."""
    gen = torch.Generator().manual_seed(1)
    start = torch.randn(30, 5, dtype=torch.float64, generator=gen)
    theirs, *ours = (torch.nn.Parameter(start.clone()) for _ in range(4))
    opts = [member.plain([theirs], member.lr)]
    opts += [member.make([p], group_dim=group_dim) for p, group_dim in zip(ours, (0, 1, None), strict=True)]
    for _ in range(STEPS):
        grad, hessian = wide_range((30, 5), gen), wide_range((30, 5), gen)
        factor = float(0.1 + 0.9 * torch.rand((), generator=gen))
        for p, opt in zip((theirs, *ours), opts, strict=True):
            give(opt, p, grad, hessian)
            opt.param_groups[0]["lr"] = member.lr * factor
            opt.step()
    assert (theirs - start).abs().max() > 0.05
    for p in ours:
        assert relative_error(p, theirs) < 1e-14


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_rows_touched_now_and_then(member: Member) -> None:
    """Each row has a torch optimizer of its own, stepped only when the row is touched, at the global t. Of ours one has
    sparse gradients, another dense ones."""
    gen = torch.Generator().manual_seed(2)
    height = 9
    start = torch.randn(height, 4, dtype=torch.float64, generator=gen)
    ours = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    opts = [member.make([p]) for p in ours]
    theirs = [torch.nn.Parameter(start[r].clone()) for r in range(height)]
    plain = [member.plain([p], member.lr) for p in theirs]
    touches = torch.zeros(height, dtype=torch.long)
    for t in range(1, STEPS + 1):
        # Row 7 is touched late for the first time, row 8 never.
        chance = torch.tensor([0.4] * 7 + [0.4 if t > 150 else 0.0, 0.0])
        rows = (torch.rand(height, generator=gen) < chance).nonzero().flatten()
        grad, hessian = wide_range((len(rows), 4), gen), wide_range((len(rows), 4), gen)
        lr = member.lr * float(0.1 + 0.9 * torch.rand((), generator=gen))
        whole = [sparse(rows, values, height) for values in (grad, hessian)]
        for p, opt, given in zip(ours, opts, (whole, [values.to_dense() for values in whole]), strict=True):
            opt.param_groups[0]["lr"] = lr
            give(opt, p, *given)
            opt.step()
        for i, r in enumerate(rows.tolist()):
            give(plain[r], theirs[r], grad[i], hessian[i])
            plain[r].param_groups[0]["lr"] = lr
            if member.counts_steps:
                _set_step(plain[r], theirs[r], t - 1)
            plain[r].step()
            touches[r] += 1
    assert (touches[:8] > 5).all()
    assert touches[7] < 40
    for p in ours:
        assert torch.equal(p[8], start[8])
        assert relative_error(p, torch.stack(list(theirs))) < 1e-14


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_zero_gradients_at_first_and_later(member: Member) -> None:
    """Rows whose gradient is 0 are stepped like the others with ``lazy=False``, as torch does."""
    gen = torch.Generator().manual_seed(7)
    start = torch.randn(8, 3, dtype=torch.float64, generator=gen)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    opts = (member.make([ours], lazy=False), member.plain([theirs], member.lr))
    for t in range(60):
        grad, hessian = wide_range((8, 3), gen), wide_range((8, 3), gen)
        off = torch.arange(8) > t if t < 8 else torch.rand(8, generator=gen) < 0.3
        grad[off] = hessian[off] = 0.0
        for p, opt in zip((ours, theirs), opts, strict=True):
            give(opt, p, grad, hessian)
            opt.step()
    assert (theirs - start).abs().max() > 0.05
    assert relative_error(ours, theirs) < 1e-14


def _set_step(opt: torch.optim.Optimizer, p: torch.Tensor, step: int) -> None:
    state = opt.state[p]
    if not state:  # as torch makes it, but with the global step
        keys = ["exp_hess"] if "power" in opt.defaults else ["exp_avg_sq", "max_exp_avg_sq"]
        state.update({key: torch.zeros_like(p) for key in ["exp_avg", *keys]})
    state["step"] = step if "power" in opt.defaults else torch.tensor(float(step))


@pytest.mark.parametrize("lr", [1e-3, 0.1])
def test_eps_hat_is_sparse_adam(lr: float) -> None:
    gen = torch.Generator().manual_seed(3)
    start = torch.randn(20, 4, dtype=torch.float64, generator=gen)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    opts = (GroupAdam([ours], lr=lr, eps_hat=True), torch.optim.SparseAdam([theirs], lr=lr))
    for t in range(STEPS):
        rows = torch.randint(0, 20 if t > 150 else 12, (10,), generator=gen)  # with duplicates
        values = wide_range((10, 4), gen)
        factor = float(0.1 + 0.9 * torch.rand((), generator=gen))
        for p, opt in zip((ours, theirs), opts, strict=True):
            opt.param_groups[0]["lr"] = lr * factor
            p.grad = sparse(rows, values, 20)
            opt.step()
    assert relative_error(ours, theirs) < 1e-14


def test_without_eps_hat_it_is_not_sparse_adam() -> None:
    """The two eps differ where gradients are tiny, so the test above can tell them apart."""
    results = []
    for eps_hat in (True, False):
        p = torch.nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
        opt = GroupAdam([p], lr=0.1, eps_hat=eps_hat)
        for _ in range(20):
            p.grad = torch.full_like(p, 1e-8)
            opt.step()
        results.append(p.detach())
    assert (results[0] - results[1]).abs().max() > 0.1


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("from_state_dict", [False, True])
def test_warm_start_goes_on_where_adam_stood(amsgrad: bool, from_state_dict: bool) -> None:
    gen = torch.Generator().manual_seed(4)
    theirs = torch.nn.Parameter(torch.randn(12, 3, dtype=torch.float64, generator=gen))
    adam = torch.optim.Adam([theirs], lr=0.01, amsgrad=amsgrad)
    for _ in range(100):
        theirs.grad = wide_range((12, 3), gen)
        theirs.grad[8:] = 0  # Adam never trains these rows
        adam.step()
    ours = torch.nn.Parameter(theirs.detach().clone()) if from_state_dict else theirs
    theirs = copy.deepcopy(theirs)
    follow = torch.optim.Adam([theirs], lr=0.01, amsgrad=amsgrad)
    follow.load_state_dict(adam.state_dict())
    opt = (GroupAMSGrad if amsgrad else GroupAdam)([ours], lr=0.01)
    warm_start_from_adam(opt, adam.state_dict() if from_state_dict else adam)
    assert touched_rows(opt, ours).tolist() == [True] * 8 + [False] * 4
    for _ in range(100):
        grad = wide_range((12, 3), gen)
        for p, each in ((ours, opt), (theirs, follow)):
            p.grad = grad.clone()
            each.step()
    assert relative_error(ours, theirs) < 1e-14


def test_a_warm_start_forgets_the_penalty_of_what_was_there() -> None:
    p = torch.nn.Parameter(torch.full((1, 2), 3.0, dtype=torch.float64))
    adam, opt = torch.optim.Adam([p], lr=0.01), GroupAdam([p], lr=0.01, lambda21=5.0)
    for each in (adam, opt):
        p.grad = torch.ones_like(p)
        each.step()
    assert opt.state[p]["u"].any()
    warm_start_from_adam(opt, adam)
    assert not opt.state[p]["u"].any()


@pytest.mark.parametrize("steps", [300, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("member", [m for m in FAMILY if "half" not in m.id and "0" not in m.id], ids=lambda m: m.id)
def test_float32_drifts_no_further_from_float64_than_torch(member: Member, steps: int) -> None:
    gen = torch.Generator().manual_seed(5)
    start = torch.randn(50, 8, generator=gen)
    runs = {}
    for dtype in (torch.float32, torch.float64):
        for kind in ("ours", "torch"):
            p = torch.nn.Parameter(start.clone().to(dtype))
            opt = member.make([p]) if kind == "ours" else member.plain([p], member.lr)
            noise = torch.Generator().manual_seed(6)
            for t in range(steps):
                grad = torch.randn(50, 8, generator=noise) * 0.1 + 0.01 * start
                give(opt, p, grad.to(dtype), (grad.abs() + 0.1).to(dtype))
                opt.param_groups[0]["lr"] = member.lr / (1 + t / 1000)
                opt.step()
            runs[kind, dtype] = p.detach().double()
    drift = {}
    for kind in ("ours", "torch"):
        exact = runs[kind, torch.float64]
        drift[kind] = float((runs[kind, torch.float32] - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    print(f"{member.id}: float32 drift over {steps} steps {drift['ours']:.2e}, torch {drift['torch']:.2e}")
    assert drift["ours"] < 2 * drift["torch"]
