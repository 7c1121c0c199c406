"""Compiled rows under a net in torch, against the step that is all in torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models import MLP, DeepFM, FeatureEmbedding
from ctr.optim import OPTIMIZERS, GroupAdam
from ctr.optim.fused import ADAM
from ctr.training.memory import peak, reset_peak
from ctr.training.optimizers import make_optimizers
from ctr.training.step import RowsStep, TorchStep, make_step
from tests.native.built import needs_kernels
from tests.training.runs import run_one

pytestmark = needs_kernels
LAMBDAS = {"lambda21": 1e-3, "lambda2": 1e-3}


def any_batch(rng: np.random.Generator, rows: int, dtype: torch.dtype = torch.float32) -> Batch:
    parts = rng.integers(0, 50, (rows, 4)), rng.random((rows, 2), np.float32), rng.random(rows) < 0.3
    ids, dense, label = (torch.from_numpy(part) for part in parts)
    return Batch(ids.to(torch.int32), dense.to(dtype), label.to(dtype))


def trained(
    backend: Any, opt: str = "group_adam", steps: int = 12, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """A step after some batches of a DeepFM, whose rows come several times in each."""
    torch.manual_seed(0)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    embedding = FeatureEmbedding(60, 5, generator=generator)
    model = DeepFM(60, 4, 2, hidden=(6, 5), embedding=embedding, generator=generator).to(dtype)
    step = make_step(backend, model, *make_optimizers(model, opt, {"lr": 0.02, **LAMBDAS, **options}), threads=2)
    for _ in range(steps):
        step.train(any_batch(rng, 32))
    return step


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("backend", ["rows", "torch"])
def test_the_initial_table_is_not_held_twice(backend: Any) -> None:
    """Compiled rows hold w, u, m and v from the start. In torch the state takes memory at a row's first touch."""
    one_step(backend, 100)  # loads what the first step needs
    reset_peak()
    before, weight = peak(), (1 << 20) * 16 * 4
    one_step(backend, 1 << 20)
    held = {"torch": 1, "rows": 4}[backend] * weight
    assert held - weight / 2 < peak() - before < held + 0.3 * weight


def one_step(backend: Any, rows: int) -> None:
    """Of a model with a table of rows of 16."""
    model = MLP(rows, 2, hidden=(4,), embedding=FeatureEmbedding(rows, 16))
    step = make_step(backend, model, *make_optimizers(model, "group_adam", {"lr": 0.01}), threads=1)
    step.train(Batch(torch.tensor([[0, rows - 1]], dtype=torch.int32), None, torch.ones(1)))


def table(step: Any) -> torch.Tensor:
    """The rows with their optimizer state."""
    return torch.cat(step.tables, dim=1)


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_every_optimizer_trains_what_torch_trains(opt: str) -> None:
    plain, ours = trained("torch", opt), trained("auto", opt)
    assert type(plain) is TorchStep
    assert type(ours) is RowsStep
    torch.testing.assert_close(table(ours), table(plain), rtol=1e-3, atol=1e-5)
    assert torch.equal(table(ours)[:, :5] == 0, table(plain)[:, :5] == 0)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert not ours.model.embedding.seen[50:].any()


def test_a_second_time_gives_the_same_bits() -> None:
    assert torch.equal(table(trained("rows")), table(trained("rows")))


def test_its_state_goes_on_in_torch_and_back() -> None:
    plain, ours = trained("torch"), trained("rows")
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(table(plain)[:, 5:], table(ours)[:, 5:])
    ours.load_state_dict(plain.state_dict())


def test_torch_is_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr.optim.fused.step", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr("ctr.optim.fused.step_rows", lambda *_, **__: pytest.fail("compiled"))
    trained("torch", steps=1)
    trained("torch", "group_adahessian", steps=1)  # whose net is stepped by a grouped optimizer too


