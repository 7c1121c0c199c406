"""Every class is a real torch optimizer: schedulers, closures, groups, shapes, signatures."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from ctr import parts
from ctr.optim import OPTIMIZERS, GroupAdagrad, GroupAdam, GroupMomentum, GroupSGD

from .family import FAMILY, LAMBDAS, ONE_EACH, Member, give, ids, sparse, table, walk


def test_param_groups_that_a_scheduler_has_marked_go_into_another_optimizer() -> None:
    for schedule in (
        lambda opt: schedulers.OneCycleLR(opt, 0.1, total_steps=31),
        lambda opt: schedulers.CyclicLR(opt, 0.01, 0.1),
        lambda opt: SWALR(opt, swa_lr=0.05),
        lambda opt: schedulers.StepLR(opt, 10),
    ):
        for cls in (GroupAdam, GroupMomentum):
            opt = cls([table()], lr=0.1, lambda21=2.0)
            schedule(opt)
            second = cls(opt.param_groups, lr=0.3)
            assert second.param_groups[0]["lambda21"] == 2.0
            second.load_state_dict(opt.state_dict())
            cls([table()], lr=0.1).load_state_dict(second.state_dict())


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], schedulers.LRScheduler]] = {
    "step": lambda opt: schedulers.StepLR(opt, 10, 0.5),
    "to zero and back": lambda opt: schedulers.CosineAnnealingLR(opt, 20),
    "warm-up from zero": lambda opt: schedulers.LambdaLR(opt, lambda t: min(t / 10, 1.0)),
    "inverse root": lambda opt: schedulers.LambdaLR(opt, lambda t: (t + 1) ** -0.5),
    "one cycle": lambda opt: schedulers.OneCycleLR(opt, 0.1, total_steps=61, cycle_momentum=False),
    "warm restarts": lambda opt: schedulers.CosineAnnealingWarmRestarts(opt, 15),
    "chain": lambda opt: schedulers.SequentialLR(
        opt, [schedulers.ConstantLR(opt, 0.1, 5), schedulers.ExponentialLR(opt, 0.95)], [5]
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # torch's own SequentialLR trips its own warning
@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
@pytest.mark.parametrize("kind", SCHEDULES)
def test_learning_rate_schedulers(member: Member, kind: str) -> None:
    start = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
    tables = []
    for make in (lambda p: member.make([p]), lambda p: member.plain([p], member.lr)):
        p = torch.nn.Parameter(start.clone())
        opt = make(p)
        schedule = SCHEDULES[kind](opt)
        gen = torch.Generator().manual_seed(0)
        rates = []
        for _ in range(60):
            grad = torch.randn(6, 3, dtype=torch.float64, generator=gen)
            give(opt, p, grad, grad + 2)
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            schedule.step()
        tables.append(p.detach())
    assert len(set(rates)) > 3
    assert (tables[1] - start).abs().max() > 0.01
    assert (tables[0] - tables[1]).abs().max() < 1e-13


def test_one_cycle_may_cycle_the_betas() -> None:
    tables = []
    for cls in (GroupAdam, torch.optim.Adam):
        p = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        opt = cls([p], lr=0.1)
        schedule = schedulers.OneCycleLR(opt, 0.1, total_steps=31)
        for t in range(30):
            p.grad = torch.full_like(p, 0.1 * t - 1.05)
            opt.step()
            schedule.step()
        tables.append(p.detach())
    torch.testing.assert_close(*tables, rtol=1e-13, atol=0)


def test_plateau_scheduler_and_a_rate_in_a_tensor() -> None:
    p = table()
    opt = GroupAdam([p], lr=torch.tensor(0.1))  # type: ignore[arg-type]
    walk(opt, p, range(3))
    expected = table()
    walk(GroupAdam([expected], lr=0.1), expected, range(3))
    torch.testing.assert_close(p, expected)
    opt = GroupAdam([p], lr=0.1)
    schedule = schedulers.ReduceLROnPlateau(opt, patience=0)
    for _ in range(3):
        schedule.step(1.0)
    assert opt.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_maximize_ascends(member: Member) -> None:
    tables = []
    for sign in (1.0, -1.0):
        p = table()
        opt = member.make([p], maximize=sign > 0, **LAMBDAS)
        for t in range(5):
            grad = sign * torch.randn(6, 3, generator=torch.Generator().manual_seed(t))
            for each in (grad, grad.to_sparse(1)):
                give(opt, p, each, each)
                opt.step()
        tables.append(p.detach())
    assert torch.equal(*tables)


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    p = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    opt = GroupSGD([p], lr=0.1)

    def closure() -> float:
        opt.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return float(loss.detach())

    assert [opt.step(closure) for _ in range(2)] == pytest.approx([25.0, 16.0])
    assert opt.step() is None


def test_gradients_are_not_changed() -> None:
    for options in ({}, {"maximize": True}):
        p = table()
        opt = GroupAdam([p], **options)  # type: ignore[arg-type]
        for grad in (torch.ones(6, 3), sparse([1, 2], torch.ones(2, 3), 6, coalesced=True)):
            p.grad = grad
            opt.step()
            assert (grad.coalesce().values() if grad.is_sparse else grad).eq(1).all()


def test_groups_have_their_own_options() -> None:
    embedding, linear = torch.nn.Embedding(5, 4), torch.nn.Linear(3, 4)
    opt = GroupAdam(
        [
            {"params": embedding.parameters(), "lambda21": 1e3},
            {"params": [linear.weight], "group_dim": 1, "lambda21": 5.0, "lr": 0.1},
        ],
        lr=0.01,
    )
    opt.add_param_group({"params": [linear.bias], "group_dim": None, "lambda1": 0.25, "lambda21": 1e3})
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 1e-3, 1.0]]).expand(4, 3))
    embedding.weight.grad = torch.ones(5, 4)
    linear.weight.grad = torch.tensor([[100.0, 1e-3, 100.0]]).expand(4, 3).clone()
    linear.bias.grad = torch.tensor([1.0, -1.0, 1.0, -1.0])
    bias = linear.bias.detach().clone()
    opt.step()
    assert (embedding.weight == 0).all()
    assert (linear.weight[:, 1] == 0).all()  # a unit with weak outgoing weights
    assert (linear.weight[:, [0, 2]] != 0).all()
    z = linear.bias.grad - bias / 0.01  # by hand: one Adam step has D = (1 + 1e-8) / lr
    expected = -z.sign() * (z.abs() - 0.25).clamp(min=0) * 0.01
    torch.testing.assert_close(linear.bias.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_bias_is_one_group() -> None:
    p = torch.nn.Parameter(torch.zeros(4))
    for strength, alive in ((1.1, False), (0.9, True)):
        opt = GroupSGD([p], lr=1.0, lambda21=strength, group_dim="all")
        p.grad = torch.tensor([2.0, 0.0, 0.1, 0.0])  # norm 2.0025, and sqrt(d) is 2
        opt.step()
        assert bool(p.any()) == alive


def test_the_two_tables_of_classes_agree() -> None:
    assert len(OPTIMIZERS) == 6
    assert {name: parts.optimizer(name) for name in OPTIMIZERS} == OPTIMIZERS
    assert {m.name for m in FAMILY} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 2), (0, 4), (4, 0)])
def test_any_shape(name: str, shape: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.ones(shape))
    for group_dim in (*range(max(len(shape), 1)), None, "all"):
        opt = OPTIMIZERS[name]([p], lr=0.1, lambda21=0.01, group_dim=group_dim)  # type: ignore[call-arg]
        give(opt, p, torch.ones(shape), torch.ones(shape))
        opt.step()
        opt.apply_threshold_()
        assert p.shape == shape
        assert p.isfinite().all()


def test_a_transposed_parameter() -> None:
    p = torch.nn.Parameter(torch.ones(3, 5).t())
    q = torch.nn.Parameter(torch.ones(5, 3))
    for each in (p, q):
        opt = GroupAdam([each], lambda21=1e-3)
        each.grad = torch.arange(15.0).reshape(5, 3)
        opt.step()
    assert torch.equal(p, q)


def test_signatures_are_the_promised_ones() -> None:
    def names(cls: type) -> list[str]:
        return list(inspect.signature(cls).parameters)

    lambdas = ["lambda1", "lambda21", "lambda2", "norm", "threshold"]
    assert names(GroupAdam)[:10] == ["params", "lr", "betas", "eps", *lambdas, "eps_hat"]
    assert names(GroupAdagrad)[:9] == ["params", "lr", "eps", "initial_accumulator_value", *lambdas]
    assert names(GroupMomentum)[:9] == ["params", "lr", "momentum", "nesterov", *lambdas]
    for cls in OPTIMIZERS.values():
        assert cls.__doc__
        for name, parameter in inspect.signature(cls).parameters.items():
            assert parameter.kind != parameter.VAR_KEYWORD
            assert name in cls.__doc__, f"{cls.__name__} does not document {name}"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_a_big_table_costs_the_memory_of_the_rows_it_uses() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    p = torch.nn.Parameter(torch.from_numpy(np.zeros((20_000_000, 8), dtype=np.float32)))  # 610 MB, untouched
    opt = GroupAdam([p], lambda21=1e-3)
    before = resident()
    p.grad = sparse([3, 19_999_999], torch.ones(2, 8), len(p), coalesced=True)
    opt.step()
    assert p.detach()[3].ne(0).all()
    assert resident() - before < 100  # four states of 610 MB each if they were written
