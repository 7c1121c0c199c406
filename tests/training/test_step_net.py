"""The net's step with gradients that are at hand, against that of torch's optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from ctr.training.optimizers import step_net


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in [(5, 7), (7,), (1,)]]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator) for p in parameters()]


def in_groups(params: Sequence[nn.Parameter]) -> Adam:
    return Adam([{"params": params[:1], "lr": 0.3}, {"params": params[1:], "weight_decay": 0.1}], fused=True)


def with_an_empty_group(params: Sequence[nn.Parameter]) -> Adam:
    return Adam([{"params": []}, {"params": params}], fused=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Adam(p, lr=0.1, fused=True),
        lambda p: Adam(p, lr=0.1, betas=(0.5, 0.6), eps=1e-2, weight_decay=0.1, maximize=True, fused=True),
        in_groups,
        with_an_empty_group,
        lambda p: Adam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, fused=True),
        lambda p: Adam(p, lr=torch.tensor(0.1), fused=True),
        lambda p: Adam(p, lr=0.1, amsgrad=True, fused=True),
        lambda p: Adam(p, lr=0.1),
        lambda p: AdamW(p, lr=0.1, fused=True),
        lambda p: Adagrad(p, lr=0.1),
        lambda p: SGD(p, lr=0.1, momentum=0.9),
    ],
)
def test_it_is_the_optimizers_own_step_to_the_last_bit(make: Callable[[Any], Optimizer]) -> None:
    expected, ours = parameters(), parameters()
    its, own = make(expected), make(ours)
    for step in range(4):
        if step == 2:  # as a schedule sets it
            for optimizer in (its, own):
                optimizer.param_groups[0]["lr"] = 0.02
        for p, grad in zip(expected, gradients(step), strict=True):
            p.grad = grad
        its.step()
        step_net(own, gradients(step))
    assert all(p.grad is None for p in ours)
    assert all(map(torch.equal, expected, ours))
    for p, q in zip(expected, ours, strict=True):
        assert its.state[p].keys() == own.state[q].keys()
        for name, value in its.state[p].items():
            assert (value is None and own.state[q][name] is None) or torch.equal(value, own.state[q][name])


def test_gradients_are_read_by_their_strides() -> None:
    """Those of a sum are one number in memory, those of a transposed product lie by columns."""
    expected, ours = parameters(), parameters()
    its, own = Adam(expected, lr=0.1), Adam(ours, lr=0.1, fused=True)
    for step in range(3):
        grads = [(torch.arange(35.0) + step).view(7, 5).t(), torch.tensor(0.5).expand(7), torch.ones(1)]
        for p, grad in zip(expected, grads, strict=True):
            p.grad = grad.contiguous()
        its.step()
        step_net(own, grads)
    for p, q in zip(expected, ours, strict=True):
        torch.testing.assert_close(p, q)


def test_it_goes_on_from_a_loaded_state() -> None:
    expected, ours = parameters(), parameters()
    its, own = Adam(expected, lr=0.1, fused=True), Adam(ours, lr=0.5, fused=True)
    for optimizer in (its, own):
        step_net(optimizer, gradients(0))
    with torch.no_grad():
        for p, q in zip(expected, ours, strict=True):
            q.copy_(p)
    own.load_state_dict(copy.deepcopy(its.state_dict()))
    for optimizer in (its, own):
        step_net(optimizer, gradients(1))
    assert all(map(torch.equal, expected, ours))


def test_a_scheduler_of_torch_finds_that_a_step_was_made() -> None:
    params = parameters()
    optimizer = Adam(params, lr=0.1, fused=True)
    step_net(optimizer, gradients(0))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    step_net(optimizer, gradients(1))
    scheduler.step()  # warns, which is an error here, if it does not know of the step
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_hook_is_called_with_the_gradients_there() -> None:
    params, seen = parameters(), []
    optimizer = Adam(params, lr=0.1, fused=True)
    step_net(optimizer, gradients(0))
    optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad for p in params]))
    step_net(optimizer, gradients(1))
    assert all(map(torch.equal, *seen, gradients(1)))
