"""Hutchinson's estimate, dense and through row-sparse embeddings, and the two ways to hand it over."""

import gc

import pytest
import torch
from torch import Tensor

from ctr.optim import GroupAdaHessian, hutchinson_diagonal

from .family import sparse

F64 = torch.float64
IDS = torch.tensor([[1, 2], [2, 5], [1, 1], [7, 2]])


def net(is_sparse: bool) -> tuple[torch.nn.Embedding, torch.nn.Linear]:
    torch.manual_seed(0)
    return torch.nn.Embedding(9, 3, sparse=is_sparse, dtype=F64), torch.nn.Linear(6, 1, dtype=F64)


def loss_of(embedding: Tensor, linear: torch.nn.Linear, ids: Tensor = IDS) -> Tensor:
    rows = torch.nn.functional.embedding(ids, embedding, sparse=False)
    return torch.nn.functional.softplus(linear(rows.flatten(1))).square().sum()


def true_diagonal(embedding: Tensor, linear: torch.nn.Linear) -> Tensor:
    hessian = torch.autograd.functional.hessian(lambda e: loss_of(e, linear), embedding.detach())
    n = embedding.numel()
    return hessian.reshape(n, n).diagonal().reshape(embedding.shape)  # type: ignore[union-attr]


def sparse_loss(embedding: torch.nn.Embedding, linear: torch.nn.Linear) -> Tensor:
    return torch.nn.functional.softplus(linear(embedding(IDS).flatten(1))).square().sum()


@pytest.mark.parametrize("is_sparse", [True, False])
def test_it_is_exact_where_the_hessian_is_diagonal(is_sparse: bool) -> None:
    """sum_i c_i x_i^4 over the occurrences: any signs give 12 c x^2, duplicates summed."""
    embedding, _ = net(is_sparse)
    weight = torch.arange(1.0, 9.0, dtype=F64).reshape(4, 2)
    loss = (embedding(IDS) ** 4 * weight[..., None]).sum()
    (grad,) = torch.autograd.grad(loss, [embedding.weight], create_graph=True)
    (diagonal,) = hutchinson_diagonal([grad], [embedding.weight])
    total = torch.zeros(9, dtype=F64).index_add_(0, IDS.flatten(), weight.flatten())
    assert diagonal.is_sparse == is_sparse
    assert not diagonal.requires_grad
    if is_sparse:
        assert diagonal.is_coalesced()
        assert diagonal.indices()[0].tolist() == [1, 2, 5, 7]
        diagonal = diagonal.to_dense()
    torch.testing.assert_close(diagonal, 12 * total[:, None] * embedding.weight.detach() ** 2)


def estimate(
    embedding: torch.nn.Embedding, linear: torch.nn.Linear, samples: int, generator: torch.Generator, rest: bool = True
) -> list[Tensor]:
    params = [embedding.weight, *(linear.parameters() if rest else ())]
    grads = torch.autograd.grad(sparse_loss(embedding, linear), params, create_graph=True)
    return hutchinson_diagonal(grads, params, samples=samples, generator=generator)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_its_mean_is_the_diagonal(is_sparse: bool) -> None:
    embedding, linear = net(is_sparse)
    gen = torch.Generator().manual_seed(0)
    few, many = (estimate(embedding, linear, n, gen, rest=False)[0] for n in (1, 1500))
    exact = true_diagonal(embedding.weight, linear)
    assert exact.abs().max() > 0.2
    error = [float((e.to_dense() - exact).abs().max() / exact.abs().max()) for e in (few, many)]
    assert error[1] < 0.1
    assert error[1] < error[0]
    assert not many.to_dense()[[0, 3, 4, 6, 8]].any()


def test_the_generator_makes_it_reproducible() -> None:
    embedding, linear = net(True)
    draws = []
    for seed in (1, 1, 2):
        torch.rand(5)  # the global generator plays no part
        gen = torch.Generator().manual_seed(seed)
        draws.append([d.to_dense() for d in estimate(embedding, linear, 2, gen)])
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0][0], draws[2][0])


def test_a_linear_loss_has_no_curvature() -> None:
    p = torch.ones(3, requires_grad=True)
    (grad,) = torch.autograd.grad((2 * p).sum(), [p], create_graph=True)
    assert torch.equal(hutchinson_diagonal([grad], [p])[0], torch.zeros(3))
    with pytest.raises(ValueError, match="samples"):
        hutchinson_diagonal([grad], [p], samples=0)


