"""The compiled net against the eager one. The fast tests have the eager pass in the compiler's place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.config.compose import resolve
from ctr.datasets.stream import Batch, RowStream
from ctr.errors import ArgumentError, CtrError
from ctr.models import DCN, LR, MLP, OPNN, DeepFM, FeatureEmbedding
from ctr.native.library import available
from ctr.training import compiled_net
from ctr.training.compiled_net import CompiledNet, NotCompiled
from ctr.training.optimizers import make_optimizers
from ctr.training.passes import PassesInLibraries
from ctr.training.step import RowsStep, TorchStep
from tests.native.built import needs_kernels
from tests.training.runs import configuration, run_one

FEATURES, FIELDS, DIM, ROWS = 60, 4, 6, 24


class Net(nn.Module):
    """Some layers on the flat rows and dense columns."""

    def __init__(self, layers: nn.Module, table: FeatureEmbedding | None = None) -> None:
        super().__init__()
        self.embedding = table or FeatureEmbedding(FEATURES, DIM, generator=torch.Generator().manual_seed(0))
        self.layers = layers

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        x = rows.flatten(1)
        return self.layers(x if dense is None else torch.cat([x, dense], 1)).squeeze(1)


class Attention(Net):
    """Fields that attend to each other."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FIELDS * DIM + 2, 1))
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        return super().from_rows(rows + self.attention(rows, rows, rows, need_weights=False)[0], dense)


class Gated(nn.Module):
    """A layer times a gate, which is 0 at first, and a norm of each row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.gate, self.norm = nn.Linear(width, 8), nn.Linear(width, 8), nn.LayerNorm(8)
        self.share = nn.Parameter(torch.zeros(()))
        self.output = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated = torch.sigmoid(self.gate(x)) * torch.tanh(self.layer(x))
        return self.output(self.layer(x) + self.share * self.norm(gated))


class Centred(nn.Module):
    """Statistics of the batch without a buffer, behind a weight that is 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(WIDTH, 1), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.share * x.mean(0))


WIDTH = FIELDS * DIM + 2


def deep(*first: nn.Module) -> Net:
    return Net(nn.Sequential(*first, nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 1)))