def test_a_run_of_a_model_that_is_not_compiled_is_the_torch_run(tmp_path: Path) -> None:
    keys = ["model=deepfm", "opt=group_adam", "opt.lambda21=1e-3", "model.hidden=[8]"]
    plain, ours = (run_one(tmp_path, *keys, f"backend={backend}") for backend in ("torch", "auto"))
    assert ours.keys() == plain.keys()
    assert ours["auc"] == pytest.approx(plain["auc"], abs=1e-4)
    assert ours["logloss"] == pytest.approx(plain["logloss"], rel=1e-4)
    assert ours["features_nonzero"] == plain["features_nonzero"]


class Own(GroupAdam):
    """An optimizer of one's own, of which there is no compiled rule."""


def test_rows_that_it_cannot_serve_are_refused_and_auto_takes_torch(caplog: pytest.LogCaptureFixture) -> None:
    model = DeepFM(9, 2, embedding_dim=3, hidden=(4,))
    net = torch.optim.Adam([p for name, p in model.named_parameters() if name != "embedding.weight"])
    rows = Own([model.embedding.weight])
    with pytest.raises(CtrError, match=r"backend=rows cannot serve this run: .* the rule of Own; use backend=auto"):
        make_step("rows", model, rows, net, threads=1)
    with caplog.at_level("INFO", "ctr"):
        assert type(make_step("auto", model, rows, net, threads=1)) is TorchStep
        known = GroupAdam([model.embedding.weight])
        assert type(make_step("auto", model, known, net, threads=1)) is RowsStep
    first, second = caplog.messages
    assert first.startswith("backend=torch, as compiled rows cannot serve this run: ")
    assert second == "backend=rows, as the compiled step cannot serve this run: it does not know this DeepFM"


