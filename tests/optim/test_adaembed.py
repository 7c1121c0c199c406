"""The AdaEmbed-style optimizer against its rule written out row by row; its state; a run with it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr.config.compose import resolve
from ctr.errors import ArgumentError
from ctr.models import MLP
from ctr.optim.group_adaembed import GroupAdaEmbed, Importance
from ctr.training import build
from ctr.training.settings import OptimizerSettings
from tests.optim.family import sparse
from tests.training.checkpoints import figures, go, stopped, whole
from tests.training.conftest import waiting  # noqa: F401  # a fixture
from tests.training.runs import configuration, run_one
from tests.training.test_continue import log, logs, run  # noqa: F401

BETAS, EPS, LR, DECAY, EVERY, N, COUNT, DIM = (0.9, 0.99), 1e-8, 0.1, 0.5, 3, 7, 3, 2
Touches = list[dict[int, np.ndarray]]


def touches(steps: int, seed: int = 0) -> Touches:
    """Some rows of each step, with gradients of various sizes."""
    draw = np.random.default_rng(seed)
    return [
        {int(row): draw.normal(size=DIM) * 10.0 ** draw.integers(-2, 2) for row in draw.choice(N, 3, replace=False)}
        for _ in range(steps)
    ]


def rule(x: np.ndarray, steps: Touches, importance_is: str) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Weights, importance and owners after all steps."""
    x, m, v = x.copy(), np.zeros_like(x), np.zeros_like(x)
    importance, owners, seen = np.zeros(N), set(range(N)), set()
    for t, rows in enumerate(steps, start=1):
        for r, g in rows.items():
            mean = np.mean([np.linalg.norm(each) for each in rows.values()]) if importance_is == "share" else 1
            importance[r] += np.linalg.norm(g) / mean
            seen.add(r)
            if r not in owners:
                x[r] = 0
            else:
                m[r] = BETAS[0] * m[r] + (1 - BETAS[0]) * g
                v[r] = BETAS[1] * v[r] + (1 - BETAS[1]) * g**2
                x[r] -= LR * m[r] / (1 - BETAS[0] ** t) / (np.sqrt(v[r] / (1 - BETAS[1] ** t)) + EPS)
        if t % EVERY == 0:
            if (importance > 0).sum() > COUNT:
                owners = set(sorted(range(N), key=lambda r: -importance[r])[:COUNT])
                for r in seen - owners:
                    x[r], m[r], v[r] = 0, 0, 0
            importance *= DECAY
    return x, importance, owners


def made(p: torch.Tensor, importance: Importance = "norm") -> GroupAdaEmbed:
    return GroupAdaEmbed(
        [p], lr=LR, betas=BETAS, eps=EPS, features=COUNT, every=EVERY, decay=DECAY, importance=importance
    )


def step(opt: GroupAdaEmbed, p: torch.Tensor, rows: dict[int, np.ndarray], dense: bool) -> None:
    grad = sparse(list(rows), torch.tensor(np.array(list(rows.values()))), N)
    p.grad = grad.to_dense() if dense else grad
    opt.step()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("importance_is", ["norm", "share"])
def test_it_is_its_rule_row_by_row(importance_is: Importance, steps: int, dense: bool) -> None:
    start = np.linspace(-1, 1, N * DIM).reshape(N, DIM)
    p = torch.nn.Parameter(torch.tensor(start))
    opt = made(p, importance_is)
    for rows in touches(steps):
        step(opt, p, rows, dense)
    x, importance, owners = rule(start, touches(steps), importance_is)
    np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(opt.state[p]["importance"].numpy(), importance, rtol=1e-9)
    assert set(opt.state[p]["owns"].nonzero().flatten().tolist()) == owners
    if steps >= EVERY:
        touched = opt.state[p]["importance"].nonzero().flatten()
        assert int((p[touched] != 0).any(1).sum()) <= COUNT == len(owners)


