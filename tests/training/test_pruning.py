"""Which rows pruning keeps, what becomes of the others, and that training goes on from there as in plain PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ctr.errors import CtrError
from ctr.models import FeatureEmbedding
from ctr.optim import GroupAdagrad, GroupAdam, GroupMomentum, GroupOptimizer
from ctr.optim.ranking import top_rows
from ctr.training.optimizers import make_optimizers
from ctr.training.pruning import Pruning, clear_row_, prune_
from ctr.training.step import make_step
from tests.native.built import ALL_BACKENDS
from tests.training.compiled.twin import FEATURES, batches, build


def table(rows: list[list[float]], seen: list[int]) -> tuple[FeatureEmbedding, GroupOptimizer]:
    embedding = FeatureEmbedding(len(rows), len(rows[0]))
    embedding.weight.data.copy_(torch.tensor(rows))
    embedding.seen[seen] = True
    optimizer = GroupAdam([embedding.weight])
    optimizer.ensure_state(embedding.weight)["u"].copy_(-2 * embedding.weight.detach())
    return embedding, optimizer


def test_the_best_rows_stay_and_the_others_are_zero() -> None:
    rows = [[3.0, 4.0], [0.0, 0.5], [9.0, 9.0], [0.0, 0.0], [-6.0, 0.0], [0.1, 0.1]]
    embedding, optimizer = table(rows, [0, 1, 3, 4, 5])  # row 2 has the largest norm, but training has not met it
    assert prune_(embedding, optimizer, 2) == 2
    assert embedding.weight.tolist() == [[3, 4], [0, 0], [9, 9], [0, 0], [-6, 0], [0, 0]]
    assert optimizer.state[embedding.weight]["u"].tolist() == [[-6, -8], [0, 0], [-18, -18], [0, 0], [12, 0], [0, 0]]
    assert not torch.signbit(embedding.weight[embedding.weight == 0]).any()


def test_of_equal_rows_the_first_stay() -> None:
    embedding, optimizer = table([[1.0, 0.0], [0.0, -1.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], [0, 1, 2, 3, 4])
    assert prune_(embedding, optimizer, 3) == 3
    assert (embedding.weight != 0).any(1).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (2, 2), (3, 2), (9, 2)])
def test_a_zero_row_is_never_among_those_that_stay(count: int, kept: int) -> None:
    embedding, optimizer = table([[0.0], [1.0], [0.0], [2.0], [3.0]], [0, 1, 2, 3])
    assert prune_(embedding, optimizer, count) == kept
    assert int((embedding.weight[:4] != 0).sum()) == kept


def test_a_row_too_small_to_be_squared_is_not_zero() -> None:
    embedding, optimizer = table([[0.0], [1e-30], [1.0]], [0, 1, 2])
    assert prune_(embedding, optimizer, 2) == 2


def test_nan_is_refused_before_anything_changes() -> None:
    embedding, optimizer = table([[float("nan")], [1.0], [2.0]], [0, 1, 2])
    with pytest.raises(CtrError, match=r"NaN .* lower the learning rate"):
        prune_(embedding, optimizer, 1)
    assert embedding.weight[1:].tolist() == [[1], [2]]


def test_ranks_against_sorting() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 7, 1000):
        ranks = draw.integers(-2, 6, size).astype(np.float32)  # many ties, some not eligible
        order = sorted((i for i in range(size) if ranks[i] >= 0), key=lambda i: (-ranks[i], i))
        for count in {0, 1, size // 3, size - 1, size, size + 5}:
            keep = top_rows(torch.from_numpy(ranks), count)
            assert keep.nonzero().squeeze(1).tolist() == sorted(order[: max(count, 0)])


def test_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of several chunks is ranked as a whole."""
    monkeypatch.setattr("ctr.training.pruning.CHUNK", 7)
    torch.manual_seed(0)
    weights = torch.randn(100, 3)
    embedding, optimizer = table(weights.tolist(), list(range(100)))
    assert prune_(embedding, optimizer, 20) == 20
    wanted = np.argsort(-np.linalg.norm(weights.double().numpy(), axis=1))[:20]
    assert (embedding.weight != 0).any(1).nonzero().squeeze(1).tolist() == sorted(wanted.tolist())


def test_clear_row() -> None:
    embedding, optimizer = table([[1.0], [2.0]], [0, 1])
    clear_row_(embedding, optimizer, 1)
    assert embedding.weight.tolist() == [[1], [0]]
    assert optimizer.state[embedding.weight]["u"].tolist() == [[-2], [0]]