def test_an_optimizer_that_has_a_state_keeps_it_in_torch() -> None:
    """The rows' table begins with none."""
    model = DeepFM(9, 2, embedding_dim=3, hidden=(4,))
    rows, net = make_optimizers(model, "group_adam", {"lr": 0.1})
    rows.ensure_state(model.embedding.weight)
    with pytest.raises(CtrError, match="their optimizer has already made a step; use backend=auto"):
        make_step("rows", model, rows, net, threads=1)
    assert type(make_step("auto", model, rows, net, threads=1)) is TorchStep


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_any_sizes_with_predictions_between(dtype: torch.dtype) -> None:
    """The buffers are those of the largest batch so far."""
    steps = [trained(backend, steps=0, dtype=dtype) for backend in ("torch", "rows")]
    rng = np.random.default_rng(0)
    for rows in (3, 40, 1, 17, 64, 2):
        batch = any_batch(rng, rows, dtype)
        for call in ("train", "predict"):
            plain, ours = (getattr(step, call)(batch) for step in steps)
            for a, b in zip(*((x if call == "train" else (x, 0.0)) for x in (plain, ours)), strict=True):
                torch.testing.assert_close(torch.as_tensor(b), torch.as_tensor(a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table(steps[1]), table(steps[0]), rtol=1e-4, atol=1e-5)


def test_an_id_beyond_the_table_changes_nothing() -> None:
    step = trained("rows")
    before = [t.clone() for t in (*step.tables, *step.model.parameters())]
    batch = any_batch(np.random.default_rng(1), 8)
    assert isinstance(batch.ids, torch.Tensor)
    batch.ids[5, 1] = 60
    with pytest.raises(IndexError, match="id 60 is not within the 60 rows"):
        step.train(batch)
    for a, b in zip(before, (*step.tables, *step.model.parameters()), strict=True):
        assert torch.equal(a, b)


def test_a_state_that_the_optimizer_loaded_itself_is_the_one_that_is_saved() -> None:
    """Its tensors are others than those beside the rows."""
    step = trained("rows")
    assert len(step.tables) == 1
    step.row_optimizer.load_state_dict(trained("torch", steps=3).row_optimizer.state_dict())
    weight = step.model.embedding.weight
    step.train(any_batch(np.random.default_rng(1), 8))
    state = step.row_optimizer.state[weight]
    assert torch.equal(torch.cat(step.tables, dim=1), torch.cat([weight, state["u"], state["m"], state["v"]], dim=1))


class Frozen(DeepFM):
    """A model that does more than set its mode."""

    calls = 0

    def train(self, mode: bool = True) -> Any:
        self.calls += mode
        return super().train(mode)


@pytest.mark.parametrize("backend", ["rows", "torch"])
def test_a_models_own_train_is_called_before_the_first_step_and_after_each_prediction(backend: Any) -> None:
    model = Frozen(60, 4, 2, embedding_dim=3, hidden=(4,))
    step = make_step(backend, model, *make_optimizers(model, "group_adam", {"lr": 0.1}), threads=1)
    before, batch = model.calls, any_batch(np.random.default_rng(1), 8)
    assert before > 0
    step.predict(batch)
    step.train(batch)
    assert model.calls == before + 1


@pytest.mark.parametrize("of", ["row_optimizer", "net_optimizer"])
def test_hooks_of_an_optimizer_find_all_gradients(of: str) -> None:
    step, plain, found = trained("rows", steps=1), trained("rows", steps=2), []
    weights = [step.model.embedding.weight, *step.net_optimizer.param_groups[0]["params"]]
    getattr(step, of).register_step_pre_hook(lambda *_: found.append([p.grad is not None for p in weights]))
    rng = np.random.default_rng(0)
    any_batch(rng, 32)
    step.train(any_batch(rng, 32))
    assert found == [[True] * len(weights)]
    assert torch.equal(table(step), table(plain))
    assert all(map(torch.equal, step.model.parameters(), plain.model.parameters()))
    assert all(p.grad is None for p in weights)


class Counted(GroupAdam):
    """An optimizer of one's own, with the rule of Adam and a step of its own."""

    rule = ADAM
    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        return super().step(closure)


def test_a_step_of_ones_own_is_made() -> None:
    model = DeepFM(60, 4, 2, embedding_dim=3, hidden=(4,))
    _, net = make_optimizers(model, "group_adam", {"lr": 0.1})
    rows = Counted([model.embedding.weight])
    step = make_step("rows", model, rows, net, threads=1)
    assert type(step) is RowsStep
    step.train(any_batch(np.random.default_rng(0), 8))
    assert rows.calls == 1


def test_rows_that_are_not_to_be_fused_are_stepped_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    step = trained("rows", steps=1)
    step.row_optimizer.fused = False
    monkeypatch.setattr("ctr.optim.fused.step_rows", lambda *_, **__: pytest.fail("compiled"))
    step.train(any_batch(np.random.default_rng(0), 8))


def test_a_state_from_before_the_first_step_is_taken_up() -> None:
    """Training goes on as from the start."""
    step, start = trained("rows", steps=3), trained("torch", steps=0)
    weights = trained("rows", steps=3).model.state_dict()
    step.load_state_dict(start.state_dict())
    step.model.load_state_dict(start.model.state_dict())
    for one in (step, start):
        one.train(any_batch(np.random.default_rng(1), 8))
    assert not torch.equal(step.model.embedding.weight, weights["embedding.weight"])
    torch.testing.assert_close(table(step), table(start), rtol=1e-4, atol=1e-6)


class Summed(DeepFM):
    """A net with a gradient that is one number in memory."""

    def __init__(self) -> None:
        super().__init__(60, 4, 2, embedding_dim=3, hidden=(4,))
        self.offsets = torch.nn.Parameter(torch.zeros(8))

    def from_rows(self, rows: torch.Tensor, dense: torch.Tensor | None) -> torch.Tensor:
        return super().from_rows(rows, dense) + self.offsets.sum()


@pytest.mark.parametrize("backend", ["rows", "torch"])
def test_the_gradient_of_a_sum_reaches_every_weight(backend: Any) -> None:
    torch.manual_seed(0)
    model = Summed()
    step = make_step(backend, model, *make_optimizers(model, "group_adam", {"lr": 0.1}), threads=1)
    for seed in range(3):
        step.train(any_batch(np.random.default_rng(seed), 8))
    assert (model.offsets == model.offsets[0]).all()
    assert abs(float(model.offsets[0].detach())) > 0.01