def test_without_a_number_of_features_it_is_adam() -> None:
    start = torch.linspace(-1, 1, N * DIM, dtype=torch.float64).reshape(N, DIM)
    p, q = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one, other = GroupAdaEmbed([p], lr=LR), torch.optim.Adam([q], lr=LR)
    for seed in range(12):
        grad = torch.randn(N, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        p.grad, q.grad = grad.clone(), grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_it_goes_on_from_its_state() -> None:
    p = torch.nn.Parameter(torch.linspace(-1, 1, N * DIM).reshape(N, DIM))
    opt, steps = made(p), touches(12)
    for rows in steps[:7]:
        step(opt, p, {r: g.astype(np.float32) for r, g in rows.items()}, False)
    q = torch.nn.Parameter(p.detach().clone())
    again = made(q)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert again.state[q]["owns"].dtype is torch.bool
    for rows in steps[7:]:
        for one, of in ((opt, p), (again, q)):
            step(one, of, {r: g.astype(np.float32) for r, g in rows.items()}, False)
    assert torch.equal(p, q)
    assert torch.equal(opt.state[p]["importance"], again.state[q]["importance"])


def test_the_state_of_another_table_is_refused() -> None:
    p, q = (torch.nn.Parameter(torch.zeros(rows, DIM)) for rows in (N, N + 1))
    opt = made(p)
    step(opt, p, {0: np.ones(DIM, np.float32)}, False)
    state = opt.state_dict()
    state["state"][0]["importance"] = torch.zeros(N - 1)
    with pytest.raises(ValueError, match=r"^GroupAdaEmbed: this state has no importance of 7 rows$"):
        made(p).load_state_dict(state)
    with pytest.raises(ValueError, match="its shape must be"):
        made(q).load_state_dict(opt.state_dict())


@pytest.mark.parametrize(
    "option",
    [
        {"features": 0},
        {"every": 0},
        {"decay": 1.5},
        {"decay": float("nan")},
        {"group_dim": None},
        {"importance": "sum"},
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"^GroupAdaEmbed: {name} must be "):
        GroupAdaEmbed([torch.zeros(3, 2)], **option)  # type: ignore[arg-type]


KEYS = ["opt=group_adaembed", "opt.features=60", "opt.every=2", "opt.lr=0.01", "model.hidden=[6]"]


def test_a_run_ends_with_at_most_the_features_that_it_may_have(tmp_path: Path) -> None:
    got = run_one(tmp_path, *KEYS)
    assert 30 < got["features_nonzero"] <= 60 < got["features_present"]
    assert got["opt_options"]["features"] == 60


def test_retraining_has_no_limit() -> None:
    """It is on the features that are left, with what a plain optimizer does."""
    settings = OptimizerSettings("group_adaembed", {"lr": 0.1, "features": 5})
    for plain, features in ((False, 5), (True, None)):
        rows, _ = build._optimizers(settings, MLP(10, 2), plain=plain)
        assert rows.param_groups[0]["features"] == features


@pytest.mark.usefixtures("waiting")
def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    stopped(tmp_path, tmp_path / "run", 6, *KEYS, "checkpoint.every_steps=1")
    again = go(tmp_path, tmp_path / "run", *KEYS, "checkpoint.every_steps=1", resume=True)
    assert figures(again) == whole(tmp_path, *KEYS)


@pytest.mark.parametrize("evict", [[], ["evict=dead", "evict_after=0"]])
def test_a_run_goes_on_with_its_importance(logs: dict[str, Path], evict: list[str]) -> None:  # noqa: F811
    first, _ = run(logs["today"], "ada", *KEYS)
    _, got = run(logs["tomorrow"], f"ada-{len(evict)}", *KEYS, f"init={first}", *evict)
    assert 0 < got["features_nonzero"] <= 60
    assert got["features_evicted"] > 0 if evict else got["features_evicted"] == 0


def test_a_budget_is_not_for_it(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^opt\.budget=0\.1 sets lambda21, which opt=group_adaembed does not have"):
        resolve(configuration(tmp_path, "opt=group_adaembed", "+opt.budget=0.1"))
