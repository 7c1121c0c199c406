"""The training loop against a re-computation in plain float64 numpy, and its state to the last bit."""

import copy
import io
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr.datasets.prepared import Prepared
from ctr.datasets.stream import Batch, RowStream
from ctr.errors import Diverged
from ctr.metrics import exact_auc, logloss
from ctr.optim import OPTIMIZERS
from ctr.training.optimizers import make_optimizers
from ctr.training.step import make_step
from ctr.training.trainer import TrainingRun, evaluate, train
from ctr.training.window import Window, WindowMetrics
from tests.training.compiled import twin
from tests.training.runs import equal, new_run


class Recomputation:
    """DCN, BCE, Group Adam on touched rows and Adam on the net in float64, straight from the formulas."""

    def __init__(self, run: TrainingRun, lr: float, lambda21: float, lambda1: float, lambda2: float) -> None:
        named = {name: p.detach().double().numpy().copy() for name, p in run.model.named_parameters()}  # type: ignore[attr-defined]
        self.x = named.pop("embedding.weight")
        self.net = named
        self.lr, self.lambda21, self.lambda1, self.lambda2 = lr, lambda21, lambda1, lambda2
        self.rows = {i: {k: np.zeros(self.x.shape[1]) for k in "zmvD"} for i in range(len(self.x))}
        self.adam = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in named.items()}
        self.t = 0

    def forward_backward(self, ids: np.ndarray, dense: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, Any], Any]:
        p, (w, b) = self.net, (self.net["cross.weight"], self.net["cross.bias"])
        x0 = np.concatenate([self.x[ids].reshape(len(ids), -1), dense], axis=1)
        xs, dots = [x0], []
        for layer in range(len(w)):
            dots.append(xs[-1] @ w[layer])
            xs.append(x0 * dots[-1][:, None] + b[layer] + xs[-1])
        hs = [x0]
        for name in ("deep.0", "deep.2"):
            hs.append(np.maximum(hs[-1] @ p[f"{name}.weight"].T + p[f"{name}.bias"], 0))
        top = np.concatenate([xs[-1], hs[-1]], axis=1)
        logit = top @ p["output.weight"][0] + p["output.bias"][0]
        loss = float(np.mean(np.log1p(np.exp(-np.abs(logit))) + np.maximum(logit, 0) - logit * y))

        g: dict[str, Any] = {}
        up = ((1 / (1 + np.exp(-logit)) - y) / len(y))[:, None]
        g["output.weight"], g["output.bias"] = (up * top).sum(0, keepdims=True), up.sum(0)
        d_top = up * p["output.weight"]
        d_x, d_h = d_top[:, : x0.shape[1]], d_top[:, x0.shape[1] :]
        d_x0 = np.zeros_like(x0)
        g["cross.weight"], g["cross.bias"] = np.zeros_like(w), np.zeros_like(b)
        for layer in reversed(range(len(w))):
            d_dot = (d_x * x0).sum(1)
            d_x0 += d_x * dots[layer][:, None]
            g["cross.bias"][layer] = d_x.sum(0)
            g["cross.weight"][layer] = d_dot @ xs[layer]
            d_x = d_x + d_dot[:, None] * w[layer]
        for layer, name in ((1, "deep.2"), (0, "deep.0")):
            d_h = d_h * (hs[layer + 1] > 0)
            g[f"{name}.weight"], g[f"{name}.bias"] = d_h.T @ hs[layer], d_h.sum(0)
            d_h = d_h @ p[f"{name}.weight"]
        d_rows = (d_x0 + d_x + d_h)[:, : ids.shape[1] * self.x.shape[1]].reshape(*ids.shape, -1)
        return loss, g, d_rows

    def step(self, ids: np.ndarray, dense: np.ndarray, y: np.ndarray) -> float:
        loss, grads, d_rows = self.forward_backward(ids, dense, y)
        self.t += 1
        b1, b2, eps = 0.9, 0.999, 1e-8
        for name, grad in grads.items():
            m, v = self.adam[name]
            m[:] = b1 * m + (1 - b1) * grad
            v[:] = b2 * v + (1 - b2) * grad**2
            self.net[name] -= self.lr * (m / (1 - b1**self.t)) / (np.sqrt(v / (1 - b2**self.t)) + eps)
        for i in np.unique(ids):
            grad, s = d_rows[ids == i].sum(0), self.rows[i]
            s["m"] = b1 * s["m"] + (1 - b1) * grad
            s["v"] = b2 * s["v"] + (1 - b2) * grad**2
            D = (np.sqrt(s["v"] / (1 - b2**self.t)) + eps) / self.lr
            s["z"] = s["z"] + s["m"] / (1 - b1**self.t) - (D - s["D"]) * self.x[i]
            s["D"] = D
            shrunk = -np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - self.lambda1, 0)
            norm = np.linalg.norm(shrunk)
            keep = max(1 - math.sqrt(len(shrunk)) * self.lambda21 / norm, 0) if norm > 0 else 0.0
            self.x[i] = keep * shrunk / (D + 2 * self.lambda2)
        return loss