def test_a_loop_over_gathered_rows_equals_one_over_the_table() -> None:
    """The graph's leaf may be the batch's distinct rows; the table only receives the results."""
    tables = []
    for gathered in (True, False):
        embedding, linear = net(True)
        opt = GroupAdaHessian([embedding.weight], lr=0.05, lambda21=1e-2)
        for t in range(15):
            gen = torch.Generator().manual_seed(t)
            if gathered:
                unique, place = IDS.unique(return_inverse=True)
                rows = embedding.weight.detach()[unique].requires_grad_()
                grads = torch.autograd.grad(loss_of(rows, linear, place), [rows], create_graph=True)
                (diagonal,) = hutchinson_diagonal(grads, [rows], generator=gen)
                embedding.weight.grad = sparse(unique, grads[0].detach(), 9, coalesced=True)
                opt.set_hessian(embedding.weight, sparse(unique, diagonal, 9, coalesced=True))
            else:
                opt.backward(sparse_loss(embedding, linear), generator=gen)
            opt.step()
        tables.append(embedding.weight.detach())
    torch.testing.assert_close(*tables, rtol=1e-12, atol=1e-14)
    assert (tables[0] - net(True)[0].weight.detach())[[1, 2, 5, 7]].abs().min() > 1e-3


def test_backward_takes_every_parameter_and_leaves_the_unused_alone() -> None:
    embedding, linear = net(True)
    spare = torch.nn.Parameter(torch.ones(2, dtype=F64))
    opt = GroupAdaHessian([embedding.weight, *linear.parameters(), spare], lr=0.05)
    losses = []
    for t in range(60):
        loss = sparse_loss(embedding, linear)
        losses.append(float(loss.detach()))
        opt.backward(loss, generator=torch.Generator().manual_seed(t))
        assert spare.grad is None
        assert embedding.weight.grad.is_sparse
        opt.step()
    assert losses[-1] < 0.2 * losses[0]


def test_a_parameter_that_a_later_loss_does_not_use_stays() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2, 2, dtype=F64)) for _ in range(2))
    opt = GroupAdaHessian([first, second], lr=0.05)
    opt.backward((first**4 + second**4).sum())
    opt.step()
    after = second.detach().clone()
    opt.backward((first**4).sum())  # without zero_grad, as in a loop
    assert second.grad is None
    opt.step()
    assert torch.equal(second, after)
    assert opt.state[second]["step"] == 1
    opt.backward((first**4 + second**4).sum())
    opt.backward((first**4).sum())  # the first of two is not stepped: neither its gradient nor its diagonal is left
    assert second.grad is None
    second.grad = torch.ones_like(second)
    with pytest.raises(RuntimeError, match="parameter 1 of group 0 has a gradient but no Hessian"):
        opt.step()


def test_a_parameter_that_is_frozen_after_a_step_stays() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2, 2, dtype=F64)) for _ in range(2))
    opt = GroupAdaHessian([first, second], lr=0.05)
    opt.backward((first**4 + second**4).sum())
    opt.step()
    after = second.detach().clone()
    second.requires_grad_(False)
    for _ in range(2):
        opt.backward((first**4 + second**4).sum())
        opt.step()
    assert second.grad is None
    assert torch.equal(second, after)
    assert not torch.equal(first, after)


def test_no_graph_is_kept_alive() -> None:
    embedding, linear = net(True)
    opt = GroupAdaHessian([embedding.weight, *linear.parameters()], lr=0.05)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    gc.disable()
    gc.freeze()  # what is there already is not looked at
    try:
        counts = []
        for _ in range(6):
            opt.backward(sparse_loss(embedding, linear))
            opt.step()
            opt.zero_grad()
            counts.append(tensors())
    finally:
        gc.unfreeze()
        gc.enable()
    assert counts[-1] == counts[1]


def test_a_step_without_a_fitting_diagonal_names_the_parameter() -> None:
    embedding, _ = net(True)
    opt = GroupAdaHessian([("table", embedding.weight)], check_finite=True)
    embedding.weight.grad = sparse([1, 2], torch.ones(2, 3, dtype=F64), 9)
    with pytest.raises(RuntimeError, match=r"parameter 'table' has a gradient but no Hessian.*backward\(loss\)"):
        opt.step()
    opt.set_hessian(embedding.weight, torch.ones(2, 3, dtype=F64))
    with pytest.raises(RuntimeError, match=r"diagonal of parameter 'table' is \(2, 3\), not \(9, 3\)"):
        opt.step()
    opt.set_hessian(embedding.weight, sparse([1, 3], torch.ones(2, 3, dtype=F64), 9))
    with pytest.raises(RuntimeError, match="parameter 'table' differ in their rows"):
        opt.step()
    opt.set_hessian(embedding.weight, torch.full((9, 3), float("nan"), dtype=F64))
    with pytest.raises(RuntimeError, match="diagonal of parameter 'table' holds NaN"):
        opt.step()
    opt.set_hessian(embedding.weight, torch.ones(9, 3, dtype=F64))
    opt.step()
    with pytest.raises(RuntimeError, match="no Hessian"):
        opt.step()  # the diagonal is used up


def test_an_embedding_bag_cannot_be_differentiated_twice() -> None:
    bag = torch.nn.EmbeddingBag(5, 2, mode="sum")
    opt = GroupAdaHessian(bag.parameters())
    with pytest.raises(RuntimeError, match=r"not implemented|does not require grad"):
        opt.backward((bag(torch.tensor([[1, 2]])) ** 2).sum())