def of_zoo(kind: Any, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    table = FeatureEmbedding(FEATURES, options.pop("dim", DIM), generator=generator)
    return kind(FEATURES, FIELDS, 2, embedding=table, generator=generator, **options)


WITH_ROWS_APART: dict[str, Callable[[], Any]] = {
    "linear": deep,
    "norm": lambda: deep(nn.LayerNorm(WIDTH)),
    "attention": Attention,
    "gated": lambda: Net(Gated(WIDTH)),
    "dcn": lambda: of_zoo(DCN, hidden=(8, 5)),
    "mlp": lambda: of_zoo(MLP, hidden=(8, 5)),
    "opnn": lambda: of_zoo(OPNN, hidden=(70, 5)),
    "deepfm": lambda: of_zoo(DeepFM, hidden=(8, 5)),
    "lr": lambda: of_zoo(LR, dim=1),
}
WITH_WHOLE_BATCHES: dict[str, Callable[[], Any]] = {
    "batch norm": lambda: deep(nn.BatchNorm1d(WIDTH)),
    "without buffers": lambda: deep(nn.BatchNorm1d(WIDTH, track_running_stats=False)),
    "centred": lambda: Net(Centred()),
    "random numbers": lambda: deep(nn.Dropout(0.3)),
}


def batches(count: int, weighted: bool = False) -> list[Batch]:
    """Batches of `ROWS` rows; the last one has fewer."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        rows = ROWS if number < count - 1 else ROWS - 7
        parts = rng.integers(0, FEATURES, (rows, FIELDS)), rng.random((rows, 2), np.float32), rng.random(rows) < 0.3
        ids, dense, label = (torch.from_numpy(part) for part in parts)
        weight = torch.from_numpy(rng.random(rows, np.float32)) if weighted else None
        made.append(Batch(ids.to(torch.int32), dense, label.float(), weight))
    return made


def trained(
    make: Callable[[], Any],
    *,
    compiled: bool,
    threads: int = 1,
    shares: int | None = None,
    weighted: bool = False,
    kind: type[TorchStep] = TorchStep,
) -> tuple[Any, list[Tensor]]:
    """A step after some batches, the last one smaller, and the logits of each."""
    torch.manual_seed(0)
    model, given = make(), batches(5, weighted)
    step = kind(model, *make_optimizers(model, "group_sgd", {"lr": 0.2, "lambda21": 1e-3}))
    if compiled:
        step.net = CompiledNet(model, step._net_parameters(), given[0], threads, shares)
    return step, [step.train(batch)[0].detach() for batch in given]


def expect_same(
    make: Callable[[], Any],
    shares: int,
    threads: int = 1,
    weighted: bool = False,
    kind: type[TorchStep] = TorchStep,
) -> CompiledNet:
    """Logits, rows, weights and buffers are those of the eager step within rounding; of three shares it takes these."""
    eager, expected = trained(make, compiled=False, weighted=weighted, kind=kind)
    ours, logits = trained(make, compiled=True, threads=threads, shares=3, weighted=weighted, kind=kind)
    assert ours.net.shares == shares
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for name, value in eager.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    return ours.net


@pytest.mark.usefixtures("eager_pass")
@pytest.mark.parametrize("name", WITH_ROWS_APART)
def test_shares_of_rows_that_do_not_depend_on_each_other_sum_to_the_whole(name: str) -> None:
    expect_same(WITH_ROWS_APART[name], 3, weighted=name == "linear")


@needs_kernels
@pytest.mark.usefixtures("eager_pass")
@pytest.mark.parametrize("name", WITH_ROWS_APART)
def test_compiled_rows_learn_from_its_gradients_too(name: str) -> None:
    expect_same(WITH_ROWS_APART[name], 3, kind=RowsStep)


@pytest.mark.usefixtures("eager_pass")
@pytest.mark.parametrize("name", WITH_WHOLE_BATCHES)
def test_a_net_whose_rows_depend_on_each_other_gets_the_whole_batch(name: str) -> None:
    expect_same(WITH_WHOLE_BATCHES[name], 1)


@pytest.mark.usefixtures("eager_pass")
def test_as_many_equal_shares_as_there_can_be_up_to_the_threads() -> None:
    model, batch = deep(), batches(2)[0]
    parameters = [p for name, p in model.named_parameters() if name != "embedding.weight"]
    cut = [CompiledNet(model, parameters, batch, threads=1, shares=most).shares for most in (1, 2, 4, 5, 7)]
    assert cut == [1, 2, 4, 4, 6]


@pytest.mark.usefixtures("eager_pass")
@pytest.mark.parametrize("name", WITH_ROWS_APART)
def test_given_shares_are_those_of_the_batch_one_by_one(name: str) -> None:
    expect_given_shares(name)


@needs_kernels
@pytest.mark.slow
def test_given_shares_are_so_in_compiled_threads() -> None:
    assert isinstance(expect_given_shares("norm")._passes, PassesInLibraries)


def expect_given_shares(name: str) -> CompiledNet:
    """The second and third of three, as one of several workers computes them."""
    torch.manual_seed(0)
    model, batch, cut = WITH_ROWS_APART[name](), batches(2, weighted=True)[0], [7, 8, 9]
    assert isinstance(batch.ids, Tensor)
    assert batch.weight is not None
    parameters = [p for name, p in model.named_parameters() if name != "embedding.weight"]
    net = CompiledNet(model, parameters, batch, threads=1, shares=cut)
    vectors, bits = model.embedding.weight.detach()[batch.ids.long()], model.draw(ROWS) if name == "opnn" else None
    dense, weight, drawn = (None if part is None else part[7:] for part in (batch.dense, batch.weight, bits))
    found = net.of_shares(range(1, 3), [vectors[7:15], vectors[15:]], dense, batch.label[7:], weight, drawn)
    for (logits, loss, of_vectors, of_net), (first, last) in zip(found, [(7, 15), (15, 24)], strict=True):
        rows = vectors[first:last].requires_grad_()
        more = [] if bits is None else [bits[first:last]]
        expected = model.from_rows(rows, None if batch.dense is None else batch.dense[first:last], *more)
        each = F.binary_cross_entropy_with_logits(expected, batch.label[first:last], reduction="none")
        part = (each * batch.weight[first:last]).sum() / ROWS
        torch.testing.assert_close([logits, loss], [expected.detach(), part.detach()])
        torch.testing.assert_close([of_vectors, *of_net], [*torch.autograd.grad(part, [rows, *parameters])])
    return net


@pytest.mark.usefixtures("eager_pass")
@pytest.mark.parametrize("name", WITH_WHOLE_BATCHES)
def test_given_shares_of_rows_that_depend_on_each_other_are_refused(name: str) -> None:
    model = WITH_WHOLE_BATCHES[name]()
    parameters = [p for name, p in model.named_parameters() if name != "embedding.weight"]
    with pytest.raises(NotCompiled, match="logits of a row depend on other rows"):
        CompiledNet(model, parameters, batches(2)[0], threads=1, shares=[12, 12])


@pytest.mark.usefixtures("eager_pass")
def test_trying_a_net_changes_neither_it_nor_the_random_numbers() -> None:
    model = deep(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
    before, draws = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    CompiledNet(model, list(model.layers.parameters()), batches(2)[0], threads=1)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def asked(compile: Any, model: Any = None, opt: str = "group_adam", rows: int = 64) -> CompiledNet | None:
    model = model or deep()
    stream = RowStream(Columns(rows), [(0, rows)], 32)
    return compiled_net.make(compile, model, make_optimizers(model, opt, {"lr": 0.01}), stream, 1)


class Columns:
    """Rows of a log in memory."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> Any:
        count = part.stop - part.start
        return np.ones((count, FIELDS), np.int32), np.ones((count, 2), np.float32), np.ones(count, np.uint8)


def broken(*_: Any) -> None:
    raise RuntimeError("no compiler\nlong trace")


def test_auto_compiles_where_there_are_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(CompiledNet, "_make", lambda net, *_: made.append(net.rows))
    monkeypatch.setattr(compiled_net, "MIN_STEPS", 3)
    assert asked(False, rows=96) is None
    assert asked("auto", rows=64) is None
    assert not made
    asked("auto", rows=96)
    asked(True, rows=64)
    assert made == [32, 32]


class Reading(Net):
    """Its net reads the table itself."""

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        return super().from_rows(rows, dense) + self.embedding.weight[0, 0]


class Branching(Net):
    """A branch on a value."""

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        return super().from_rows(rows if rows.sum() > 0 else -rows, dense)


class Counting(Net):
    """What it computes depends on how often it was called."""

    calls = 0

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().from_rows(rows, dense) * self.calls


def test_what_cannot_be_compiled_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled_net, "MIN_STEPS", 1)
    monkeypatch.setattr(CompiledNet, "_compile", broken)
    with pytest.raises(CtrError, match="cannot serve this run: RuntimeError: no compiler; use compile=auto"):
        asked(True)
    with caplog.at_level(logging.INFO, "ctr"):
        assert asked("auto") is None
    assert caplog.messages == ["compile=auto: the net is not compiled: RuntimeError: no compiler"]
    with pytest.raises(CtrError, match="AdaHessian takes second derivatives"):
        asked(True, opt="group_adahessian")