def test_numbers_of_the_schedule() -> None:
    """N of a rate that Group Adam left is its number of features, whatever the division rounded to."""
    for present in (1, 3, 7, 21556, 29_600_123):
        for kept in {1, present // 3, present // 2 + 1, present} - {0}:
            assert Pruning(kept / present).count(present) == kept
    assert [Pruning(0.5, k).first_phase(200) for k in (0, 0.1, 0.2, 0.3, 0.999)] == [200, 180, 160, 140, 0]
    assert Pruning(0.5, 0.3).first_phase(7) == 5  # 4.9


@pytest.mark.parametrize(
    ("grouped", "plain", "options"),
    [
        (GroupAdam, torch.optim.Adam, {"lr": 0.01}),
        (GroupAdagrad, torch.optim.Adagrad, {"lr": 0.1}),
        (GroupMomentum, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    ],
)
def test_training_goes_on_as_in_plain_pytorch(
    grouped: Callable[..., GroupOptimizer], plain: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    """torch's own optimizer with its weights set to zero by hand, its moments left alone, in double precision."""
    torch.manual_seed(0)
    embedding = FeatureEmbedding(30, 4, init_scale=0.5).double()
    embedding.seen[:] = True
    twin = nn.Parameter(embedding.weight.detach().clone())
    ours, theirs = grouped([embedding.weight], **options), plain([twin], **options)
    target = torch.randn(30, 4, dtype=torch.float64)
    for step in range(40):
        for p, optimizer in ((embedding.weight, ours), (twin, theirs)):
            optimizer.zero_grad()
            ((p - target) ** 2).sum().backward()
            optimizer.step()
        if step in (10, 30):
            prune_(embedding, ours, 12)
            norms = twin.detach().norm(dim=1)
            twin.data[norms < norms.sort(descending=True).values[11]] = 0
            assert int((twin != 0).any(1).sum()) == 12
        torch.testing.assert_close(embedding.weight, twin, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("opt", ["adam", "adagrad"])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_effect_is_the_norm_of_D_w(backend: Any, opt: str) -> None:
    """D by the formula, from the present second moment and step, and the last learning rate above 0."""
    model = build("dcn")
    options = {"adam": {"lr": 3e-3, "eps": 1e-6}, "adagrad": {"lr": 1e-2}}[opt]
    rows, net = make_optimizers(model, opt, options)
    step = make_step(backend, model, rows, net, threads=2)
    for batch in batches(12):
        step.train(batch)
    rows.param_groups[0]["lr"] = 0.0  # as a schedule may end
    embedding = model.get_submodule("embedding")
    assert isinstance(embedding, FeatureEmbedding)
    weight, state = embedding.weight.detach().double(), step.row_optimizer.state[embedding.weight]
    if opt == "adam":
        D = (np.sqrt(state["v"].double().numpy() / (1 - 0.999**12)) + 1e-6) / 3e-3
    else:
        D = (np.sqrt(state["sum"].double().numpy()) + 1e-10) / 1e-2
    seen = embedding.seen.numpy()
    effect = np.linalg.norm(D * weight.numpy(), axis=1) * seen
    wanted = set(np.argsort(-effect)[:40].tolist())
    assert wanted != set(np.argsort(-np.linalg.norm(weight.numpy(), axis=1) * seen)[:40].tolist())
    assert prune_(embedding, step.row_optimizer, 40, "effect") == 40
    alive = (embedding.weight != 0).any(1) & embedding.seen
    assert set(alive.nonzero().squeeze(1).tolist()) == wanted


@pytest.mark.parametrize("score", ["norm", "effect"])
def test_before_the_first_step_nothing_is_pruned(score: Any) -> None:
    embedding = FeatureEmbedding(5, 3)
    before = embedding.weight.detach().clone()
    assert prune_(embedding, GroupAdam([embedding.weight], lr=0.0), 2, score) == 0
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_pruned_rows_come_back_and_new_ones_appear(backend: Any) -> None:
    """After the pruning a touched row takes the plain step from zero, w = -m / D; an untouched one stays zero."""
    model = build("dcn")
    rows, net = make_optimizers(model, "adam", {"lr": 3e-3, "eps": 1e-6})
    step = make_step(backend, model, rows, net, threads=2)
    made = batches(14)
    for batch in made[:10]:
        step.train(batch)
    embedding = model.get_submodule("embedding")
    assert isinstance(embedding, FeatureEmbedding)
    before = embedding.seen.clone()
    fresh = embedding.weight.detach()[~before].clone()
    assert prune_(embedding, step.row_optimizer, 30) == 30
    assert torch.equal(embedding.weight.detach()[~before], fresh)
    dead = (embedding.weight == 0).all(1) & before
    assert int(dead.sum()) == int(before.sum()) - 30
    step.train(made[10])
    touched = torch.zeros(FEATURES, dtype=torch.bool)
    touched[made[10].ids.long().unique()] = True
    back = dead & touched
    assert int(back.sum()) > 20
    state = step.row_optimizer.state[embedding.weight]
    m, v = state["m"].double(), state["v"].double()
    w = -(m / (1 - 0.9**11)) / ((v.sqrt() / (1 - 0.999**11) ** 0.5 + 1e-6) / 3e-3)
    torch.testing.assert_close(embedding.weight.detach().double()[back], w[back], rtol=1e-4, atol=1e-9)
    assert not embedding.weight[dead & ~touched].any()
    for batch in made[11:]:
        step.train(batch)
    assert (embedding.seen & ~before).any()
    assert prune_(embedding, step.row_optimizer, 30) == 30
    assert int(((embedding.weight != 0).any(1) & embedding.seen).sum()) == 30
    assert prune_(embedding, step.row_optimizer, 30) == 30  # once more changes nothing