def test_trajectory_equals_a_float64_recomputation(data: Prepared) -> None:
    """20 steps: losses, net, rows and the set of zero rows."""
    penalties = {"lambda21": 0.004, "lambda1": 1e-4, "lambda2": 1e-3}
    run = new_run(data, batch_size=24, betas=(0.9, 0.999), eps=1e-8, **penalties)
    again = Recomputation(run, lr=0.01, **penalties)
    for _, batch in zip(range(20), run.stream, strict=False):
        assert batch.dense is not None
        wanted = again.step(batch.ids.numpy(), batch.dense.double().numpy(), batch.label.double().numpy())
        loss, _ = run.step(batch)
        assert loss == pytest.approx(wanted, rel=1e-4)
    assert again.t == run.steps == 20
    weight = run.model.embedding.weight.detach().numpy()
    np.testing.assert_allclose(weight, again.x, atol=1e-4)
    seen = run.model.embedding.seen.numpy()
    assert seen.sum() == sum(bool(state["D"].any()) for state in again.rows.values())
    dead, wanted_dead = ~weight.any(axis=1), ~again.x.any(axis=1)
    assert 0.05 < wanted_dead[seen].mean() < 0.95  # else the comparison would say nothing
    assert (dead != wanted_dead).sum() <= 0.002 * len(dead)  # rows on the edge may fall either way in float32
    for name, p in again.net.items():
        np.testing.assert_allclose(run.model.get_parameter(name).detach().numpy(), p, atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_saved_half_way_and_continued_is_uninterrupted(data: Prepared, opt: str) -> None:
    """New objects that are loaded from a file's bytes give the same run, to the last bit."""
    options = {"lambda21": 1e-3, "schedule": True, "lr": 1e-3}
    whole = new_run(data, opt, **options)
    windows: list[Window] = []
    train(whole, on_window=windows.append)

    first = new_run(data, opt, **options)
    early = [w for _, batch in zip(range(9), first.stream, strict=False) if (w := first.step(batch)[1])]
    kept = io.BytesIO()
    torch.save(first.state_dict(), kept)
    kept.seek(0)
    torch.manual_seed(99)  # a new process begins with another state
    second = new_run(data, opt, **options)
    torch.rand(5)
    second.load_state_dict(torch.load(kept, weights_only=False))
    late: list[Window] = []
    train(second, on_window=late.append)
    assert equal(second.state_dict(), whole.state_dict())
    assert early + late == windows
    assert evaluate(second.learner, RowStream(data.rows, data.split.test, 64)) == evaluate(
        whole.learner, RowStream(data.rows, data.split.test, 64)
    )


def draws(device: torch.device) -> torch.Tensor:
    return torch.rand(5, device=device)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))],
)
def test_random_numbers_go_on_where_they_were(data: Prepared, device: str) -> None:
    """Of both generators: AdaHessian's signs are drawn on the device, dropout's bits on the CPU."""
    run = new_run(data, device=device)
    places = {torch.device("cpu"), torch.device(device)}
    torch.manual_seed(5)
    for place in places:
        draws(place)
    state = copy.deepcopy(run.state_dict())
    wanted = {place: draws(place) for place in places}
    torch.manual_seed(6)
    run.load_state_dict(state)
    assert all(torch.equal(draws(place), wanted[place]) for place in places)
    assert (state["rng_cuda"] is None) == (device == "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_continued_on_cuda_draws_the_same_signs(data: Prepared) -> None:
    first = new_run(data, "adahessian", device="cuda")
    train(first, until=3)
    state = copy.deepcopy(first.state_dict())
    (batch,) = islice(first.stream, 1)
    first.step(batch)
    second = new_run(data, "adahessian", device="cuda")
    second.load_state_dict(state)
    second.step(batch)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # sums on a GPU have no fixed order


def test_the_generator_of_the_run_s_own_cuda_device(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without such a device: a model that says that it is on one, and generators that note who asks."""
    run = new_run(data)
    before = run.state_dict()
    place = torch.device("cuda", 1)
    kept, loaded = torch.tensor([1, 2], dtype=torch.uint8), []
    monkeypatch.setattr("ctr.training.trainer.device_of", lambda model: place)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: {place: kept}[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: loaded.append((state, device)))
    state = run.state_dict()
    run.load_state_dict(state)
    assert loaded == [(kept, place)]
    assert equal({**state, "rng_cuda": None}, before)  # nothing else differs
    run.load_state_dict(before)  # of a run on the CPU: nothing to set
    assert len(loaded) == 1


def test_same_seed_same_bits(data: Prepared) -> None:
    states = []
    for _ in range(2):
        run = new_run(data, lambda21=1e-3)
        train(run)
        states.append(run.state_dict())
    assert equal(*states)


@pytest.mark.parametrize("opt", [*(name.removeprefix("group_") for name in OPTIMIZERS), *OPTIMIZERS])
def test_every_optimizer_learns(data: Prepared, opt: str) -> None:
    """A pattern planted in the first field is found, whatever the optimizer."""
    run = new_run(data, opt, lr={"sgd": 0.2, "momentum": 0.05, "adahessian": 0.05}.get(opt.split("_")[-1], 0.02))
    losses = []
    for _ in range(8):
        run.stream.position = 0
        for batch in run.stream:
            planted = Batch(batch.ids, torch.zeros(len(batch), 13), (batch.ids[:, 0] % 2).float())
            losses.append(run.step(planted)[0])
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])
    assert run.model.embedding.seen.sum() == data.split.features_train


def test_ramp_ends_at_the_full_lambda(data: Prepared) -> None:
    """With a ramp, rows last touched under a smaller lambda21 are tested once at the end."""
    run = new_run(data, lambda21=0.02, schedule=True)
    for batch in run.stream:
        run.step(batch)
    before = int((run.model.embedding.weight == 0).all(dim=1).sum())
    assert run.learner.row_optimizer.param_groups[0]["lambda21"] == pytest.approx(0.02)
    run.finish()
    after = int((run.model.embedding.weight == 0).all(dim=1).sum())
    assert after > before


def test_untouched_rows_keep_their_initial_value(data: Prepared) -> None:
    run = new_run(data, lambda21=10.0)
    initial = run.model.embedding.weight.detach().clone()
    train(run)
    weight, seen = run.model.embedding.weight.detach(), run.model.embedding.seen
    assert 0 < seen.sum() < len(seen)
    assert torch.equal(weight[~seen], initial[~seen])
    assert not weight[seen].any()


def test_windows_report_loss_and_auc_before_learning(data: Prepared) -> None:
    run = new_run(data, lr=0.0)  # nothing moves: the windows are those of the initial model
    windows: list[Window] = []
    train(run, on_window=windows.append)
    ids, dense, label = data.rows[0:128]
    model = new_run(data).model
    scores = model(torch.tensor(ids), torch.tensor(dense)).detach().numpy()
    assert windows[0].step == 4
    assert windows[0].rows == 128
    assert windows[0].loss == pytest.approx(logloss(scores, label), rel=1e-4)
    assert windows[0].auc == pytest.approx(exact_auc(scores, label), abs=1e-3)


def test_windows_count_the_weights_of_rows_and_survive_a_stop(data: Prepared) -> None:
    """A window that was half full when its state was taken gives the same figures."""
    draw = np.random.default_rng(0)
    scores, label = draw.normal(size=128).astype(np.float32), draw.integers(0, 2, 128).astype(np.float32)
    weight = draw.choice([0, 0.5, 3], 128).astype(np.float32)
    z, metrics = scores.astype(float), WindowMetrics(4)
    losses = weight * (np.log1p(np.exp(z)) - z * label)
    found = None
    for start in range(0, 128, 32):
        here = slice(start, start + 32)
        batch = Batch(torch.zeros(32, 1), None, torch.tensor(label[here]), torch.tensor(weight[here]))
        found = metrics.update(torch.tensor(scores[here]), batch, losses[here].mean())
        state, metrics = metrics.state_dict(), WindowMetrics(4)
        metrics.load_state_dict(state)
    assert found is not None
    assert found[0] == pytest.approx(losses.sum() / weight.sum(), rel=1e-6)
    assert found[1] == exact_auc(scores, label, weight)


@pytest.mark.parametrize("opt", ["group_adam", "group_adagrad"])
def test_weights_of_rows_scale_their_losses(opt: str) -> None:
    """Against a loss written out, with weights of which some are 0."""
    ours, theirs = twin.build("dcn"), twin.build("dcn")
    step = make_step("torch", ours, *make_optimizers(ours, opt, twin.OPTIMIZERS[opt]), threads=2)
    other = twin.TorchTwin(theirs, opt, twin.OPTIMIZERS[opt])
    for batch in twin.batches(30, weighted=True):
        assert step.train(batch)[1] == pytest.approx(other.train(batch)[1], abs=1e-5)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_nan_stops_before_anything_moves(data: Prepared) -> None:
    run = new_run(data)
    batch = next(iter(run.stream))
    assert batch.dense is not None
    batch.dense[0, 0] = float("inf")
    before = copy.deepcopy(run.state_dict())
    with pytest.raises(
        Diverged, match=r"^diverged: the loss is (nan|inf) at step 1 \(rows up to 32\); lower the learning rate"
    ):
        run.step(batch)
    assert equal(run.state_dict(), before)


def test_evaluation(data: Prepared) -> None:
    run = new_run(data)
    train(run)
    got = evaluate(run.learner, RowStream(data.rows, data.split.test, 64))
    ids, dense, label = data.rows[slice(*data.split.test[0])]
    embedding = run.model.embedding
    rows = embedding.weight * embedding.seen.unsqueeze(1)  # what training never saw reads as zero
    logits = run.model.from_rows(rows[torch.tensor(ids).long()], torch.tensor(dense)).detach().numpy()
    assert got.auc == pytest.approx(exact_auc(logits, label), abs=1e-12)
    assert got.logloss == pytest.approx(logloss(logits, label), rel=1e-6)
    assert (got.rows, got.positives) == (len(label), int(label.sum()))


def test_evaluation_with_nan(data: Prepared) -> None:
    run = new_run(data)
    run.model.embedding.weight.data[:] = float("nan")
    run.model.embedding.seen[:] = True
    with pytest.raises(Diverged, match=r"^diverged: the model predicts NaN or infinity"):
        evaluate(run.learner, RowStream(data.rows, data.split.test, 64))


def test_plain_optimizers_leave_every_feature_alive(data: Prepared, tmp_path: Path) -> None:
    run = new_run(data, "adam")
    train(run)
    assert (run.model.embedding.weight[run.model.embedding.seen] != 0).any(dim=1).all()