@pytest.mark.parametrize(
    ("kind", "why"), [(Reading, "reads the embedding's table"), (Branching, "compile=true cannot")]
)
def test_nets_that_cannot_be_traced_are_refused(kind: Any, why: str) -> None:
    with pytest.raises(CtrError, match=why):
        asked(True, kind(nn.Linear(WIDTH, 1)))


@pytest.mark.usefixtures("eager_pass")
def test_a_net_that_computes_something_else_each_time_is_refused() -> None:
    with pytest.raises(CtrError, match="does not give what its eager pass gives"):
        asked(True, Counting(nn.Linear(WIDTH, 1)))


def test_keys_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="compile=maybe; expected true, false or auto"):
        resolve(configuration(tmp_path, "compile=maybe"))


@needs_kernels
def test_the_compiled_step_has_its_own_net(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="compile=true is for backend=rows and torch"):
        resolve(configuration(tmp_path, "model=dcn", "opt=group_adam", "backend=native", "compile=true"))


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", ["norm", "opnn"])
def test_compiled_shares_give_what_the_eager_step_gives(name: str) -> None:
    net = expect_same(WITH_ROWS_APART[name], 3, threads=2, weighted=name == "norm")
    assert isinstance(net._passes, PassesInLibraries)


@pytest.mark.slow
def test_compiled_whole_batches_give_what_the_eager_step_gives() -> None:
    expect_same(WITH_WHOLE_BATCHES["batch norm"], 1, threads=2)


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits() -> None:
    make = WITH_ROWS_APART["opnn"]
    one, *others = (trained(make, compiled=True, threads=threads, shares=3)[0] for threads in (1, 3))
    assert isinstance(one.net._passes, PassesInLibraries) == available()
    for other in others:
        for name, value in one.model.state_dict().items():
            assert torch.equal(other.model.state_dict()[name], value)


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_run(tmp_path: Path) -> None:
    """Of 342 rows in batches of 32."""
    keys = ["model=deepfm", "opt=group_adam", "opt.lambda21=1e-3", "model.hidden=[8]", "backend=torch"]
    eager, ours = (run_one(tmp_path, *keys, f"compile={compiled}") for compiled in ("false", "true"))
    assert ours["auc"] == pytest.approx(eager["auc"], abs=1e-4)
    assert ours["logloss"] == pytest.approx(eager["logloss"], rel=1e-4)
    assert ours["features_nonzero"] == eager["features_nonzero"]
