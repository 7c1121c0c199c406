"""``precision=bfloat16``: products of the net in bfloat16, all else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctr.config.compose import resolve
from ctr.datasets.stream import Batch
from ctr.errors import ArgumentError
from ctr.provenance import digest
from ctr.training.compiled_net import CompiledNet
from ctr.training.optimizers import make_optimizers
from ctr.training.step import RowsStep, TorchStep, make_step
from tests.native.built import needs_kernels
from tests.training.runs import configuration, run_one
from tests.training.test_compiled_net import WITH_ROWS_APART, WITH_WHOLE_BATCHES, Net, batches, deep


def rounded(model: Net, batch: Batch) -> Tensor:
    """The logits of a `deep` net of bfloat16 layers, written out."""
    assert isinstance(batch.ids, Tensor)
    x = torch.cat([model.embedding.weight[batch.ids.long()].flatten(1), batch.dense], 1)  # type: ignore[list-item]
    first, _, last = model.layers
    for layer in (first, last):
        x = F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
        x = x if layer is last else F.relu(x)
    return x.squeeze(1).float()


def one_step(backend: Any, precision: Any = "bfloat16") -> tuple[Any, Batch, Tensor]:
    """A step that has made one, its batch, and the logits that it gave."""
    torch.manual_seed(0)
    model, batch = deep(), batches(2)[0]
    step = make_step(backend, model, *make_optimizers(model, "group_adam", {"lr": 0.01}), threads=1)
    step.precision = precision  # type: ignore[attr-defined]
    return step, batch, step.train(batch)[0].detach()


@pytest.mark.parametrize("backend", ["torch", pytest.param("rows", marks=needs_kernels)])
def test_products_are_rounded_and_nothing_that_stays_is(backend: str) -> None:
    step, batch, logits = one_step(backend)
    assert type(step) is (TorchStep if backend == "torch" else RowsStep)
    torch.manual_seed(0)
    expected = rounded(deep(), batch).detach()
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, one_step(backend, "float32")[2])
    state = [*step.model.parameters(), *step.tables]
    state += [t for of_one in step.net_optimizer.state.values() for t in of_one.values()]
    assert {t.dtype for t in state} == {torch.float32}


def test_gradients_are_those_of_the_rounded_products() -> None:
    """After a step of plain SGD with learning rate 1 the net has lost its gradient."""
    torch.manual_seed(0)
    model, twin, batch = deep(), deep(), batches(2)[0]
    twin.load_state_dict(model.state_dict())
    step = TorchStep(model, *make_optimizers(model, "sgd", {"lr": 1.0}))
    step.precision = "bfloat16"
    step.train(batch)
    F.binary_cross_entropy_with_logits(rounded(twin, batch), batch.label).backward()
    for mine, theirs in zip(model.layers.parameters(), twin.layers.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), (theirs - theirs.grad).detach(), rtol=1e-2, atol=1e-4)


def test_prediction_is_in_float32() -> None:
    step, batch, _ = one_step("torch")
    step.model.forward = lambda ids, dense: step.model.from_rows(step.model.embedding(ids), dense)
    found, vectors = step.predict(batch), step.model.embedding(batch.ids)
    assert torch.equal(found, step.model.from_rows(vectors, batch.dense).detach())
    assert not torch.equal(found, rounded(step.model, batch).detach())


def net_of(make: Any, shares: int = 3) -> tuple[CompiledNet, Batch, Any]:
    torch.manual_seed(0)
    model, batch = make(), batches(2)[0]
    parameters = [p for name, p in model.named_parameters() if name != "embedding.weight"]
    return CompiledNet(model, parameters, batch, 1, shares, "bfloat16"), batch, model


def test_shares_are_tried_without_rounding_which_would_hide_that_rows_depend_on_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CompiledNet, "_compile", lambda net, of_size, _: dict.fromkeys(of_size, net._pass))
    assert net_of(WITH_WHOLE_BATCHES["centred"])[0].shares == 1
    assert net_of(WITH_ROWS_APART["linear"])[0].shares == 3


@pytest.mark.slow
def test_a_compiled_net_rounds_products_too() -> None:
    net, batch, model = net_of(WITH_ROWS_APART["linear"], shares=1)
    assert isinstance(batch.ids, Tensor)
    vectors = model.embedding.weight.detach()[batch.ids.long()]
    logits = net(vectors, batch.dense, batch.label, None)[0]
    exact, expected = model.from_rows(vectors, batch.dense).detach(), rounded(model, batch).detach()
    torch.testing.assert_close(logits, expected, rtol=2e-2, atol=2e-3)
    assert logits.dtype == torch.float32
    assert not torch.allclose(logits, exact, rtol=1e-5, atol=1e-6)


def test_it_is_part_of_what_a_run_computes_where_it_is_not_the_default(tmp_path: Path) -> None:
    plain, asked = (resolve(configuration(tmp_path, "backend=torch", *more)) for more in ([], ["precision=bfloat16"]))
    without = {key: value for key, value in asked.computed.items() if key != "precision"}
    assert plain.config_hash == digest(without)
    assert asked.config_hash != plain.config_hash


@needs_kernels
def test_the_compiled_step_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="precision=bfloat16 is for backend=rows and torch; backend=native"):
        resolve(configuration(tmp_path, "model=dcn", "opt=group_adam", "precision=bfloat16"))


def test_a_run_saves_a_model_that_predicts_what_it_has_evaluated(tmp_path: Path) -> None:
    """Saving compares logits of both; the figures are near those of float32."""
    keys = ["model=mlp", "model.hidden=[8]", "backend=torch", "opt.lr=0.01", "save=model"]
    exact, ours = run_one(tmp_path, *keys), run_one(tmp_path, *keys, "precision=bfloat16")
    assert ours["logloss"] != exact["logloss"]
    assert np.isclose(ours["logloss"], exact["logloss"], rtol=2e-2)
