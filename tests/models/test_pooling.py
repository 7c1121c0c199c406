"""Several ids of a field: their rows become one before the model sees them."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models import DCN, LR, MLP, OPNN, Bags, DeepFM, FeatureEmbedding
from ctr.optim import GroupAdagrad, GroupAdam
from ctr.training.compiled.forward import unservable
from ctr.training.optimizers import make_optimizers
from ctr.training.step import TorchStep, make_step

LISTS = [[[0], [1, 2, 1]], [[3], [4]], [[0], [2, 2]], [[5], [1, 4, 2, 0]]]  # [B][F]
POOLS: list[Literal["mean", "sum"]] = ["mean", "sum"]
Pool = Literal["mean", "sum"]


def bags(lists: list[list[list[int]]]) -> Bags:
    lengths = [len(bag) for row in lists for bag in row]
    values = torch.tensor([i for row in lists for bag in row for i in bag], dtype=torch.int32)
    return Bags(values, torch.tensor([0, *lengths]).cumsum(0), len(lists[0]))


def pooled(table: np.ndarray, pool: Pool) -> np.ndarray:
    """Rows [B, F, d]."""
    return np.array([[getattr(table[bag], pool)(axis=0) for bag in row] for row in LISTS])


@pytest.mark.parametrize("pool", POOLS)
def test_rows_are_pooled_as_numpy_pools_them(pool: Pool) -> None:
    embedding = FeatureEmbedding(6, 3, pool=pool, init_scale=1).double()
    table = embedding.weight.detach().numpy().copy()
    np.testing.assert_allclose(embedding(bags(LISTS)).detach().numpy(), pooled(table, pool), rtol=1e-12)
    assert embedding.seen.all()
    embedding.seen[2] = False  # reads as zero, and counts in the mean
    table[2] = 0
    np.testing.assert_allclose(embedding.eval()(bags(LISTS)).detach().numpy(), pooled(table, pool), rtol=1e-12)


@pytest.mark.parametrize("make", [DCN, MLP, OPNN, DeepFM, LR])
@pytest.mark.parametrize("pool", POOLS)
def test_every_model_gets_the_pooled_rows(make: Any, pool: Pool) -> None:
    embedding = FeatureEmbedding(6, 1 if make is LR else 4, pool=pool, init_scale=1)
    model = make(6, 2, embedding=embedding).double().eval()
    embedding.seen.fill_(True)
    rows = torch.tensor(pooled(embedding.weight.detach().numpy(), pool))
    torch.testing.assert_close(model(bags(LISTS), None), model.from_rows(rows, None), rtol=1e-12, atol=1e-12)


def test_one_id_each_gives_the_digits_of_a_matrix() -> None:
    ids = torch.randint(6, (9, 2), dtype=torch.int32)
    lists = [[[i] for i in row] for row in ids.tolist()]
    for pool in POOLS:
        embedding = FeatureEmbedding(6, 3, pool=pool)
        assert torch.equal(embedding(bags(lists)), embedding(ids))


def test_bags_need_a_pool() -> None:
    with pytest.raises(ValueError, match="bags of ids for an embedding without pool"):
        FeatureEmbedding(6, 3)(bags(LISTS))
    with pytest.raises(ValueError, match="pool='max'; expected 'mean', 'sum' or None"):
        FeatureEmbedding(6, 3, pool="max")  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
def test_a_step_updates_rows_by_the_gradient_of_each_occurrence(pool: Pool) -> None:
    """Of the logloss of logistic regression, dL/dw_i = sum over rows of (p - y) / B * (occurrences, or their share)."""
    embedding = FeatureEmbedding(7, 1, pool=pool, init_scale=0.5, generator=torch.Generator().manual_seed(3))
    w = embedding.weight.detach().double().numpy()[:, 0].copy()
    model = LR(7, 2, embedding=embedding)
    lr, eps, start = 0.1, 1e-10, 0.2
    rows = GroupAdagrad([embedding.weight], lr=lr, eps=eps, initial_accumulator_value=start)
    net = torch.optim.SGD([model.bias], lr=lr)
    step = TorchStep(model, rows, net)
    label, weight = np.array([1, 0, 0, 1.0]), np.array([1, 2, 0.5, 1.0])
    share = np.zeros((4, 7))
    for row, (first, several) in enumerate(LISTS):
        for bag in (first, several):
            for i in bag:
                share[row, i] += 1 / len(bag) if pool == "mean" else 1
    p = 1 / (1 + np.exp(-share @ w))
    residual = weight * (p - label) / 4
    gradient = residual @ share
    tensors = (torch.tensor(values, dtype=torch.float32) for values in (label, weight))
    logits, loss = step.train(Batch(bags(LISTS), None, *tensors))
    losses = -(label * np.log(p) + (1 - label) * np.log(1 - p))
    assert loss == pytest.approx((weight * losses).mean(), rel=1e-6)
    np.testing.assert_allclose(logits.detach().numpy(), share @ w, rtol=1e-5)
    after = w - lr * gradient / (np.sqrt(start + gradient**2) + eps)
    np.testing.assert_allclose(embedding.weight.detach().numpy()[:, 0], after, rtol=1e-5, atol=1e-7)
    assert model.bias.item() == pytest.approx(-lr * residual.sum(), rel=1e-5)
    assert embedding.seen.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize("opt", ["group_adam", "group_adahessian", "group_momentum"])
def test_a_step_is_that_of_plain_torch_on_a_dense_table(opt: str) -> None:
    """The pooled rows by a loop, and the gradient of the whole table by autograd."""
    torch.manual_seed(0)
    hessian = {"lr": 0.1, "lambda21": 1e-3}
    options = hessian if opt == "group_adahessian" else {"lr": 0.05, "lambda21": 1e-3}
    models = [MLP(6, 2, embedding=FeatureEmbedding(6, 2, pool="mean", init_scale=1), hidden=(3,)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    rows, net = make_optimizers(models[0], opt, dict(options))
    step = TorchStep(models[0], rows, net)
    label = torch.tensor([1, 0, 0, 1.0])
    other_rows, other_net = make_optimizers(models[1], opt, dict(options))
    for _ in range(3):
        state = torch.get_rng_state()
        step.train(Batch(bags(LISTS), None, label))
        torch.set_rng_state(state)
        touched = models[1].embedding.weight.detach().clone().requires_grad_()
        vectors = torch.stack([torch.stack([touched[bag].mean(0) for bag in row]) for row in LISTS])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(models[1].from_rows(vectors, None), label)
        other, every = TorchStep(models[1], other_rows, other_net), torch.arange(6)
        of_rows, *of_net = other._differentiate(loss, every, touched)
        other._update(every, of_rows, of_net)
    for name, value in models[0].state_dict().items():
        if name != "embedding.seen":
            torch.testing.assert_close(models[1].state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_compiled_step_leaves_them_to_torch() -> None:
    model = DCN(6, 2, embedding=FeatureEmbedding(6, 4, pool="sum"))
    rows = GroupAdam([model.embedding.weight])
    net = torch.optim.Adam([p for p in model.parameters() if p is not model.embedding.weight])
    if unservable(DCN(6, 2)) is not None:
        pytest.skip("the compiled kernels are not available")
    assert isinstance(make_step("auto", model, rows, net, 1), TorchStep)
    with pytest.raises(CtrError, match="backend=native cannot serve this run: it looks up one value of each field"):
        make_step("native", model, rows, net, 1)
